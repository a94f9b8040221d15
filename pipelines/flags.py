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
from medformer.foreground import Foreground, parse_foreground

_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(?:([kmgt])(i?)b?)?\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Parameter:
    """An argument or option.

    Attributes:
        name: Keyword under which the value is passed on.
        kind: Type of a value that the user gives.
        default: Value where the user gives none; `...` where a value is required.
        settings: What else Typer takes: help, metavar, limits.
        spelled: How the user writes an option; empty for an argument.
        key: The config key that it sets, if it sets one; None then leaves the key as it is.
    """

    name: str
    kind: Any
    default: Any
    settings: Mapping[str, Any]
    spelled: str = ""
    key: str = ""

    def but(self, default: Any = ..., kind: Any = None, key: str | None = None, **settings: Any) -> Parameter:
        """Return the same parameter with other settings, such as the help text of one task."""
        return replace(
            self,
            kind=kind or self.kind,
            default=self.default if default is ... else default,
            settings={**self.settings, **settings},
            key=self.key if key is None else key,
        )

    def signature(self) -> inspect.Parameter:
        """Return the parameter in the form that Typer reads."""
        settings = dict(self.settings)
        if not self.spelled:
            read = typer.Argument(self.default, **settings)
        else:
            settings["help"] += f" Sets {self.key}." if self.key else ""
            read = typer.Option(self.default, self.spelled, **settings)
        return inspect.Parameter(self.name, inspect.Parameter.KEYWORD_ONLY, default=read, annotation=self.kind)


@dataclass(frozen=True)
class Verb:
    """One command.

    Attributes:
        name: As the user writes it.
        summary: One line, which the list of commands shows too.
        details: More for the command's own help page.
        parameters: In the order of the help page. With `config` among them, the function gets the loaded config.
        calls: The function that does the work, as `module:function` of this package, which is imported when the
            command runs; empty for the function of the verb's name in the module of its group.
        shared: Whether this function serves every task and gets the name of the task.
        sets: Config keys that the verb itself sets.
    """

    name: str
    summary: str
    details: str
    parameters: tuple[Parameter, ...]
    calls: str = ""
    shared: bool = False
    sets: Mapping[str, Any] = field(default_factory=dict)

    def function(self, group: str) -> tuple[str, str]:
        """Return module and name of the function that does the work for a group of verbs."""
        module, _, name = (self.calls or f"{group}:{self.name}").partition(":")
        return f"{__package__}.{module}", name


def argument(name: str, kind: Any, help: str, metavar: str, **settings: Any) -> Parameter:
    """Define an argument; a value is required."""
    return Parameter(name, kind, ..., {"help": help, "metavar": metavar, **settings})


def option(
    name: str,
    kind: Any,
    default: Any,
    help: str,
    metavar: str | None = None,
    *,
    shown: str = "",
    spelled: str = "",
    key: str = "",
    **settings: Any,
) -> Parameter:
    """Define an option, spelled like its name unless `spelled` is given; `shown` says what a default of None means."""
    settings |= {"help": help, "metavar": metavar, "show_default": shown or True}
    return Parameter(name, kind, default, settings, spelled or f"--{name.replace('_', '-')}", key)


def switch(name: str, help: str, spelled: str = "") -> Parameter:
    """Define an option without a value, which is off unless it is given."""
    return option(name, bool, False, help, spelled=spelled)


def setting(key: str, kind: Any, help: str, metavar: str | None = None, **settings: Any) -> Parameter:
    """Define an option that sets a config key."""
    return option(key.split(".")[-1], kind, None, help, metavar, key=key, **settings)


def verb(name: str, summary: str, details: str, *parameters: Parameter, **more: Any) -> Verb:
    """Define a verb; `more` is what it calls and sets."""
    return Verb(name, summary, details, parameters, **more)


def _gigabytes(text: str) -> float:
    """Read a size such as `8GB`, `500MB` or `8`, which means gigabytes.

    Raises:
        ConfigError: The text is not a size above 0.
    """
    match = _SIZE.fullmatch(text)
    if match is None or not float(match[1]):
        raise ConfigError(
            f"--memory {text}: expected a size above 0, such as 8GB or 500MB. Units are kB, MB, GB and TB (powers of "
            "1000), and KiB, MiB, GiB and TiB (powers of 1024)."
        )
    power = "kmgt".index((match[2] or "g").lower()) + 1
    return float(match[1]) * ((1024 if match[3] else 1000) ** power / 1e9)


