"""What every training on volumes does in a fold: plan, prepare, perhaps pretrain, train; subclasses say on what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from medformer.config import VolumeConfig
from medformer.crossval.plan import Fold
from medformer.crossval.run.directory import RunDirectory
from medformer.data.manifest import Case
from medformer.data.network_inputs import TrainingData
from medformer.data.volumes.plan.volume_plan import VolumePlan
from medformer.data.volumes.prepare.store import PreparedStore
from medformer.progress import Reporter
from medformer.seeds import derive_seed
from medformer.training.fit import fit
from medformer.training.job import Validate
from medformer.training.losses.objectives import Objective
from pipelines.volume_network import metadata, planned_training
from pipelines.volume_plan import Planner
from pipelines.volume_pretrain import first_network


@dataclass(kw_only=True)
class PlannedFold:
    """Base of the fold jobs on volumes (see `medformer.crossval.run.fold_job.FoldJob`).

    Attributes:
        config: The run's config.
        planner: Plans from the training cases of a fold.
        cases: Cases of the manifest by id. Permuted label maps are passed here.
        run: The folder that the job works in.
        cache: Folder of prepared volumes.
        reporter: Told about every step.
        extra: Unlabeled cases for pretraining, none of whom is tested in any fold.
    """

    config: VolumeConfig
    planner: Planner
    cases: Mapping[str, Case]
    run: RunDirectory
    cache: Path
    reporter: Reporter
    extra: Sequence[Case] = ()

    def seed(self, fold: Fold) -> int:
        """What everything random in a fold derives from."""
        return derive_seed(self.config.seed, "repeat", fold.repeat, "fold", fold.index)

    def store(self, plan: VolumePlan, names: Sequence[str]) -> PreparedStore:
        """Prepared cases, with their label maps where the run segments."""
        return PreparedStore(
            self.cache,
            plan,
            [self.cases[name] for name in names],
            memory_gb=self.config.data.cache,
            labels=self.config.target == "segmentation",
            reporter=self.reporter,
        )

    def first(self, plan: VolumePlan, fold: Fold, folder: Path, resume: bool) -> nn.Module:
        """The network that training starts from."""
        return first_network(
            self.config,
            plan,
            fold,
            self.cases,
            self.extra,
            folder=folder,
            cache=self.cache,
            seed=self.seed(fold),
            resume=resume,
            run=self.run.path,
            reporter=self.reporter,
        )

    def fit(
        self,
        model: nn.Module,
        objective: Objective,
        data: TrainingData,
        validate: Validate,
        *,
        plan: VolumePlan,
        fold: Fold,
        folder: Path,
        resume: bool,
    ) -> nn.Module:
        """Train a network and return it with its best weights."""
        fit(
            model,
            objective,
            data,
            validate,
            planned_training(self.config, plan),
            out=folder,
            seed=self.seed(fold),
            workers=self.config.data.workers,
            resume=resume,
            metadata=metadata(self.config, plan, fold, self.config.target),
            run=self.run.path,
            reporter=self.reporter,
        )
        return model
