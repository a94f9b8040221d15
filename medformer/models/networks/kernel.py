"""A kernel machine of shape and coarse voxels beside a network that classifies whole volumes.

Descriptions are computed from the image that the network sees, so that weights alone are kept and no training case.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from medformer.models.backbone.layers import full_precision
from medformer.models.wide import WidePath

SHAPE_NUMBERS = 21
"""Of each channel: sizes, radii, extents, place and brightness of the foreground."""
COARSE = 8
"""Voxels per axis of the reduced image."""
LARGEST = 64
"""Voxels per axis that shapes are measured on."""
_BINS = 64
COSINES = 4096
GAMMA = 0.1
"""Of the kernel `exp(-gamma d^2)`; in both parts of a description, volumes have a mean squared length of 1."""


class KernelPath(WidePath):
    """Ridge regression on random cosines, `cos(u P + b)`, of a description `u` (Rahimi and Recht, NeurIPS 2007).

    Their inner products come near a radial kernel, and the number of weights does not grow with that of cases.

    Args:
        channels: Of the images.
        spacing: Of their voxels, mm.

    Attributes:
        center: What is subtracted from a description, (channels * 533,).
        scale: What it is then multiplied by.
        directions: P, (channels * 533, `COSINES`), drawn from torch's generator.
        phases: b, (`COSINES`,).
        weights: Log odds per unit of each cosine.
    """

    center: Tensor
    scale: Tensor
    directions: Tensor
    phases: Tensor
    weights: Tensor

    def __init__(self, channels: int, spacing: Sequence[float]) -> None:
        super().__init__()
        self.spacing = tuple(spacing)
        size = channels * (SHAPE_NUMBERS + COARSE**3)
        self.register_buffer("center", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))
        self.register_buffer("directions", torch.randn(size, COSINES) * (2 * GAMMA) ** 0.5)
        self.register_buffer("phases", torch.rand(COSINES) * 2 * torch.pi)
        self.register_buffer("weights", torch.zeros(COSINES))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Forget what was fitted: the weights come into another order."""
        self.weights.copy_(self.weights[torch.randperm(COSINES, device="cpu").to(self.weights.device)])

    def describe(self, images: Tensor) -> Tensor:
        """Shape numbers of each channel, then coarse voxels of each, `(B, C, X, Y, Z) -> (B, C * 533)`."""
        with full_precision(images.device):
            small = [min(length, LARGEST) for length in images.shape[2:]]
            steps = [mm * old / new for mm, old, new in zip(self.spacing, images.shape[2:], small, strict=True)]
            images = _reduced(images.float(), small)
            return torch.cat([shape_numbers(images, steps).flatten(1), coarse_voxels(images).flatten(1)], 1)

    def cosines(self, descriptions: Tensor) -> Tensor:
        """The random cosines of descriptions, `(B, C * 533) -> (B, COSINES)`."""
        with full_precision(descriptions.device):
            turned = (descriptions - self.center) * self.scale @ self.directions + self.phases
            return torch.cos(turned) * (2 / COSINES) ** 0.5

    def score(self, inputs: Tensor) -> Tensor:
        """The kernel machine's log odds of class 1, `(B, C, X, Y, Z) -> (B,)`."""
        with full_precision(inputs.device):
            return self.cosines(self.describe(inputs)) @ self.weights + self.bias


def coarse_voxels(images: Tensor) -> Tensor:
    """Each channel standardized and reduced to `COARSE` voxels per axis, `(B, C, X, Y, Z) -> (B, C, 8, 8, 8)`."""
    axes = (2, 3, 4)
    centered = images - images.mean(axes, keepdim=True)
    deviation = centered.square().mean(axes, keepdim=True).sqrt()
    return _reduced(centered / torch.where(deviation > 0, deviation, 1.0), (COARSE,) * 3)


