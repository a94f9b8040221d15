"""`medformer polyp`: its commands and their flags."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pipelines.options import (
    AcceptLeak,
    Address,
    Baselines,
    ConfigName,
    DataManifest,
    Devices,
    Executor,
    GpusPerFold,
    Overrides,
    Overwrite,
    PermuteLabels,
    Resume,
    RunOut,
    Strategy,
    Ungrouped,
    crossval_flags,
    not_both,
    run_config,
)

if TYPE_CHECKING:
    from medformer.config import PolypConfig

polyp = typer.Typer(help="Polyp segmentation in colonoscopy frames.", no_args_is_help=True, rich_markup_mode=None)


@polyp.command(short_help="Turn folders of images into a manifest.")
def prepare(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="FOLDER", exists=True, file_okay=False, help="Folders of images and masks."),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="CSV manifest to write.")],
    layout: Annotated[
        Literal["auto", "kvasir", "pranet"],
        typer.Option(
            "--layout", help="kvasir: images/ and masks/; pranet: TrainDataset/ and TestDataset/; auto: look."
        ),
    ] = "auto",
    split: Annotated[
        str | None, typer.Option("--split", metavar="NAME", help="A shipped named split to record.", show_default=False)
    ] = None,
    ungrouped: Ungrouped = "error",
    group_pattern: Annotated[
        str | None,
        typer.Option(
            "--group-pattern",
            metavar="REGEX",
            help="Where a file name tells the patient or sequence; the first group of the expression is taken.",
            show_default=False,
        ),
    ] = None,
    link_duplicates: Annotated[
        bool,
        typer.Option(
            "--link-duplicates", help="Give pictures that show the same thing one group, so no split parts them."
        ),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the manifest at --out, with what was edited in it.")
    ] = False,
) -> None:
    """Turn folders in a known layout into one manifest."""
    from pipelines import polyp_data as task

    task.prepare(
        folders=folders,
        out=out,
        layout=layout,
        split=split,
        ungrouped=ungrouped,
        group_pattern=group_pattern,
        link_duplicates=link_duplicates,
        overwrite=overwrite,
    )


@polyp.command(short_help="Check every case and look for leakage.")
def check(
    manifest: Annotated[
        Path, typer.Argument(metavar="MANIFEST", exists=True, dir_okay=False, help="CSV manifest of the cases.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Also write the findings here.", show_default=False)
    ] = None,
    accept_leak: AcceptLeak = None,
    ungrouped: Ungrouped = "error",
) -> None:
    """Decode every case, list what is wrong with it, and audit the split for leakage."""
    from pipelines import polyp_data as task

    task.check(manifest=manifest, out=out, accept=accept_leak or [], ungrouped=ungrouped)


@polyp.command(short_help="Train one network on a given split.")
def train(
    out: RunOut,
    overrides: Overrides = None,
    config: ConfigName = "polyp/default",
    data: DataManifest = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    accept_leak: AcceptLeak = None,
) -> None:
    """Train one network on the rows whose split is `train`, and report on those whose split begins with `test`.

    Without a split column, all rows are trained on and nothing is tested.
    """
    not_both(resume, overwrite)
    loaded = _config(config, data, overrides)
    from pipelines import polyp as task

    task.train(config=loaded, out=out, resume=resume, overwrite=overwrite, accept=accept_leak or [])


@polyp.command(short_help="Cross-validate, export masks, write a report.")
def crossval(
    out: RunOut,
    overrides: Overrides = None,
    config: ConfigName = "polyp/default",
    data: DataManifest = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    accept_leak: AcceptLeak = None,
    baselines: Baselines = None,
    permute_labels: PermuteLabels = False,
    executor: Executor = None,
    address: Address = None,
    gpus_per_fold: GpusPerFold = None,
    devices: Devices = None,
    strategy: Strategy = None,
) -> None:
    """Cross-validate: grouped and stratified folds, one prediction per case, baselines, masks and a report."""
    not_both(resume, overwrite)
    flags = crossval_flags(baselines, permute_labels, executor, address, gpus_per_fold, devices, strategy)
    loaded = _config(config, data, overrides, flags)
    from pipelines import polyp as task

    task.crossval(config=loaded, out=out, resume=resume, overwrite=overwrite, accept=accept_leak or [])


@polyp.command(short_help="Segment new images with a finished run.")
def predict(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", exists=True, file_okay=False, help="Run folder of train or crossval.")
    ],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE", exists=True, help="Images, or folders of images.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for masks, overlays and a CSV.")],
    overwrite: Overwrite = False,
    resume: Resume = False,
    probabilities: Annotated[
        Literal["none", "png", "npz"],
        typer.Option("--probabilities", help="Also write probability maps: 8-bit PNG, or NPZ with floats."),
    ] = "none",
    threshold: Annotated[
        float | None,
        typer.Option(
            "--threshold", min=0.0, max=1.0, help="Probability in [0, 1] at which a pixel is polyp; else the run's own."
        ),
    ] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda", "mps"], typer.Option("--device", help="Where to compute.")
    ] = "auto",
) -> None:
    """Segment images with a run's network, or with the ensemble of its folds."""
    not_both(resume, overwrite)
    from pipelines import polyp as task

    task.predict(
        run=run,
        images=images,
        out=out,
        overwrite=overwrite,
        resume=resume,
        probabilities=probabilities,
        threshold=threshold,
        device=device,
    )


@polyp.command(short_help="Score any folder of prediction maps.")
def evaluate(
    predictions: Annotated[
        Path,
        typer.Option(
            "--predictions", metavar="DIR", exists=True, file_okay=False, help="Prediction maps, named like the masks."
        ),
    ],
    masks: Annotated[Path, typer.Option("--masks", metavar="DIR", exists=True, file_okay=False, help="True masks.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the tables.")],
    overwrite: Overwrite = False,
    threshold: Annotated[
        float,
        typer.Option("--threshold", min=0.0, max=1.0, help="Probability in [0, 1] at which a pixel is polyp."),
    ] = 0.5,
) -> None:
    """Score any folder of prediction maps: Dice, IoU and the PraNet protocol."""
    from pipelines import polyp as task

    task.evaluate(predictions=predictions, masks=masks, out=out, overwrite=overwrite, threshold=threshold)


def _config(
    name: str, data: Path | None, overrides: list[str] | None, flags: dict[str, Any] | None = None
) -> PolypConfig:
    from medformer.config import PolypConfig

    return run_config(PolypConfig, name, data, overrides, flags)
