"""What a trained model computes as ONNX files, checked against its own predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medformer.crossval.plan import read_plan
from medformer.crossval.run.contract import Predictor, Study
from medformer.crossval.run.directory import RunDirectory
from medformer.crossval.run.forecast.hours import with_value
from medformer.inference.onnx.export import require_onnx
from medformer.progress import SilentReporter
from medformer.tasks import get_task
from medformer.tasks.trained import Trained


@dataclass(frozen=True)
class Validation:
    """Cases of the inner validation parts of folds: neither trained on nor tested by their own network.

    Attributes:
        study: Holds them.
        names: Theirs.
    """

    study: Study[Any, Any]
    names: Sequence[str]


def export_onnx(
    task: str, predictor: Predictor, folder: Path, validation: Validation | None = None
) -> list[dict[str, Any]]:
    """Write the networks of a run or bundle as ONNX files into a folder, the mean of its folds as one graph.

    Args:
        task: Name of the task.
        predictor: What is exported, on the CPU.
        folder: Where to; files of the same names are replaced.
        validation: Real cases that the files are compared on, and that decide whether an int8 version is kept; made-up
            cases are compared without it, and there is no int8 version then.

    Returns:
        What the JSON files say.

    Raises:
        ConfigError: The extra `onnx` is not installed, or the model holds what ONNX cannot express.
        DataError: The files compute something else than the model; nothing is kept.
        ResourceError: They cannot be written.
    """
    require_onnx()
    study, names = (validation.study, validation.names) if validation else (None, ())
    return get_task(task).write_onnx(predictor, folder, study, names)


def describe_parity(record: Mapping[str, Any]) -> str:
    """Say in a sentence how far a file is from PyTorch, and what became of its int8 version."""
    parity, int8 = record.get("parity"), record.get("int8") or {}
    name = f"ONNX, {record.get('file') or 'recipe.json'}"
    if parity is None:
        return f"{name}: mean Dice {int8['dice_difference']:+.4f} on {int8['cases']} validation images, in 8 bits."
    said = f"{name}: checked with onnxruntime"
    if (most := parity.get("max_difference")) is not None:
        said += f", probabilities at most {most:.1g} off"
    if (dice := parity.get("dice_difference")) is not None:
        said += f", Dice {dice:.1g} off"
    if (cases := parity.get("cases")) is not None:
        said += f", on {'validation cases' if cases == 'real' else 'made-up cases'}"
    return said + (f"; no int8 version, because {int8['reason']}." if "reason" in int8 else ".")


def own_validation(trained: Trained) -> Validation | None:
    """The inner validation cases of a run's folds whose files are still there; None where there are none.

    Raises:
        ConfigError: The data that the run was made from cannot be opened as its config says.
        DataError: They are gone or damaged.
    """
    run = RunDirectory(trained.path)
    wanted = {folder.name for folder in trained.folders}
    plan = read_plan(run.splits_json)
    kept = run.path / "manifest.csv"
    # What a config names may be relative to where the run was started.
    manifest = str(kept) if kept.is_file() else run.record()["manifest"]
    config = with_value(trained.config, "data.manifest", manifest)
    study = get_task(trained.task).open(config, SilentReporter(), labelled=False)
    chosen = dict.fromkeys(name for fold in plan.folds if str(fold.index) in wanted for name in fold.validation)
    there = [name for name in chosen if name in study.by_id and _there(study, name)]
    return Validation(study, there) if there else None


def _there(study: Study[Any, Any], name: str) -> bool:
    case = study.by_id[name]
    return all(path.exists() for path in (*case.images, *filter(None, [case.mask])))
