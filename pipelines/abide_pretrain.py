"""`medformer abide pretrain`: an encoder that learned to reconstruct a cohort, and proof of whom it has seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from medformer.config import AbideConfig
from medformer.crossval.plan import Fold, PlanCase
from medformer.crossval.plan.schemes import predefined_plan
from medformer.crossval.run.directory import RunDirectory
from medformer.data.connectomes.cohort import Cohort
from medformer.data.connectomes.dataset import ConnectomeData
from medformer.data.manifest import Case
from medformer.errors import CheckpointError, LeakageError
from medformer.files import digest, read_json, write_json
from medformer.seeds import derive_seed
from pipelines.abide_features import CohortFeatures, fold_inputs
from pipelines.abide_fold import check_settings, pretrain_encoder
from pipelines.console import make_reporter, say
from pipelines.run import Source, recorded

SUBJECTS_FILE = "subjects.json"


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
        write_json(out / SUBJECTS_FILE, subject_prints(cohort))
        network, validation = pretrain_encoder(
            config,
            features,
            ConnectomeData(inputs.train, None, fold.train, seed=config.seed),
            inputs.validation,
            out=out,
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
        quality = validation.against_mean(network, inputs.train)
        write_json(out / "pretraining.json", quality)
    say(
        f"Masked connections of {len(fold.validation)} held-out subjects: mean squared error "
        f"{quality['masked_mse']:.4f}; guessing each connection's mean gives {quality['mean_edge_mse']:.4f}."
    )
    say(f"Encoder: {out}. Use it with pretraining.weights={out}")


def subject_prints(cohort: Cohort, subjects: Sequence[Case] | None = None) -> dict[str, dict[str, str]]:
    """By id: the person, and a hash of the connections of every atlas."""
    atlases = sorted(cohort.store.atlases)
    blocks = [cohort.store.block(atlas, "correlation") for atlas in atlases]
    return {
        subject.id: {
            "group": subject.group,
            "connections": digest(
                [np.asarray(block[cohort.store.rows[subject.id]]).tobytes().hex() for block in blocks]
            ),
        }
        for subject in (cohort.cases if subjects is None else subjects)
    }


def read_pretrained_subjects(folder: str) -> dict[str, dict[str, str]]:
    """Whom an encoder has seen.

    Raises:
        CheckpointError: The folder does not say.
    """
    path = Path(folder) / SUBJECTS_FILE
    try:
        return dict(read_json(path))
    except (OSError, ValueError, TypeError):
        raise CheckpointError(
            f"pretraining.weights: {path} is not there or damaged, so nobody can tell whether a tested subject was "
            "seen. Expected a folder that `medformer abide pretrain` wrote."
        ) from None


def require_untested(
    tested: Mapping[str, Mapping[str, str]], seen: Mapping[str, Mapping[str, str]], where: str
) -> None:
    """Refuse pretraining that sees a subject whom some fold tests, by id, person or identical connections.

    Raises:
        LeakageError: Names the first of them.
    """
    groups = {row["group"]: name for name, row in tested.items()}
    prints = {row["connections"]: name for name, row in tested.items()}
    for name, row in seen.items():
        twin = name if name in tested else groups.get(row["group"]) or prints.get(row["connections"])
        if twin is not None:
            raise LeakageError(
                f"'{name}' of {where} is seen by pretraining, and is the subject, the person or the data of '{twin}', "
                "whom a fold tests. Pretrain without the subject."
            )
