"""`medformer abide`: its commands and their flags."""

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
    crossval_flags,
    not_both,
    run_config,
)

if TYPE_CHECKING:
    from medformer.config import AbideConfig

abide = typer.Typer(
    help="Autism against control from multi-atlas functional connectomes.", no_args_is_help=True, rich_markup_mode=None
)

CohortOut = Annotated[
    Path, typer.Option("--out", metavar="DIR", help="Folder for the manifest, the features and who was left out.")
]
Pipeline = Annotated[
    Literal["cpac", "dparsf", "ccs", "niak"],
    typer.Option("--pipeline", help="Preprocessing pipeline of the Preprocessed Connectomes Project."),
]
Strategies = Annotated[
    Literal["filt_noglobal", "filt_global", "nofilt_noglobal", "nofilt_global"],
    typer.Option("--strategy", help="Band-pass filter and global signal regression, or not."),
]
Atlases = Annotated[
    list[str] | None,
    typer.Option("--atlas", metavar="NAME", help="An atlas to use; repeatable.", show_default="all that are found"),
]


@abide.command(short_help="Download preprocessed time series of ABIDE I.")
def fetch(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to download to.")],
    atlas: Annotated[
        list[str] | None,
        typer.Option(
            "--atlas", metavar="NAME", help="An atlas to fetch; repeatable.", show_default="aal, cc200, dos160"
        ),
    ] = None,
    pipeline: Pipeline = "cpac",
    strategy: Strategies = "filt_noglobal",
    subjects: Annotated[
        int | None, typer.Option("--subjects", metavar="N", min=1, help="Only the first N.", show_default="all")
    ] = None,
    all_quality: Annotated[
        bool, typer.Option("--all-quality", help="Also subjects that failed the project's visual quality control.")
    ] = False,
    url: Annotated[
        str | None, typer.Option("--url", metavar="URL", help="A mirror of the project.", show_default=False)
    ] = None,
) -> None:
    """Download time series and the phenotypic table of the Preprocessed Connectomes Project, by nilearn."""
    from pipelines import abide_data as task

    task.fetch(
        out=out,
        atlases=atlas or ["aal", "cc200", "dos160"],
        pipeline=pipeline,
        strategy=strategy,
        subjects=subjects,
        all_quality=all_quality,
        url=url,
    )


