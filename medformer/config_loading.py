"""From YAML files, `extends:` chains and `key.sub=value` overrides to one checked config."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, cast, overload

from pydantic import BaseModel

from medformer import files as resources
from medformer.config import SCHEMAS, PolypConfig
from medformer.config_problems import known_keys, section_of, takes_text, unknown_keys, validate, value_problems
from medformer.errors import ConfigError
from medformer.yaml_files import parse_yaml, read_yaml

C = TypeVar("C", bound=BaseModel)
# One source of values and what to call it in an error.
Layer = tuple[str, dict[str, Any]]


@overload
def load_config(source: Path | str | None, overrides: Sequence[str] = ()) -> PolypConfig: ...
@overload
def load_config(source: Path | str | None, overrides: Sequence[str] = (), *, model: type[C]) -> C: ...
def load_config(
    source: Path | str | None, overrides: Sequence[str] = (), *, model: type[BaseModel] = PolypConfig
) -> BaseModel:
    """Return the checked config.

    Args:
        source: A YAML file, or the name of a shipped config such as `polyp/quick`; None for the defaults.
        overrides: `key.sub=value` each, later ones win. Values are YAML: a number, true, null, text, `[1, 2]`.
        model: The schema.

    Raises:
        ConfigError: The file cannot be used, or keys or values do not fit; all problems are listed.
    """
    layers = [] if source is None else _file_layers(find_config(source))
    _require_task(layers, model)
    layers += [_override_layer(text, model) for text in overrides]
    problems = [f"{where}: {problem}" for where, data in layers for problem in unknown_keys(data, model)]
    if not problems:
        # A section that is given in part keeps the task's own defaults, which are not always those of its class.
        merged: dict[str, Any] = model().model_dump(mode="json")
        for _, data in layers:
            merged = _merge(merged, data, model)
        problems = [f"{key}: {text} (from {_origin(key, layers)})." for key, text in value_problems(merged, model)]
    if len(problems) == 1:
        raise ConfigError(problems[0])
    if problems:
        raise ConfigError("\n  ".join([f"The config has {len(problems)} problems:", *problems]))
    return validate(merged, model)


def load_task_config(task: str, name: str | None, overrides: Sequence[str], keys: Mapping[str, Any]) -> Any:
    """Load the config of a task. An override takes precedence over the file, and what `keys` says over both.

    The config.yaml of a run is as good a file as any, and repeats its settings.

    Args:
        task: Decides the schema, and the config where none is named.
        name: A shipped config or a file.
        overrides: `key=value` each.
        keys: Values by dotted key; None leaves a key as it is.

    Raises:
        ConfigError: See `load_config`.
    """
    if name is None:
        name = f"{task}/classification" if keys.get("target") == "classification" else f"{task}/default"
    given = [*overrides, *(override(key, value) for key, value in keys.items() if value is not None)]
    return load_config(name, [*_as_decided(name, given), *given], model=SCHEMAS[task])


def _as_decided(source: str, overrides: Sequence[str]) -> list[str]:
    """Return the overrides by which config.yaml of a run that was given hours means what these decided.

    Such a file has the hours, the minutes of each training that they came to, and whatever else they decided, so that
    nothing is to be decided again, perhaps otherwise on another machine. Hours that the user gives count anew.
    """
    if any(text.startswith("training.hours=") for text in overrides):
        return []
    for _, data in reversed(_file_layers(find_config(source))):
        training = data.get("training")
        if isinstance(training, Mapping) and training.get("hours") is not None:
            decided = training.get("minutes") is not None and "give_up" in training
            return ["training.hours=null", "training.give_up=[]"] if decided else []
    return []


def given_keys(source: str | None, overrides: Sequence[str]) -> set[str]:
    """Return the dotted keys that the user sets: in own files, which shipped ones are not, and by overrides."""
    keys = {text.partition("=")[0] for text in overrides}
    shipped = {str(path) for path in shipped_configs().values()}
    for where, data in [] if source is None else _file_layers(find_config(source)):
        if where not in shipped:
            keys |= _dotted(data)
    return keys


def _dotted(data: Mapping[str, Any], before: str = "") -> set[str]:
    return {
        name
        for key, value in data.items()
        for name in (_dotted(value, f"{before}{key}.") if isinstance(value, Mapping) else {f"{before}{key}"})
    }


def override(key: str, value: Any) -> str:
    """Spell the value of a key as `load_config` reads it: a path as it stands, others as YAML."""
    text = str(value) if isinstance(value, Path) else json.dumps(value, ensure_ascii=False, default=_plain)
    return f"{key}={text}"


def _plain(value: Any) -> Any:
    """A value that JSON does not know: numbers and arrays of NumPy as Python's, others as text."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


