"""What the trials of whole commands share: tiny data of the three tasks, the commands, sessions that are watched.

A session is a process that is forked from this one, which has everything imported. A watchdog ends one that hangs.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

WATCHDOG = 1800.0
"""Seconds after which a session counts as hung; a busy machine needs a small part of it."""


@dataclass(frozen=True)
class Command:
    """A command whose results can be compared.

    Attributes:
        words: Arguments of `medformer` without `--out`.
        results: Patterns of files below the output whose bytes are compared.
        again: The flag with which an interrupted call is repeated.
        file: Whether `--out` is a file instead of a folder.
    """

    words: tuple[str, ...]
    results: tuple[str, ...]
    again: str = "--resume"
    file: bool = False

    def arguments(self, folder: Path) -> list[str]:
        """The arguments of a call that writes below `folder`, which goes on where something is there already."""
        out = folder / "out.csv" if self.file else folder / "out"
        # A crossval without run.json has not begun, and leaves nothing that it would resume.
        begun = out.is_file() if self.file else out.is_dir() and any(not _hidden(entry) for entry in out.iterdir())
        return [*self.words, "--out", str(out), *([self.again] if begun else [])]

    def found(self, folder: Path) -> dict[str, bytes]:
        """The compared files, by their path below `folder`."""
        files = {file for pattern in self.results for file in folder.glob(pattern) if file.is_file()}
        return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(files)}


def _hidden(entry: Path) -> bool:
    return entry.name.startswith(".")


def commands(folder: Path) -> dict[str, Command]:
    """Write tiny data and finished runs below `folder`, and return the commands to try, by name."""
    folder.mkdir(parents=True, exist_ok=True)
    _in_child(lambda: _write_data(folder), folder / "data.log")
    frames, cohort, volumes = folder / "frames", folder / "cohort", folder / "volumes"
    crossval = {
        "polyp": Command(
            (
                *("polyp", "crossval", "--data", str(frames / "manifest.csv"), "--config", "polyp/quick"),
                *("data.image_size=[32, 32]", "model.name=smp:linknet/tu-mobilenetv3_small_050"),
                *("training.epochs=2", "training.batch_size=4", "crossval.folds=2"),
            ),
            ("out/oof.csv", "out/metrics.json", "out/splits.json", "out/masks/**/*", "out/folds/*/threshold.json"),
        ),
        "abide": Command(
            (
                *("abide", "crossval", "--data", str(cohort), "--config", "abide/roi", "model.width=8"),
                *("training.epochs=2", "pretraining.epochs=1", "crossval.folds=2", "members=1"),
            ),
            ("out/oof.csv", "out/metrics.json", "out/splits.json", "out/folds/*/threshold.json"),
        ),
        "volume": Command(
            (
                *("volume", "crossval", "--data", str(volumes / "manifest.csv"), "plan.patch=[16, 16, 16]"),
                *("plan.batch_size=2", "training.epochs=1", "data.patches=1", "data.workers=0", "crossval.folds=2"),
            ),
            ("out/oof.csv", "out/metrics.json", "out/splits.json", "out/masks/**/*", "out/folds/*/components.json"),
        ),
    }
    runs = {}
    for task, command in crossval.items():
        runs[task] = folder / f"{task}-run" / "out"
        session = Session(command.arguments(runs[task].parent), folder / f"{task}-run.log")
        session.end(0)
    return {
        **{f"{task} crossval": command for task, command in crossval.items()},
        "polyp predict": Command(
            ("polyp", "predict", str(runs["polyp"]), str(frames / "images")),
            ("out/predictions.csv", "out/masks/**/*", "out/overlays/**/*"),
        ),
        "abide predict": Command(
            ("abide", "predict", str(runs["abide"]), str(cohort)), ("out/predictions.csv",), "--overwrite"
        ),
        "volume predict": Command(
            ("volume", "predict", str(runs["volume"]), str(volumes / "images")),
            ("out/volumes.csv", "out/masks/**/*", "out/overlays/**/*"),
        ),
        "polyp prepare": Command(
            ("polyp", "prepare", str(frames), "--ungrouped", "each", "--link-duplicates"),
            ("out.csv",),
            "--overwrite",
            file=True,
        ),
        "abide prepare": Command(
            ("abide", "prepare", str(folder / "series")),
            ("out/manifest.csv", "out/exclusions.csv", "out/features/**/*"),
            "--overwrite",
        ),
        "volume prepare": Command(
            ("volume", "prepare", str(volumes), "--layout", "folders", "--ungrouped", "each"),
            ("out.csv",),
            "--overwrite",
            file=True,
        ),
    }


class Session:
    """A call of `medformer` in a process of its own.

    Args:
        arguments: Of `medformer`.
        log: Where its output goes.
        prepare: Called in that process first.
    """

    def __init__(self, arguments: list[str], log: Path, prepare: Callable[[], None] | None = None) -> None:
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        self.process = fork(lambda: _medformer(arguments, prepare), log)
        self._code: int | None = None

    def poll(self) -> int | None:
        """The exit code, or minus the signal that ended it; None while it runs."""
        if self._code is None:
            ended, status = os.waitpid(self.process, os.WNOHANG)
            self._code = os.waitstatus_to_exitcode(status) if ended else None
        return self._code

    def worked(self) -> float:
        """Seconds of the processor that it has used: the same on an idle and on a busy machine."""
        with suppress(OSError):
            # The system's number of a process' clock; see clock_getcpuclockid(3).
            return time.clock_gettime((~self.process << 3) | 2)
        return 0.0

    def kill(self) -> None:
        """End it as a lack of power would, unless it has ended."""
        if self.poll() is None:
            os.kill(self.process, signal.SIGKILL)

    def end(self, *expected: int) -> int:
        """Wait for its end and assert the exit code; a session that hangs is killed and fails."""
        until = time.monotonic() + WATCHDOG
        while self.poll() is None:
            if time.monotonic() > until:
                self.kill()
                raise AssertionError(f"hung for {WATCHDOG:g} s:\n{self.text()}")
            time.sleep(0.005)
        code = self.poll()
        assert code in expected, f"ended with {code}, expected {expected}:\n{self.text()}"
        assert "Traceback" not in self.text(), self.text()
        assert code is not None
        return code

    def text(self) -> str:
        """What it printed."""
        return self.log.read_text("utf-8", "replace")


def fork(work: Callable[[], None], log: Path) -> int:
    """Run `work` in a copy of this process that writes to `log`; return its number."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        for stream in (1, 2):
            os.dup2(target, stream)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        work()
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    except KeyboardInterrupt:
        code = 130
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


