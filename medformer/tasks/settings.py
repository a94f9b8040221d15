"""The config of a run that trains, where the user names none: the one that suits the machine."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from medformer.config_loading import given_keys, load_task_config, override
from medformer.crossval.run.directory import RunDirectory
from medformer.errors import ConfigError
from medformer.yaml_files import read_yaml

ON_A_CPU = {"polyp": "polyp/cpu"}
"""By task: what is taken on a machine without a GPU; other tasks have one config for both."""

_GIVEN_UP = {"size": ("data.image_size", "plan.patch", "plan.voxels"), "folds": ("crossval.folds",)}
"""What `training.hours` may give up, and the keys by which a user says that it may not."""

_ELSEWHERE = ("execution.address", "execution.gpus_per_fold", "training.devices")
"""Keys by which a run says that it trains on other devices than this process sees, or on several."""


def run_config(
    task: str,
    name: str | None,
    overrides: Sequence[str],
    keys: Mapping[str, Any],
    *,
    out: Path,
    resume: bool = False,
) -> Any:
    """Load the config of a run (see `load_task_config`); without a name, on a CPU, one that is made for it.

    The run then says so (`base`), and keeps it when it is resumed, wherever that is. With that config, a network that
    the user names has all levels trained. A number of epochs that the user gives counts instead of the minutes of a
    shipped config.

    Args:
        task: Decides the schema.
        name: A shipped config or a file.
        overrides: `key=value` each.
        keys: Values by dotted key; None leaves a key as it is.
        out: Folder of the run.
        resume: Whether the run there goes on.

    Raises:
        ConfigError: See `load_config`; and hours are given beside minutes.
    """
    given = given_keys(name, overrides) | {key for key, value in keys.items() if value is not None}
    if "training.hours" in given and "training.give_up" not in given:
        lost = [part for part, names in _GIVEN_UP.items() if not given.intersection(names)]
        overrides = [*overrides, override("training.give_up", lost)]
    if "training.epochs" in given and "training.minutes" not in given:
        overrides = ["training.minutes=null", *overrides]
    config = _load(task, name, overrides, keys, given, out=out, resume=resume)
    if config.training.hours is not None and "training.minutes" in given and config.training.minutes is not None:
        raise ConfigError(
            f"Got training.hours={config.training.hours:g} (--hours), the time of the whole run, and training.minutes="
            f"{config.training.minutes:g}, the time of each training. Expected one of them; "
            "training.minutes=null takes back those of a file."
        )
    return config


def _load(
    task: str,
    name: str | None,
    overrides: Sequence[str],
    keys: Mapping[str, Any],
    given: Collection[str],
    *,
    out: Path,
    resume: bool,
) -> Any:
    if task not in ON_A_CPU:
        return load_task_config(task, name, overrides, keys)
    # What is wrong in it is said before anything else is loaded.
    config = load_task_config(task, name, overrides, {**keys, "base": ""})
    if name is not None:
        return config
    run = RunDirectory(out)
    if resume and run.config_yaml.is_file():
        chosen = str(read_yaml(run.config_yaml).get("base") or "")
    else:
        here = not set(_ELSEWHERE).intersection(given)
        chosen = ON_A_CPU[task] if here and _on_a_cpu(config.training.accelerator) else ""
    if not chosen:
        return config
    own = ["model.frozen=0"] if any(key.startswith("model.") for key in given) else []
    return load_task_config(task, chosen, [*own, *overrides], {**keys, "base": chosen})


def _on_a_cpu(accelerator: str) -> bool:
    from medformer.training.devices import choose_device

    return accelerator in ("auto", "cpu") and choose_device(accelerator).type == "cpu"