def find_config(source: Path | str) -> Path:
    """Return the file that `source` names: a file, or a shipped config without its suffix.

    Raises:
        ConfigError: Neither; the nearest shipped name is given.
    """
    text = str(source)
    if text.endswith((".yaml", ".yml")) or os.path.isfile(text):
        return Path(text)
    return _shipped(text)


def shipped_configs() -> dict[str, Path]:
    """Return the shipped configs by name, such as `polyp/default`."""
    folder = resources.configs_dir()
    return {file.relative_to(folder).with_suffix("").as_posix(): file for file in sorted(folder.rglob("*.yaml"))}


def _shipped(text: str) -> Path:
    shipped = shipped_configs()
    if text in shipped:
        return shipped[text]
    near = get_close_matches(text, shipped, n=1, cutoff=0.5)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    raise ConfigError(f"There is no config '{text}'.{hint} Give a .yaml file, or one of: {', '.join(shipped)}.")


def _file_layers(path: Path) -> list[Layer]:
    """Return the file and all that it extends, the most basic first."""
    chain: dict[Path, Layer] = {}
    while True:
        resolved = path.resolve()
        if resolved in chain:
            names = " -> ".join(str(link) for link in [*chain, resolved])
            raise ConfigError(f"The configs extend each other in a circle: {names}. Remove one `extends:`.")
        data = read_yaml(path)
        base = data.pop("extends", None)
        chain[resolved] = (str(path), data)
        if base is None:
            return list(reversed(chain.values()))
        if not isinstance(base, str):
            raise ConfigError(f"{path}: `extends:` got {base!r}, expected one name or one relative path.")
        beside = path.parent / base
        if base.endswith((".yaml", ".yml")) or os.path.isfile(beside):
            path = beside
        else:
            try:
                path = _shipped(base)
            except ConfigError as error:
                raise ConfigError(f"{path}: in `extends:`: {error}") from None


def _require_task(layers: Sequence[Layer], model: type[BaseModel]) -> None:
    """Refuse a file of another task by its name, instead of listing the keys that this one does not have.

    Raises:
        ConfigError: A file is of another task.
    """
    wanted = model.model_fields["task"].default if "task" in model.model_fields else None
    for where, data in layers:
        found = data.get("task")
        if wanted and isinstance(found, str) and found != wanted:
            raise ConfigError(
                f"{where} is a config of the task {found}; this command reads those of {wanted}. Give one of {wanted}, "
                f"or use medformer {found}."
            )


def _override_layer(text: str, model: type[BaseModel]) -> Layer:
    key, equals, written = text.partition("=")
    where = f"override '{text}'"
    parts = key.split(".")
    if not equals or not all(part.strip() == part != "" for part in parts):
        raise ConfigError(f"Got {where}, expected key=value with a dotted key, such as training.epochs=50.")
    # Free text is taken as it stands: a path may hold ` #` or be all digits, which YAML would read otherwise.
    if takes_text(model, key) and written[:1] not in ("'", '"') and written not in ("null", "~"):
        value: Any = written
    else:
        value = parse_yaml(written, where)
        if isinstance(value, dict) and key not in known_keys(model):
            raise ConfigError(f"{where}: a section cannot be set at once; give {key}.<key>=value for each of its keys.")
    for part in reversed(parts):
        value = {part: value}
    return where, value


def _merge(base: dict[str, Any], update: Mapping[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in update.items():
        section = section_of(model, key)
        if section is not None and value is None:
            # A section whose lines are all commented out changes nothing.
            continue
        if section is not None and isinstance(value, Mapping):
            below = merged.get(key, {})
            merged[key] = _merge(below if isinstance(below, dict) else {}, value, section)
        else:
            merged[key] = value
    return merged


def _origin(key: str, layers: Sequence[Layer]) -> str:
    parts = key.split("[")[0].split(".")
    for where, data in reversed(layers):
        value: Any = data
        for part in parts:
            value = cast(dict[str, Any], value)[part] if isinstance(value, dict) and part in value else layers
        if value is not layers:
            return where
    return "the defaults"
