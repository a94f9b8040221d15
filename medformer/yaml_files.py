"""YAML as plain data: the core types of YAML 1.2, bounded in size, without tags, aliases or repeated keys.

PyYAML's own rules are those of YAML 1.1, in which `3e-4` is text, `no` is false and `1:30` is ninety.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from medformer.errors import ConfigError

MAX_BYTES = 256 * 1024


def _refusal(problem: str, at: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=at.start_mark)


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own protocol

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        # An alias of an alias of an alias is how a short file unfolds into gigabytes; a tag is how it asks for objects.
        if isinstance(event, yaml.AliasEvent):
            raise _refusal("aliases (*name) are not allowed; repeat the value", event)
        if getattr(event, "tag", None):
            raise _refusal(f"tags ({event.tag}) are not allowed", event)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise _refusal(f"the key '{key.value}' stands there twice", key)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


for _tag, _pattern, _first in (
    ("null", r"|~|null|Null|NULL", ["", "~", "n", "N"]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9]*)", list("-+0123456789")),
    (
        "float",
        r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
):
    # The dumper keeps the old rules beside the new: text that either reader would take for a number is quoted.
    for _side in (_Loader, _Dumper):
        _side.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)


def parse_yaml(text: str, where: str) -> Any:
    """Return the value of one YAML document; an empty one is None.

    Args:
        text: The document.
        where: What to call it in an error: a file's path or a command-line argument.

    Raises:
        ConfigError: Not YAML, or YAML that is more than plain data; the line is named.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = error.problem or "not YAML"
        if problem.startswith("but "):
            problem = f"{error.context}, {problem}"
        raise ConfigError(f"{where}{line}: {problem}. Expected plain YAML: keys, numbers, text, lists.") from None
    except yaml.reader.ReaderError as error:
        raise ConfigError(f"{where}: {error.reason} (position {error.position}). Expected plain text.") from None
    except ValueError:
        raise ConfigError(f"{where}: a whole number has too many digits.") from None
    except RecursionError:
        raise ConfigError(f"{where}: nested too deeply to be a configuration.") from None


def read_yaml(path: Path) -> dict[Any, Any]:
    """Return the mapping that a YAML file holds; an empty file is an empty mapping.

    Raises:
        ConfigError: Missing, unreadable, too large, not UTF-8, not YAML, or not a mapping.
    """
    try:
        if not path.is_file():
            state = "is not a file" if path.exists() else "does not exist"
            raise ConfigError(f"Config {path} {state}. Give a YAML file, or the name of a shipped config.")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"Config {path} cannot be read: {error.strerror or error}.") from None
    if len(content) > MAX_BYTES:
        raise ConfigError(f"Config {path} is larger than {MAX_BYTES // 1024} KiB; that is not a configuration.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"Config {path} is not UTF-8 text (byte {error.start}). Save it as UTF-8.") from None
    value = parse_yaml(text, str(path))
    if value is None:
        return {}
    if not isinstance(value, dict):
        kind = "a list" if isinstance(value, list) else "a single value"
        raise ConfigError(f"Config {path} holds {kind}; expected keys and values, such as `seed: 0`.")
    return value


def dump_yaml(value: Any) -> str:
    """Return YAML that `parse_yaml` turns back into `value` (mappings, lists, text, numbers, true, false, null)."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
