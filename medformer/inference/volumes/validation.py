"""The number that chooses the weights of a network for volumes and stops its training: mean Dice on validation cases.

ValidationVolumeDice(cases, plan, batch_size=2, windows=16)    measure "dice"
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from medformer.data.volumes.plan.volume_plan import VolumePlan
from medformer.data.volumes.prepare.deformation import centered_start, cut
from medformer.data.volumes.prepare.prepare_case import PreparedCase
from medformer.imaging.geometry import Axes
from medformer.inference.volumes.windows import window_starts


class ValidationVolumeDice:
    """Mean Dice over labels and cases on the plan's grid; a label that is absent and not predicted counts 1.

    Cheap enough for every epoch: windows lie side by side, without overlap (but for the last one along an axis, which
    ends with the volume; what two windows see counts twice) and without flips, and at most `windows` of a case are
    looked at. Of a larger case three quarters of these have labels, where it has so many, evenly chosen along the
    volume, so that false positives far away count as well. Reported numbers are computed elsewhere, on the grid of the
    files and from all windows.

    Args:
        cases: Of the inner validation part, with labels. Looked at in order, as often as needed.
        plan: Of this training.
        batch_size: Windows per pass.
        windows: Most windows per case.
    """

    measure = "dice"

    def __init__(
        self, cases: Collection[PreparedCase], plan: VolumePlan, batch_size: int = 2, *, windows: int = 16
    ) -> None:
        self.cases = cases
        self.patch = plan.patch
        self.count = plan.classes
        self.batch_size = batch_size
        self.windows = windows

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> float:
        """Return the mean Dice of a model in evaluation mode."""
        return float(np.mean([self._case(model, case) for case in self.cases]))

    def _case(self, model: nn.Module, case: PreparedCase) -> NDArray[np.float64]:
        """Dice of each label, (labels,)."""
        device = next(model.parameters()).device
        size = case.shape
        pairs = np.zeros(self.count**2, np.int64)
        chosen = self._chosen(case)
        for first in range(0, len(chosen), self.batch_size):
            starts = chosen[first : first + self.batch_size]
            images = np.stack([cut(case.image, start, self.patch, case.lowest) for start in starts])
            predicted = model(torch.from_numpy(images).to(device)).argmax(1).cpu().numpy()
            for start, found in zip(starts, predicted, strict=True):
                places = [_overlap(*axis) for axis in zip(start, self.patch, size, strict=True)]
                truth = _classes(case)[tuple(there for there, _ in places)].astype(np.int64)
                inside = found[tuple(here for _, here in places)]
                pairs += np.bincount((truth * self.count + inside).ravel(), minlength=len(pairs))
        table = pairs.reshape(self.count, self.count)
        both, total = np.diagonal(table)[1:], (table.sum(0) + table.sum(1))[1:]
        return np.where(total > 0, 2 * both / np.maximum(total, 1), 1.0)

    def _chosen(self, case: PreparedCase) -> Sequence[Axes]:
        """First voxels of the windows to look at."""
        starts = list(_tiles(case.shape, self.patch))
        if len(starts) <= self.windows:
            return starts
        classes = _classes(case)
        labeled = [bool(classes[tuple(map(_within, start, self.patch))].any()) for start in starts]
        full = [start for start, some in zip(starts, labeled, strict=True) if some]
        empty = [start for start, some in zip(starts, labeled, strict=True) if not some]
        wanted = min(len(full), max(self.windows - self.windows // 4, self.windows - len(empty)))
        return [*_evenly(full, wanted), *_evenly(empty, self.windows - wanted)]


def _tiles(size: Axes, patch: Axes) -> Iterator[Axes]:
    """Windows side by side; along an axis where the volume is smaller, one with the volume in its middle."""
    centered = centered_start(size, patch)
    axes = [
        (middle,) if side >= length else window_starts(length, side, 0.0)
        for middle, length, side in zip(centered, size, patch, strict=True)
    ]
    yield from product(*axes)


def _overlap(start: int, side: int, length: int) -> tuple[slice, slice]:
    """Where a window and a volume meet along an axis: in the volume, and in the window."""
    low, high = max(0, start), min(length, start + side)
    return slice(low, high), slice(low - start, high - start)


def _within(start: int, side: int) -> slice:
    return slice(max(0, start), start + side)


def _evenly(items: Sequence[Axes], count: int) -> list[Axes]:
    return [items[(2 * number + 1) * len(items) // (2 * count)] for number in range(count)]


def _classes(case: PreparedCase) -> NDArray[Any]:
    assert case.classes is not None, "a validation case has its labels"
    return case.classes
