"""The folder of `--out`, for commands that write into a folder of their own."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from medformer.crossval.run.directory import RunDirectory
from medformer.data.problems import Problem, write_problems
from medformer.errors import ConfigError, ResourceError
from pipelines.console import say


def claim(out: Path, *, overwrite: bool, resume: bool | None = None) -> None:
    """Check before any work is done that results can go to `out`, and create it.

    Args:
        out: A folder that is missing or empty, or one with earlier results that a flag says to replace or to continue.
        overwrite: Earlier results may be replaced.
        resume: Earlier results may be added to; None where the command cannot.

    Raises:
        ConfigError: `out` is a file or a run folder, or holds something and no flag was given.
        ResourceError: The folder cannot be created.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out} is a file; expected a folder to be created. Choose another name.")
    if RunDirectory(out).is_run():
        raise ConfigError(
            f"--out {out} is the folder of a run, whose own masks and numbers would be replaced. Choose another folder."
        )
    if out.is_dir() and any(out.iterdir()) and not (resume or overwrite):
        flags = "--overwrite to replace earlier results" if resume is None else "--resume or --overwrite"
        raise ConfigError(f"--out {out} is not empty. Add {flags}, or choose another folder.")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(out, error) from error


def clear(out: Path, entries: Iterable[str]) -> None:
    """Delete these files and folders of an earlier call in `out`, and nothing else.

    Raises:
        ResourceError: One of them cannot be deleted.
    """
    try:
        for entry in (out / name for name in entries):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink(missing_ok=True)
    except OSError as error:
        raise _unwritable(out, error) from error


def _unwritable(out: Path, error: OSError) -> ResourceError:
    return ResourceError(f"Cannot prepare {out}: {error.strerror or error}. Choose a folder that you may write to.")


def claim_file(out: Path, *, overwrite: bool) -> None:
    """Make sure that a file can be written, before any work is done.

    Raises:
        ConfigError: It is there, and no flag allows to replace it.
    """
    if out.exists() and not overwrite:
        raise ConfigError(f"--out {out} exists. Add --overwrite to replace it, or choose another name.")


def list_problems(problems: Sequence[Problem], out: Path) -> None:
    """Write the problems of a scanned folder beside its manifest, and say the first of them."""
    if not problems:
        return
    table = out.with_name(f"{out.stem}.problems.csv")
    write_problems(table, problems)
    say(f"{len(problems)} files were left out or need a look; all of them are in {table}:")
    for problem in problems[:10]:
        say(f"  {problem}")
