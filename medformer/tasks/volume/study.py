"""Volumes under one config, to be segmented or classified: everything that a run asks about its cases (see `Study`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from math import prod
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import nn

from medformer.config import VolumeConfig
from medformer.config.shared import CrossvalConfig
from medformer.crossval.plan import Fold, PlanCase
from medformer.crossval.run.contract import Learner, Study
from medformer.crossval.run.directory import RunDirectory
from medformer.crossval.run.estimator import EstimatorLearner
from medformer.crossval.run.forecast.hours import with_value
from medformer.crossval.run.start.source import Start
from medformer.crossval.vectors import Vectors
from medformer.data.cases import Case
from medformer.data.inventory import Inventory, Record, formulas
from medformer.data.manifest import read_manifest, write_manifest
from medformer.data.near_duplicates import CaseComparison
from medformer.data.problems import Problem
from medformer.data.training_range import Traits
from medformer.data.volumes.inspect.check import volume_problems
from medformer.data.volumes.inspect.describe import file_hashes, inspect_volumes
from medformer.data.volumes.inspect.facts import case_facts, volume_traits
from medformer.data.volumes.inspect.similar import VOLUMES
from medformer.data.volumes.read.dataset_file import write_info
from medformer.data.volumes.read.regions import membership
from medformer.errors import ConfigError
from medformer.files import digest
from medformer.imaging.geometry import Geometry, reorient
from medformer.imaging.nifti_labels import write_labels
from medformer.imaging.resample import resample_labels
from medformer.imaging.volumes import read_geometry, read_labels
from medformer.inference.baselines.volumes import VOLUME_CLASSIFIERS
from medformer.names import file_stems
from medformer.progress import Reporter
from medformer.tasks.volume.dataset import PATIENT_NOTES, Volumes
from medformer.tasks.volume.learner import ClassificationLearner, PriorLearner, SegmentationLearner
from medformer.tasks.volume.network import Planner, check_network, new_network, small_plan, take_volumes
from medformer.training.losses.segmentation import build_volume_loss
from medformer.training.pace import Pace
from medformer.training.parity import noise

FEWEST_VOXELS = 2 * 32**3
"""Voxels of a step below which lack of time makes no patch smaller: two patches that still show what is around."""


@dataclass(frozen=True, kw_only=True)
class VolumeStudy(Study[VolumeConfig, Volumes]):
    """The volumes of a manifest or folder; see `Study`.

    Attributes:
        labelled: Whether a case without a label map or class is a problem.
        vectors: What linear classifiers are given (see `volume_features`); they set it from the inventory.
    """

    labelled: bool = True
    vectors: Vectors = field(default_factory=dict)

    @property
    def crossval(self) -> CrossvalConfig:
        """Of a classification, `size` means the class."""
        settings = self.config.crossval
        if self.config.target == "segmentation":
            return settings
        columns = ["label" if name == "size" else name for name in settings.stratify]
        return settings.model_copy(update={"stratify": tuple(dict.fromkeys(columns))})

    @property
    def notes(self) -> Sequence[str]:
        patients = self.data.info.patients
        return [PATIENT_NOTES[patients]] if patients in PATIENT_NOTES else []

    @cached_property
    def extra(self) -> Self | None:
        """Unlabeled cases that pretraining may see too."""
        path = self.config.pretraining.extra
        if not path:
            return None
        given = read_manifest(path, ungrouped="each")
        return replace(self, data=Volumes(given.path, given.root, given.cases, self.data.info), labelled=False)

    @property
    def minutes_decide_size(self) -> bool:
        return self.config.target == "segmentation" and self.config.plan.patch is None

    def shrunk(self, factor: float, pace: Pace) -> Self | None:
        now = pace.batch_size * prod(pace.size)
        voxels = max(FEWEST_VOXELS, int(now / factor))
        if voxels >= now or not self.minutes_decide_size:
            return None
        return self.configured(with_value(self.config, "plan.voxels", voxels))

    def check(self) -> None:
        super().check()
        check_network(self.config)
        regions = self.data.info.regions
        if regions and self.config.target == "segmentation":
            build_volume_loss(self.config.loss.name, membership(regions, [value for value, _ in self.data.info.labels]))
            if self.config.inference.components != "all":
                raise ConfigError(
                    f"inference.components={self.config.inference.components}: component rules are for labels, and "
                    "this data set has regions that overlap. Set inference.components=all."
                )

    def trial(self) -> tuple[Callable[[], nn.Module], torch.Tensor]:
        plan = small_plan(self.config)
        return partial(new_network, self.config, plan, 0), noise(len(plan.intensity), plan.patch)

    def check_start(self, start: Start) -> None:
        plan = small_plan(self.config)
        take_volumes(start, new_network(self.config, plan, 0), self.config, plan)

    def check_training(self, fold: Fold, learner: Any) -> None:
        # Says so if nothing fits in the memory; the fold then takes this plan. On a cluster another device decides.
        if self.config.execution.address is None:
            learner.planner.plan(fold.train)

    def keep(self, run: RunDirectory) -> None:
        """Write the manifest of a folder, so that the report and `predict` find the cases again."""
        if self.data.scanned:
            write_manifest(self.data.path, self.cases)
            write_info(self.data.path, self.data.info)

    def inspect(self, cache: Path | None, reporter: Reporter) -> Inventory:
        return inspect_volumes(
            self.cases,
            masks=self.labelled and self.config.target == "segmentation",
            features=self.config.target == "classification",
            known=self.data.records if self.labelled else None,
            cache=cache,
            reporter=reporter,
        )

    def plan_case(self, case: Case, record: Record) -> PlanCase:
        """Plan by what the manifest says and by how much is labeled; the hash covers every file."""
        common = partial(PlanCase, case.id, case.group, site=case.site)
        if self.config.target == "classification":
            return common(
                fingerprint=record.hashes["file"], label=str(case.required_label()), covariates=case.described
            )
        hashes = digest([record.hashes["file"], record.hashes["mask"]])
        return common(fingerprint=hashes, covariates={**case.described, "size": f"{self._labeled_mm3(record):.6g}"})

    @property
    def comparison(self) -> CaseComparison:
        return VOLUMES

    def problems(self, inventory: Inventory) -> list[Problem]:
        target = self.config.target if self.labelled else None
        found = volume_problems(self.cases, inventory, self.data.info, target=target)
        known = {(problem.case_id, problem.reason) for problem in self.data.problems}
        new = [problem for problem in found if (problem.case_id, problem.reason) not in known]
        return [*self.data.problems, *new, *formulas(self.cases)]

    def traits(self, inventory: Inventory) -> Mapping[str, Traits]:
        found = {}
        for name, record in inventory.items():
            facts, shape = record.facts, record.facts["shape"]
            grid = Geometry((shape[0], shape[1], shape[2]), np.array(facts["affine"]))
            found[name] = volume_traits(grid, facts["channels"])
        return found

    def planner(self, inventory: Inventory) -> Planner:
        """What makes plans from the training cases of a fold."""
        return Planner(self.config, self.data.info, inventory)

    def learner(self, inventory: Inventory, cache: Path) -> SegmentationLearner | ClassificationLearner:
        learner = SegmentationLearner if self.config.target == "segmentation" else ClassificationLearner
        return learner(study=self, planner=self.planner(inventory), cache=cache, hashes=file_hashes(inventory))

    def baselines(self, inventory: Inventory) -> Mapping[str, Callable[[], Learner]]:
        if self.config.target == "segmentation":
            return {"prior_mask": partial(PriorLearner, self)}
        return {name: partial(self.linear, name, inventory) for name in VOLUME_CLASSIFIERS}

    def linear(self, name: str, inventory: Inventory) -> EstimatorLearner:
        """A linear classifier by name."""
        described = replace(self, vectors=inventory.arrays("features"))
        return EstimatorLearner(described, VOLUME_CLASSIFIERS[name].part(), threshold=self.config.inference.threshold)

    def relabelled(self, giver: Mapping[str, str], folder: Path) -> Self:
        """Label maps are stretched to the grid of the image that they are given to; those already written stay."""
        given = self._class_of if self.config.target == "classification" else self._label_map_of
        files = file_stems(self.by_id, str(folder / "labels"))
        cases = tuple(given(case, self.by_id[giver[case.id]], Path(f"{files[case.id]}.nii.gz")) for case in self.cases)
        return replace(self, data=replace(self.data, cases=cases))

    def probe_features(self, inventory: Inventory) -> tuple[Vectors, str]:
        if self.config.target == "classification":
            return inventory.arrays("features"), "shapes and coarse voxels of the volumes"
        small = {name: array.ravel() for name, array in inventory.arrays("descriptor").items()}
        return small, "local structure of the volumes, reduced to a coarse grid"

    def _labeled_mm3(self, record: Record) -> float:
        facts = case_facts(record, self.data.info, self.config.plan.orientation)
        return sum(facts.labels.values()) * facts.voxel_mm3

    def _class_of(self, case: Case, other: Case, path: Path) -> Case:
        return replace(case, label=other.label)

    def _label_map_of(self, case: Case, other: Case, path: Path) -> Case:
        if path.is_file():
            return replace(case, mask=path)
        orientation = self.config.plan.orientation
        geometry = read_geometry(case.required_image())
        source = read_labels(other.required_mask(), read_geometry(other.required_image()))
        values = [int(value) for value in np.unique(source.array) if value]
        labels = np.zeros(geometry.shape, source.array.dtype)
        turned = reorient(labels, geometry.affine, orientation)[0]
        given = np.ascontiguousarray(reorient(source.array, source.geometry.affine, orientation)[0])
        turned[...] = resample_labels(given, turned.shape, values)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_labels(path, labels, case.required_image())
        return replace(case, mask=path)