def shape_numbers(images: Tensor, spacing: Sequence[float]) -> Tensor:
    """Measure the foreground of each channel: what is brighter than its threshold by Otsu (IEEE TSMC 1979).

    Args:
        images: (B, C, X, Y, Z).
        spacing: Of the voxels, mm.

    Returns:
        (B, C, `SHAPE_NUMBERS`), as `medformer.data.volumes.inspect.descriptors.shape_features` has them for one image.
    """
    flat, size, steps = images.flatten(2), images.shape[2:], torch.tensor(spacing).to(images)
    mask = (flat > _otsu(flat)).to(flat)
    mask = torch.where(mask.amax(-1, keepdim=True) > 0, mask, 1.0)
    count = mask.sum(-1)
    grids = torch.meshgrid(*(torch.arange(n, device=flat.device) for n in size), indexing="ij")
    places = torch.stack([grid.flatten() for grid in grids], 1).to(flat) * steps
    middle = places.mean(0)
    # Around the middle of the box, since squares of large numbers would leave few digits.
    offset = mask @ (places - middle) / count[..., None]
    products = torch.einsum("bcn,ni,nj->bcij", mask, places - middle, places - middle) / count[..., None, None]
    spread = products - offset[..., :, None] * offset[..., None, :]
    unbiased = spread * (count / (count - 1).clamp_min(1))[..., None, None]
    # A voxel is not a point: a single one has the spread of a box of its size.
    radii = _eigenvalues(unbiased + torch.diag(steps.square() / 12)).clamp_min(1e-12).sqrt()
    volume, box = count * steps.prod(), steps * torch.tensor(size).to(steps)
    inside = (mask * flat).sum(-1) / count
    solid = mask.unflatten(2, size)
    surface, extents = torch.zeros_like(count), []
    for axis in range(3):
        along = 2 + axis
        beyond = F.pad(solid, [1 if place // 2 == 2 - axis else 0 for place in range(6)])
        surface = surface + beyond.diff(dim=along).abs().sum((2, 3, 4)) * steps.prod() / steps[axis]
        line = solid.amax([other for other in (2, 3, 4) if other != along])
        number = torch.arange(size[axis], device=flat.device).to(flat)
        length = (line * (number + 1)).amax(-1) + (line * (size[axis] - number)).amax(-1) - size[axis]
        extents.append(length * steps[axis])
    numbers = [
        torch.stack([volume.log(), surface.log(), surface / volume ** (2 / 3)], -1),
        radii.log(),
        torch.stack([(radii[..., 2] / radii[..., 1]).log(), (radii[..., 1] / radii[..., 0]).log()], -1),
        torch.stack(extents, -1).log(),
        (offset + middle + steps / 2) / box,
        spread.diagonal(dim1=-2, dim2=-1).clamp_min(0).sqrt() / box,
        torch.stack([flat.mean(-1), _deviation(flat, torch.ones_like(flat)), inside, _deviation(flat, mask)], -1),
    ]
    return torch.cat(numbers, -1)


def _deviation(flat: Tensor, mask: Tensor) -> Tensor:
    """Standard deviation of what a mask (B, C, N) marks, (B, C)."""
    count = mask.sum(-1)
    mean = (mask * flat).sum(-1, keepdim=True) / count[..., None]
    return ((mask * (flat - mean).square()).sum(-1) / count).sqrt()


def _otsu(flat: Tensor) -> Tensor:
    """Threshold of each channel, (B, C, N) -> (B, C, 1)."""
    low, high = flat.amin(-1, keepdim=True), flat.amax(-1, keepdim=True)
    width = torch.where(high > low, high - low, 1.0)
    bins = ((flat - low) / width * _BINS).long().clamp(0, _BINS - 1)
    counts = torch.zeros(*flat.shape[:2], _BINS, device=flat.device).scatter_add(2, bins, torch.ones_like(flat))
    edges = low + width * torch.arange(_BINS + 1, device=flat.device) / _BINS
    sums = (counts * (edges[..., 1:] + edges[..., :-1]) / 2).cumsum(-1)
    below = counts.cumsum(-1)[..., :-1]
    above = counts.sum(-1, keepdim=True) - below
    # The first and the last bin are never empty, but for a constant image.
    gap = sums[..., :-1] / below.clamp_min(1) - (sums[..., -1:] - sums[..., :-1]) / above.clamp_min(1)
    best = (below * above * gap.square()).argmax(-1, keepdim=True)
    return torch.where(high > low, edges[..., 1:-1].gather(-1, best), high)


def _eigenvalues(matrices: Tensor) -> Tensor:
    """Those of symmetric 3 x 3 matrices in ascending order, (..., 3), in closed form (Smith, CACM 1961)."""
    mean = matrices.diagonal(dim1=-2, dim2=-1).mean(-1)
    rest = matrices - mean[..., None, None] * torch.eye(3, device=matrices.device)
    size = (rest.square().sum((-2, -1)) / 6).sqrt().clamp_min(1e-12)
    a, b, c = (rest / size[..., None, None]).unbind(-2)
    angle = ((a * torch.linalg.cross(b, c)).sum(-1) / 2).clamp(-1, 1).acos() / 3
    largest = mean + 2 * size * angle.cos()
    least = mean + 2 * size * (angle + 2 * torch.pi / 3).cos()
    return torch.stack([least, 3 * mean - least - largest, largest], -1)


def _reduced(images: Tensor, size: Sequence[int]) -> Tensor:
    """Resample the last three axes linearly, each voxel counting where an axis shrinks (no aliasing)."""
    for axis, (old, new) in enumerate(zip(images.shape[2:], size, strict=True), start=2):
        if old != new:
            images = (images.movedim(axis, -1) @ _between(old, new).to(images).T).movedim(-1, axis)
    return images


def _between(old: int, new: int) -> Tensor:
    """Weights (new, old) of linear interpolation whose kernel widens with the voxels; beyond the border it repeats."""
    widen = max(1.0, old / new)
    reach = int(widen) + 1
    taps = torch.arange(-reach, old + reach)
    center = (torch.arange(new) + 0.5) * (old / new) - 0.5
    weights = (1 - (taps - center[:, None]).abs() / widen).clamp_min(0)
    weights = weights / weights.sum(1, keepdim=True)
    return weights @ F.one_hot(taps.clamp(0, old - 1), old).to(weights)
