"""`medformer abide pretrain`: an encoder that learned to reconstruct a cohort, and proof of whom it has seen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medformer.config import AbideConfig
from medformer.crossval.plan import Fold, PlanCase
from medformer.crossval.plan.schemes import predefined_plan
from medformer.crossval.run.directory import RunDirectory
from medformer.data.connectomes.cohort import Cohort
from medformer.data.connectomes.dataset import ConnectomeData
from medformer.data.manifest import Case
from medformer.files import digest
from medformer.seeds import derive_seed
from medformer.training.pretraining.seen import SeenCase, write_seen
from pipelines.abide_features import CohortFeatures, fold_inputs
from pipelines.abide_fold import check_settings, pretrain_encoder
from pipelines.console import make_reporter, say
from pipelines.run import Source, recorded


def pretrain_cohort(config: AbideConfig, cohort: Cohort, out: Path, *, resume: bool, overwrite: bool) -> None:
    """Pretrain on a whole cohort, with a part of it held out for early stopping."""
    reporter = make_reporter()
    features = CohortFeatures(cohort, config)
    check_settings(config, features)
    run = RunDirectory.create(out, resume=resume, overwrite=overwrite)
    with recorded(run, config, Source(cohort.path, cohort.path.parent, cohort.digest())):
        cases = [PlanCase(subject.id, subject.group, site=subject.site) for subject in cohort.cases]
        plan = predefined_plan(
            cases,
            train=[case.id for case in cases],
            validation=config.crossval.validation,
            seed=config.seed,
        )
        fold: Fold = plan.folds[0]
        inputs = fold_inputs(config, features, fold)
        write_seen(out, subject_prints(cohort))
        _, quality = pretrain_encoder(
            config,
            features,
            ConnectomeData(inputs.train, None, fold.train, seed=config.seed),
            inputs,
            out=out,
            record=out / "pretraining.json",
            seed=derive_seed(config.seed, "pretraining of a cohort"),
            resume=resume,
            metadata={
                "task": config.task,
                "purpose": "pretraining",
                "model": config.model.model_dump(mode="json"),
                "features": config.features.model_dump(mode="json"),
                "cases_sha256": digest([fold.train, fold.validation]),
            },
            run=out,
            reporter=reporter,
        )
    say(
        f"Masked connections of {len(fold.validation)} held-out subjects: mean squared error "
        f"{quality['masked_mse']:.4f}; guessing each connection's mean gives {quality['mean_edge_mse']:.4f}."
    )
    say(f"Encoder: {out}. Use it with pretraining.weights={out}")


def subject_prints(cohort: Cohort, subjects: Sequence[Case] | None = None) -> dict[str, SeenCase]:
    """By id: the person, and a hash of the connections of every atlas."""
    atlases = sorted(cohort.store.atlases)
    blocks = [cohort.store.block(atlas, "correlation") for atlas in atlases]
    return {
        subject.id: SeenCase(
            subject.group,
            digest([np.asarray(block[cohort.store.rows[subject.id]]).tobytes().hex() for block in blocks]),
        )
        for subject in (cohort.cases if subjects is None else subjects)
    }
