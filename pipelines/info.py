"""`medformer info`: the names and keys that a config may use: an overview, one section, one name, or all as JSON.

`medformer weights` beside it: the pretrained weights that there are, and fetching them.
"""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Literal

import medformer
from medformer.config import SCHEMAS
from medformer.config_problems import describe_keys
from medformer.errors import ConfigError, UnknownNameError

from .console import make_reporter, say

_GLUE = "\x1fx\x1f"
"""Stands for " x " while lines are wrapped."""


def info(*, names: Sequence[str], as_json: bool) -> None:
    """Print an overview; with names a section, the keys of a task, or what is known of a name; or all as JSON.

    Raises:
        ConfigError: Names beside --json, or one that nothing has.
    """
    from medformer.tasks.catalog import KEYS, SECTIONS, collect_info

    if as_json and names:
        raise ConfigError(f"Got {' '.join(names)} and --json, which prints everything. Leave one of them out.")
    if as_json:
        say(json.dumps(collect_info(), indent=2))
    elif not names:
        _overview()
    elif names[0] == KEYS:
        _list_keys(names[1:])
    else:
        for name in names:
            if name in SECTIONS:
                _list_section(name)
            else:
                _explain(name)


def bench(
    *,
    configs: Sequence[str],
    task: str | None,
    changes: Sequence[str],
    device: str,
    threads: Sequence[int],
    batch: int | None,
    rounds: int,
    as_json: bool,
) -> None:
    """Print how fast the networks of configs are on this machine.

    Raises:
        MedformerError: See `measure`.
    """
    from medformer.tasks.bench.networks import measure, table

    found = measure(
        configs,
        make_reporter(),
        task=task,
        accelerator=device,
        threads=threads,
        overrides=changes,
        batch=batch,
        rounds=rounds,
    )
    for line in [json.dumps(found, indent=2)] if as_json else table(found):
        say(line)


def weights(*, action: Literal["list", "get", "where"], names: Sequence[str], revision: str, as_json: bool) -> None:
    """List, fetch or find pretrained weights.

    Raises:
        MedformerError: See `fetch` and `find_weights`.
    """
    from medformer.models.weights.hub import fetch
    from medformer.models.weights.listing import format_weights, list_weights
    from medformer.models.weights.store import store_folder, where

    if action == "list" and names:
        raise ConfigError(f"weights list got {' '.join(names)}, expected no name: it lists all.")
    if action == "list":
        for line in [json.dumps(list_weights(), indent=2)] if as_json else format_weights():
            say(line)
    elif action == "where":
        found = {name: str(where(name)) for name in names} or {"store": str(store_folder())}
        say(json.dumps(found, indent=2) if as_json else "\n".join(found.values()))
    elif not names:
        raise ConfigError("weights get needs a NAME; `medformer weights list` lists them.")
    for name in names if action == "get" else ():
        got = fetch(name, make_reporter().line, revision=revision)
        text = f"{got.path}\nSHA-256 {got.sha256}; {got.source.license}. Use it with model.weights={name}"
        say(json.dumps({**got.record(), "path": str(got.path)}, indent=2) if as_json else text)


def _overview() -> None:
    """One line for each section, cut to the width of the terminal."""
    from medformer.crossval.run.record import installed_versions
    from medformer.tasks.catalog import KEYS, SECTIONS

    say(f"medformer {medformer.__version__} (torch {installed_versions().get('torch', '?')})\n")
    tasks = [f"{task} {len(describe_keys(schema))}" for task, schema in SCHEMAS.items()]
    lines = [(name, str(len(section.names)), section.title, section.names) for name, section in SECTIONS.items()]
    for name, count, title, known in [*lines, (KEYS, "", "config keys", tasks)]:
        line = f"{name:<21}{count:>3}  {title}: {', '.join(known)}"
        say(line if len(line) <= _width() else f"{line[: _width() - 3].rstrip(' ,')}...")
    say("")
    _columns("medformer info SECTION", "list a section, such as mixers", 26)
    _columns("medformer info NAME", "explain a name or key, such as caformer_s18 or training.epochs", 26)
    _columns(f"medformer info {KEYS} TASK", "list the config keys of a task, with their defaults", 26)
    _columns("medformer info --json", "everything, for programs", 26)


