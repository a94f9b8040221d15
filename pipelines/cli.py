"""The command line. It reads arguments and hands them on; everything heavy is imported by the command that needs it.

Results go to standard output, progress and errors to standard error.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import medformer
from medformer.errors import ConfigError
from pipelines.cli_abide import abide
from pipelines.cli_polyp import polyp
from pipelines.cli_volume import volume
from pipelines.exits import guarded
from pipelines.options import Overwrite, Resume, not_both

app = typer.Typer(
    name="medformer",
    help="Medical imaging on one MetaFormer backbone, cross-validated without leakage.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(polyp, name="polyp")
app.add_typer(abide, name="abide")
app.add_typer(volume, name="volume")
runs = typer.Typer(help="Look at cross-validations of any task.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(runs, name="crossval")


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


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Run folder to write.")] = Path("demo-run"),
    overwrite: Overwrite = False,
    resume: Resume = False,
) -> None:
    """Cross-validate on synthetic connectomes, volumes and images; needs no data."""
    not_both(resume, overwrite)
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


def main() -> None:
    """Run the command line and leave with its exit code."""
    raise SystemExit(guarded(lambda: typer.main.get_command(app)(prog_name="medformer")))
