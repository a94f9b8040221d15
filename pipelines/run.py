"""One cross-validation from config to report, the same for every task."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from medformer.config import AbideConfig, ExecutionConfig, PolypConfig, VolumeConfig
from medformer.crossval.run.directory import RunDirectory
from medformer.crossval.run.record import RunInfo, session
from medformer.progress import Reporter
from medformer.reporting.report import build_report
from pipelines.console import say
from pipelines.crossval import Task, crossvalidate

# A resumed run may be computed elsewhere, loaded differently and compared with more; its results stay the same kind.
_MAY_DIFFER = frozenset(
    {
        "data.manifest",
        "data.cache",
        "data.workers",
        "training.accelerator",
        "training.strategy",
        "training.tracker",
        "training.save_minutes",
        "inference.batch_size",
        "crossval.baselines",
        "crossval.permute_labels",
        *(f"execution.{name}" for name in ExecutionConfig.model_fields),
    }
)


AnyConfig = PolypConfig | AbideConfig | VolumeConfig


@dataclass(frozen=True)
class Source:
    """Where the cases come from.

    Attributes:
        manifest: The manifest file.
        root: Folder that its paths start from.
        sha256: Hash over all that it says.
    """

    manifest: Path
    root: Path
    sha256: str


def run_task(
    config: AnyConfig,
    source: Source,
    make_task: Callable[[RunDirectory], Task],
    out: Path,
    reporter: Reporter,
    *,
    resume: bool,
    overwrite: bool,
    accept: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> RunDirectory | None:
    """Train every fold of a plan, collect, and report; continue what an earlier session left.

    Args:
        config: The run's config.
        source: Its data.
        make_task: Checks the data and returns what the task gives to cross-validation, once the folder is there.
        out: The run folder.
        reporter: Told about every step.
        resume: Continue the run in `out`.
        overwrite: Delete it first.
        accept: Leaks that the user accepts by name.
        notes: What a reader of the report must know about the data.

    Returns:
        The run, or None when the plan only trains and there is nothing to report.

    Raises:
        MedformerError: See the parts; what was finished before stays on disk.
    """
    run = RunDirectory.create(out, resume=resume, overwrite=overwrite)
    with recorded(run, config, source, accept=accept, notes=notes):
        tested = crossvalidate(run, make_task(run), config.crossval, config.execution, reporter)
    if not tested:
        say(f"Trained; the manifest has no test rows, so there is nothing to report. Weights: {run.fold(0)}")
        return None
    return run


def recorded(
    run: RunDirectory,
    config: AnyConfig,
    source: Source,
    *,
    accept: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> AbstractContextManager[None]:
    """Keep run.json and config.yaml of the work inside, and say in them how it ended; see `run_task`."""
    info = RunInfo(
        task=config.task,
        command=["medformer", *sys.argv[1:]],
        config=config.model_dump(mode="json"),
        seed=config.seed,
        device=_device(config),
        threads=_threads(),
        manifest=str(source.manifest.resolve()),
        data_root=str(source.root),
        data_sha256=source.sha256,
        accepted_leaks=list(accept),
        notes=list(notes),
    )
    return session(run, info, may_differ=_MAY_DIFFER)


def report_on(run: RunDirectory) -> None:
    """Write the report and say where it is."""
    say(f"Report: {build_report(run.path)}")


def _device(config: AnyConfig) -> str:
    import torch

    from medformer.training.devices import choose_device

    if config.execution.address is not None:
        return f"{config.training.accelerator}, on the Ray cluster {config.execution.address}"
    device = choose_device(config.training.accelerator)
    return f"cuda: {torch.cuda.get_device_name()}" if device.type == "cuda" else device.type


def _threads() -> int:
    import torch

    return torch.get_num_threads()
