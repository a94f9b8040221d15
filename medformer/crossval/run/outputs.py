"""Where a command may write: files that are ours are listed in the folder, and nothing else is replaced or deleted.

The list, `.medformer-files`, gets a line before a file is written, so that a kill leaves no file of ours unlisted. It
names the command too, because results of one command are no earlier results of another: predictions do not replace the
cohort they were asked of. A call that replaces earlier results works in `.medformer-next` inside the folder. Only when
it is done are the earlier files removed and the new ones moved to their places; a kill in between is made up for by the
next call.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from medformer.crossval.run.directory import RunDirectory
from medformer.crossval.run.lock import acquire, release
from medformer.data.manifest import is_manifest
from medformer.errors import ConfigError, ResourceError, write_advice
from medformer.files import before_replacing, is_temporary, read_json, require_writable, write_json, write_text

LIST = ".medformer-files"
NEXT = ".medformer-next"
_LOCK = ".medformer-lock"
_COMPLETE = ".medformer-complete"
_FORMAT = "medformer files/1: written by medformer, which replaces and deletes no others here"


@contextmanager
def output_folder(
    out: Path, *, overwrite: bool = False, resume: bool | None = None, beside: bool = False, by: str = ""
) -> Iterator[Path]:
    """Claim a folder for results before any work is done, and give the folder to write into meanwhile.

    A call that fails leaves earlier results as they were; its own files stay if `resume` can continue from them.

    Args:
        out: A folder that is missing or empty, or one with results of ours that a flag says to replace or to continue.
        overwrite: Earlier results are replaced.
        resume: Earlier results are added to; None where the command cannot continue an earlier call.
        beside: Results may lie beside files of others, and replace those of an earlier call without a flag.
        by: The command, such as `abide predict`; results of other commands are not replaced.

    Raises:
        ConfigError: `out` is a file or a run folder, holds something and no flag was given, holds files that are not
            ours or results of another command, or another process writes there.
        ResourceError: The folder cannot be written to.
    """
    out = Path(os.path.abspath(out))
    folder = _Folder(out, beside=beside, by=by)
    folder.check(overwrite=overwrite, resume=resume)
    with folder.held():
        folder.finish_swap()
        work = folder.next if (overwrite and folder.listed) or (resume and folder.next.is_dir()) else out
        if overwrite:
            folder.discard_next()
        before_replacing.append(folder.note)
        try:
            yield work
        except BaseException:
            if resume is None:
                folder.undo()
            raise
        finally:
            before_replacing.remove(folder.note)
        if work == folder.next:
            folder.publish()


def output_file(
    out: Path, *, overwrite: bool, ours: Callable[[Path], bool] = is_manifest, beside: Sequence[Path] = ()
) -> None:
    """Make sure before any work is done that a file can be written.

    Args:
        out: The file.
        overwrite: Whether an earlier one of ours may be replaced.
        ours: Whether a file is one that this command writes.
        beside: Files that are written with it.

    Raises:
        ConfigError: It is there, and no flag allows to replace it; or one of them is not ours.
        ResourceError: Its folder cannot be written to.
    """
    require_writable(out)
    if out.is_dir():
        raise ConfigError(f"--out {out} is a folder; expected the name of a file, such as {out / 'manifest.csv'}.")
    if out.exists() and not overwrite:
        raise ConfigError(f"--out {out} exists. Add --overwrite to replace it, or choose another name.")
    for file in (out, *beside):
        if os.path.lexists(file) and (file.is_symlink() or not (ours if file == out else _is_sidecar)(file)):
            raise ConfigError(
                f"{file} is there and is not a file that this command wrote: it is not replaced. Choose another name "
                "for --out."
            )


def has_format(file: Path, name: str) -> bool:
    """Whether a file is JSON of ours with a format whose name begins so."""
    try:
        content = read_json(file)
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and str(content.get("format", "")).startswith(name)


def _is_sidecar(file: Path) -> bool:
    """Whether a file has the form of what is written beside a manifest."""
    try:
        if file.suffix == ".csv":
            return file.read_text("utf-8").startswith("id,path,severity,reason,detail\n")
        return has_format(file, "medformer-") or set(read_json(file)) == {"root"}
    except (OSError, ValueError, TypeError, RecursionError):
        return False


def _holds_something(entry: Path) -> bool:
    """Whether an entry of a folder is more than what a killed call left: temporary files, and folders of them alone."""
    if entry.is_dir() and not entry.is_symlink():
        return any(_holds_something(inner) for inner in entry.iterdir())
    return not is_temporary(entry.name)


def _remove_empty(folders: Sequence[Path]) -> None:
    """Remove folders that this call made, the innermost first, where nothing was put into them."""
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


class _Folder:
    """One output folder and the list of our files in it.

    Attributes:
        beside: Whether it may hold files of others.
        by: The command that writes now.
        writer: The command that wrote what is there; empty where the list does not tell.
        next: Where the call works whose results replace the earlier ones.
        listed: Our files, relative to the folder, with forward slashes.
    """

    def __init__(self, out: Path, *, beside: bool, by: str) -> None:
        self.out = out
        self.beside = beside
        self.by = by
        self.writer = ""
        self.list = out / LIST
        self.next = out / NEXT
        self.lock = out / _LOCK
        self.ours = False
        self.listed: set[str] = set()
        self._new: list[str] = []
        self._read()

    def _read(self) -> None:
        with suppress(OSError, UnicodeDecodeError):
            first, *lines = self.list.read_text("utf-8").split("\n")
            self.ours = first == _FORMAT
            for line in lines if self.ours else ():
                # A line that a kill cut off names a file that was not written.
                with suppress(ValueError):
                    entry = json.loads(line)
                    if isinstance(entry, dict):
                        self.writer = str(entry.get("by", ""))
                    else:
                        self.listed.add(str(entry))

    def check(self, *, overwrite: bool, resume: bool | None) -> None:
        """See `output_folder`."""
        out = self.out
        require_writable(out)
        if out.exists() and not out.is_dir():
            raise ConfigError(f"--out {out} is a file; expected a folder to be created. Choose another name.")
        if RunDirectory(out).is_run():
            raise ConfigError(
                f"--out {out} is the folder of a run, whose own masks and numbers would be replaced. "
                "Choose another folder."
            )
        if self.beside:
            if self.writer not in ("", self.by):
                raise ConfigError(
                    f"--out {out} holds what `medformer {self.writer}` wrote, and results of another command are not "
                    "put beside it. Choose another folder."
                )
            return
        own = {LIST, NEXT, _LOCK}
        entries = sorted(out.iterdir()) if out.is_dir() else []
        there = [entry.name for entry in entries if entry.name not in own and _holds_something(entry)]
        if there and not self.ours:
            raise ConfigError(
                f"--out {out} is not empty ({', '.join(there[:3])}), and no list of ours says that medformer wrote it: "
                "its files are neither added to, replaced nor deleted. Choose a new or empty folder."
            )
        if there and self.by and self.writer not in ("", self.by):
            raise ConfigError(
                f"--out {out} holds what `medformer {self.writer}` wrote, and results of another command are not "
                "replaced. Choose another folder."
            )
        if (there or self.next.is_dir()) and not (resume or overwrite):
            flags = "--overwrite to replace earlier results" if resume is None else "--resume or --overwrite"
            raise ConfigError(f"--out {out} is not empty. Add {flags}, or choose another folder.")

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes out meanwhile, and leave nothing behind of a call that wrote nothing."""
        made = [place for place in (self.out, *self.out.parents) if not place.exists()]
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            acquire(self.lock)
            self._sweep()
        except OSError as error:
            release(self.lock)
            _remove_empty(made)
            raise ResourceError(
                f"Cannot prepare {self.out}: {error.strerror or error}. {write_advice(error)}."
            ) from error
        try:
            yield
        finally:
            release(self.lock)
            with suppress(OSError):
                if self.next.is_dir() and not any(file.is_file() for file in self.next.rglob("*")):
                    shutil.rmtree(self.next)
                if not self.listed:
                    self.list.unlink(missing_ok=True)
            _remove_empty(made)

    def _sweep(self) -> None:
        """Delete what writes that a kill cut off left behind; among files of others, look only where ours are."""
        places = {self.out, *((self.out / name).parent for name in self.listed)}
        files = (file for place in places for file in place.glob(".medformer-tmp-*"))
        for file in files if self.beside else self.out.rglob(".medformer-tmp-*"):
            if is_temporary(file.name) and file.is_file():
                file.unlink()

    def note(self, path: Path) -> None:
        """List a file before it is written.

        Raises:
            ConfigError: A file is there that is not ours.
        """
        absolute = Path(os.path.abspath(path))
        if absolute.is_relative_to(self.next):
            name, in_place = absolute.relative_to(self.next).as_posix(), False
        elif absolute.is_relative_to(self.out):
            name, in_place = absolute.relative_to(self.out).as_posix(), True
        else:
            return
        final = self.out / name
        between = [place for place in final.parents if place.is_relative_to(self.out) and place.is_file()]
        if name not in self.listed and (os.path.lexists(final) or between):
            raise ConfigError(
                f"{between[0] if between else final} is not a file that medformer wrote: it is not replaced. Move it "
                "elsewhere, or choose another folder for --out."
            )
        if in_place and name not in self.listed:
            self._append([name])
            self._new.append(name)

    def _append(self, names: Sequence[str]) -> None:
        lines = [] if self.ours else self._head(self.by)
        with open(self.list, "a", encoding="utf-8") as file:
            # A line that a kill cut off is ended first.
            file.write("".join(f"{line}\n" for line in [*lines, "", *map(json.dumps, names)]))
        self.ours = True
        self.listed.update(names)

    @staticmethod
    def _head(writer: str) -> list[str]:
        return [_FORMAT, *([json.dumps({"by": writer})] if writer else [])]

    def undo(self) -> None:
        """Remove what this call wrote."""
        with suppress(OSError):
            shutil.rmtree(self.next, ignore_errors=True)
            self._delete(self._new)

    def discard_next(self) -> None:
        """Remove what an earlier call left that was to replace the results and did not come to its end."""
        shutil.rmtree(self.next, ignore_errors=True)

    def publish(self) -> None:
        """Put the new files in the place of the earlier ones."""
        files = sorted(file for file in self.next.rglob("*") if file.is_file() and not is_temporary(file.name))
        write_json(self.next / _COMPLETE, [file.relative_to(self.next).as_posix() for file in files])
        self.finish_swap()

    def finish_swap(self) -> None:
        """Do what is left of putting new files in the place of earlier ones; nothing where that was not begun.

        Raises:
            ResourceError: A file cannot be moved or removed; the next call goes on from there.
        """
        if not (self.next / _COMPLETE).is_file():
            return
        new = list(read_json(self.next / _COMPLETE))
        try:
            self._append([name for name in new if name not in self.listed])
            self._delete(sorted(self.listed - set(new)))
            for name in new:
                if (self.next / name).is_file():
                    (self.out / name).parent.mkdir(parents=True, exist_ok=True)
                    os.replace(self.next / name, self.out / name)
            write_text(
                self.list, "".join(f"{line}\n" for line in [*self._head(self.by or self.writer), *map(json.dumps, new)])
            )
            shutil.rmtree(self.next)
        except OSError as error:
            raise ResourceError(
                f"The new results could not be moved from {self.next} to {self.out} ({error.strerror or error}). "
                "Remove the cause, and run the command again with the same flags."
            ) from error

    def _delete(self, names: Sequence[str]) -> None:
        """Delete files of ours, and the folders that are empty then."""
        for name in names:
            (self.out / name).unlink(missing_ok=True)
            self.listed.discard(name)
            for place in (self.out / name).parents:
                if place == self.out or not place.is_relative_to(self.out):
                    break
                with suppress(OSError):
                    place.rmdir()
