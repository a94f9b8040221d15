"""Trained models that segment or classify volumes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast, overload
from warnings import warn

import numpy as np
from numpy.typing import NDArray

from medformer.data.cases import Case
from medformer.data.problems import quarantine
from medformer.data.training_range import TrainingRange
from medformer.data.volumes.plan.volume_plan import VolumePlan
from medformer.data.volumes.prepare.prepare_case import HeldScan, check_image
from medformer.errors import ConfigError, DataError
from medformer.imaging.geometry import Geometry, Volume
from medformer.inference.volumes.label_map import LabelMap
from medformer.interface.model import ClassModel, ClassResult, Model, Paths, paths_of, threshold_of
from medformer.tasks.volume.new_classes import complete_volumes, member_scores
from medformer.tasks.volume.predictor import VolumePredictor, VolumeScorer

Given = NDArray[Any] | str | Path
"""A volume as an array, or the path of one."""

_ARRAY = "the array"


@dataclass(frozen=True)
class VolumeResult:
    """The label of every voxel of a volume.

    Attributes:
        id: Name of the volume; empty for one that was given as an array.
        labels: Label values (X, Y, Z) on the volume's own grid, 0 for background.
        names: Name of each label value; of regions that overlap, by the value that each is written with.
        made_of: The values that each region is made of, by the value it is written with; empty without regions.
        affine: From voxels of this grid to mm, 4 x 4.
        volumes_ml: Milliliters of each label, by name.
        confidence: For each label found, by name, the mean probability of its voxels. It ranks cases for review;
            networks are seldom calibrated.
        probabilities: float16 (X, Y, Z, labels) of each label, in the order of `names`, before components are dropped;
            None where they were not asked for.
        warnings: What is unlike the volumes of the training.
    """

    id: str
    labels: NDArray[Any]
    names: Mapping[int, str]
    made_of: Mapping[int, tuple[int, ...]]
    affine: NDArray[np.float64]
    volumes_ml: Mapping[str, float]
    confidence: Mapping[str, float]
    probabilities: NDArray[np.float16] | None = None
    warnings: tuple[str, ...] = ()


class VolumeModel(Model):
    """A model that segments volumes (see `Model`)."""

    @property
    def predictor(self) -> VolumePredictor:
        """Its networks and their plans."""
        return cast(VolumePredictor, self._predictor)

    @property
    def label_names(self) -> Mapping[int, str]:
        """What each label value is called."""
        return dict(self.predictor.labels)

    @overload
    def predict(
        self,
        what: Given,
        /,
        *,
        spacing: Sequence[float] | None = None,
        affine: NDArray[Any] | None = None,
        probabilities: bool = False,
    ) -> VolumeResult: ...
    @overload
    def predict(self, what: Paths, /, *, probabilities: bool = False) -> list[VolumeResult]: ...
    def predict(
        self,
        what: Given | Paths,
        /,
        *,
        spacing: Sequence[float] | None = None,
        affine: NDArray[Any] | None = None,
        probabilities: bool = False,
    ) -> VolumeResult | list[VolumeResult]:
        """Segment a volume, or the volumes of several paths.

        Args:
            what: A volume (X, Y, Z), or (channels, X, Y, Z), or the path of a NIfTI file or of a folder with one DICOM
                series, for one result; a list of files, folders and CSV manifests for a list.
            spacing: Of an array: mm between voxels along its three axes, which point to the patient's right, front and
                head.
            affine: Of an array: its own axes, as a matrix 4 x 4 from voxels to mm (RAS), instead of the spacing.
            probabilities: Return the probability of each label too.

        Raises:
            ConfigError: An array without spacing and affine, or one of them with a path.
            DataError: A volume is not of this form, cannot be read, or has other channels than the training's.
            ResourceError: There is not enough memory.
        """
        segmenter = replace(self.predictor.segmenter, probabilities="npz" if probabilities else "none")
        scans, one = _scans(what, spacing, affine, segmenter.plan)
        results = []
        for scan in scans:
            warnings = _warnings(scan, segmenter.plan, self._range)
            results.append(_result(scan, segmenter.segment(scan), warnings))
        return results[0] if one else results


class VolumeClassifier(ClassModel):
    """A model that classifies volumes (see `Model`)."""

    @overload
    def predict(
        self,
        what: Given,
        /,
        *,
        spacing: Sequence[float] | None = None,
        affine: NDArray[Any] | None = None,
        threshold: float | None = None,
    ) -> ClassResult: ...
    @overload
    def predict(self, what: Paths, /, *, threshold: float | None = None) -> list[ClassResult]: ...
    def predict(
        self,
        what: Given | Paths,
        /,
        *,
        spacing: Sequence[float] | None = None,
        affine: NDArray[Any] | None = None,
        threshold: float | None = None,
    ) -> ClassResult | list[ClassResult]:
        """Classify a volume, or the volumes of several paths; see `VolumeModel.predict` for what they may be.

        Args:
            what: A volume, or a list of paths.
            spacing: Of an array.
            affine: Of an array.
            threshold: A volume is positive where its score is at least this; the model's own without it.

        Raises:
            ConfigError: As `VolumeModel.predict`, or the threshold is no number from 0 to 1.
            DataError: As `VolumeModel.predict`.
        """
        cut = threshold_of(self.threshold, threshold)
        plan = cast(VolumeScorer, self.predictor.members[0][0]).plan
        scans, one = _scans(what, spacing, affine, plan)
        warnings = [_warnings(scan, plan, self._range) for scan in scans]
        scores = member_scores(self.predictor, {scan.id: scan for scan in scans})
        names = ["" if isinstance(scan, HeldScan) else scan.id for scan in scans]
        results = self._classified(names, scores, cut, warnings)
        return results[0] if one else results


def hold_scan(
    array: NDArray[Any], channels: int, spacing: Sequence[float] | None, affine: NDArray[Any] | None
) -> HeldScan:
    """Take an array as a scan; it is copied, so that nothing is written into it.

    Args:
        array: (X, Y, Z) or (channels, X, Y, Z).
        channels: That are expected.
        spacing: mm along the three axes, which point right, front and up.
        affine: 4 x 4, instead of the spacing.

    Raises:
        ConfigError: Not one of spacing and affine.
        DataError: The array has other axes, no real numbers, or values that are not finite as float32; or the spacing
            or affine makes no sense.
    """
    if (spacing is None) == (affine is None):
        raise ConfigError(
            "An array does not say where its voxels are: give spacing=(x, y, z) in mm for axes that point to the "
            "patient's right, front and head, or affine= with a matrix 4 x 4; one of the two."
        )
    parts = array[np.newaxis] if array.ndim == 3 else array
    if parts.ndim != 4 or len(parts) != channels or array.dtype.kind not in "biuf":
        expected = "(X, Y, Z)" if channels == 1 else f"({channels}, X, Y, Z)"
        raise DataError(f"The array is {array.dtype} {array.shape}; expected real numbers of shape {expected}.")
    if affine is None:
        steps = np.asarray(spacing, np.float64)
        if steps.shape != (3,) or not ((steps > 0) & np.isfinite(steps)).all():
            raise DataError(f"spacing={spacing}: expected three numbers above 0, mm along the axes of the array.")
        affine = np.diag([*steps, 1.0])
    shape = (int(parts.shape[1]), int(parts.shape[2]), int(parts.shape[3]))
    geometry = Geometry(shape, np.asarray(affine, np.float64), placed=spacing is None)
    volumes = []
    for number, part in enumerate(parts):
        with np.errstate(over="ignore"):
            # In the order of files, so that sums over it round in the same way.
            held = np.array(part, np.float32, order="F")
        wrong = held.size - np.count_nonzero(np.isfinite(held))
        if wrong:
            raise DataError(
                f"Channel {number} of the array holds {wrong:,} voxels that are NaN or infinite as float32; expected "
                "finite values. Nothing is replaced here."
            )
        held.flags.writeable = False
        volumes.append(Volume(held, geometry, Path(_ARRAY), array.dtype.name))
    return HeldScan(_ARRAY, tuple(volumes))


def _scans(
    what: Given | Paths,
    spacing: Sequence[float] | None,
    affine: NDArray[Any] | None,
    plan: VolumePlan,
) -> tuple[Sequence[Case | HeldScan], bool]:
    """What is to be predicted, and whether it is one volume."""
    channels = len(plan.intensity)
    if isinstance(what, np.ndarray):
        return [hold_scan(what, channels, spacing, affine)], True
    if spacing is not None or affine is not None:
        raise ConfigError("spacing and affine are for arrays; a file says itself where its voxels are. Leave them out.")
    one = isinstance(what, (str, Path))
    cases, problems = complete_volumes(paths_of(what), channels)
    if quarantine(problems):
        errors = "".join(f"\n  {problem}" for problem in problems if problem.severity == "error")
        raise DataError(f"Volumes cannot be used:{errors}")
    for problem in problems:
        warn(str(problem), stacklevel=3)  # of the caller of `predict`
    if one and len(cases) != 1:
        raise DataError(f"{what} holds {len(cases)} volumes; expected one. Give a list, [path], for all of them.")
    return cases, one


def _warnings(scan: Case | HeldScan, plan: VolumePlan, trained_on: TrainingRange | None) -> tuple[str, ...]:
    return tuple(str(problem) for problem in check_image(scan, plan, trained_on))


def _result(scan: Case | HeldScan, found: LabelMap, warnings: tuple[str, ...]) -> VolumeResult:
    return VolumeResult(
        "" if isinstance(scan, HeldScan) else scan.id,
        found.array,
        dict(found.labels),
        dict(found.made_of),
        found.geometry.affine,
        {found.labels[value]: amount for value, amount in found.volumes_ml.items()},
        {found.labels[value]: share for value, share in found.confidence.items()},
        found.probabilities,
        warnings,
    )
