"""The polyp task: each verb wires parts together and computes nothing itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medformer.config import PolypConfig
from medformer.crossval.run.directory import RunDirectory
from medformer.data.manifest import read_manifest
from medformer.errors import ConfigError
from pipelines.console import make_reporter, say
from pipelines.outputs import claim
from pipelines.run import Source, report_on, run_task


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
    run = run_task(
        config,
        Source(manifest.path, manifest.root, manifest.digest()),
        lambda run: polyp_task(run, config, manifest, accept, reporter),
        out,
        reporter,
        resume=resume,
        overwrite=overwrite,
        accept=accept,
        notes=notes,
    )
    if run is not None:
        say(f"Masks: {run.masks}")
        say(f"Overlays (yellow: prediction, blue: reference): {run.path / 'overlays'}")
        report_on(run)


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
    from medformer.inference.frames.scoring import score_folder, write_scores

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
