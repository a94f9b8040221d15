"""Arguments and flags that several commands share, and how flags become config values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from medformer.errors import ConfigError

if TYPE_CHECKING:
    from pydantic import BaseModel

C = TypeVar("C", bound="BaseModel")

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Config values to change, such as training.epochs=50; `medformer info` lists the keys.",
        show_default=False,
    ),
]
ConfigName = Annotated[
    str, typer.Option("--config", metavar="NAME|FILE", help="A shipped config, such as polyp/quick, or a YAML file.")
]
DataManifest = Annotated[
    Path | None,
    typer.Option("--data", metavar="MANIFEST", help="CSV manifest of the cases; short for data.manifest=MANIFEST."),
]
RunOut = Annotated[Path, typer.Option("--out", metavar="DIR", help="Run folder to write.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue what an earlier, interrupted call left in --out.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Delete what an earlier call left in --out.")]
AcceptLeak = Annotated[
    list[str] | None,
    typer.Option(
        "--accept-leak",
        metavar="NAME",
        help="Accept this one finding of the leakage audit, by the name it is reported under; repeatable. "
        "The report prints it.",
        show_default=False,
    ),
]
Ungrouped = Annotated[
    Literal["error", "each"],
    typer.Option("--ungrouped", help="Images without a patient or sequence: refuse, or make each its own group."),
]
Baselines = Annotated[
    bool | None,
    typer.Option("--baselines/--no-baselines", help="Run the baselines on the same folds.", show_default="on"),
]
PermuteLabels = Annotated[
    bool,
    typer.Option("--permute-labels", help="Also run the plan on permuted labels: a canary that shows a leak."),
]
Executor = Annotated[
    Literal["inline", "ray"] | None,
    typer.Option("--executor", help="Folds one after another here, or as Ray tasks.", show_default="inline"),
]
Address = Annotated[
    str | None,
    typer.Option("--address", metavar="ADDRESS", help="Ray cluster; else Ray starts here.", show_default=False),
]
GpusPerFold = Annotated[
    float | None,
    typer.Option(
        "--gpus-per-fold", metavar="SHARE", min=0.0, help="Share of a GPU that Ray gives a fold.", show_default="0"
    ),
]
Devices = Annotated[
    int | None,
    typer.Option("--devices", metavar="N", min=1, help="Devices that train one fold together.", show_default="1"),
]
Strategy = Annotated[
    Literal["auto", "ddp"] | None,
    typer.Option("--strategy", help="How they train together.", show_default="auto"),
]


def run_config(
    model: type[C], name: str, data: Path | None, overrides: list[str] | None, flags: dict[str, Any] | None = None
) -> C:
    """Load a config; what the command line says goes before what the file says, and flags before overrides.

    Args:
        model: The task's schema.
        name: A shipped config or a file.
        data: The manifest, where given.
        overrides: `key=value` each.
        flags: Config keys and what a flag gave for them; None where it was not given.
    """
    from medformer.config_loading import load_config

    shorthand = [] if data is None else [f"data.manifest={data}"]
    given = [f"{key}={json.dumps(value)}" for key, value in (flags or {}).items() if value is not None]
    return load_config(name, [*shorthand, *(overrides or []), *given], model=model)


def crossval_flags(
    baselines: bool | None,
    permute_labels: bool,
    executor: str | None,
    address: str | None,
    gpus_per_fold: float | None,
    devices: int | None,
    strategy: str | None,
) -> dict[str, Any]:
    """The config keys that the flags of `crossval` stand for, the same for every task; None where one was not given."""
    return {
        "crossval.baselines": baselines,
        "crossval.permute_labels": permute_labels or None,
        "execution.executor": executor,
        "execution.address": address,
        "execution.gpus_per_fold": gpus_per_fold,
        "training.devices": devices,
        "training.strategy": strategy,
    }


def not_both(resume: bool, overwrite: bool) -> None:
    """Refuse to continue and to delete at once."""
    if resume and overwrite:
        raise ConfigError("Got --resume and --overwrite, expected at most one: keep what is there, or delete it.")
