"""How large a patch and how many of them fit in memory, and the strides and kernels of a network for such a patch.

As in nnU-Net (Isensee et al., Nature Methods 2021) an axis is halved only where its voxels are not much coarser than
those of the finest axis and enough of them are left, and kernels do not extend along an axis whose voxels are still
much coarser. Here the number of stages is fixed: a stem and three downsamplings, as the shared backbone has them.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np

from medformer.config import VolumePlanConfig
from medformer.errors import ConfigError
from medformer.imaging.geometry import Axes, times

STAGES = 4
"""Stages of the network: one after the stem and one after each downsampling."""

MIN_FEATURES = 4
"""Positions that an axis keeps at the coarsest stage."""

STEM_FROM = 32
"""The stem halves an axis with at least this many voxels; a shorter one keeps its resolution."""

WHOLE_STEM_FROM, WHOLE_MIN_FEATURES = 16, 2
"""The same for whole volumes that are classified: no border has to be drawn there, and half the resolution takes an
eighth of the time."""

COARSE = 2.0
"""An axis whose voxels are at most this many times as long as those of the finest axis is halved together with it, and
kernels extend along it."""


class Topology(NamedTuple):
    """How a network goes from fine to coarse.

    Attributes:
        strides: Of the stem and of each downsampling, per axis.
        kernel_sizes: Of each stage, per axis.
    """

    strides: tuple[Axes, ...]
    kernel_sizes: tuple[Axes, ...]

    @property
    def divisor(self) -> Axes:
        """Product of the strides: what a patch is a multiple of."""
        x, y, z = (math.prod(step[axis] for step in self.strides) for axis in range(3))
        return x, y, z


def topology(patch: Sequence[int], spacing: Sequence[float], *, whole: bool = False) -> Topology:
    """Decide strides and kernels.

    Args:
        patch: Voxels per axis, not necessarily a multiple of anything yet.
        spacing: Voxel size per axis, mm.
        whole: The patch is a volume to be classified.
    """
    stem_from, features = (WHOLE_STEM_FROM, WHOLE_MIN_FEATURES) if whole else (STEM_FROM, MIN_FEATURES)
    size, voxel = [float(n) for n in patch], [float(mm) for mm in spacing]
    extends = [False, False, False]
    strides, kernels = [], []
    for stage in range(STAGES):
        least = stem_from if stage == 0 else 2 * features
        # An axis that has run out of positions keeps its spacing; it must not hold back the others.
        finest = min((mm for mm, n in zip(voxel, size, strict=True) if n >= least), default=0.0)
        step = [2 if n >= least and mm <= COARSE * finest else 1 for mm, n in zip(voxel, size, strict=True)]
        size = [n / s for n, s in zip(size, step, strict=True)]
        voxel = [mm * s for mm, s in zip(voxel, step, strict=True)]
        extends = [seen or mm <= COARSE * min(voxel) for seen, mm in zip(extends, voxel, strict=True)]
        strides.append(step)
        kernels.append([3 if seen and n > 1 else 1 for seen, n in zip(extends, size, strict=True)])
    return Topology(_axes(strides), _axes(kernels))


def fitted(patch: Sequence[int], spacing: Sequence[float]) -> tuple[Axes, Topology]:
    """Round a patch up to what its own strides divide, so that no voxel is padding inside of the network.

    Returns:
        The patch, and its topology.
    """
    layout = topology(patch, spacing)
    x, y, z = (-(-int(n) // step) * step for n, step in zip(patch, layout.divisor, strict=True))
    return (x, y, z), layout


def _axes(steps: Sequence[Sequence[int]]) -> tuple[Axes, ...]:
    return tuple((x, y, z) for x, y, z in steps)


Target = Literal["segmentation", "classification"]

Cost = Callable[[Axes, tuple[Axes, ...], tuple[Axes, ...], int], int]
"""Peak bytes of training on (patch, strides, kernel sizes, batch size)."""

MAX_PATCH = 128**3
"""Voxels of the largest patch that is planned, before rounding up to what the strides divide."""

MIN_PATCH = 16
"""No axis of a patch is made shorter than this, voxels."""

BATCH_SHARE = 0.05
"""Share of all training voxels that one step may see; a pair of patches is always allowed."""

MAX_IMAGES = 16
"""Whole volumes per step of classification, at most."""


def candidate_patches(shape: Sequence[float], spacing: Sequence[float]) -> Iterator[tuple[Axes, Topology]]:
    """Patches from the largest to the smallest: each loses one step where it covers most of the median shape."""
    patch, layout = fitted(_largest_box(shape, spacing), spacing)
    while True:
        yield patch, layout
        axes = [axis for axis in range(3) if patch[axis] - layout.divisor[axis] >= MIN_PATCH]
        if not axes:
            return
        axis = max(axes, key=lambda one: patch[one] / shape[one])
        smaller = list(patch)
        smaller[axis] -= layout.divisor[axis]
        below = fitted(smaller, spacing)
        # With larger strides the smaller patch may be rounded up; it must not reach the size that it came from.
        shrinks = below[0] != patch and all(n <= m for n, m in zip(below[0], patch, strict=True))
        patch, layout = below if shrinks else ((smaller[0], smaller[1], smaller[2]), layout)


def largest_patch(
    shape: np.ndarray,
    spacing: Sequence[float],
    settings: VolumePlanConfig,
    cost: Cost | None,
    notes: list[str] | None = None,
    savings: Sequence[str] = (),
) -> tuple[Axes, Topology]:
    """The first candidate that fits, by bisection; `savings` says what else takes less memory.

    Raises:
        ConfigError: Not even the smallest fits.
    """
    candidates = list(candidate_patches([float(n) for n in shape], spacing))
    batch, budget = settings.batch_size or 2, settings.memory * 1e9
    if settings.voxels is not None:
        quick = [one for one in candidates if batch * math.prod(one[0]) <= settings.voxels] or candidates[-1:]
        if quick[0] != candidates[0] and notes is not None:
            notes.append(
                f"the patch starts from {times(quick[0][0])} voxels instead of {times(candidates[0][0])}: a step may "
                f"have {settings.voxels} voxels (plan.voxels), so that enough steps fit into the time"
            )
        candidates = quick
    if cost is None:
        return candidates[0]

    def needed(candidate: tuple[Axes, Topology]) -> int:
        patch, (strides, kernel_sizes) = candidate
        return cost(patch, strides, kernel_sizes, batch)

    if (least := needed(candidates[-1])) > budget:
        ways = ["raise it (--memory)", *(["lower plan.batch_size"] if batch > 2 else []), *savings]
        raise ConfigError(
            f"Training needs at least {least / 1e9:.2f} GB (patch {times(candidates[-1][0])}, batch size {batch}); "
            f"plan.memory allows {settings.memory:g} GB. To change that, {', '.join(ways)}, or choose a smaller model "
            "(model.name)."
        )
    return candidates[bisect_left(candidates, True, hi=len(candidates) - 1, key=lambda one: needed(one) <= budget)]


def given_patch(
    settings: VolumePlanConfig,
    spacing: Sequence[float],
    cost: Cost | None,
    *,
    whole: bool = False,
) -> tuple[Axes, Topology]:
    """The patch of the settings, unchanged, if it fits.

    Raises:
        ConfigError: It does not.
    """
    assert settings.patch is not None
    patch, layout = settings.patch, topology(settings.patch, spacing, whole=whole)
    batch = settings.batch_size or 2
    if cost is not None and (needed := cost(patch, *layout, batch)) > settings.memory * 1e9:
        raise ConfigError(
            f"plan.patch={list(patch)} with batch size {batch} needs {needed / 1e9:.2f} GB; plan.memory allows "
            f"{settings.memory:g} GB. Raise it (--memory), give a smaller patch or none"
            f"{', lower plan.batch_size' if batch > 2 else ''}, or choose a smaller model (model.name)."
        )
    return patch, layout


def fitting_batch(
    patch: Axes,
    layout: Topology,
    shapes: np.ndarray,
    settings: VolumePlanConfig,
    cost: Cost | None,
    target: Target,
    notes: list[str],
) -> int:
    """As many as memory allows, up to a share of the training part, but at least 2; notes say where memory is left."""
    if target == "classification":
        most = max(2, min(MAX_IMAGES, int(BATCH_SHARE * len(shapes))))
    else:
        most = max(2, int(BATCH_SHARE * float(shapes.prod(axis=1, dtype=np.float64).sum()) / np.prod(patch)))
    if settings.voxels is not None:
        most = max(2, min(most, settings.voxels // math.prod(patch)))
    if cost is None:
        return most
    budget = settings.memory * 1e9
    found = 2 + bisect_left(range(3, most + 1), True, key=lambda n: cost(patch, *layout, n) > budget)
    if target == "segmentation" and settings.voxels is None and cost(patch, *layout, found + 1) <= budget:
        notes.append(
            f"memory is left: a step sees {found} patches, which is two or at most {BATCH_SHARE:.0%} of all training "
            "voxels (plan.batch_size gives another number)"
        )
    return found


def _largest_box(shape: Sequence[float], spacing: Sequence[float]) -> list[int]:
    """Voxels of the box with equal sides in mm, clipped to the shape, that holds `MAX_PATCH` voxels or all of it."""
    box, left = [1, 1, 1], float(MAX_PATCH)
    order = sorted(range(3), key=lambda axis: shape[axis] * spacing[axis])
    for place, axis in enumerate(order):
        rest = order[place:]
        side = (left * np.prod([spacing[one] for one in rest])) ** (1 / len(rest))
        # The shortest extents come first; what they leave unused goes to the longer ones.
        box[axis] = max(1, min(int(shape[axis]), round(side / spacing[axis])))
        left /= box[axis]
    return box
