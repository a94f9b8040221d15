"""What the tests of whole commands share: the command line in this process, a small data set and one finished run."""

from __future__ import annotations

import functools
import io
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
import typer
from few_resamples import few_resamples
from small_walls import small_walls
from tiny_backbone import tiny_backbones
from torch import nn
from undrawn import undrawn

from medformer.data.cases import Case
from medformer.data.manifest import Manifest, read_manifest, write_manifest
from medformer.data.synthetic.colonoscopy import write_synthetic_colonoscopy
from medformer.files import sha256
from medformer.inference.baselines import frames
from medformer.models import memory
from pipelines.cli import app
from pipelines.exits import guarded

# A network of 0.1 million parameters on 32 x 32 pixels: one fold trains in a fifth of a second on one core.
SETTINGS = (
    "--config",
    "polyp/quick",
    "data.image_size=[32, 32]",
    "model.name=smp:linknet/tu-test_efficientnet",
    "training.epochs=2",
    "training.batch_size=4",
    "crossval.folds=2",
)


@dataclass(frozen=True)
class Result:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str

    def refused(self, code: int, *words: str) -> None:
        """Assert the exit code, that one message has all the words, and that no traceback is shown."""
        assert self.code == code, f"exit code {self.code}, expected {code}\n{self.err}"
        assert "Traceback" not in self.err
        assert self.err.count("error: ") >= 1
        message = self.err[self.err.rindex("\nerror: ") if "\nerror: " in self.err else 0 :]
        for word in words:
            assert word in message, f"{word!r} is not in {message!r}"


Medformer = Callable[..., Result]

_training_memory = memory.training_memory
_MEMORY: dict[object, int] = {}


def _remembered(model: nn.Module, *given: Any, **settings: Any) -> int:
    """The memory of a training, followed once for equal networks."""
    key = (repr(model), repr(given), repr(settings))
    if key not in _MEMORY:
        _MEMORY[key] = _training_memory(model, *given, **settings)
    return _MEMORY[key]


@contextmanager
def quick() -> Iterator[None]:
    """One thread, so that equal runs give equal bits, few resamples, a baseline that sees few pixels, a plan once.

    Of up to 255 different values, gradient boosting needs no percentiles, which take longer than the boosting.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with (
            few_resamples(),
            patch.object(frames, "_PIXELS_PER_CASE", 30),
            patch.object(memory, "training_memory", _remembered),
        ):
            yield
    finally:
        torch.set_num_threads(threads)


@functools.cache
def command_line() -> Any:
    """The command line, which does not change while it is used."""
    return typer.main.get_command(app)


def run_command(*arguments: object, report: bool = True, drawn: bool = False) -> Result:
    """Run `medformer <arguments>` in this process, as `quick` says.

    Where no report is read, none need be built; where only its words are, its figures need not be rendered.
    """
    words = [str(argument) for argument in arguments]
    out, err = io.StringIO(), io.StringIO()
    with ExitStack() as stack:
        stack.enter_context(quick())
        if not report:
            stack.enter_context(patch("medformer.reporting.report.build_report", lambda run: run / "report.html"))
        if report and not drawn:
            stack.enter_context(undrawn())
        stack.enter_context(patch.object(sys, "argv", ["medformer", *words]))
        stack.enter_context(redirect_stdout(out))
        stack.enter_context(redirect_stderr(err))
        code = guarded(lambda: command_line()(prog_name="medformer"))
    return Result(code, out.getvalue(), err.getvalue())


@pytest.fixture
def quickly() -> Iterator[None]:
    """For a test that calls the library itself: what commands are run with (see `quick`)."""
    with quick():
        yield


@pytest.fixture(scope="module", autouse=True)
def _tiny_backbones() -> Iterator[None]:
    """A config may say model.backbone=tiny; the tables of other tests stay as they are."""
    with tiny_backbones():
        yield


@pytest.fixture(scope="session")
def medformer() -> Medformer:
    """Runs one command."""
    return run_command


@pytest.fixture(scope="session")
def settings() -> tuple[str, ...]:
    """Options and overrides that make a run take about a second."""
    return SETTINGS


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manifest of 16 frames of 8 patients, 48 x 64 pixels; not to be changed."""
    folder = tmp_path_factory.mktemp("colonoscopy")
    with small_walls():
        return write_synthetic_colonoscopy(folder, groups=8, frames_per_group=2, size=(48, 64))


@pytest.fixture(scope="session")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one finished cross-validation; not to be changed."""
    run = tmp_path_factory.mktemp("finished") / "run"
    result = run_command("polyp", "crossval", "--out", run, "--data", data, *SETTINGS, drawn=True)
    assert result.code == 0, result.err
    return run


@pytest.fixture
def own_run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run under the same name, to be changed."""
    return Path(shutil.copytree(finished, tmp_path / "own" / finished.name))


class OwnData:
    """A copy of the data set that a test may damage."""

    def __init__(self, manifest: Path) -> None:
        self.manifest = manifest

    def read(self) -> Manifest:
        """The manifest as it is now."""
        return read_manifest(self.manifest)

    def case(self, name: str) -> Case:
        """One case by id."""
        return self.read().by_id[name]

    def rewrite(self, change: Callable[[Case], Case | None]) -> Path:
        """Change or leave out (None) each case, take the hashes anew, and return the manifest."""
        changed = [new for case in self.read().cases if (new := change(case)) is not None]
        hashed = [replace(case, sha256=sha256(case.image) if case.image.is_file() else "") for case in changed]
        write_manifest(self.manifest, hashed)
        return self.manifest

    def refresh(self) -> Path:
        """Take the hashes anew, as `prepare` would."""
        return self.rewrite(lambda case: case)


@pytest.fixture
def own_data(data: Path, tmp_path: Path) -> OwnData:
    """A copy of the data set, to be damaged."""
    folder = tmp_path / "own-data"
    shutil.copytree(data.parent, folder)
    return OwnData(folder / data.name)


@pytest.fixture
def below_a_file(tmp_path: Path) -> Path:
    """A path that no user, root included, can write to: it lies below a file."""
    file = tmp_path / "file"
    file.write_text("not a folder")
    return Path(os.path.join(file, "below", "out"))
