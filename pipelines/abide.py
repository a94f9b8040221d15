"""The connectome task: each verb wires parts together and computes nothing itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from medformer.config import AbideConfig
from medformer.data.connectomes.cohort import Cohort, read_cohort
from medformer.errors import ConfigError
from medformer.files import write_json
from pipelines.abide_features import CohortFeatures
from pipelines.abide_fold import check_settings
from pipelines.abide_pretrain import pretrain_cohort
from pipelines.abide_task import abide_task, cohort_facts
from pipelines.console import make_reporter
from pipelines.run import Source, report_on, run_task


def train(*, config: AbideConfig, out: Path, resume: bool, overwrite: bool, accept: list[str]) -> None:
    """Train on the subjects whose split is `train` (all if none has one); predict those whose split is `test` once."""
    settings = config.crossval.model_copy(update={"scheme": "predefined"})
    run_abide(config.model_copy(update={"crossval": settings}), out, resume=resume, overwrite=overwrite, accept=accept)


def crossval(*, config: AbideConfig, out: Path, resume: bool, overwrite: bool, accept: list[str]) -> None:
    """Cross-validate over the subjects of the cohort by the scheme that the config names."""
    run_abide(config, out, resume=resume, overwrite=overwrite, accept=accept)


def pretrain(*, config: AbideConfig, out: Path, resume: bool, overwrite: bool) -> None:
    """Pretrain an encoder on a whole cohort."""
    pretrain_cohort(config, open_cohort(config, unlabelled="allow"), out, resume=resume, overwrite=overwrite)


def run_abide(
    config: AbideConfig,
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
    cohort = open_cohort(config)
    extra = read_cohort(config.pretraining.extra, unlabelled="allow") if config.pretraining.extra else None
    check_settings(config, CohortFeatures(cohort, config))
    run = run_task(
        config,
        Source(cohort.path, cohort.path.parent, cohort.digest()),
        lambda run: abide_task(run, config, cohort, accept, reporter, extra),
        out,
        reporter,
        resume=resume,
        overwrite=overwrite,
        accept=accept,
        notes=notes,
    )
    if run is not None:
        write_json(run.cohort_json, cohort_facts(run, cohort))
        report_on(run)


def open_cohort(config: AbideConfig, unlabelled: Literal["error", "allow"] = "error") -> Cohort:
    """Read the cohort that a config names.

    Raises:
        ConfigError: It names none.
    """
    if not config.data.manifest:
        raise ConfigError(
            "No data: give --data COHORT/manifest.csv. `medformer abide prepare` writes one from the Preprocessed "
            "Connectomes Project's folders, from matrices, or from what `medformer abide extract` made."
        )
    return read_cohort(config.data.manifest, unlabelled=unlabelled)
