"""What stands beside a segmentation network on the same folds, and label maps exchanged for the canary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medformer.config import VolumeConfig
from medformer.crossval.plan import Fold
from medformer.crossval.run.directory import RunDirectory
from medformer.data.manifest import Case
from medformer.data.volumes.read.dataset_file import DatasetInfo
from medformer.files import write_csv
from medformer.imaging.geometry import reorient
from medformer.imaging.nifti_labels import write_labels
from medformer.imaging.resample import resample_labels
from medformer.imaging.volumes import read_geometry, read_labels
from medformer.inference.baselines.label_prior import LabelPrior
from medformer.progress import Reporter
from pipelines.volume_fold import scored_row


class PriorFold:
    """The fold job of the label prior (see `medformer.crossval.run.fold_job.FoldJob`).

    Its table has the columns of the network's. No label map is exported, so `mask` is empty.

    Args:
        config: The run's config.
        info: Names of the labels.
        cases: Cases of the manifest by id.
        root: Folder that paths in tables are relative to.
        reporter: Told about every step.
    """

    def __init__(
        self, config: VolumeConfig, info: DatasetInfo, cases: Mapping[str, Case], root: Path, reporter: Reporter
    ) -> None:
        self.config = config
        self.info = info
        self.cases = cases
        self.root = root
        self.reporter = reporter

    def __call__(self, fold: Fold, folder: Path, resume: bool) -> None:
        """Leave `predictions.csv` in `folder`; an interrupted fold simply starts again."""
        values = np.array([0, *(value for value, _ in self.info.labels)])
        prior = LabelPrior(len(values)).fit(self._classes(self.cases[name], values) for name in fold.train)
        if fold.test:
            rows = list(self._score(prior, values, fold))
            write_csv(folder / "predictions.csv", rows, list(rows[0]))

    def _classes(self, case: Case, values: NDArray[np.intp]) -> NDArray[np.intp]:
        """The classes of a case's label map, turned as all of them are."""
        labels = read_labels(case.required_mask())
        turned = reorient(labels.array, labels.geometry.affine, self.config.plan.orientation)[0]
        return np.searchsorted(values, turned)

    def _score(self, prior: LabelPrior, values: NDArray[np.intp], fold: Fold) -> Iterator[dict[str, Any]]:
        self.reporter.start("prior_mask, test cases", len(fold.test))
        try:
            for case in (self.cases[name] for name in fold.test):
                truth = read_labels(case.required_mask())
                found = np.zeros_like(truth.array)
                # A view that is turned as the prior is: writing to it turns back.
                turned = reorient(found, truth.geometry.affine, self.config.plan.orientation)[0]
                turned[...] = values[prior.predict(turned.shape)]
                yield scored_row(case, found, truth, self.info.labels, self.config, self.root, mask="")
                self.reporter.advance()
        finally:
            self.reporter.finish()


def with_labels_of(
    cases: Mapping[str, Case], assignment: Mapping[str, str], part: RunDirectory, orientation: str
) -> dict[str, Case]:
    """Give each case the label map of another, stretched to the case's own grid and written below `part`."""
    given = {}
    for name, case in cases.items():
        other = read_labels(cases[assignment[name]].required_mask())
        values = [int(value) for value in np.unique(other.array) if value]
        geometry = read_geometry(case.required_image())
        labels = np.zeros(geometry.shape, other.array.dtype)
        turned = reorient(labels, geometry.affine, orientation)[0]
        turned[...] = resample_labels(
            np.ascontiguousarray(reorient(other.array, other.geometry.affine, orientation)[0]), turned.shape, values
        )
        path = part.path / "labels" / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_labels(path, labels, case.required_image())
        given[name] = replace(case, mask=path)
    return given
