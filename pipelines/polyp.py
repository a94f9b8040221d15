"""The polyp task: each verb wires parts together and computes nothing itself."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from medformer.config import ExecutionConfig, PolypConfig
from medformer.crossval.run_directory import RunDirectory
from medformer.crossval.run_record import RunInfo, session
from medformer.data.manifest import read_manifest
from medformer.errors import ConfigError
from medformer.reporting.report import build_report
from pipelines.console import make_reporter, say
from pipelines.crossval import crossvalidate
from pipelines.outputs import claim

# A resumed run may be computed elsewhere, loaded differently and compared with more; its results stay the same kind.
_MAY_DIFFER = frozenset(
    {
        "data.manifest",
        "data.cache",
        "data.workers",
        "training.accelerator",
        "training.strategy",
        "training.tracker",
        "inference.batch_size",
        "crossval.baselines",
        "crossval.permute_labels",
        *(f"execution.{name}" for name in ExecutionConfig.model_fields),
    }
)


def train(*, config: PolypConfig, out: Path, resume: bool, overwrite: bool, accept: list[str]) -> None:
    """Train on the rows whose split is `train` (all rows if none has one); predict those whose split is `test` once."""
    settings = config.crossval.model_copy(update={"scheme": "predefined"})
    run_polyp(
        config.model_copy(update={"crossval": settings}),
        out,
        resume=resume,
        overwrite=overwrite,
        accept=accept,
    )


def crossval(*, config: PolypConfig, out: Path, resume: bool, overwrite: bool, accept: list[str]) -> None:
    """Cross-validate over the rows of the manifest by the scheme that the config names."""
    run_polyp(config, out, resume=resume, overwrite=overwrite, accept=accept)


def run_polyp(
    config: PolypConfig,
    out: Path,
    *,
    resume: bool,
    overwrite: bool,
    accept: Sequence[str],
    notes: Sequence[str] = (),
) -> None:
    """Check, audit, train every fold of a plan, collect, and report; continue what an earlier session left.

    Raises:
        MedformerError: See the parts; what was finished before stays on disk.
    """
    if not config.data.manifest:
        raise ConfigError("No data: give --data MANIFEST. `medformer polyp prepare` writes one from a folder.")
    from pipelines.polyp_fold import check_settings
    from pipelines.polyp_task import polyp_task

    reporter = make_reporter()
    manifest = read_manifest(config.data.manifest, ungrouped=config.data.ungrouped)
    check_settings(config)
    run = RunDirectory.create(out, resume=resume, overwrite=overwrite)
    info = RunInfo(
        task=config.task,
        command=["medformer", *sys.argv[1:]],
        config=config.model_dump(mode="json"),
        seed=config.seed,
        device=_device(config),
        threads=_threads(),
        manifest=str(manifest.path.resolve()),
        data_root=str(manifest.root),
        data_sha256=manifest.digest(),
        accepted_leaks=list(accept),
        notes=list(notes),
    )
    with session(run, info, may_differ=_MAY_DIFFER):
        task = polyp_task(run, config, manifest, accept, reporter)
        tested = crossvalidate(run, task, config.crossval, config.execution, reporter)
    if not tested:
        say(f"Trained; the manifest has no test rows, so there is nothing to report. Weights: {run.fold(0)}")
        return
    say(f"Masks: {run.masks}")
    say(f"Overlays (yellow: prediction, blue: reference): {run.path / 'overlays'}")
    say(f"Report: {build_report(run.path)}")


def predict(
    *,
    run: Path,
    images: list[Path],
    out: Path,
    overwrite: bool,
    resume: bool,
    probabilities: str,
    threshold: float | None,
    device: str,
) -> None:
    """Segment images with a run's network, or with the ensemble of its folds."""
    from pipelines.polyp_predict import predict_images

    predict_images(
        RunDirectory.open(run),
        images,
        out,
        overwrite=overwrite,
        resume=resume,
        probabilities=probabilities,
        threshold=threshold,
        device=device,
        reporter=make_reporter(),
    )


def evaluate(*, predictions: Path, masks: Path, out: Path, overwrite: bool, threshold: float) -> None:
    """Score a folder of prediction maps."""
    from medformer.inference.scoring import score_folder, write_scores

    claim(out, overwrite=overwrite)
    rows, summary = score_folder(predictions, masks, threshold=threshold, reporter=make_reporter())
    table, numbers = write_scores(out, rows, summary)
    pooled = summary["pooled"]
    means = {name: values["mean"] for name, values in pooled["metrics"].items()}
    say(f"{summary['n']} cases; two empty masks: {summary['definitions']['empty_policy']}")
    for label, value in (
        (f"Dice at {threshold:g}", means["dice"]),
        (f"IoU at {threshold:g}", means["iou"]),
        ("mean Dice, 256 thresholds", means["mean_dice_256"]),
        ("mean IoU, 256 thresholds", means["mean_iou_256"]),
        ("weighted F", means["weighted_f"]),
        ("S-measure", means["s_measure"]),
        ("max E-measure", pooled["max_e"]),
        ("mean E-measure", pooled["mean_e"]),
        ("MAE", means["mae"]),
    ):
        say(f"  {label:<26}{value:.4f}")
    say(f"Per case: {table}\nAll numbers: {numbers}")


def _device(config: PolypConfig) -> str:
    import torch

    from medformer.training.devices import choose_device

    if config.execution.address is not None:
        return f"{config.training.accelerator}, on the Ray cluster {config.execution.address}"
    device = choose_device(config.training.accelerator)
    return f"cuda: {torch.cuda.get_device_name()}" if device.type == "cuda" else device.type


def _threads() -> int:
    import torch

    return torch.get_num_threads()
