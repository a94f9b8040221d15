"""Sliding windows over a volume, streamed slab by slab so that memory does not grow with the length of a scan."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice, product
from math import inf, prod

import torch
from torch import Tensor

Predict = Callable[[Tensor], Tensor]
"""From windows (B, C, *patch) to one map for each class (B, K, *patch), on any device."""

LEAST_WEIGHT = 1e-3
"""Of a voxel in the corner of a window; the center has 1. MONAI's bound: what only a corner sees is still divided by
a number that float32 holds well."""

_PLANES = 8


def window_starts(size: int, patch: int, overlap: float) -> tuple[int, ...]:
    """First voxels of the windows along one axis: evenly stepped, the last one moved back to end with the volume."""
    if patch >= size:
        return (0,)
    step = max(int(patch * (1.0 - overlap)), 1)
    return (*range(0, size - patch, step), size - patch)


def count_windows(shape: Sequence[int], patch: Sequence[int], overlap: float) -> int:
    """How many windows a volume of this shape takes."""
    count = 1
    for size, side in zip(shape, patch, strict=True):
        count *= len(window_starts(size, side, overlap))
    return count


def gaussian_weights(patch: Sequence[int]) -> Tensor:
    """Trust in each voxel of a window: a Gaussian about the center, its deviation an eighth of the side.

    A network knows least about the border of what it sees (nnU-Net, Isensee et al. 2021, use the same weights).

    Returns:
        float32 (*patch) in [`LEAST_WEIGHT`, 1].
    """
    weights = torch.ones(())
    for side in patch:
        distance = torch.arange(side, dtype=torch.float32) - (side - 1) / 2
        weights = weights[..., None] * torch.exp(-0.5 * (8.0 * distance / side) ** 2)
    return weights.clamp(min=LEAST_WEIGHT)


def stream(
    image: Tensor,
    predict: Predict,
    *,
    patch: Sequence[int],
    overlap: float = 0.5,
    batch_size: int = 1,
    axis: int = 2,
    device: torch.device | None = None,
) -> Iterator[Tensor]:
    """Predict a volume from its first plane along `axis` to its last, giving out planes as they are finished.

    Where windows overlap, their maps are averaged with `gaussian_weights`. A volume smaller than the window is
    padded on both sides with each channel's minimum, as it is for training. What is held at once, beside the image,
    is one map as thick as a window: choose the longest axis.

    Args:
        image: float (C, X, Y, Z).
        predict: See `Predict`.
        patch: Size of a window, voxels.
        overlap: Share of a window that its neighbor sees too, in [0, 1).
        batch_size: Windows per call of `predict`.
        axis: Spatial axis to go along.
        device: Where windows are cut and maps are added up; where the image is without one. On the device of the
            network nothing waits for a window, and what windows share is handed over once.

    Yields:
        float32 (K, X, Y, Z) pieces, a few planes thick along `axis`, complete along the others, in order, where the
        image is.
    """
    sizes = tuple(image.shape[1:])
    padded, before = _pad(image, patch)
    starts = [window_starts(size, side, overlap) for size, side in zip(padded.shape[1:], patch, strict=True)]
    where = device or image.device
    weights = gaussian_weights(patch).to(where)
    along = starts.pop(axis)
    dim = axis + 1
    inside = tuple(
        slice(None) if other == axis else slice(first, first + size)
        for other, (first, size) in enumerate(zip(before, sizes, strict=True))
    )
    slab: Tensor | None = None
    trust = torch.zeros(
        [patch[other] if other == axis else size for other, size in enumerate(padded.shape[1:])], device=where
    )
    for position, following in zip(along, (*along[1:], along[-1] + patch[axis]), strict=True):
        column = padded.narrow(dim, position, patch[axis]).to(where)
        for corners in _batches(product(*starts), batch_size):
            places = [_box((*corner[:axis], 0, *corner[axis:]), patch) for corner in corners]
            maps = predict(torch.stack([column[(slice(None), *place)] for place in places])).float()
            if slab is None:
                slab = torch.zeros(maps.shape[1], *trust.shape, device=where)
            if tuple(maps.shape) != (len(places), slab.shape[0], *patch):
                raise ValueError(
                    f"the network returned {tuple(maps.shape)} for {len(places)} windows of {tuple(patch)} voxels"
                )
            for place, single in zip(places, maps.to(where), strict=True):
                slab[(slice(None), *place)].addcmul_(single, weights)
                trust[place] += weights
        assert slab is not None
        done = following - position
        # Padding is computed with the rest and not given out.
        first, last = (min(max(edge - position, 0), done) for edge in (before[axis], before[axis] + sizes[axis]))
        for start in range(first, last, _PLANES):
            count = min(_PLANES, last - start)
            divisor = trust.narrow(axis, start, count)[inside]
            yield (slab.narrow(dim, start, count)[(slice(None), *inside)] / divisor).to(image.device)
        _advance(slab, dim, done)
        _advance(trust, axis, done)


_SHARE = 0.25
"""Of the free memory of a device for what `stream` holds there; the network needs the rest."""


def fits_on(device: torch.device, image: Sequence[int], maps: int, *, patch: Sequence[int], axis: int) -> bool:
    """Whether what `stream` holds beside the network fits in the free memory of a device.

    Args:
        device: `cpu`, `cuda` or `mps`.
        image: C, X, Y, Z.
        maps: K.
        patch: Size of a window.
        axis: See `stream`.
    """
    sizes = [max(size, side) for size, side in zip(image[1:], patch, strict=True)]
    sizes[axis] = patch[axis]
    # The image, its maps, their weights, and a piece that is given out.
    return 4 * (image[0] + 2 * maps + 1) * prod(sizes) <= _SHARE * _free_memory(device)


def _free_memory(device: torch.device) -> float:
    """Bytes; what torch keeps for tensors to come is free too."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return float(torch.cuda.mem_get_info(device)[0] + kept)
    if device.type == "mps":
        return float(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return inf


def _pad(image: Tensor, patch: Sequence[int]) -> tuple[Tensor, tuple[int, ...]]:
    """A volume at least as large as a window, and how many voxels were put before it along each axis."""
    missing = [max(side - size, 0) for size, side in zip(image.shape[1:], patch, strict=True)]
    before = tuple(count // 2 for count in missing)
    if not any(missing):
        return image, before
    sizes = [size + count for size, count in zip(image.shape[1:], missing, strict=True)]
    padded = image.amin((1, 2, 3), keepdim=True).expand(-1, *sizes).clone()
    padded[(slice(None), *_box(before, image.shape[1:]))] = image
    return padded, before


def _batches(corners: Iterator[tuple[int, ...]], size: int) -> Iterator[list[tuple[int, ...]]]:
    while batch := list(islice(corners, size)):
        yield batch


def _box(corner: Sequence[int], shape: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(first, first + size) for first, size in zip(corner, shape, strict=True))


def _advance(slab: Tensor, dim: int, planes: int) -> None:
    """Drop the first planes, move the others to the front and clear what becomes free, without a second slab."""
    kept = slab.shape[dim] - planes
    for plane in range(kept):
        slab.select(dim, plane).copy_(slab.select(dim, plane + planes))
    slab.narrow(dim, kept, planes).zero_()
