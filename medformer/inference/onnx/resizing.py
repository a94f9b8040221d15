"""Resizing as matrix products, so that a graph does for every input size what `resize_image` and `Segmenter` do.

Weights are computed from whole numbers: every border between two positions is one, in units of a share of a position.
"""

from __future__ import annotations

import torch
from torch import Tensor

_ONE = 2048
"""What weights of `growing` add up to."""


def shrinking(old: int, new: int) -> Tensor:
    """Weights (new, old) of an average by area, as OpenCV's `INTER_AREA`; the identity where an axis does not shrink.

    Where `old` is smaller than `new`, the rows beyond `old` are zero.
    """
    length = _number(old)
    source, target = torch.arange(old)[None], torch.arange(new)[:, None]
    # One old position has `new` units and one new position `old` units.
    end = torch.minimum((source + 1) * new, (target + 1) * length)
    overlap = (end - torch.maximum(source * new, target * length)).clamp(min=0)
    return torch.where(length >= new, overlap.float() / length.float(), (source == target).float())


def growing(old: int, new: int) -> tuple[Tensor, Tensor, Tensor]:
    """Where linear interpolation to `new` positions looks: the nearer and the farther of two, and the farther's weight.

    The center of new position j is at (j + 1/2) old / new - 1/2, and the edge is repeated. Weights are whole numbers of
    1 / 2048, as in OpenCV's `INTER_LINEAR` of uint8. Where `old` is not smaller than `new`, every position is itself.

    Returns:
        int64 (new,) first, int64 (new,) second, and int32 (new,) weight of the second.
    """
    length = _number(old)
    length = torch.minimum(length, torch.full_like(length, new))
    target = torch.arange(new)
    center = ((2 * target + 1) * length - new).clamp(min=0).float() / (2 * new)
    first = torch.minimum(center.floor().long(), length - 1)
    share = torch.where(first < length - 1, center - first.float(), torch.zeros_like(center))
    return first, torch.minimum(first + 1, length - 1), (share * _ONE).round().int()


def back(old: int, new: int) -> Tensor:
    """Weights (new, old) of linear interpolation, widened where an axis shrinks (torch's `antialias=True`)."""
    length = _number(new)
    source, target = torch.arange(old)[None], torch.arange(new)[:, None]
    # In units of 1 / (2 new) of an old position.
    away = ((2 * target + 1) * old - length - 2 * length * source).abs()
    reach = 2 * torch.maximum(length, torch.full_like(length, old))
    near = (reach - away).clamp(min=0).float()
    return near / near.sum(1, keepdim=True)


def to_network(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize uint8 (B, H, W, 3) to float32 (B, 3, *size) with whole values, as `resize_image`."""
    rows, columns = size
    height, width = images.shape[1:3]
    lines = shrinking(height, rows) @ images.flatten(2).float()
    small = lines.unflatten(2, (width, 3)).movedim(-1, 1) @ shrinking(width, columns).T
    # OpenCV rounds a half to the even number, but up where it averages two by two.
    halved = (_number(height) == 2 * rows) & (_number(width) == 2 * columns)
    whole = torch.where(halved, (small + 0.5).floor(), small.round()).int()
    first, second, weight = growing(width, columns)
    wide = whole[..., first] * (_ONE - weight) + whole[..., second] * weight
    first, second, weight = growing(height, rows)
    # OpenCV drops these bits before it adds, so that its numbers fit into 32 of them.
    upper = wide[:, :, first] // 16 * (_ONE - weight)[:, None] // 65536
    lower = wide[:, :, second] // 16 * weight[:, None] // 65536
    return ((upper + lower + 2) // 4).float()


def from_network(maps: Tensor, height: int, width: int) -> Tensor:
    """Resize probabilities (B, rows, columns) to (B, height, width), as `Segmenter`."""
    lines = maps @ back(maps.shape[2], width).T
    return (back(maps.shape[1], height) @ lines).clamp(0.0, 1.0)


def _number(size: int) -> Tensor:
    """A length as a tensor, so that comparisons with it are part of the graph."""
    return torch.full((), size, dtype=torch.int64)
