"""A run on volumes: check, audit, plan and train every fold, collect, report."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from medformer.config import VolumeConfig
from pipelines.console import make_reporter, say
from pipelines.run import Source, report_on, run_task
from pipelines.volume_data import notes as data_notes
from pipelines.volume_data import open_volumes
from pipelines.volume_fold import CACHE
from pipelines.volume_network import check_settings
from pipelines.volume_task import volume_task


def run_volume(
    config: VolumeConfig,
    out: Path,
    *,
    resume: bool,
    overwrite: bool,
    accept: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> None:
    """Check, audit, train every fold of a plan, collect, and report; continue what an earlier session left.

    Raises:
        MedformerError: See the parts; what was finished before stays on disk.
    """
    reporter = make_reporter()
    check_settings(config)
    volumes = open_volumes(config.data, out, reporter)
    manifest = volumes.manifest
    run = run_task(
        config,
        Source(manifest.path, manifest.root, volumes.digest()),
        lambda run: volume_task(run, config, volumes, accept, reporter),
        out,
        reporter,
        resume=resume,
        overwrite=overwrite,
        accept=accept,
        notes=[*notes, *data_notes(volumes.info)],
    )
    # Prepared volumes can be made again; a finished run should not weigh many times its data.
    shutil.rmtree(out / CACHE, ignore_errors=True)
    if run is not None:
        if config.target == "segmentation":
            say(f"Label maps: {run.masks}")
        report_on(run)
