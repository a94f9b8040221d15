"""What is wrong with a config, in plain sentences: every problem at once, each with its key."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import reduce
from operator import getitem
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

Path = tuple[str | int, ...]

_EXPECTED = {
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "dict_type": "keys and values",
    "finite_number": "a finite number",
    "float_parsing": "a number",
    "float_type": "a number",
    "greater_than": "a number greater than {gt}",
    "greater_than_equal": "a number of at least {ge}",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "less_than": "a number less than {lt}",
    "less_than_equal": "a number of at most {le}",
    "list_type": "a list, such as [64, 64]",
    "literal_error": "{expected}",
    "model_type": "a section of keys and values",
    "string_pattern_mismatch": "text of the form {pattern}",
    "string_type": "text",
    "too_long": "at most {max_length} values",
    "too_short": "at least {min_length} values",
    "tuple_type": "a list, such as [64, 64]",
}


def section_of(model: type[BaseModel], key: str) -> type[BaseModel] | None:
    """Return the model of the section that `key` opens, or None where `key` holds a value or is unknown."""
    field = model.model_fields.get(key)
    annotation = None if field is None else field.annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def known_keys(model: type[BaseModel]) -> Iterator[str]:
    """Yield the dotted name of every key that holds a value."""
    return (key for key, _ in _fields(model, ""))


def describe_keys(model: type[BaseModel]) -> list[dict[str, Any]]:
    """Return `key`, `default` and `description` of every key that holds a value."""
    defaults = model().model_dump(mode="json")
    return [
        {"key": key, "default": reduce(getitem, key.split("."), defaults), "description": field.description or ""}
        for key, field in _fields(model, "")
    ]


def takes_text(model: type[BaseModel], key: str) -> bool:
    """Whether the dotted `key` is known and holds free text (or nothing)."""
    field = dict(_fields(model, "")).get(key)
    return field is not None and is_text(field)


def is_text(field: FieldInfo) -> bool:
    """Whether a key holds free text (or nothing)."""
    return field.annotation is str or set(get_args(field.annotation)) == {str, type(None)}


def _fields(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        section = section_of(model, name)
        if section is None:
            yield prefix + name, field
        else:
            yield from _fields(section, f"{prefix}{name}.")


def unknown_keys(data: Mapping[Any, Any], model: type[BaseModel]) -> list[str]:
    """Return one sentence per key, at any depth, that the model does not have."""
    return [_unknown(key, model) for key in _unknown_in(data, model, "")]


def value_problems(data: Mapping[str, Any], model: type[BaseModel]) -> list[tuple[str, str]]:
    """Return (dotted key, sentence) for every value of a wrong type or outside its range.

    Types are strict: true is not 1, and 2.5 is not 2. A whole number is welcome where any number is.
    """
    infinite = [(_dotted(path), f"got {_show(value)}, expected a finite number") for path, value in _not_finite(data)]
    if infinite:
        return infinite
    try:
        validate(data, model)
    except ValidationError as error:
        return _translate(error, model)
    return []


def validate(data: Mapping[str, Any], model: type[BaseModel]) -> BaseModel:
    """Return the model; through JSON, because there a list may fill a tuple while other types stay strict."""
    return model.model_validate_json(json.dumps(data), strict=True)


def _unknown_in(data: Mapping[Any, Any], model: type[BaseModel], prefix: str) -> Iterator[str]:
    for key, value in data.items():
        if key not in model.model_fields:
            yield f"{prefix}{_show(key) if not isinstance(key, str) else key}"
        elif (section := section_of(model, key)) is not None and isinstance(value, Mapping):
            yield from _unknown_in(value, section, f"{prefix}{key}.")


def _unknown(key: str, model: type[BaseModel]) -> str:
    keys = list(known_keys(model))
    if key in keys:
        return f"Key '{key}' is written with dots; in a file, nest it below '{key.split('.')[0]}:'."
    prefix, _, leaf = key.rpartition(".")
    siblings = _names_below(model, prefix)
    by_leaf = {name.rpartition(".")[2]: name for name in keys}
    near = (
        [f"{prefix}.{name}".lstrip(".") for name in get_close_matches(leaf, siblings, n=1)]
        # The shortest first: `training.lr` before `pretraining.lr`.
        or sorted((name for name in keys if name.rpartition(".")[2] == leaf), key=len)
        or get_close_matches(key, keys, n=1, cutoff=0.7)
        or [by_leaf[name] for name in get_close_matches(leaf, by_leaf, n=1, cutoff=0.75)]
    )
    if near:
        return f"Unknown key '{key}'. Did you mean {' or '.join(map(repr, near))}?"
    below = f" below '{prefix}'" if prefix else ""
    return f"Unknown key '{key}'. Known{below}: {', '.join(siblings)}."


def _names_below(model: type[BaseModel], prefix: str) -> list[str]:
    for part in prefix.split(".") if prefix else []:
        section = section_of(model, part)
        model = section or model
    return list(model.model_fields)


def _not_finite(data: Any, path: Path = ()) -> Iterator[tuple[Path, float]]:
    if isinstance(data, float) and not math.isfinite(data):
        yield path, data
    elif isinstance(data, Mapping):
        for key, value in data.items():
            yield from _not_finite(value, (*path, key))
    elif isinstance(data, list):
        for index, value in enumerate(data):
            yield from _not_finite(value, (*path, index))


def _translate(error: ValidationError, model: type[BaseModel]) -> list[tuple[str, str]]:
    # A union reports each of its branches; together they are one expectation of one key.
    found: dict[str, tuple[str, list[str]]] = {}
    for item in error.errors(include_url=False):
        path = _field_path(item["loc"], model)
        context = item.get("ctx", {})
        last = path[-1] if path else None
        if item["type"] == "missing" and isinstance(last, int):
            path, expected = path[:-1], f"at least {last + 1} values"
        elif item["type"] in ("value_error", "assertion_error"):
            expected = str(context.get("error", item["msg"]))
        else:
            limits = {name: f"{value:g}" if isinstance(value, float) else value for name, value in context.items()}
            expected = _EXPECTED.get(item["type"], item["msg"]).format(**limits)
        _, options = found.setdefault(_dotted(path), (_show(item["input"]), []))
        if expected not in options:
            options.append(expected)
    return [(key, f"got {got}, expected {' or '.join(options)}") for key, (got, options) in found.items()]


def _field_path(location: Path, model: type[BaseModel] | None) -> Path:
    """Drop what pydantic adds behind a key to name the branch of a union."""
    path: list[str | int] = []
    for part in location:
        if isinstance(part, int):
            path.append(part)
        elif model is not None and part in model.model_fields:
            path.append(part)
            model = section_of(model, part)
        else:
            break
    return tuple(path)


def _dotted(path: Path) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.lstrip(".")


def _show(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
