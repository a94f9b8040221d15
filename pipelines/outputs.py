"""The folder of `--out`, for commands that write into a folder of their own."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from medformer.crossval.run.directory import RunDirectory
from medformer.errors import ConfigError, ResourceError


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
