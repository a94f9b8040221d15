"""What a fold on volumes leaves: label maps in the geometry of each image, or classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from medformer.config import VolumeConfig
from medformer.crossval.run.classes import ClassPredictor, Scorer
from medformer.crossval.run.contract import Row
from medformer.crossval.vectors import DescribedCases
from medformer.data.cases import Case, path_from
from medformer.data.network_inputs import ItemImages
from medformer.data.volumes.inspect.describe import describe_volume
from medformer.data.volumes.plan.volume_plan import VolumePlan, read_volume_plan
from medformer.data.volumes.prepare.patches import Prepared, WholeImages
from medformer.data.volumes.prepare.prepare_case import PreparedCase, Scan, prepare_image
from medformer.data.volumes.prepare.store import PreparedStore
from medformer.evaluation.masks.volumes import volume_row
from medformer.imaging.geometry import Volume
from medformer.imaging.volumes import read_labels
from medformer.inference.classification import predict_scores, read_decision
from medformer.inference.export_table import Exports
from medformer.inference.volumes.components import join_components, read_components
from medformer.inference.volumes.export import export_volume
from medformer.inference.volumes.segmenter import VolumeSegmenter
from medformer.progress import Reporter
from medformer.tasks.volume.dataset import Scans
from medformer.tasks.volume.network import PLAN, read_network
from medformer.training.devices import choose_device

COMPONENTS = "components.json"

Labels = Sequence[tuple[int, str]]
"""Value and name of each label."""


@dataclass(frozen=True)
class VolumePredictor:
    """Segments volumes (a `Predictor`).

    Attributes:
        segmenter: Holds the networks, their plans, and which components are kept.
        labels: What it finds.
        config: Of the run.
        channels: Of the images.
    """

    segmenter: VolumeSegmenter
    labels: Labels
    config: VolumeConfig
    channels: int = 1

    def predict(self, study: Scans, names: Sequence[str], out: Exports, reporter: Reporter) -> Iterator[Row]:
        """Yield the scores of each test case, and leave its label map and overlay."""
        for case in reporter.track([study.by_id[name] for name in names], "test cases"):
            found = self.segmenter.segment(case)
            truth = read_labels(case.required_mask(), found.geometry)
            exported = export_volume(out, case.id, found, case, truth=truth.array)
            yield scored_row(case, found.array, truth, study, mask=exported["mask"])


@dataclass(frozen=True)
class VolumeScorer:
    """The network of a fold that classifies volumes (a `Scorer`).

    Attributes:
        model: Gives logits (B, 2).
        plan: How volumes are prepared for it.
        config: Of the run.
        cache: Folder of prepared volumes; None to keep none.
        device: Where to compute; where the config says without one.
    """

    model: nn.Module
    plan: VolumePlan
    config: VolumeConfig
    cache: Path | None = None
    device: torch.device | None = None

    def outputs(self, study: Scans, names: Sequence[str]) -> NDArray[np.float64]:
        """The network's probability of the positive class, (n,)."""
        cases = {name: study.by_id[name] for name in names}
        if self.cache is None:
            return self.scores(cases)
        kept = PreparedStore(
            self.cache, self.plan, list(cases.values()), memory_gb=self.config.data.cache, labels=False
        )
        return self._scores(kept, names)

    def scores(self, scans: Mapping[str, Scan]) -> NDArray[np.float64]:
        """The same of scans by id, each prepared when its turn comes."""
        return self._scores(_WhenAsked(scans, self.plan), list(scans))

    def _scores(self, prepared: Prepared, names: Sequence[str]) -> NDArray[np.float64]:
        return predict_scores(
            [self.model],
            ItemImages(WholeImages(prepared, self.plan, names)),
            ids=names,
            batch_size=self.plan.batch_size,
            device=self.device or choose_device(self.config.training.accelerator),
        )


@dataclass(frozen=True)
class BaselineScorer:
    """A fitted baseline that classifies volumes (a `Scorer`).

    Attributes:
        scorer: Of their shapes and coarse voxels (`volume_features`).
        plan: Of the network beside it, which says how many channels a volume has.
    """

    scorer: Scorer
    plan: VolumePlan

    @classmethod
    def made(cls, scorer: Scorer, study: Any, folder: Path) -> Self:
        """For the study of a run, and the folder of its fold."""
        return cls(scorer, read_volume_plan(folder / PLAN))

    def outputs(self, study: Scans, names: Sequence[str]) -> NDArray[np.float64]:
        """Scores before calibration, (n,)."""
        return self.scores({name: study.by_id[name] for name in names})

    def scores(self, scans: Mapping[str, Case]) -> NDArray[np.float64]:
        """The same of new cases, each read when its turn comes."""
        records = {name: describe_volume(case, masks=False, features=True) for name, case in scans.items()}
        vectors = {name: record.arrays["features"] for name, record in records.items() if not record.problems}
        return self.scorer.outputs(DescribedCases(scans, vectors), list(scans))


@dataclass(frozen=True)
class _WhenAsked:
    """Prepares a scan when it is asked for, and keeps nothing."""

    scans: Mapping[str, Scan]
    plan: VolumePlan

    def __getitem__(self, name: str) -> PreparedCase:
        return prepare_image(self.scans[name], self.plan)


def scored_row(
    case: Case,
    found: NDArray[Any],
    truth: Volume,
    study: Scans,
    *,
    mask: str,
) -> Row:
    """One row of a fold's table: a test case's scores and where its files are.

    Args:
        case: The case.
        found: Predicted label values, (X, Y, Z).
        truth: The reference.
        study: The case's own, which knows the labels.
        mask: Where the label map was exported; empty where it was not.
    """
    row = volume_row(
        case.id,
        found,
        truth.array,
        labels=dict(study.data.info.labels),
        regions=study.data.info.members,
        spacing=truth.geometry.steps,
        tolerance=study.config.inference.tolerance,
        voxel_ml=truth.geometry.voxel_ml,
    )
    return {
        "id": case.id,
        "site": case.site,
        **{name: value for name, value in row.items() if name != "id"},
        "mask": mask,
        "image": path_from(study.data.root, case.required_image()),
        "truth": path_from(study.data.root, case.required_mask()),
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
        precision=config.inference.precision or config.training.precision,
    )


def load_predictor(
    config: VolumeConfig, folders: Sequence[Path], device: torch.device | None = None
) -> VolumePredictor | ClassPredictor:
    """Load the networks of finished folds as an ensemble.

    The probabilities are averaged. Of a segmentation, a label is reduced to its largest component if most folds learned
    so; of a classification, the threshold is the mean of the folds'.

    Raises:
        CheckpointError: A file is missing, damaged, or does not fit the config.
    """
    plans = [read_volume_plan(folder / PLAN) for folder in folders]
    models = [read_network(config, plan, folder) for plan, folder in zip(plans, folders, strict=True)]
    if config.target == "classification":
        scorers = [VolumeScorer(*member, config, device=device) for member in zip(models, plans, strict=True)]
        return ClassPredictor(list(zip(scorers, map(read_decision, folders), strict=True)))
    device = device or choose_device(config.training.accelerator)
    segmenter = make_segmenter(list(zip(models, plans, strict=True)), config, device)
    segmenter.components = join_components([read_components(folder / COMPONENTS) for folder in folders])
    return VolumePredictor(segmenter, plans[0].found, config, len(plans[0].intensity))
