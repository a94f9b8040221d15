"""Arguments, options and verbs as data: their types, and those that several commands share.

Each option is defined once. Where a task needs other words for it, its verb takes `OPTION.but(help=...)`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import typer

from medformer.errors import ConfigError

_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(g|gb|gib|m|mb|mib)?\s*", re.IGNORECASE)
_GB = {"": 1.0, "g": 1.0, "gb": 1.0, "gib": 1.073741824, "m": 1e-3, "mb": 1e-3, "mib": 1.048576e-3}


@dataclass(frozen=True)
class Parameter:
    """An argument or option.

    Attributes:
        name: Keyword under which the value is passed on.
        kind: Type of a value that the user gives.
        settings: What else Typer takes: default, help, metavar, limits. Without a default, a value is required.
        spelled: How the user writes an option; empty for an argument.
        key: The config key that it sets, if it sets one.
    """

    name: str
    kind: Any
    settings: Mapping[str, Any]
    spelled: str = ""
    key: str = ""

    def but(self, **settings: Any) -> Parameter:
        """Return the same parameter with other settings, such as the help text of one task."""
        return replace(self, settings={**self.settings, **settings})

    def signature(self) -> inspect.Parameter:
        """Return the parameter in the form that Typer reads."""
        settings = {"default": ..., **self.settings}
        default = settings.pop("default")
        if self.key and self.spelled:
            settings["help"] += f" Sets {self.key}."
        read = typer.Option(default, self.spelled, **settings) if self.spelled else typer.Argument(default, **settings)
        return inspect.Parameter(self.name, inspect.Parameter.KEYWORD_ONLY, default=read, annotation=self.kind)


@dataclass(frozen=True)
class Verb:
    """One command.

    Attributes:
        name: As the user writes it.
        summary: One line, which the list of commands shows too.
        details: More for the command's own help page.
        calls: The function that does the work, as `module:function`. It is imported when the command runs.
        parameters: In the order of the help page. With `config` among them, the function gets the loaded config.
        passes: Further keywords of the function.
        sets: Config keys that the verb itself sets.
    """

    name: str
    summary: str
    details: str
    calls: str
    parameters: tuple[Parameter, ...]
    passes: Mapping[str, Any] = field(default_factory=dict)
    sets: Mapping[str, Any] = field(default_factory=dict)


def argument(name: str, kind: Any, help: str, metavar: str, **settings: Any) -> Parameter:
    """Define an argument."""
    return Parameter(name, kind, {"help": help, "metavar": metavar, **settings})


def option(
    name: str,
    kind: Any,
    help: str,
    metavar: str | None = None,
    *,
    unset: str | None = None,
    spelled: str = "",
    key: str = "",
    **settings: Any,
) -> Parameter:
    """Define an option, spelled like its name unless `spelled` says otherwise.

    Where the option may be left out and its value is then None, `unset` is what the help page shows as the default.
    """
    if unset is not None:
        settings |= {"default": None, "show_default": unset}
    spelled = spelled or f"--{name.replace('_', '-')}"
    return Parameter(name, kind, {"help": help, "metavar": metavar, **settings}, spelled, key)


def _gigabytes(text: str) -> float:
    """Read a size such as `8GB`, `500MB` or `8`, which means gigabytes.

    Raises:
        ConfigError: The text is not a size above 0.
    """
    match = _SIZE.fullmatch(text)
    if match is None or not float(match[1]):
        raise ConfigError(f"--memory {text}: expected a size above 0, such as 8GB or 500MB.")
    return float(match[1]) * _GB[(match[2] or "").lower()]


FILE: Mapping[str, Any] = {"exists": True, "dir_okay": False}
FOLDER: Mapping[str, Any] = {"exists": True, "file_okay": False}
SHARE: Mapping[str, Any] = {"min": 0.0, "max": 1.0}

OVERRIDES = argument(
    "overrides",
    list[str],
    "Config values to change, such as training.epochs=50; `medformer info` lists the keys.",
    "KEY=VALUE",
    default=[],
    show_default=False,
)
CONFIG = option("config", str, "A shipped config, such as polyp/quick, or a YAML file.", "NAME|FILE", default=None)
DATA = option("data", Path, "CSV manifest of the cases.", "MANIFEST", key="data.manifest", default=None)
DATA_ARGUMENT = argument("data", Path, "CSV manifest of the cases.", "MANIFEST", exists=True)
TARGET = option(
    "target",
    Literal["segmentation", "classification"],
    "A label for each voxel, or one for each volume.",
    spelled="--task",
    key="target",
    unset="segmentation",
)
MEMORY = option(
    "memory",
    float,
    "Memory that training may use, such as 8GB.",
    "SIZE",
    key="plan.memory",
    parser=_gigabytes,
    unset="8GB",
)
OUT = option("out", Path, "Run folder to write.", "DIR")
RESUME = option("resume", bool, "Continue what an earlier, interrupted call left in --out.", default=False)
OVERWRITE = option("overwrite", bool, "Delete what an earlier call left in --out.", default=False)
ACCEPT = option(
    "accept",
    list[str],
    "Accept one finding of the leakage audit, by the name that the audit gives it; repeatable. The report lists it.",
    "NAME",
    spelled="--accept-leak",
    default=[],
)
UNGROUPED = option(
    "ungrouped",
    Literal["error", "each"],
    "Cases without a patient or sequence: refuse them, or make each its own group.",
    default="error",
)
GROUP_PATTERN = option(
    "group_pattern",
    str,
    "Regular expression for the patient or sequence in a file name; its first group is used.",
    "REGEX",
    default=None,
)
RUN = argument("run", Path, "Run folder of train or crossval.", "RUN", **FOLDER)
DEVICE = option("device", Literal["auto", "cpu", "cuda", "mps"], "Where to compute.", default="auto")
ATLASES = option("atlases", list[str], "An atlas to use; repeatable.", "NAME", spelled="--atlas")
PIPELINE = option(
    "pipeline",
    Literal["cpac", "dparsf", "ccs", "niak", "fmriprep"],
    "Pipeline that preprocessed the series; fmriprep: `extract` wrote them.",
    default="cpac",
)
STRATEGY = option(
    "strategy",
    str,
    "Such as filt_noglobal; for extracted series, the value of --confounds.",
    "NAME",
    default="filt_noglobal",
)
CROSSVAL = (
    ACCEPT,
    option(
        "baselines",
        bool,
        "Run the baselines on the same folds.",
        spelled="--baselines/--no-baselines",
        key="crossval.baselines",
        unset="on",
    ),
    option(
        "permute_labels",
        bool,
        "Also run the plan on permuted labels: a score above chance shows a leak.",
        key="crossval.permute_labels",
        default=None,
    ),
    option(
        "executor",
        Literal["inline", "ray"],
        "Run the folds one after another here, or as Ray tasks.",
        key="execution.executor",
        unset="inline",
    ),
    option(
        "address",
        str,
        "Ray cluster; without it, Ray starts on this machine.",
        "ADDRESS",
        key="execution.address",
        default=None,
    ),
    option(
        "gpus_per_fold",
        float,
        "Share of a GPU that Ray reserves for a fold.",
        "SHARE",
        key="execution.gpus_per_fold",
        min=0.0,
        unset="0",
    ),
    option("devices", int, "Devices that train one fold together.", "N", key="training.devices", min=1, unset="1"),
    option(
        "strategy", Literal["auto", "ddp"], "How these devices train together.", key="training.strategy", unset="auto"
    ),
)


def check_verb(task: str, data: Parameter, details: str, *more: Parameter, **passes: Any) -> Verb:
    """Return the verb `check` of a task, with further parameters and keywords."""
    out = option("out", Path, "Also write the findings to this folder.", "DIR", default=None)
    parameters = (data, out, *more, ACCEPT)
    passes = {"task": task, **passes}
    return Verb("check", "Check every case and look for leakage.", details, "pipelines.work:check", parameters, passes)


def training_verbs(task: str, masked: str, crossval: str, *parameters: Parameter) -> tuple[Verb, ...]:
    """Return the verbs of a task that train.

    Args:
        task: Its name.
        masked: Parts of a case that pretraining hides.
        crossval: What cross-validation does and leaves.
        parameters: Those of the task, besides the ones that all tasks have.
    """
    common = (OUT, OVERRIDES, *parameters, RESUME, OVERWRITE)
    return (
        Verb(
            "pretrain",
            "Pretrain the encoder without labels.",
            f"The encoder learns to reconstruct masked {masked}.",
            "pipelines.work:pretrain",
            common,
            {"task": task},
            {"pretraining.enabled": True},
        ),
        Verb(
            "train",
            "Train one network on a given split.",
            "Trains on the cases whose split is `train`, and reports on those whose split begins with `test`.\n\n"
            "Without a split column, trains on all cases and tests nothing.",
            "pipelines.work:train",
            (*common, ACCEPT),
            {"task": task},
            {"crossval.scheme": "predefined"},
        ),
        Verb(
            "crossval",
            "Cross-validate and write a report.",
            crossval,
            "pipelines.work:crossval",
            (*common, *CROSSVAL),
            {"task": task},
        ),
    )


def evaluate_verb(calls: str, maps: str, details: str, cutoff: Parameter) -> Verb:
    """Return the verb `evaluate` of a task that segments."""
    parameters = (
        option("predictions", Path, f"Folder of {maps}, named like the masks.", "DIR", **FOLDER),
        option("masks", Path, "Folder of true masks.", "DIR", **FOLDER),
        OUT.but(help="Folder for the tables."),
        OVERWRITE,
        cutoff,
    )
    return Verb("evaluate", f"Score any folder of {maps}.", details, calls, parameters)
