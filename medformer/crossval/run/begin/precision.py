"""The precision that a run computes in: decided once for its device, recorded, and the same when it is resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from medformer.config.shared import AUTO
from medformer.crossval.run.contract import Study
from medformer.crossval.run.directory import RunDirectory
from medformer.crossval.run.record import read_config
from medformer.models.precision import bfloat16_units
from medformer.training.devices import choose_device
from medformer.training.parity import bfloat16_parity

S = TypeVar("S", bound=Study[Any, Any])

KEY = "training.precision"


def decide_precision(study: S, out: Path, *, resume: bool) -> tuple[S, list[str]]:
    """Decide what `training.precision=auto` is for a run, which trains, tests and predicts in it from then on.

    Args:
        study: Of the run.
        out: Its folder.
        resume: Whether the run found there goes on: it keeps what it began with, whatever this device does quickly.

    Returns:
        The study with a precision by name, and what must be said before training and in the report.
    """
    training = study.config.training
    if training.precision != AUTO:
        return study, []
    directory = RunDirectory(out, resumed=True)
    if resume and directory.is_run() and directory.config_yaml.is_file():
        config = read_config(directory)
        begun = (config.get("training") or {}).get("precision", "32-true")
        # What was asked for by name stays, so that it is refused where it is another one.
        asked = getattr(study.config.inference, "precision", None)
        predicting = asked or (config.get("inference") or {}).get("precision")
        return _with_precision(study, begun, predicting), _kept(begun, study)
    precision, why = _decided(study)
    said = f"{KEY}=auto took {precision}: {why}."
    predicting = getattr(study.config.inference, "precision", None)
    if precision != "32-true" and predicting is None:
        # Rounding of bfloat16 moves the border of a mask now and then, and kernels of other machines round otherwise.
        predicting = "32-true"
        said += " Thresholds, tests and predictions are computed in 32-true."
    return _with_precision(study, precision, predicting), [said]


def _with_precision(study: S, precision: str, predicting: str | None) -> S:
    config = study.config
    changed = {"training": config.training.model_copy(update={"precision": precision})}
    if hasattr(config.inference, "precision"):
        changed["inference"] = config.inference.model_copy(update={"precision": predicting})
    return study.configured(config.model_copy(update=changed))


def _kept(begun: str, study: Study[Any, Any]) -> list[str]:
    if study.config.execution.address is not None or begun != "bf16-mixed":
        return []
    device = choose_device(study.config.training.accelerator)
    if bfloat16_units(device):
        return []
    return [
        f"This run began with {KEY}={begun} and goes on with it, so that its folds can be compared. This {device.type} "
        "has no fast instructions for it: a step may take several times longer than in 32-true."
    ]


def _decided(study: Study[Any, Any]) -> tuple[str, str]:
    if study.config.execution.address is not None:
        return "32-true", f"the devices of a cluster are not known here. Name {KEY} if they compute bfloat16 quickly"
    device = choose_device(study.config.training.accelerator)
    units = bfloat16_units(device)
    if not units:
        return "32-true", f"this {device.type} has no fast instructions for bfloat16"
    trial = study.trial()
    if trial is None:
        return (
            "32-true",
            "networks of connectomes predict in single precision, and are small enough to train in it",
        )
    where = f"this {device.type} has fast instructions for bfloat16 ({units})"
    try:
        parity = bfloat16_parity(*trial, device)
    except Exception as error:
        # Others' networks fail in many ways; in single precision `check` has tried this one.
        return "32-true", f"{where}, but a step of this network failed in it ({_first_line(error)})"
    found = (
        f"a step of this network on noise gives logits that are {100 * parity.output:.2g} % off and a gradient that is "
        f"{100 * parity.gradient:.2g} % off, where rounding its weights and input alone gives "
        f"{100 * parity.rounded_output:.2g} % and {100 * parity.rounded_gradient:.2g} %"
    )
    if not parity.close:
        what = found if parity.finite else "a step of this network on noise gives values that are not finite"
        return "32-true", f"{where}, but {what}"
    return "bf16-mixed", f"{where}, and {found}"


def _first_line(error: Exception) -> str:
    # An assertion often says nothing but that it failed.
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