def _mask_values(text: str) -> Foreground:
    """Read names of mask values, separated by commas.

    Raises:
        ConfigError: They are no such names.
    """
    try:
        return parse_foreground(text)
    except ValueError as error:
        raise ConfigError(f"--foreground: {error}.") from None


TRAINS = "work:crossval"
"""What the verbs that train networks for folds call."""
FILE: Mapping[str, Any] = {"exists": True, "dir_okay": False}
FOLDER: Mapping[str, Any] = {"exists": True, "file_okay": False}
SHARE: Mapping[str, Any] = {"min": 0.0, "max": 1.0}

_OVERRIDES = "Config values to change, such as training.epochs=50; `medformer info keys` lists them."
OVERRIDES = argument("overrides", list[str], _OVERRIDES, "KEY=VALUE", show_default=False).but([])
CONFIG = option("config", str, None, "A shipped config (`medformer info configs`), or a YAML file.", "NAME|FILE")
CASES = argument("data", Path, "CSV manifest of the cases.", "MANIFEST", exists=True)
DATA = setting("data.manifest", Path, "CSV manifest of the cases.", "MANIFEST", spelled="--data")
_TARGETS = Literal["segmentation", "classification"]
_TARGET = "A label for each voxel, or one for each volume."
TARGET = setting("target", _TARGETS, _TARGET, spelled="--task", shown="segmentation")
MEMORY = setting("plan.memory", float, "Memory that training may use.", "SIZE", parser=_gigabytes, shown="8GB")
OUT = option("out", Path, ..., "Run folder to write.", "DIR")
RESUME = switch("resume", "Continue what an earlier, interrupted call left in --out.")
OVERWRITE = switch("overwrite", "Delete what an earlier call left in --out.")
_ACCEPT = (
    "Accept one finding of the leakage audit, by the name that the audit gives it; repeatable. The report lists it."
)
ACCEPT = option("accept", list[str], [], _ACCEPT, "NAME", spelled="--accept-leak")
_UNGROUPED = "Cases without a patient or sequence: refuse them, or make each its own group."
_UNKNOWN = "Cases whose patient nobody knows: no intervals, or each its own group."
UNGROUPED = option("ungrouped", Literal["error", "each"], "error", _UNGROUPED)
UNGROUPED_KEY = setting("data.ungrouped", Literal["error", "each"], _UNGROUPED, shown="error")
PATTERN = "Regular expression for the patient or sequence in a file name; its first group is used."
GROUP_PATTERN = option("group_pattern", str, None, PATTERN, "REGEX")
_SITE_PATTERN = "Regular expression for the hospital or data set in a file name; every name must have it."
SITE_PATTERN = option("site_pattern", str, None, _SITE_PATTERN, "REGEX")
_GROUPS = "CSV with id and group (patient) of each case, such as a manifest."
GROUPS = option("groups", Path, None, _GROUPS, "TABLE", **FILE)
_FOREGROUND = "Mask values that are polyp, such as 1,2 or 128-255, or colors such as ff0000."
FOREGROUND = option(
    "foreground",
    str,
    None,
    _FOREGROUND,
    "VALUES",
    shown="the 1 of 0/1 masks, the 255 of 0/255 masks",
    parser=_mask_values,
)
RUN = argument("run", Path, "Run folder of train or crossval.", "RUN", **FOLDER)
TRAINED = RUN.but(help="Run folder of train or crossval, or a bundle of one (`export`).", metavar="RUN|BUNDLE")
DEVICE = option("device", Literal["auto", "cpu", "cuda", "mps"], "auto", "Where to compute.")
ATLASES = option("atlases", list[str], ..., "An atlas to use; repeatable.", "NAME", spelled="--atlas")
_PIPELINES = Literal["cpac", "dparsf", "ccs", "niak", "fmriprep"]
PIPELINE = option("pipeline", _PIPELINES, "cpac", "Pipeline that made the series; fmriprep: from `extract`.")
_STRATEGY = "Such as filt_noglobal; for extracted series, the value of --confounds."
STRATEGY = option("strategy", str, "filt_noglobal", _STRATEGY, "NAME")

