"""From the facts of training cases to a plan: nnU-Net's rules, and where this differs from them.

Followed (Isensee et al., nnU-Net, Nature Methods 2021, supplementary note 2): the median spacing, with its 10th
percentile along a much coarser axis; clipping of CT by percentiles of the labeled voxels; a patch that starts from the
median shape and loses voxels where it covers most of it, until training fits in memory; at least two patches a step.

Different: the network has four stages whatever the patch (see `topology`); memory is what a model of this network says
for each candidate, not a table of reference networks; a patch starts from at most `MAX_PATCH` voxels, as larger ones
cost time that more steps use better; every case has the same weight in the percentiles.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import numpy as np

from medformer.config import VolumePlanConfig
from medformer.data.volumes.inspect.facts import CaseFacts
from medformer.data.volumes.plan.patch_size import (
    Cost,
    Target,
    Topology,
    fitting_batch,
    given_patch,
    largest_patch,
    topology,
)
from medformer.data.volumes.plan.volume_plan import Intensity, VolumePlan
from medformer.data.volumes.read.dataset_file import DatasetInfo
from medformer.errors import ConfigError, DataError
from medformer.imaging.geometry import Axes, times

Spacing = tuple[float, float, float]

FEWEST_VOXELS = 4
"""What a given spacing must leave of an axis of the median case."""

MOST_VOXELS = 2**31
"""What a given spacing may make of the median case: 8.6 GB in single precision."""

ANISOTROPIC = 3.0
"""An axis that is this many times coarser than the others, with as many times fewer voxels, gets the 10th percentile of
its spacings instead of the median."""

AIR = -900.0
"""An image whose minimum is not above this counts as CT: air is about -1000 HU, and MRI is seldom that negative."""

_COARSER = 1.1


def plan_volumes(
    facts: Sequence[CaseFacts],
    *,
    settings: VolumePlanConfig,
    info: DatasetInfo,
    cost: Cost | None,
    target: Target = "segmentation",
    savings: Sequence[str] = (),
) -> VolumePlan:
    """Decide how volumes are presented to a network.

    Args:
        facts: Of the training cases, and of no others, seen in `settings.orientation`.
        settings: What is given instead of planned, and the memory.
        info: Names of labels and channels.
        cost: Memory that training needs; None plans without a limit and leaves `memory_bytes` at 0.
        target: For classification the patch is the whole (median) volume.
        savings: What else takes less memory, such as `set model.checkpointing=true`, for the error where it lacks.

    Raises:
        DataError: There are no cases, or they differ in their number of channels.
        ConfigError: Not even the smallest patch fits in memory, or a given one does not.
    """
    _require_cases(facts)
    notes: list[str] = []
    spacing = settings.spacing or target_spacing(facts, notes)
    shapes = shapes_at(facts, spacing)
    if settings.spacing is not None:
        _require_voxels(facts, spacing, shapes)
    if target == "classification":
        spacing, shapes, patch, layout = _whole_image(facts, spacing, shapes, settings, cost, notes)
    elif settings.patch is not None:
        patch, layout = given_patch(settings, spacing, cost)
    else:
        patch, layout = largest_patch(np.median(shapes, axis=0), spacing, settings, cost, notes, savings)
    if small := int((shapes < np.array(patch)).any(axis=1).sum()):
        notes.append(f"{small} of {len(facts)} training cases are smaller than the patch on some axis and are padded")
    batch_size = settings.batch_size or fitting_batch(patch, layout, shapes, settings, cost, target, notes)
    return VolumePlan(
        spacing=spacing,
        intensity=tuple(
            intensity(facts, channel, name, settings.intensity) for channel, name in enumerate(_channels(facts, info))
        ),
        labels=info.labels if target == "segmentation" else (),
        regions=info.regions if target == "segmentation" else (),
        patch=patch,
        strides=layout.strides,
        kernel_sizes=layout.kernel_sizes,
        batch_size=batch_size,
        orientation=settings.orientation,
        memory_bytes=0 if cost is None else cost(patch, *layout, batch_size),
        notes=tuple(notes),
    )


def _require_voxels(facts: Sequence[CaseFacts], spacing: Spacing, shapes: np.ndarray) -> None:
    """Refuse a given spacing that leaves next to nothing of the cases, or makes more of them than memory holds.

    Raises:
        ConfigError: Fewer than `FEWEST_VOXELS` along an axis of the median case, which has more; or more than
            `MOST_VOXELS` in all, which it has not.
    """
    now, then = np.median([case.shape for case in facts], axis=0), np.median(shapes, axis=0)
    given, usual = (times(f"{mm:g}" for mm in some) for some in (spacing, target_spacing(facts)))
    after, had = (times(f"{count:g}" for count in some) for some in (then, now))
    if ((then < FEWEST_VOXELS) & (now >= FEWEST_VOXELS)).any():
        fault = f"leave {after} of the median case's {had}; expected at least {FEWEST_VOXELS} along each axis"
    elif then.prod() > MOST_VOXELS >= now.prod():
        fault = f"make {after} of the median case's {had}, which takes {4 * then.prod() / 1e9:.0f} GB"
    else:
        return
    raise ConfigError(
        f"plan.spacing: voxels of {given} mm {fault}. The cases' own are about {usual} mm: give such a spacing, or "
        "none."
    )


def target_spacing(facts: Sequence[CaseFacts], notes: list[str] | None = None) -> Spacing:
    """Median spacing per axis, mm; along a much coarser axis the 10th percentile, but never finer than the others."""
    spacings = np.array([case.spacing for case in facts])
    shapes = np.array([case.shape for case in facts])
    spacing, shape = np.median(spacings, axis=0), np.median(shapes, axis=0)
    worst = int(spacing.argmax())
    others = [axis for axis in range(3) if axis != worst]
    if spacing[worst] > ANISOTROPIC * spacing[others].max() and shape[worst] * ANISOTROPIC < shape[others].min():
        spacing[worst] = max(float(np.percentile(spacings[:, worst], 10)), float(spacing[others].max()))
        if notes is not None:
            notes.append(
                f"axis {worst + 1} is much coarser than the others; the 10th percentile of its spacings is used"
            )
    # Headers hold float32: without the rounding 0.78 mm would be 0.7799999713 mm.
    a, b, c = (float(f"{mm:.6g}") for mm in spacing)
    return a, b, c


def shapes_at(facts: Sequence[CaseFacts], spacing: Sequence[float]) -> np.ndarray:
    """Voxels per case and axis after resampling to a spacing, int64 (cases, 3)."""
    extents = np.array([case.shape for case in facts]) * np.array([case.spacing for case in facts])
    return np.maximum(1, np.rint(extents / np.array(spacing))).astype(np.int64)


def intensity(
    facts: Sequence[CaseFacts], channel: int, name: str, scheme: Literal["auto", "zscore", "ct"]
) -> Intensity:
    """How the values of one channel are made comparable; CT by the pooled quantiles of the training cases' foreground.

    Raises:
        ConfigError: CT was asked for, and no training case has a foreground.
    """
    columns = [case.channels[channel] for case in facts]
    if scheme == "auto":
        airy = sum(column.minimum <= AIR for column in columns) > len(columns) / 2
        scheme = "ct" if airy or re.search(r"(?i)(?<![a-z])ct(?![a-z])", name) else "zscore"
    if scheme == "zscore":
        return Intensity("zscore")
    filled = [column for column in columns if column.foreground]
    if not filled:
        raise ConfigError(
            f"Channel '{name}' is to be clipped as CT, but no training case has foreground voxels to take the limits "
            "from. Set plan.intensity=zscore, or correct the labels."
        )
    low, high = np.percentile([column.foreground for column in filled], [0.5, 99.5])
    means = np.array([column.foreground_mean for column in filled])
    variances = np.array([column.foreground_std for column in filled]) ** 2
    std = float(np.sqrt(variances.mean() + means.var()))
    return Intensity("ct", float(low), float(high), float(means.mean()), std or 1.0)


def _whole_image(
    facts: Sequence[CaseFacts],
    spacing: Spacing,
    shapes: np.ndarray,
    settings: VolumePlanConfig,
    cost: Cost | None,
    notes: list[str],
) -> tuple[Spacing, np.ndarray, Axes, Topology]:
    """The median shape; where it takes too much memory, at a coarser spacing: a crop could miss the finding."""
    if settings.patch is not None:
        return spacing, shapes, *given_patch(settings, spacing, cost, whole=True)
    original = spacing
    while True:
        x, y, z = (max(1, round(n)) for n in np.median(shapes, axis=0))
        patch, layout = (x, y, z), topology((x, y, z), spacing, whole=True)
        needed = 0 if cost is None else cost(patch, *layout, settings.batch_size or 2)
        if needed <= settings.memory * 1e9:
            break
        if settings.spacing is not None or max(patch) <= 8:
            raise ConfigError(
                f"Training on whole volumes of {times(patch)} voxels needs {needed / 1e9:.2f} GB; plan.memory allows "
                f"{settings.memory:g} GB. Raise it (--memory), or give a coarser plan.spacing or a plan.patch."
            )
        a, b, c = (float(f"{mm * _COARSER:.6g}") for mm in spacing)
        spacing = (a, b, c)
        shapes = shapes_at(facts, spacing)
    if spacing != original:
        notes.append(
            f"the spacing was made {spacing[0] / original[0]:.2f}x coarser so that whole volumes fit in memory"
        )
    return spacing, shapes, patch, layout


def _require_cases(facts: Sequence[CaseFacts]) -> None:
    if not facts:
        raise DataError("There are no training cases to plan from; expected at least one.")
    for first, second in pairwise(facts):
        if len(first.channels) != len(second.channels):
            raise DataError(
                f"Case '{second.id}' has {len(second.channels)} channels, case '{first.id}' has {len(first.channels)}; "
                "expected the same number in all cases. Add the missing image, or leave the case out."
            )


def _channels(facts: Sequence[CaseFacts], info: DatasetInfo) -> list[str]:
    """One name for each channel of the cases, empty where the data set has no name for it."""
    count = len(facts[0].channels)
    return [*info.channels, *[""] * count][:count]
