"""The command line. It reads arguments and hands them on; everything heavy is imported by the command that needs it.

Results go to standard output, progress and errors to standard error.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

import medformer
from medformer.errors import ConfigError
from pipelines.exits import guarded

if TYPE_CHECKING:
    from medformer.config import PolypConfig

app = typer.Typer(
    name="medformer",
    help="Medical image segmentation on one MetaFormer backbone, cross-validated without leakage.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
polyp = typer.Typer(help="Polyp segmentation in colonoscopy frames.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(polyp, name="polyp")
runs = typer.Typer(help="Look at cross-validations of any task.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(runs, name="crossval")

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


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"medformer {medformer.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


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
    _not_both(resume, overwrite)
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
    baselines: Annotated[
        bool | None,
        typer.Option("--baselines/--no-baselines", help="Run the baselines on the same folds.", show_default="on"),
    ] = None,
    permute_labels: Annotated[
        bool,
        typer.Option("--permute-labels", help="Also run the plan on permuted labels: a canary that shows a leak."),
    ] = False,
    executor: Annotated[
        Literal["inline", "ray"] | None,
        typer.Option("--executor", help="Folds one after another here, or as Ray tasks.", show_default="inline"),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option("--address", metavar="ADDRESS", help="Ray cluster; else Ray starts here.", show_default=False),
    ] = None,
    gpus_per_fold: Annotated[
        float | None,
        typer.Option(
            "--gpus-per-fold", metavar="SHARE", min=0.0, help="Share of a GPU that Ray gives a fold.", show_default="0"
        ),
    ] = None,
    devices: Annotated[
        int | None,
        typer.Option("--devices", metavar="N", min=1, help="Devices that train one fold together.", show_default="1"),
    ] = None,
    strategy: Annotated[
        Literal["auto", "ddp"] | None,
        typer.Option("--strategy", help="How they train together.", show_default="auto"),
    ] = None,
) -> None:
    """Cross-validate: grouped and stratified folds, one prediction per case, baselines, masks and a report."""
    _not_both(resume, overwrite)
    flags = {
        "crossval.baselines": baselines,
        "crossval.permute_labels": permute_labels or None,
        "execution.executor": executor,
        "execution.address": address,
        "execution.gpus_per_fold": gpus_per_fold,
        "training.devices": devices,
        "training.strategy": strategy,
    }
    given = [f"{key}={json.dumps(value)}" for key, value in flags.items() if value is not None]
    loaded = _config(config, data, [*(overrides or []), *given])
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
    _not_both(resume, overwrite)
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


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Run folder to write.")] = Path("demo-run"),
    overwrite: Overwrite = False,
    resume: Resume = False,
) -> None:
    """Cross-validate on synthetic images; needs no data."""
    _not_both(resume, overwrite)
    from pipelines import demo as job

    job.demo(out=out, overwrite=overwrite, resume=resume)


@app.command()
def info(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
) -> None:
    """List models, backbones, token mixers, losses, splits, configs and their keys."""
    from pipelines import info as listing

    listing.info(as_json=as_json)


@runs.command()
def status(
    run: Annotated[Path, typer.Argument(metavar="RUN", exists=True, file_okay=False, help="Run folder.")],
    watch: Annotated[
        float | None,
        typer.Option("--watch", metavar="SECONDS", min=0.5, help="Show it again and again.", show_default=False),
    ] = None,
) -> None:
    """Say which folds of a run are done, running, failed or still to come, while it runs or after."""
    from pipelines import crossval as runner

    runner.status(run=run, watch=watch)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", exists=True, file_okay=False, help="Run folder.")],
) -> None:
    """Write a run's report again, from the run's files alone."""
    from pipelines import crossval as runner

    runner.report(run=run)


@app.command()
def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN",
            exists=True,
            file_okay=False,
            help="Two or more run folders, or baselines inside one (RUN/baselines/NAME); the first is the reference.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Also write a table, JSON and a forest plot.", show_default=False),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            "--metric", metavar="NAME", help="What to compare by.", show_default="dice of masks, auc of classes"
        ),
    ] = None,
    shared_cases: Annotated[
        bool,
        typer.Option("--shared-cases", help="Compare what runs of different plans share; say what is lost."),
    ] = False,
) -> None:
    """Compare runs of the same plan: difference, interval, tests over groups and folds, a forest plot."""
    if len(runs) < 2:
        raise ConfigError("compare got one run, expected two or more: medformer compare RUN RUN")
    from pipelines import crossval as runner

    runner.compare(runs=runs, out=out, metric=metric, shared_cases=shared_cases)


def _config(name: str, data: Path | None, overrides: list[str] | None) -> PolypConfig:
    from medformer.config_loading import load_config

    shorthand = [] if data is None else [f"data.manifest={data}"]
    return load_config(name, [*shorthand, *(overrides or [])])


def _not_both(resume: bool, overwrite: bool) -> None:
    if resume and overwrite:
        raise ConfigError("Got --resume and --overwrite, expected at most one: keep what is there, or delete it.")


def main() -> None:
    """Run the command line and leave with its exit code."""
    raise SystemExit(guarded(lambda: typer.main.get_command(app)(prog_name="medformer")))
