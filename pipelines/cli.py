"""The command line, made from the table of verbs. A command imports what it needs when it runs.

Typer reads the signature of a function. Here each verb gets a function whose signature follows from the table. The
function does what all commands have in common: it loads the config and refuses `--resume` together with `--overwrite`.

Results go to standard output, progress and errors to standard error.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

import medformer
from medformer.errors import ConfigError

from .exits import interruptible, run_program
from .flags import TRAINS, Verb
from .verbs import GROUPS


def command(verb: Verb, task: str) -> Callable[..., None]:
    """Make the function of one verb.

    Args:
        verb: A row of the table.
        task: Its group: the task whose configs the verb reads, if it reads any.
    """

    def call(**given: Any) -> None:
        with interruptible(given["out"] if "resume" in given else None):
            do(given)

    def do(given: dict[str, Any]) -> None:
        if given.get("resume") and given.get("overwrite"):
            raise ConfigError("Got --resume and --overwrite, expected at most one: keep what is there, or delete it.")
        keys = {parameter.key: given.pop(parameter.name) for parameter in verb.parameters if parameter.key}
        if "config" in given:
            from medformer.config_loading import load_task_config

            overrides = given.pop("overrides")
            named = (task, given["config"], overrides, {**verb.sets, **keys})
            if verb.calls == TRAINS:
                from medformer.tasks.settings import run_config

                given["config"] = run_config(*named, out=given["out"], resume=given["resume"])
            else:
                given["config"] = load_task_config(*named)
        if verb.shared:
            given["task"] = task
        module, function = verb.function(task)
        getattr(import_module(module), function)(**given)

    # This is where `inspect.signature` looks first.
    call.__dict__["__signature__"] = inspect.Signature([parameter.signature() for parameter in verb.parameters])
    return call


class _Command(TyperCommand):
    """A command whose help page names arguments as the table does, without Python's types behind them."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        for parameter in self.params:
            if parameter.param_type_name == "argument":
                parameter.__dict__["display_type_rich"] = lambda ctx: None


class _Group(TyperGroup):
    """A group that knows the verbs of the tasks: `medformer predict RUN` lacks its task."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        tasks = [name for name, (_, verbs) in GROUPS.items() if name and args[0] in {verb.name for verb in verbs}]
        if tasks and args[0] not in self.commands:
            ctx.fail(f"No such command '{args[0]}'. Name the task: medformer {'|'.join(tasks)} {args[0]} ...")
        return super().resolve_command(ctx, args)


def _application() -> typer.Typer:
    look = {"no_args_is_help": True, "rich_markup_mode": None, "pretty_exceptions_enable": False, "cls": _Group}
    apps = {
        name: typer.Typer(help=purpose, **look)  # type: ignore[arg-type]
        for name, (purpose, _) in GROUPS.items()
    }
    for name, (_, verbs) in GROUPS.items():
        for verb in verbs:
            text = f"{verb.summary}\n\n{verb.details}"
            apps[name].command(verb.name, help=text, short_help=verb.summary, cls=_Command)(command(verb, name))
        if name:
            apps[""].add_typer(apps[name], name=name)
    return apps[""]


app = _application()


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


def run() -> None:
    """Run the command line."""
    typer.main.get_command(app)(prog_name="medformer")


def main() -> None:
    """Run the command line and leave with its exit code."""
    run_program(run)


if __name__ == "__main__":
    main()