_BASELINES = "Run the baselines on the same folds."
_PERMUTE = "Also run the plan on permuted labels: a score above chance shows a leak."
_CROSSVAL = (
    setting("crossval.baselines", bool, _BASELINES, spelled="--baselines/--no-baselines", shown="on"),
    setting("crossval.permute_labels", bool, _PERMUTE),
    setting(
        "execution.executor",
        Literal["inline", "processes", "ray"],
        "Run the folds one after another, in processes side by side, or as Ray tasks.",
        shown="inline",
    ),
    setting("execution.address", str, "Ray cluster; without it, Ray starts on this machine.", "ADDRESS"),
    setting("execution.gpus_per_fold", float, "Share of a GPU for a fold.", "SHARE", min=0.0, shown="0"),
    setting("training.devices", int, "Devices that train one fold together.", "N", min=1, shown="1"),
    setting("training.strategy", Literal["auto", "ddp"], "How these devices train together.", shown="auto"),
)


INIT_FROM = setting(
    "training.init_from",
    Path,
    "Fine-tune: start from the network of a run, of one of its folds (RUN/folds/K), or of a bundle.",
    "RUN|BUNDLE",
    spelled="--init-from",
)


HOURS = setting("training.hours", float, "Time for the whole run; says what is given up for it.", "H", shown="no limit")


def check_verb(data: Parameter, details: str, *more: Parameter) -> Verb:
    """Return the verb `check` of a task, with further parameters."""
    out = option("out", Path, None, "Also write the findings to this folder.", "DIR")
    summary = "Check every case and look for leakage."
    return verb("check", summary, details, data, out, *more, ACCEPT, calls="work:check", shared=True)


def training_verbs(masked: str, crossval: str, *parameters: Parameter) -> tuple[Verb, ...]:
    """Return the verbs of a task that train.

    Args:
        masked: Parts of a case that pretraining hides.
        crossval: What cross-validation does and leaves.
        parameters: Those of the task, besides the ones that all tasks have.
    """
    common = (OUT, OVERRIDES, *parameters, RESUME, OVERWRITE)
    return (
        verb(
            "pretrain",
            "Pretrain the encoder without labels.",
            f"The encoder learns to reconstruct masked {masked}. Rows whose split begins with `test` are left out.",
            *common,
            calls="work:pretrain",
            shared=True,
            sets={"pretraining.enabled": True},
        ),
        verb(
            "train",
            "Train one network on a given split.",
            "Trains on the cases whose split is `train`, and reports on those whose split begins with `test`.\n\n"
            "Without a split column, trains on all cases and tests nothing.",
            *common,
            INIT_FROM,
            HOURS,
            ACCEPT,
            calls=TRAINS,
            shared=True,
            sets={"crossval.scheme": "predefined"},
        ),
        verb(
            "crossval",
            "Cross-validate and write a report.",
            f"{crossval}\n\nRows whose split begins with `test` are in no fold.",
            *common,
            INIT_FROM,
            HOURS,
            ACCEPT,
            *_CROSSVAL,
            calls=TRAINS,
            shared=True,
        ),
    )


def evaluate_verb(maps: str, details: str, *further: Parameter) -> Verb:
    """Return the verb `evaluate` of a task that segments."""
    predictions = option("predictions", Path, ..., f"Folder of {maps}, named like the masks.", "DIR", **FOLDER)
    masks = option("masks", Path, ..., "Folder of true masks.", "DIR", **FOLDER)
    out = OUT.but(help="Folder for the tables and the report.")
    manifest = option(
        "manifest", Path, None, "Manifest of the masks: patients, sites, labels, foreground.", "TABLE", **FILE
    )
    ungrouped = option("ungrouped", Literal["unknown", "each"], "unknown", _UNKNOWN)
    only_common = switch("only_common", "Score what both folders have, and list the others.")
    given = (predictions, masks, out, OVERWRITE, manifest, GROUPS, GROUP_PATTERN, ungrouped, only_common, *further)
    return verb("evaluate", f"Score any folder of {maps}.", details, *given)
