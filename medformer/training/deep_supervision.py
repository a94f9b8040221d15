"""How several outputs of one network make one loss: the only place that decides it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

_INTERPOLATION = {1: "linear", 2: "bilinear", 3: "trilinear"}


def supervised_loss(loss: nn.Module, outputs: Tensor | Sequence[Tensor], target: Tensor) -> Tensor:
    """Return `loss(outputs, target)`; of several maps each weighs half as much as the one before, as in nnU-Net.

    A network in training mode may return `(main, auxiliary, ...)`. Auxiliary maps of another resolution are first
    resized (linearly, corners not aligned) to the target's, so that every map is judged against the full-size truth.

    Args:
        loss: Called with logits and target of one shape.
        outputs: (B, 1, *S) logits, or a sequence of logits (B, 1, *any).
        target: (B, 1, *S).
    """
    maps = [outputs] if isinstance(outputs, Tensor) else outputs
    total: Tensor = loss(maps[0], target)
    for level, auxiliary in enumerate(maps[1:], start=1):
        total = total + 0.5**level * loss(_resize_as(auxiliary, target), target)
    return total


def _resize_as(logits: Tensor, target: Tensor) -> Tensor:
    if logits.shape[2:] == target.shape[2:]:
        return logits
    mode = _INTERPOLATION[target.ndim - 2]
    return F.interpolate(logits, size=target.shape[2:], mode=mode, align_corners=False)
