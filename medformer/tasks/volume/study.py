"""Volumes under one config, to be segmented or classified: everything that a run asks about its cases (see `Study`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Literal, Self

import numpy as np

from medformer.config import CrossvalConfig, VolumeConfig
from medformer.crossval.plan import PlanCase
from medformer.crossval.run.classes import ClassPredictor
from medformer.crossval.run.contract import Learner, Study, Vectors
from medformer.crossval.run.directory import RunDirectory
from medformer.crossval.run.estimator import EstimatorLearner
from medformer.data.inventory import Inventory, Record
from medformer.data.manifest import Case, Manifest, read_manifest, write_manifest
from medformer.data.near_duplicates import CaseComparison
from medformer.data.problems import Problem
from medformer.data.volumes.inspect.check import volume_problems
from medformer.data.volumes.inspect.describe import inspect_volumes
from medformer.data.volumes.inspect.descriptors import VOLUMES
from medformer.data.volumes.inspect.facts import case_facts
from medformer.data.volumes.read.dataset_file import DatasetInfo, write_info
from medformer.data.volumes.read.layouts import info_of, scan_volumes
from medformer.errors import ConfigError
from medformer.files import digest
from medformer.imaging.geometry import reorient
from medformer.imaging.nifti_labels import write_labels
from medformer.imaging.resample import resample_labels
from medformer.imaging.volumes import read_geometry, read_labels
from medformer.inference.baselines.volume_linear import VOLUME_CLASSIFIERS, VolumeFeatures
from medformer.progress import Reporter
from medformer.tasks.settings import check_training
from medformer.tasks.volume.baselines import PriorLearner
from medformer.tasks.volume.learner import ClassificationLearner, SegmentationLearner
from medformer.tasks.volume.network import check_network
from medformer.tasks.volume.planner import Planner
from medformer.tasks.volume.predictor import VolumePredictor, load_predictor

MANIFEST = "manifest.csv"
"""Name of the manifest that a run on a folder keeps beside its results."""

PATIENT_NOTES = {
    "case is patient": "The layout does not say which volumes are of one patient, so each was taken for a patient of "
    "its own. Where that is not so, prepare a manifest with `medformer volume prepare --group-pattern`.",
    "inferred": "The files do not say which volumes are of one patient; volumes that seem to be of one were kept "
    "together (medformer/data/volumes/read/msd_patients.py says why).",
}


@dataclass(frozen=True)
class Volumes:
    """Volumes of a manifest or a folder (a `Dataset`).

    Attributes:
        manifest: The cases.
        info: What they have in common.
        scanned: Whether they come from a folder, so that no manifest file is there yet.
        problems: What did not fit in that folder.
    """

    manifest: Manifest
    info: DatasetInfo
    scanned: bool = False
    problems: tuple[Problem, ...] = ()

    @property
    def path(self) -> Path:
        """The manifest file."""
        return self.manifest.path

    @property
    def root(self) -> Path:
        """The folder that paths in tables are relative to."""
        return self.manifest.root

    @property
    def cases(self) -> Sequence[Case]:
        """In the order of the manifest."""
        return self.manifest.cases

    @property
    def by_id(self) -> Mapping[str, Case]:
        """Cases by id."""
        return self.manifest.by_id

    def digest(self) -> str:
        """SHA-256 over all that is said of the cases."""
        return digest([self.manifest.digest(), self.info.labels, self.info.channels])


@dataclass(frozen=True, kw_only=True)
class VolumeStudy(Study[VolumeConfig, Volumes]):
    """The volumes of a manifest or folder; see `Study`.

    Attributes:
        labelled: Whether a case without a label map or class is a problem.
    """

    labelled: bool = field(default=True)

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
    def vectors(self) -> Vectors:
        """What the linear classifiers are given."""
        return VolumeFeatures(self.by_id)

    @cached_property
    def extra(self) -> VolumeStudy | None:
        """Unlabeled cases that pretraining may see too."""
        path = self.config.pretraining.extra
        if not path:
            return None
        return replace(self, data=Volumes(read_manifest(path, ungrouped="each"), self.data.info), labelled=False)

    def check(self) -> None:
        check_training(self.config)
        check_network(self.config)

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
            cache=cache,
            reporter=reporter,
        )

    def plan_case(self, case: Case, record: Record) -> PlanCase:
        """Plan by what the manifest says and by how much is labeled; the hash covers every file."""
        common = partial(PlanCase, case.id, case.group, site=case.site)
        if self.config.target == "classification":
            return common(
                fingerprint=record.hashes["file"], label=str(case.required_label()), covariates=case.covariates
            )
        hashes = digest([record.hashes["file"], record.hashes["mask"]])
        return common(fingerprint=hashes, covariates={**case.covariates, "size": f"{self._labeled_mm3(record):.6g}"})

    @property
    def comparison(self) -> CaseComparison:
        return VOLUMES

    def problems(self, inventory: Inventory) -> list[Problem]:
        found = volume_problems(self.cases, inventory, self.data.info, target=self.config.target)
        return [*self.data.problems, *found]

    def planner(self, inventory: Inventory) -> Planner:
        """What makes plans from the training cases of a fold."""
        return Planner(self.config, self.data.info, inventory)

    def learner(self, inventory: Inventory, cache: Path) -> SegmentationLearner | ClassificationLearner:
        learner = SegmentationLearner if self.config.target == "segmentation" else ClassificationLearner
        extra = () if self.extra is None else self.extra.cases
        return learner(study=self, planner=self.planner(inventory), cache=cache, extra=extra)

    def baselines(self, inventory: Inventory) -> Mapping[str, Callable[[], Learner]]:
        if self.config.target == "segmentation":
            return {"prior_mask": partial(PriorLearner, self)}
        return {name: partial(self.linear, name) for name in VOLUME_CLASSIFIERS}

    def linear(self, name: str) -> EstimatorLearner:
        """A linear classifier by name."""
        return EstimatorLearner(self, VOLUME_CLASSIFIERS[name].part(), threshold=self.config.inference.threshold)

    def relabelled(self, giver: Mapping[str, str], folder: Path) -> Self:
        """Label maps are stretched to the grid of the image that they are given to."""
        given = self._class_of if self.config.target == "classification" else self._label_map_of
        cases = tuple(given(case, self.by_id[giver[case.id]], folder) for case in self.cases)
        return replace(self, data=replace(self.data, manifest=replace(self.data.manifest, cases=cases)))

    def probe_features(self, inventory: Inventory) -> tuple[Vectors, str]:
        return VolumeFeatures(self.by_id), "shapes and coarse voxels of the volumes"

    def _labeled_mm3(self, record: Record) -> float:
        facts = case_facts(record, self.data.info, self.config.plan.orientation)
        x, y, z = facts.spacing
        return sum(facts.labels.values()) * x * y * z

    def _class_of(self, case: Case, other: Case, folder: Path) -> Case:
        return replace(case, label=other.label)

    def _label_map_of(self, case: Case, other: Case, folder: Path) -> Case:
        orientation = self.config.plan.orientation
        source, geometry = read_labels(other.required_mask()), read_geometry(case.required_image())
        values = [int(value) for value in np.unique(source.array) if value]
        labels = np.zeros(geometry.shape, source.array.dtype)
        turned = reorient(labels, geometry.affine, orientation)[0]
        given = np.ascontiguousarray(reorient(source.array, source.geometry.affine, orientation)[0])
        turned[...] = resample_labels(given, turned.shape, values)
        path = folder / "labels" / f"{case.id}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_labels(path, labels, case.required_image())
        return replace(case, mask=path)


class VolumeTask:
    """Segmentation and classification of volumes (see `Task`)."""

    name = "volume"

    def open(
        self,
        config: VolumeConfig,
        reporter: Reporter,
        *,
        out: Path | None = None,
        unlabelled: Literal["error", "allow"] = "error",
    ) -> VolumeStudy:
        data = open_volumes(config, out or Path(), reporter)
        return VolumeStudy(config=config, data=data, labelled=unlabelled == "error")

    def load(self, config: VolumeConfig, folders: Sequence[Path]) -> VolumePredictor | ClassPredictor:
        return load_predictor(config, folders, folders[0].parent.parent / "cache")


def open_volumes(config: VolumeConfig, out: Path, reporter: Reporter) -> Volumes:
    """Read a manifest, or list a folder in a known layout.

    Args:
        config: Names either.
        out: Folder in which the manifest of a folder will be kept.
        reporter: Receives the progress.

    Raises:
        ConfigError: Nothing is named.
        DataError: See `read_manifest` and `scan_volumes`.
    """
    if not config.data.manifest:
        raise ConfigError(
            "No data: give --data with a folder of volumes (imagesTr/ and labelsTr/, images/ and labels/, or DICOM "
            "series), or with a manifest, which `medformer volume prepare` writes from one."
        )
    path = Path(config.data.manifest)
    if not path.is_dir():
        manifest = read_manifest(path, ungrouped=config.data.ungrouped)
        return Volumes(manifest, info_of(manifest, reporter=reporter))
    scan = scan_volumes(path, ungrouped=config.data.ungrouped, reporter=reporter)
    manifest = Manifest(out / MANIFEST, path.resolve(), scan.cases)
    return Volumes(manifest, scan.info, scanned=True, problems=scan.problems)
