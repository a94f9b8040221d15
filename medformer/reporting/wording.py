"""The words of the report: how values and counts are written, and the Jinja templates that call these functions."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, partial
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from medformer.errors import counted
from medformer.evaluation.number_format import PRINTED
from medformer.evaluation.number_format import shorten as shorten_plainly
from medformer.evaluation.table import Row
from medformer.missing import known

MISSING = PRINTED.missing
number = PRINTED.number
signed = PRINTED.signed
p_value = PRINTED.p_value
between = PRINTED.interval
shorten = partial(shorten_plainly, gap="…")


def interval(summary: object, digits: int = 3) -> str:
    """Write the interval of a summary, or why there is none, or a dash."""
    if not isinstance(summary, Mapping):
        return MISSING
    return between(summary.get("low"), summary.get("high"), digits, reason=summary.get("no_interval", ""))


def percent(share: object, digits: int = 0, *, signed: bool = False) -> str:
    """Write a share as a percentage, or a dash."""
    if not isinstance(share, (int, float)) or not math.isfinite(share):
        return MISSING
    spell = PRINTED.signed if signed else PRINTED.number
    return f"{spell(100.0 * share, digits)}%"


def thousands(count: int) -> str:
    """Write a count with a comma after thousands."""
    return f"{count:,}"


def share(count: int, whole: int) -> str:
    """Write a count with its share of the whole: `12 (50%)`, or a dash."""
    return f"{thousands(count)} ({percent(count / whole)})" if whole else MISSING


def plural(count: int, one: str, many: str) -> str:
    """Choose the word for a count."""
    return one if count == 1 else many


def label_title(name: str) -> str:
    """Name a label; one that is named by its value alone is called `label 7102`."""
    return f"label {name}" if name.isdecimal() else name


_FOLDERS = re.compile(
    r"""(?<![\w.:/\\+-])(?:file://)?(?:~|[A-Za-z]:)?[/\\]+(?:[^\s/\\'"<>|,;:()]+[/\\]+)+(?=[^\s/\\'"<>|,;:()])"""
)


def without_folders(text: str, paths: Iterable[str] = ()) -> str:
    """Keep of every absolute path only the name: its folders name people and machines, and a report is passed on.

    Args:
        text: Any text.
        paths: Absolute paths that it may hold, for those with spaces, whose ends a text alone does not show.
    """
    for path in sorted(paths, key=len, reverse=True):
        name = re.split(r"[/\\]", path.rstrip("/\\"))[-1]
        text = text.replace(path, f".../{name}")
    return _FOLDERS.sub(".../", text)


def absolute_paths(values: Any) -> list[str]:
    """List the absolute paths among values of any depth; `key=PATH` counts."""
    if isinstance(values, Mapping):
        return [path for value in values.values() for path in absolute_paths(value)]
    if isinstance(values, (list, tuple)):
        return [path for value in values for path in absolute_paths(value)]
    text = values.partition("=")[2] or values if isinstance(values, str) else ""
    return [text] if re.match(r"(?:[/~\\]|[A-Za-z]:[/\\]).*[/\\]", text) else []


@cache
def html_templates() -> Environment:
    """Return the templates of the report: every text that is not ours is escaped as HTML."""
    environment = _templates()
    environment.finalize = _shareable
    return environment


@cache
def markdown_templates() -> Environment:
    """Return the same templates for Markdown, which passes HTML through: its own markup is escaped as well."""
    environment = _templates()
    environment.finalize = _escape_markdown
    return environment


def _templates() -> Environment:
    """Compiling the templates takes longer than filling them in, so both functions above keep theirs."""
    environment = Environment(
        loader=PackageLoader("medformer.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        extensions=["jinja2.ext.do"],
        keep_trailing_newline=True,
    )
    environment.globals.update(counted=counted, plural=plural, interval=interval)
    environment.filters.update(
        number=number,
        signed=signed,
        percent=percent,
        thousands=thousands,
        one_line=one_line,
        filled_columns=filled_columns,
        cells=cells,
        pairs=pairs,
        breakable=breakable,
        code_span=code_span,
        capitalize_first=capitalize_first,
    )
    return environment


def render(environment: Environment, template: str, facts: Mapping[str, Any], /, **more: Any) -> Markup:
    """Fill a template in; the result is markup, in which what is not ours is escaped."""
    return Markup(environment.get_template(template).render(facts, **more))


def source(environment: Environment, name: str) -> str:
    """Return a file that lies beside the templates as it is."""
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def one_line(text: str) -> str:
    """Join the lines of a template's text."""
    joined = re.sub(r"[ \t\r\n]+", " ", text).strip()
    return Markup(joined) if isinstance(text, Markup) else joined


def capitalize_first(text: str) -> str:
    """Write the first letter large, and leave the others as they are."""
    return text[:1].upper() + text[1:]


def filled_columns(columns: Mapping[str, str], records: Sequence[Row], total: Row | None) -> dict[str, str]:
    """Return the columns (title: key) that any record has; without columns, the keys of the records are the titles."""
    keys = dict.fromkeys(key for record in (*records, total or {}) for key in record)
    return {title: key for title, key in columns.items() if key in keys} if columns else {key: key for key in keys}


def breakable(text: str) -> Markup:
    """Say where a long name may go on in the next line: after a separator, never inside a word.

    A hash, which is one word of many characters, is broken anywhere else.
    """
    text = str(_shareable(text))
    return Markup("").join(_pieces(part) for part in re.split(r"(\s+)", text))


def _pieces(word: str) -> Markup:
    if len(word) < _LONG_WORD:
        return escape(word)
    parts = re.findall(r"[^/_=|]+[/_=|]*|[/_=|]+", word)
    pieces = [part[at : at + _LONGEST_WORD] for part in parts for at in range(0, len(part), _LONGEST_WORD)]
    return Markup("<wbr>").join(map(escape, pieces))


_LONG_WORD, _LONGEST_WORD = 12, 32


def code_span(text: object) -> Markup:
    """Quote a name as code in Markdown, where no markup of its own counts."""
    plain = " ".join(without_folders(str(text)).split())
    longest = max(map(len, re.findall("`+", plain)), default=0)
    fence = "`" * (longest + 1)
    air = " " if plain.startswith("`") or plain.endswith("`") else ""
    return Markup(f"{fence}{air}{plain}{air}{fence}" if plain else "")


def cells(columns: Mapping[str, str], record: Row) -> list[str]:
    """Return the cells of a record as text; what is missing is a dash."""
    return [_cell(record.get(key)) for key in columns.values()]


def pairs(entries: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return a record with a `name` and a `value`, both as text, for each entry that is known."""
    return [{"name": name, "value": known(entry)} for name, entry in entries.items() if known(entry)]


def _cell(value: object) -> str:
    if isinstance(value, str):
        return value or MISSING
    return thousands(value) if isinstance(value, int) else number(value)


def _shareable(value: Any) -> Any:
    """Keep folders out of what is passed on. A picture is no text."""
    if isinstance(value, str) and not isinstance(value, Markup) and not value.startswith("data:"):
        return without_folders(value)
    return value


# An underscore inside a word is one; the others, like the colon of an address and what begins an entity, are markup.
_MARKUP = re.compile(r"([\\`*\[\]<>|~$]|(?<![^\W_])_|_(?![^\W_])|&(?=#?\w+;)|(?<=\w):(?=//)|(?<=www)\.)")


def _escape_markdown(value: Any) -> Any:
    """Keep names from data from becoming markup, links or pictures."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return Markup(_MARKUP.sub(r"\\\1", " ".join(without_folders(value).split())))
    return value
