"""How several outputs of one network make one loss: the only place that decides it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_INTERPOLATION = {1: "linear", 2: "bilinear", 3: "trilinear"}


def supervised_loss(
    loss: nn.Module,
    outputs: Tensor | Sequence[Tensor],
    target: Tensor,
    *,
    judged_at: Literal["target", "output"] = "target",
) -> Tensor:
    """Return `loss(outputs, target)`; of several maps each weighs half as much as the one before, as in nnU-Net.

    A network in training mode may return `(main, auxiliary, ...)`. Where an auxiliary map has another resolution than
    the truth, either the map is resized (linearly, corners not aligned), so that it is judged against the full-size
    truth, or the truth is resized to the map (the value at the center of each coarse voxel), as in nnU-Net: a volume of
    logits is eight times as large at twice the resolution.

    Args:
        loss: Called with logits and target of one size.
        outputs: (B, K, *S) logits, or a sequence of logits (B, K, *any).
        target: (B, 1, *S).
        judged_at: Whose resolution an auxiliary map is judged at.
    """
    maps = [outputs] if isinstance(outputs, Tensor) else outputs
    total: Tensor = loss(maps[0], target)
    for level, auxiliary in enumerate(maps[1:], start=1):
        if judged_at == "target":
            value = loss(_resize_as(auxiliary, target), target)
        else:
            value = loss(auxiliary, sample_nearest(target, auxiliary.shape[2:]))
        total = total + 0.5**level * value
    return total


def sample_nearest(target: Tensor, size: Sequence[int]) -> Tensor:
    """Pick from (B, C, *S) the value at the center of each voxel of a grid of `size` over the same box; any type."""
    for axis, length in enumerate(size, start=2):
        before = target.shape[axis]
        if length != before:
            center = (2 * torch.arange(length, device=target.device) + 1) * before // (2 * length)
            target = target.index_select(axis, center)
    return target


def _resize_as(logits: Tensor, target: Tensor) -> Tensor:
    if logits.shape[2:] == target.shape[2:]:
        return logits
    mode = _INTERPOLATION[target.ndim - 2]
    return F.interpolate(logits, size=target.shape[2:], mode=mode, align_corners=False)
