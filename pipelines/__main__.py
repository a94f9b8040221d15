"""The program. It imports the command line inside of what answers Ctrl-C, because that takes a while."""

from __future__ import annotations

from medformer.freed_memory import keep_freed_memory

from .exits import run_program


def _command() -> None:
    from .cli import run

    run()


def main() -> None:
    """Run the command line and leave with its exit code."""
    keep_freed_memory()
    run_program(_command)


if __name__ == "__main__":
    main()