def _list_section(name: str) -> None:
    from medformer.tasks.catalog import SECTIONS, counted_backbones

    section = SECTIONS[name]
    say(f"{section.title[0].upper()}{section.title[1:]}")
    if name == "backbones":
        say("Millions of parameters: as a classifier, and without its head in 1-D, 2-D, 3-D")
    measured = section.measure if name != "backbones" else None
    if measured:
        say("Counted and timed on this machine's CPU, one after the other")
    for row in counted_backbones() if name == "backbones" else section.rows():
        text = row["description"] + (f" ({row['paper']})" if row.get("paper") else "")
        if name == "configs":
            text = f"{text.split('. ')[0].rstrip('.')}."
        if name == "backbones":
            text = f"{' '.join(f'{count / 1e6:5.1f}' for count in row['parameters'].values())}  {row['description']}"
        width = max(map(len, section.names))
        _columns(row["name"], text, width)
        if measured:
            # The reasons of what a part cannot take lines; `medformer info NAME` gives them.
            facts = {key: row[key] for key in ("cost", "sizes")} | {"cannot": list(row["cannot"])}
            for key, value in {**facts, **measured(row["name"])}.items():
                if value:
                    _columns("", f"{key}: {_text(value)}", width)


def _list_keys(words: Sequence[str]) -> None:
    """The config keys of a task, or those of them that begin with one of the further words."""
    from medformer.tasks.catalog import KEYS

    if not words:
        for task, schema in SCHEMAS.items():
            _columns(f"medformer info {KEYS} {task}", f"{len(describe_keys(schema))} keys", 26)
        return
    task, *beginnings = words
    if task not in SCHEMAS:
        raise UnknownNameError("task", task, SCHEMAS)
    rows = [row for row in describe_keys(SCHEMAS[task]) if row["key"].startswith(tuple(beginnings) or "")]
    if not rows:
        raise ConfigError(f"medformer {task} has no config key that begins with {' or '.join(beginnings)}.")
    say(f"Config keys of medformer {task}, with their defaults")
    for row in rows:
        _columns(row["key"], f"{json.dumps(row['default'])}  {row['description']}", 26)


def _explain(name: str) -> None:
    """All that is known of a part, a config, or a config key (or the keys below one)."""
    from medformer.tasks.catalog import KEYS, SECTIONS

    found = False
    for section in SECTIONS.values():
        patterns = [known for known in section.names if "<" in known and name.startswith(known.split("<")[0])]
        for row in section.rows() if name in section.names or patterns else []:
            if row["name"] in (name, *patterns):
                found = True
                say(f"{row['name']}: {section.title}")
                measured = section.measure(name) if section.measure else {}
                for key, value in {**row, **measured}.items():
                    if key != "name" and value:
                        _columns(key, _text(value), 12)
    for task, schema in SCHEMAS.items():
        for row in describe_keys(schema):
            if row["key"] == name or row["key"].startswith(f"{name}."):
                found = True
                _columns(f"{task}: {row['key']}", f"{json.dumps(row['default'])}  {row['description']}", 26)
    if not found:
        known = {*SECTIONS, KEYS, *(name for section in SECTIONS.values() for name in section.names)}
        known |= {row["key"] for schema in SCHEMAS.values() for row in describe_keys(schema)}
        near = get_close_matches(name, sorted(known), n=1, cutoff=0.5)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise ConfigError(f"No section, name or config key is called '{name}'.{hint} `medformer info` lists them.")


def _text(value: Any) -> str:
    """A value of a row in one line; a parameter is a row with a key, a default and perhaps a description."""
    if isinstance(value, Mapping) and "key" in value:
        return f"{value['key']} (default {json.dumps(value['default'])}) {value['description']}".rstrip()
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {_text(entry)}".rstrip(".") for key, entry in value.items())
    if isinstance(value, list):
        return ", ".join(_text(entry) for entry in value)
    return f"{value:,}" if isinstance(value, int) else str(value)


def _columns(name: str, text: str, width: int) -> None:
    """Print a name, and beside it a text that is wrapped to the width of the terminal, sizes such as 64 x 64 whole."""
    whole = textwrap.fill(
        text.replace(" x ", _GLUE),
        _width(),
        initial_indent=f"  {name:<{width}}  ",
        subsequent_indent=" " * (width + 4),
        break_long_words=False,
        break_on_hyphens=False,
    )
    say(whole.replace(_GLUE, " x "))


def _width() -> int:
    """Columns of the terminal (the variable COLUMNS goes first), or 100 where there is none."""
    return max(60, shutil.get_terminal_size((100, 24)).columns)