@contextmanager
def _one_thread() -> Iterator[None]:
    import torch

    torch.set_num_threads(1)
    yield


def _medformer(arguments: list[str], prepare: Callable[[], None] | None) -> None:
    from pipelines.cli import main

    with _one_thread():
        if prepare is not None:
            prepare()
        sys.argv = ["medformer", *arguments]
        main()


def _in_child(work: Callable[[], None], log: Path) -> None:
    # Image libraries start threads, which a fork does not survive: this process only imports.
    code = os.waitstatus_to_exitcode(os.waitpid(fork(work, log), 0)[1])
    assert code == 0, log.read_text("utf-8", "replace")


def _write_data(folder: Path) -> None:
    from medformer.data.synthetic.abide import write_synthetic_abide
    from medformer.data.synthetic.brain_volumes import write_synthetic_volumes
    from medformer.data.synthetic.colonoscopy import write_synthetic_colonoscopy
    from pipelines.abide import prepare_folder

    write_synthetic_colonoscopy(folder / "frames", groups=8, frames_per_group=2, size=(48, 64))
    write_synthetic_volumes(folder / "volumes", cases=8, spacing=14.0)
    write_synthetic_abide(folder / "series", subjects=40, regions={"coarse": 12}, sites=2, effect=3.0, volumes=60)
    prepare_folder(folder / "series", folder / "cohort", overwrite=False)


def import_everything() -> None:
    """Import what the commands import late, so that a fork has it."""
    import segmentation_models_pytorch  # noqa: F401
    import sklearn.model_selection  # noqa: F401

    import pipelines.abide
    import pipelines.cli
    import pipelines.polyp
    import pipelines.volume
    import pipelines.work  # noqa: F401
    from medformer.evaluation.statistics.resampling import DEFAULT
    from medformer.inference.baselines import frames

    # As the quick runs of the other tests: few resamples, and a baseline that sees few pixels.
    object.__setattr__(DEFAULT, "resamples", 200)
    frames._PIXELS_PER_CASE = 15
