"""The config of a run that trains, where the user names none: the one that suits the machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medformer.config_loading import load_task_config
from medformer.crossval.run.directory import RunDirectory
from medformer.yaml_files import read_yaml

ON_A_CPU = {"polyp": "polyp/cpu"}
"""By task: what is taken on a machine without a GPU; other tasks have one config for both."""

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

    The run then says so (`base`), and keeps it when it is resumed, wherever that is. With that config, a number of
    epochs that the user gives counts instead of its minutes, and a network that the user names has all levels trained.

    Args:
        task: Decides the schema.
        name: A shipped config or a file.
        overrides: `key=value` each.
        keys: Values by dotted key; None leaves a key as it is.
        out: Folder of the run.
        resume: Whether the run there goes on.

    Raises:
        ConfigError: See `load_config`.
    """
    if task not in ON_A_CPU:
        return load_task_config(task, name, overrides, keys)
    given = {text.partition("=")[0] for text in overrides} | {key for key, value in keys.items() if value is not None}
    # What is wrong in it is said before anything else is loaded.
    config = load_task_config(task, name, overrides, {**keys, "base": ""})
    if name is not None:
        return config
    run = RunDirectory(out)
    if resume and run.config_yaml.is_file():
        chosen = str(read_yaml(run.config_yaml).get("base") or "")
    else:
        chosen = "" if given.intersection(_ELSEWHERE) or not _on_a_cpu(config.training.accelerator) else ON_A_CPU[task]
    if not chosen:
        return config
    own = ["training.minutes=null"] if "training.epochs" in given else []
    own += ["model.frozen=0"] if any(key.startswith("model.") for key in given) else []
    return load_task_config(task, chosen, [*own, *overrides], {**keys, "base": chosen})


def _on_a_cpu(accelerator: str) -> bool:
    from medformer.training.devices import choose_device

    return accelerator in ("auto", "cpu") and choose_device(accelerator).type == "cpu"
