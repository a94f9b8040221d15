"""`medformer volume`: its commands and their flags."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pipelines.options import (
    AcceptLeak,
    Address,
    Baselines,
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
    from medformer.config import VolumeConfig

volume = typer.Typer(
    help="Segmentation and classification of MRI and CT volumes.", no_args_is_help=True, rich_markup_mode=None
)

VolumeData = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="MANIFEST|FOLDER",
        help="CSV manifest, or a folder in a known layout (see `prepare`); short for data.manifest=...",
    ),
]
VolumeConfigName = Annotated[
    str | None,
    typer.Option(
        "--config",
        metavar="NAME|FILE",
        help="A shipped config, or a YAML file.",
        show_default="volume/default, or volume/classification for that task",
    ),
]
Target = Annotated[
    Literal["segmentation", "classification"] | None,
    typer.Option("--task", help="A label for each voxel, or one for each volume.", show_default="segmentation"),
]
GroupPattern = Annotated[
    str | None,
    typer.Option(
        "--group-pattern",
        metavar="REGEX",
        help="Where a case's name tells the patient; the first group of the expression is taken.",
        show_default=False,
    ),
]


@volume.command(short_help="Turn a folder of volumes into a manifest.")
def prepare(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            exists=True,
            help="Folder of the Medical Segmentation Decathlon or of nnU-Net (dataset.json), of images/ and labels/, "
            "of DICOM series, or an .npz file of MedMNIST3D.",
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="CSV manifest to write; of an .npz file, the folder.")
    ],
    layout: Annotated[
        Literal["auto", "msd", "nnunet", "folders", "dicom"],
        typer.Option("--layout", help="How the folder is organized; auto: look."),
    ] = "auto",
    ungrouped: Ungrouped = "error",
    group_pattern: GroupPattern = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the manifest at --out, with what was edited in it.")
    ] = False,
) -> None:
    """Turn a folder in a known layout into one manifest, with the labels' names beside it."""
    from pipelines import volume_data as task

    task.prepare(
        source=source,
        out=out,
        layout=layout,
        ungrouped=ungrouped,
        group_pattern=group_pattern,
        overwrite=overwrite,
    )


@volume.command(short_help="Check every volume and look for leakage.")
def check(
    data: Annotated[
        Path, typer.Argument(metavar="MANIFEST|FOLDER", exists=True, help="CSV manifest, or a folder of volumes.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Also write the findings here.", show_default=False)
    ] = None,
    task: Target = None,
    accept_leak: AcceptLeak = None,
    ungrouped: Ungrouped = "error",
) -> None:
    """Read every volume, list what is wrong with it, and audit the split for leakage."""
    from pipelines import volume_data as job

    job.check(data=data, out=out, target=task or "segmentation", accept=accept_leak or [], ungrouped=ungrouped)


@volume.command(short_help="Say how volumes will be presented to the network, and what that costs.")
def plan(
    data: Annotated[
        Path, typer.Argument(metavar="MANIFEST|FOLDER", exists=True, help="CSV manifest, or a folder of volumes.")
    ],
    overrides: Overrides = None,
    config: VolumeConfigName = None,
    memory: Annotated[
        str | None,
        typer.Option("--memory", metavar="SIZE", help="What training may take, such as 8GB.", show_default="8GB"),
    ] = None,
    task: Target = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Also write the plan as JSON.", show_default=False)
    ] = None,
) -> None:
    """Plan spacing, intensities, patch, strides and batch from all cases, and estimate memory and time.

    Cross-validation makes a plan of its own in each fold, from the fold's training cases alone.
    """
    from pipelines import volume_plan as job

    flags = {"target": task, "plan.memory": None if memory is None else job.gigabytes(memory)}
    job.plan(config=_config(config, data, overrides, flags), out=out)


