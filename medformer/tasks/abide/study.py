"""A cohort of connectomes under one config: everything that a run asks about its subjects (see `Study`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch

from medformer.config import AbideConfig
from medformer.connectome.atlases import ATLASES
from medformer.crossval.plan import PlanCase
from medformer.crossval.run.contract import Study
from medformer.crossval.run.directory import RunDirectory
from medformer.crossval.run.estimator import EstimatorLearner
from medformer.crossval.run.start.source import Start
from medformer.crossval.vectors import Vectors
from medformer.data.cases import Case
from medformer.data.connectomes.check import CONNECTOMES, cohort_traits, inspect_cohort, link_same_subject
from medformer.data.connectomes.cohort import PREPARATION_FILE, Cohort, read_cohort
from medformer.data.connectomes.prepare.cohort_preparation import EXCLUSIONS_FILE
from medformer.data.inventory import Inventory, Record, formulas
from medformer.data.near_duplicates import CaseComparison
from medformer.data.problems import Problem, quarantine
from medformer.data.training_range import Traits
from medformer.errors import ConfigError
from medformer.files import digest, read_csv, write_json
from medformer.models.connectome.build import DEFECTS, active_defects, check_connectome_model
from medformer.progress import Reporter
from medformer.records import Content, Counts, read_record
from medformer.tasks.abide.features import CohortFeatures, atlas_pipeline
from medformer.tasks.abide.predictor import new_network

if TYPE_CHECKING:
    from medformer.tasks.abide.learner import ConnectomeLearner


class _Preparation(Content):
    warnings: Counts
    excluded: Counts


class _Inputs(Content):
    unseen_sites: list[str]


_POLICIES = {
    "constant-regions": ("A region without signal", "kept; its connections are 0"),
    "few-time-points": ("A scan not longer than the number of regions", "kept; covariances are shrunk"),
    "same-brain": ("Two subjects show one brain", "kept in one group, so that no fold parts them"),
}


@dataclass(frozen=True, kw_only=True)
class AbideStudy(Study[AbideConfig, Cohort]):
    """The subjects of a cohort; see `Study`."""

    @cached_property
    def features(self) -> CohortFeatures:
        """The raw features of every subject."""
        return CohortFeatures(self.data, self.config)

    @property
    def vectors(self) -> Vectors:
        """What the linear baselines are given."""
        return self.features

    @cached_property
    def extra(self) -> Self | None:
        """Unlabeled subjects that pretraining may see too."""
        path = self.config.pretraining.extra
        return replace(self, data=read_cohort(path, unlabelled="allow")) if path else None

    def check(self) -> None:
        from medformer.tasks.abide.learner import autoencoder, connection_mask

        super().check()
        check_connectome_model(self.config.model)
        spoken = sorted(name for name in active_defects(self.config.model) if DEFECTS[name].part == "evaluation")
        if spoken:
            raise ConfigError(
                f"model.defects: {', '.join(spoken)} changes how scores are judged and not what is predicted, so no "
                "run has it. Leave it out; benchmarks/abide_accuracy.py computes its effect from a run's table."
            )
        for atlas in self.features.columns.atlases:
            atlas_pipeline(self.config, self.features.columns, atlas)
        wanted, columns = self.config.pretraining, self.features.columns
        with torch.device("meta"):
            network = new_network(self.config, columns, 0)
            if wanted.enabled or wanted.weights:
                autoencoder(self.config, network)
        if wanted.enabled:
            blocks = {block.atlas: torch.empty(1, block.size) for block in columns.blocks}
            connection_mask(self.config, columns).draw(blocks, torch.Generator())

    def check_start(self, start: Start) -> None:
        from medformer.tasks.abide.learner import region_numbers, take_connectomes

        columns = self.features.columns
        model = new_network(self.config, columns, 0)
        take_connectomes(start, model, self.config, columns, region_numbers(self))

    def inspect(self, cache: Path | None, reporter: Reporter) -> Inventory:
        return inspect_cohort(self.data, cache=cache, reporter=reporter)

    def plan_case(self, case: Case, record: Record) -> PlanCase:
        """The fingerprint covers what is stored of a subject, whatever is computed from it."""
        stored = [self.data.store.stored(atlas, case.id).tobytes().hex() for atlas in self.features.columns.atlases]
        return PlanCase(
            case.id,
            case.group,
            fingerprint=digest(stored),
            site=case.site,
            label=str(case.required_label()),
            covariates=case.described,
        )

    @property
    def comparison(self) -> CaseComparison:
        return CONNECTOMES

    def problems(self, inventory: Inventory) -> list[Problem]:
        found = [*inventory.problems, *formulas(self.cases)]
        # Connections are compared where every subject can be used.
        return found if quarantine(found) else [*found, *link_same_subject(self.data)[1]]

    def traits(self, inventory: Inventory) -> Mapping[str, Traits]:
        return cohort_traits(self.data)

    def learner(self, inventory: Inventory, cache: Path) -> ConnectomeLearner:
        from medformer.tasks.abide.learner import ConnectomeLearner

        return ConnectomeLearner(study=self, features=self.features)

    def baselines(self, inventory: Inventory) -> Mapping[str, Callable[[], EstimatorLearner]]:
        from medformer.connectome.baselines import baseline_names

        return {name: partial(self.baseline, name) for name in baseline_names(self.features.columns)}

    def baseline(self, name: str) -> EstimatorLearner:
        """A linear baseline by name."""
        from medformer.connectome.baselines import build_baseline

        columns = self.features.columns
        return EstimatorLearner(
            self,
            build_baseline(name, columns, partial(atlas_pipeline, self.config, columns)),
            threshold=self.config.inference.threshold,
            covariates=True,
        )

    def relabelled(self, giver: Mapping[str, str], folder: Path) -> Self:
        cases = tuple(replace(case, label=self.by_id[giver[case.id]].label) for case in self.cases)
        return replace(self, data=replace(self.data, cases=cases))

    def probe_features(self, inventory: Inventory) -> tuple[Vectors, str]:
        atlas = self.features.columns.atlases[0]
        columns = self.features.columns.slice(atlas)
        connections = {case.id: self.features[case.id][columns] for case in self.cases if case.site}
        return connections, f"connections of the atlas {atlas}"

    def facts(self, run: RunDirectory) -> None:
        """Write `cohort.json`: who was left out, what is odd, and whose site was never trained on."""
        folder = self.data.path.parent
        prepared: Mapping[str, Any] = {}
        if (folder / PREPARATION_FILE).is_file():
            prepared = read_record(folder / PREPARATION_FILE, _Preparation, "Prepare the cohort again.").model_dump()
        exclusions = read_csv(folder / EXCLUSIONS_FILE) if (folder / EXCLUSIONS_FILE).is_file() else []
        warnings: Mapping[str, int] = prepared.get("warnings", {})
        unseen: dict[str, set[str]] = {}
        for path in sorted(run.folds.glob("*/inputs.json")):
            for name in read_record(path, _Inputs, f"Delete {path.parent} and continue with --resume.").unseen_sites:
                unseen.setdefault(self.by_id[name].site, set()).add(name)
        facts: dict[str, Any] = {
            "kept": len(self.cases),
            "label_names": self.data.label_names,
            "excluded": prepared.get("excluded", {}),
            "exclusions": [row for row in exclusions if row["severity"] == "error"],
            "atlases": {
                name: {
                    "title": ATLASES[name].title if name in ATLASES else "",
                    "content": {"series": "time series", "correlation": "correlations"}[block.content],
                    "regions": block.regions,
                }
                for name, block in self.data.store.atlases.items()
            },
            "policies": [
                {"situation": situation, "policy": policy, "count": warnings[reason], "unit": "subjects"}
                for reason, (situation, policy) in _POLICIES.items()
                if warnings.get(reason)
            ],
            "unseen_sites": {site: len(names) for site, names in sorted(unseen.items())},
        }
        write_json(run.cohort_json, facts)
