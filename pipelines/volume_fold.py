"""What a segmentation of volumes does in one fold: plan, prepare, pretrain, train, predict the test cases once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from medformer.config import VolumeConfig
from medformer.crossval.plan import Fold
from medformer.data.manifest import Case, path_from
from medformer.data.volumes.plan.volume_plan import VolumePlan
from medformer.data.volumes.prepare.augment import VolumeAugmentation
from medformer.data.volumes.prepare.patches import PatchData
from medformer.evaluation.masks.volumes import volume_row
from medformer.files import write_csv
from medformer.imaging.volume import Volume
from medformer.imaging.volumes import read_labels
from medformer.inference.volumes.components import Components, fit_components, same_rule, write_components
from medformer.inference.volumes.export import export_volume
from medformer.inference.volumes.segmenter import VolumeSegmenter
from medformer.inference.volumes.validation import ValidationVolumeDice
from medformer.training.devices import choose_device
from medformer.training.losses.objectives import VolumeObjective
from medformer.training.losses.volume_losses import build_volume_loss
from pipelines.planned_fold import PlannedFold
from pipelines.volume_plan import PLAN

COMPONENTS = "components.json"
CACHE = "cache"


@dataclass(kw_only=True)
class VolumeFold(PlannedFold):
    """The fold job of a segmentation; see `PlannedFold`.

    Attributes:
        root: Folder that paths in tables are relative to.
    """

    root: Path

    def __call__(self, fold: Fold, folder: Path, resume: bool) -> None:
        """Leave `plan.json`, `model.safetensors`, `history.csv`, `components.json` and `predictions.csv`."""
        plan = self.planner.plan_once(folder / PLAN, fold.train)
        model = self._train(plan, fold, folder, resume)
        segmenter = make_segmenter([(model, plan)], self.config, choose_device(self.config.training.accelerator))
        segmenter.components = self._components(segmenter, plan, fold)
        write_components(folder / COMPONENTS, segmenter.components)
        if fold.test:
            rows = list(self._predict(segmenter, plan, fold))
            write_csv(folder / "predictions.csv", rows, list(rows[0]))

    def _train(self, plan: VolumePlan, fold: Fold, folder: Path, resume: bool) -> nn.Module:
        config = self.config
        model = self.first(plan, fold, folder, resume)
        store = self.store(plan, [*fold.train, *fold.validation])
        augmentation = VolumeAugmentation(config.augment, plan.spacing)
        return self.fit(
            model,
            VolumeObjective(build_volume_loss(config.loss.name)),
            PatchData(store, plan, fold.train, config=config.data, augmentation=augmentation, seed=self.seed(fold)),
            ValidationVolumeDice([store[name] for name in fold.validation], plan, config.inference.batch_size),
            plan=plan,
            fold=fold,
            folder=folder,
            resume=resume,
        )

    def _components(self, segmenter: VolumeSegmenter, plan: VolumePlan, fold: Fold) -> Components:
        """Which connected components are kept: as the config says, or as the inner validation part teaches."""
        values = [value for value, _ in plan.labels]
        wanted = self.config.inference.components
        if wanted != "fit":
            return same_rule(wanted, values)
        cases = [self.cases[name] for name in fold.validation]
        return fit_components(
            (
                (segmenter.segment(case).array, read_labels(case.required_mask()).array)
                for case in self._told("components", cases)
            ),
            values,
        )

    def _predict(self, segmenter: VolumeSegmenter, plan: VolumePlan, fold: Fold) -> Iterator[dict[str, Any]]:
        for case in self._told("test cases", [self.cases[name] for name in fold.test]):
            found = segmenter.segment(case)
            truth = read_labels(case.required_mask())
            exported = export_volume(self.run.path, case.id, found, case, truth=truth.array)
            yield scored_row(case, found.array, truth, plan.labels, self.config, self.root, mask=exported["mask"])

    def _told(self, label: str, cases: Sequence[Case]) -> Iterator[Case]:
        """Yield the cases, telling the reporter."""
        self.reporter.start(label, len(cases))
        try:
            for case in cases:
                yield case
                self.reporter.advance()
        finally:
            self.reporter.finish()


def scored_row(
    case: Case,
    found: NDArray[Any],
    truth: Volume,
    labels: Iterable[tuple[int, str]],
    config: VolumeConfig,
    root: Path,
    *,
    mask: str,
) -> dict[str, Any]:
    """One row of a fold's table: a test case's scores and where its files are.

    Args:
        case: The case.
        found: Predicted label values, (X, Y, Z).
        truth: The reference.
        labels: Value and name of each label.
        config: The run's config.
        root: Folder that paths are relative to.
        mask: Where the label map was exported; empty where it was not.
    """
    row = volume_row(
        case.id,
        found,
        truth.array,
        labels=dict(labels),
        spacing=truth.geometry.spacing,
        tolerance=config.inference.tolerance,
        voxel_ml=truth.geometry.voxel_ml,
    )
    return {
        "id": case.id,
        "site": case.site,
        **{name: value for name, value in row.items() if name != "id"},
        "mask": mask,
        "image": path_from(root, case.required_image()),
        "truth": path_from(root, case.required_mask()),
    }


def make_segmenter(
    members: Sequence[tuple[nn.Module, VolumePlan]], config: VolumeConfig, device: torch.device
) -> VolumeSegmenter:
    """Return the segmenter that a run's config asks for."""
    return VolumeSegmenter(
        members,
        overlap=config.inference.overlap,
        flips=config.inference.flips,
        batch_size=config.inference.batch_size,
        device=device,
        precision=config.training.precision,
    )
