"""Strides and kernels of a network, decided from the size of its patches and their voxel spacing.

As in nnU-Net (Isensee et al., Nature Methods 2021) an axis is halved only where its voxels are not much coarser than
those of the finest axis and enough of them are left, and kernels do not extend along an axis whose voxels are still
much coarser. Here the number of stages is fixed: a stem and three downsamplings, as the shared backbone has them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from medformer.data.volumes.plan.volume_plan import Axes

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
