"""What a classification of volumes does in one fold: plan, prepare, pretrain, train, decide, predict once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from medformer.crossval.plan import Fold
from medformer.data.network_inputs import ItemImages
from medformer.data.volumes.plan.volume_plan import VolumePlan
from medformer.data.volumes.prepare.augment import VolumeAugmentation
from medformer.data.volumes.prepare.patches import WholeImages
from medformer.files import write_csv
from medformer.inference.classes.classify import ValidationLoss, predict_scores
from medformer.inference.classes.decision import learn_decision, prediction_rows
from medformer.training.devices import choose_device
from medformer.training.losses.objectives import ClassificationObjective
from pipelines.planned_fold import PlannedFold
from pipelines.volume_plan import PLAN


@dataclass(kw_only=True)
class VolumeClassificationFold(PlannedFold):
    """The fold job of a classification; see `PlannedFold`.

    Attributes:
        labels: 1 (positive) or 0 per id. Permuted labels are passed here.
    """

    labels: Mapping[str, int]

    def __call__(self, fold: Fold, folder: Path, resume: bool) -> None:
        """Leave `plan.json`, `model.safetensors`, `history.csv`, `threshold.json` and `predictions.csv`."""
        plan = self.planner.plan_once(folder / PLAN, fold.train)
        model = self._train(plan, fold, folder, resume)
        decision = learn_decision(
            folder,
            fold.validation,
            self._labels(fold.validation),
            self._scores(model, plan, fold.validation),
            calibrate=self.config.inference.calibrate,
            threshold=self.config.inference.threshold,
        )
        if fold.test:
            rows = prediction_rows(
                fold.test,
                self._labels(fold.test),
                decision.probabilities(self._scores(model, plan, fold.test)),
                decision.threshold,
                sites={name: self.cases[name].site for name in fold.test},
            )
            write_csv(folder / "predictions.csv", rows, list(rows[0]))

    def _train(self, plan: VolumePlan, fold: Fold, folder: Path, resume: bool) -> nn.Module:
        model = self.first(plan, fold, folder, resume)
        store = self.store(plan, [*fold.train, *fold.validation])
        augmentation = VolumeAugmentation(self.config.augment, plan.spacing)
        judged = ItemImages(WholeImages(store, plan, fold.validation))
        return self.fit(
            model,
            ClassificationObjective(inputs="image"),
            WholeImages(store, plan, fold.train, self.labels, augmentation=augmentation, seed=self.seed(fold)),
            ValidationLoss(judged, self._labels(fold.validation), plan.batch_size),
            plan=plan,
            fold=fold,
            folder=folder,
            resume=resume,
        )

    def _scores(self, model: nn.Module, plan: VolumePlan, names: Sequence[str]) -> NDArray[np.float64]:
        return predict_scores(
            [model],
            ItemImages(WholeImages(self.store(plan, names), plan, names)),
            ids=names,
            batch_size=plan.batch_size,
            device=choose_device(self.config.training.accelerator),
        )

    def _labels(self, names: Sequence[str]) -> NDArray[np.int64]:
        return np.array([self.labels[name] for name in names], np.int64)