@volume.command(short_help="Pretrain the encoder without labels.")
def pretrain(
    out: RunOut,
    overrides: Overrides = None,
    config: VolumeConfigName = None,
    data: VolumeData = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Train a model's encoder to reconstruct masked blocks of all volumes; labels are not read."""
    not_both(resume, overwrite)
    loaded = _config(config, data, overrides, {"pretraining.enabled": True})
    from pipelines import volume_pretrain as job

    job.pretrain_volumes(config=loaded, out=out, resume=resume, overwrite=overwrite)


@volume.command(short_help="Train one network on a given split.")
def train(
    out: RunOut,
    overrides: Overrides = None,
    config: VolumeConfigName = None,
    data: VolumeData = None,
    task: Target = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    accept_leak: AcceptLeak = None,
) -> None:
    """Train on the cases whose split is `train`, and report on those whose split begins with `test`.

    Without a split column, all are trained on and nothing is tested.
    """
    not_both(resume, overwrite)
    loaded = _config(config, data, overrides, {"target": task, "crossval.scheme": "predefined"})
    from pipelines import volume as job

    job.run_volume(loaded, out, resume=resume, overwrite=overwrite, accept=accept_leak or [])


@volume.command(short_help="Cross-validate, export label maps, write a report.")
def crossval(
    out: RunOut,
    overrides: Overrides = None,
    config: VolumeConfigName = None,
    data: VolumeData = None,
    task: Target = None,
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
    """Cross-validate: grouped folds, a plan from each fold's training cases, label maps in the input's geometry."""
    not_both(resume, overwrite)
    flags = crossval_flags(baselines, permute_labels, executor, address, gpus_per_fold, devices, strategy)
    loaded = _config(config, data, overrides, {**flags, "target": task})
    from pipelines import volume as job

    job.run_volume(loaded, out, resume=resume, overwrite=overwrite, accept=accept_leak or [])


@volume.command(short_help="Segment new volumes with a finished run.")
def predict(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", exists=True, file_okay=False, help="Run folder of train or crossval.")
    ],
    images: Annotated[
        list[Path],
        typer.Argument(
            metavar="IMAGE",
            exists=True,
            help="NIfTI files, folders of them, or folders of one DICOM series; channels end in _0000, _0001, ...",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for label maps, overlays and volumes.csv.")],
    overwrite: Overwrite = False,
    resume: Resume = False,
    dicom_seg: Annotated[
        bool, typer.Option("--dicom-seg", help="Of DICOM series, also write DICOM segmentation objects.")
    ] = False,
    device: Annotated[
        Literal["auto", "cpu", "cuda", "mps"], typer.Option("--device", help="Where to compute.")
    ] = "auto",
) -> None:
    """Segment volumes with a run's network, or with the ensemble of its folds, in each volume's own geometry."""
    not_both(resume, overwrite)
    from pipelines import volume_predict as job

    job.predict(run=run, images=images, out=out, overwrite=overwrite, resume=resume, dicom_seg=dicom_seg, device=device)


@volume.command(short_help="Score any folder of label maps.")
def evaluate(
    predictions: Annotated[
        Path,
        typer.Option(
            "--predictions", metavar="DIR", exists=True, file_okay=False, help="Label maps, named like the reference."
        ),
    ],
    masks: Annotated[
        Path, typer.Option("--masks", metavar="DIR", exists=True, file_okay=False, help="True label maps.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the tables.")],
    overwrite: Overwrite = False,
    tolerance: Annotated[
        float, typer.Option("--tolerance", metavar="MM", min=0.0, help="Of the normalized surface Dice.")
    ] = 2.0,
) -> None:
    """Score any folder of label maps: Dice, HD95, surface Dice and volumes for each label."""
    from pipelines import volume_data as job

    job.evaluate(predictions=predictions, masks=masks, out=out, overwrite=overwrite, tolerance=tolerance)


def _config(name: str | None, data: Path | None, overrides: list[str] | None, flags: dict[str, Any]) -> VolumeConfig:
    from medformer.config import VolumeConfig

    if name is None:
        name = "volume/classification" if flags.get("target") == "classification" else "volume/default"
    return run_config(VolumeConfig, name, data, overrides, flags)
