"""How large a patch and how many of them fit in memory."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np

from medformer.config import VolumePlanConfig
from medformer.data.volumes.plan.topology import Topology, fitted, topology
from medformer.data.volumes.plan.volume_plan import Axes
from medformer.errors import ConfigError
from medformer.imaging.geometry import times

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
    shape: np.ndarray, spacing: Sequence[float], settings: VolumePlanConfig, cost: Cost | None
) -> tuple[Axes, Topology]:
    """The first candidate that fits, by bisection.

    Raises:
        ConfigError: Not even the smallest fits.
    """
    candidates = list(candidate_patches([float(n) for n in shape], spacing))
    if cost is None:
        return candidates[0]
    batch, budget = settings.batch_size or 2, settings.memory * 1e9

    def needed(candidate: tuple[Axes, Topology]) -> int:
        patch, (strides, kernel_sizes) = candidate
        return cost(patch, strides, kernel_sizes, batch)

    if (least := needed(candidates[-1])) > budget:
        raise ConfigError(
            f"Training needs at least {least / 1e9:.2f} GB (patch {times(candidates[-1][0])}, batch size {batch}); "
            f"plan.memory allows {settings.memory:g} GB. Raise it (--memory), set model.checkpointing=true, or choose "
            "a smaller model."
        )
    return candidates[bisect_left(candidates, True, hi=len(candidates) - 1, key=lambda one: needed(one) <= budget)]


def given_patch(
    settings: VolumePlanConfig,
    spacing: Sequence[float],
    cost: Cost | None,
    notes: list[str],
    *,
    whole: bool = False,
) -> tuple[Axes, Topology]:
    """The patch of the settings, unchanged, if it fits.

    Raises:
        ConfigError: It does not.
    """
    assert settings.patch is not None
    patch, layout = settings.patch, topology(settings.patch, spacing, whole=whole)
    if not whole and any(n % step for n, step in zip(patch, layout.divisor, strict=True)):
        notes.append(f"the given patch is no multiple of {times(layout.divisor)}; the network pads it")
    batch = settings.batch_size or 2
    if cost is not None and (needed := cost(patch, *layout, batch)) > settings.memory * 1e9:
        raise ConfigError(
            f"plan.patch={list(patch)} with batch size {batch} needs {needed / 1e9:.2f} GB; plan.memory allows "
            f"{settings.memory:g} GB. Raise it (--memory), give a smaller patch, or leave the patch to the plan."
        )
    return patch, layout


def fitting_batch(
    patch: Axes,
    layout: Topology,
    shapes: np.ndarray,
    settings: VolumePlanConfig,
    cost: Cost | None,
    target: Target,
) -> int:
    """As many as memory allows, up to a share of the training part, but at least 2."""
    if target == "classification":
        most = max(2, min(MAX_IMAGES, int(BATCH_SHARE * len(shapes))))
    else:
        most = max(2, int(BATCH_SHARE * float(shapes.prod(axis=1, dtype=np.float64).sum()) / np.prod(patch)))
    if cost is None:
        return most
    return 2 + bisect_left(range(3, most + 1), True, key=lambda n: cost(patch, *layout, n) > settings.memory * 1e9)


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