@abide.command(short_help="Extract time series from fMRIPrep derivatives.")
def extract(
    bids: Annotated[
        Path, typer.Option("--bids", metavar="DIR", exists=True, file_okay=False, help="fMRIPrep derivatives.")
    ],
    atlas: Annotated[
        list[str],
        typer.Option("--atlas", metavar="FILE|NAME=FILE", help="Label image of a parcellation; repeatable."),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the time series.")],
    confounds: Annotated[
        Literal["none", "simple", "simple-gsr", "scrubbing", "scrubbing-gsr", "compcor"],
        typer.Option("--confounds", help="nilearn's strategy of nuisance regression; gsr: the global signal too."),
    ] = "simple",
    task: Annotated[str | None, typer.Option("--task", metavar="LABEL", help="BIDS task.", show_default="all")] = None,
    space: Annotated[
        str | None, typer.Option("--space", metavar="LABEL", help="Space of the images.", show_default="the only one")
    ] = None,
    participants: Annotated[
        Path | None,
        typer.Option(
            "--participants",
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="participants.tsv.",
            show_default="found",
        ),
    ] = None,
    low_pass: Annotated[
        float | None, typer.Option("--low-pass", metavar="HZ", min=0.0, help="Highest frequency.", show_default="none")
    ] = None,
    high_pass: Annotated[
        float | None, typer.Option("--high-pass", metavar="HZ", min=0.0, help="Lowest frequency.", show_default="none")
    ] = None,
) -> None:
    """Average preprocessed BOLD over the regions of an atlas, with nuisance regression, by nilearn."""
    from pipelines import abide_data as job

    job.extract(
        bids=bids,
        atlases=atlas,
        out=out,
        confounds=confounds,
        task=task,
        space=space,
        participants=participants,
        low_pass=low_pass,
        high_pass=high_pass,
    )


@abide.command(short_help="Turn time series or matrices into a cohort.")
def prepare(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            exists=True,
            help="Folder of the Preprocessed Connectomes Project (Outputs/ or ABIDE_pcp/), of one matrix per subject "
            "(.npy, .csv, .mat), or an .npz file of correlations.",
        ),
    ],
    out: CohortOut,
    atlas: Atlases = None,
    phenotype: Annotated[
        Path | None,
        typer.Option(
            "--phenotype", metavar="FILE", exists=True, dir_okay=False, help="Phenotypic table.", show_default="found"
        ),
    ] = None,
    pipeline: Annotated[
        Literal["cpac", "dparsf", "ccs", "niak", "fmriprep"],
        typer.Option("--pipeline", help="Whose series: fmriprep is what `extract` wrote."),
    ] = "cpac",
    strategy: Annotated[
        str,
        typer.Option(
            "--strategy", metavar="NAME", help="Such as filt_noglobal; of extracted series the name of --confounds."
        ),
    ] = "filt_noglobal",
    max_mean_fd: Annotated[
        float | None,
        typer.Option("--max-mean-fd", metavar="MM", min=0.0, help="Leave out who moved more.", show_default="no limit"),
    ] = None,
    min_timepoints: Annotated[
        int, typer.Option("--min-timepoints", metavar="N", min=0, help="Leave out shorter scans.")
    ] = 0,
    all_quality: Annotated[
        bool, typer.Option("--all-quality", help="Keep subjects that failed visual quality control.")
    ] = False,
    max_constant_regions: Annotated[
        float,
        typer.Option(
            "--max-constant-regions",
            metavar="SHARE",
            min=0.0,
            max=1.0,
            help="Leave out who has more regions without signal; others keep them, with connections of 0.",
        ),
    ] = 0.1,
    missing_atlas: Annotated[
        Literal["exclude", "error"],
        typer.Option("--missing-atlas", help="Subjects without one of the atlases: leave out, or stop."),
    ] = "exclude",
    labels: Annotated[
        list[Path] | None,
        typer.Option(
            "--labels",
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="Table of region names, such as aal_labels.csv; the atlas is the start of its name; repeatable.",
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the cohort at --out.")] = False,
) -> None:
    """Read every subject once and write a cohort: manifest.csv, features/, and exclusions.csv."""
    from pipelines import abide_data as task

    task.prepare(
        source=source,
        out=out,
        atlases=atlas or [],
        phenotype=phenotype,
        pipeline=pipeline,
        strategy=strategy,
        max_mean_fd=max_mean_fd,
        min_timepoints=min_timepoints,
        all_quality=all_quality,
        max_constant_regions=max_constant_regions,
        missing_atlas=missing_atlas,
        labels=labels or [],
        overwrite=overwrite,
    )


@abide.command(short_help="Check every subject of a cohort.")
def check(
    manifest: Annotated[
        Path, typer.Argument(metavar="COHORT", exists=True, help="The cohort's manifest.csv, or its folder.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Also write the findings here.", show_default=False)
    ] = None,
) -> None:
    """List missing atlases, duplicates, constant regions, NaN and conflicting labels."""
    from pipelines import abide_data as task

    task.check(manifest=manifest, out=out)


@abide.command(short_help="Pretrain the encoder without labels.")
def pretrain(
    out: RunOut,
    overrides: Overrides = None,
    config: ConfigName = "abide/default",
    data: DataManifest = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Train a model's encoder to reconstruct masked connections of a whole cohort; labels are not read."""
    not_both(resume, overwrite)
    loaded = _config(config, data, overrides, {"pretraining.enabled": True})
    from pipelines import abide as task

    task.pretrain(config=loaded, out=out, resume=resume, overwrite=overwrite)


@abide.command(short_help="Train one network on a given split.")
def train(
    out: RunOut,
    overrides: Overrides = None,
    config: ConfigName = "abide/default",
    data: DataManifest = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    accept_leak: AcceptLeak = None,
) -> None:
    """Train on the subjects whose split is `train`, and report on those whose split is `test`.

    Without a split column, all are trained on and nothing is tested.
    """
    not_both(resume, overwrite)
    loaded = _config(config, data, overrides)
    from pipelines import abide as task

    task.train(config=loaded, out=out, resume=resume, overwrite=overwrite, accept=accept_leak or [])


@abide.command(short_help="Cross-validate and write a report.")
def crossval(
    out: RunOut,
    overrides: Overrides = None,
    config: ConfigName = "abide/default",
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
    """Cross-validate: folds balanced by diagnosis and site, one prediction per subject, linear baselines, a report."""
    not_both(resume, overwrite)
    flags = crossval_flags(baselines, permute_labels, executor, address, gpus_per_fold, devices, strategy)
    loaded = _config(config, data, overrides, flags)
    from pipelines import abide as task

    task.crossval(config=loaded, out=out, resume=resume, overwrite=overwrite, accept=accept_leak or [])


@abide.command(short_help="Say which connections the scores rest on.")
def explain(
    run: Annotated[Path, typer.Argument(metavar="RUN", exists=True, file_okay=False, help="Run folder of crossval.")],
    steps: Annotated[
        int, typer.Option("--steps", metavar="N", min=2, help="Points of the integral of each gradient.")
    ] = 32,
) -> None:
    """Attribute each fold's test scores to connections and regions, check the result, and add it to the report."""
    from pipelines import abide_explain as task

    task.explain(run=run, steps=steps)


def _config(
    name: str, data: Path | None, overrides: list[str] | None, flags: dict[str, Any] | None = None
) -> AbideConfig:
    from medformer.config import AbideConfig

    return run_config(AbideConfig, name, data, overrides, flags)
