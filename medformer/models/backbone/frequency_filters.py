"""Learned filters of a map, kept as spectra and multiplied frequency by frequency, for maps of any size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medformer.models.backbone.norms import Grid, stage_grid

Keeps = Literal["kernel", "frequencies"]
_USUAL = {1: 56, 2: 56, 3: 24}
"""Published for images of 224; in 3-D a filter for each of 128 channels has 2 million numbers at 24 already."""


class FrequencyFilters(nn.Module):
    """Filters the channels of a map, `(B, C, *S) -> (B, C, *S)`: a product of spectra, a convolution of positions.

    A filter is the half spectrum of a real kernel as large as `grid`, which is halved from stage to stage. A map of
    that size is filtered as published. On another one, `keeps` says what a filter still is:

    - `kernel`: the same kernel, position by position. Its response to a frequency follows from the kernel and is
      interpolated by no formula; a map smaller than the kernel is seen as repeating itself.
    - `frequencies`: the same response to as many cycles across the map, so that an image shown in another resolution
      is filtered alike. Frequencies beyond the highest that was learned are taken away.

    The transform runs in single precision at least, whatever surrounds it.

    Args:
        count: Number of filters.
        shared: Each channel takes a mixture of all filters, in shares that it is given; without, one filter is for one
            channel.
        spatial_dims: 1, 2 or 3.
        stage: 0 for the finest.
        grid: See above, at stage 0.
        keeps: See above.
        wrap: What a filter moves over one border enters at the opposite one, as published. Without, zeros surround the
            map.
    """

    def __init__(
        self, count: int, *, shared: bool, spatial_dims: int, stage: int, grid: Grid, keeps: Keeps, wrap: bool
    ) -> None:
        super().__init__()
        self.grid = stage_grid(spatial_dims, stage, _USUAL[spatial_dims] if grid is None else grid)
        self.keeps, self.wrap = keeps, wrap
        self.averaged = count if shared else 1
        # (filters, frequencies, real and imaginary part); one axis of frequencies in every number of dimensions, so
        # that nothing takes a filter for the kernel of a convolution.
        self.spectra = nn.Parameter(0.02 * torch.randn(count, math.prod(_half(self.grid)), 2))

    def init_fan_in(self) -> None:
        """Draw first weights with which a map keeps its variance."""
        nn.init.normal_(self.spectra, std=(self.averaged / 2) ** 0.5)

    def forward(self, x: Tensor, shares: Tensor | None = None) -> Tensor:
        """Filter a map.

        Args:
            x: `(B, C, *S)`.
            shares: Of each filter in the filter of each channel, `(B, filters, C)`, where filters are shared.
        """
        size = tuple(x.shape[2:])
        exact = x.to(torch.promote_types(x.dtype, torch.float32))
        whole, spectra = self.spectra_for(size)
        if shares is not None:
            # A sum of products and no matrix product, which autocast would compute in half precision.
            parts = shares.to(spectra.dtype).reshape(*shares.shape, *[1] * (len(size) + 1)).unbind(1)
            products = [share * spectrum for share, spectrum in zip(parts, spectra, strict=True)]
            spectra = sum(products[1:], products[0])
        axes = tuple(range(2, x.dim()))
        product = torch.fft.rfftn(exact, whole, axes) * torch.view_as_complex(spectra)
        filtered = torch.fft.irfftn(product, whole, axes)
        return filtered[(..., *map(slice, size))].to(x.dtype)

    def spectra_for(self, size: tuple[int, ...]) -> tuple[tuple[int, ...], Tensor]:
        """Return what a map of a size is padded to with zeros, P, and the half spectra there, `(filters, *P', 2)`."""
        grid, axes = self.grid, tuple(range(1, len(size) + 1))
        exact = self.spectra.to(torch.promote_types(self.spectra.dtype, torch.float32))
        spectra = torch.view_as_complex(exact).unflatten(1, _half(grid))
        if self.keeps == "frequencies" and size != grid:
            # Of a real kernel: the highest of an even number of frequencies may then stand for two.
            parts = torch.view_as_real(torch.fft.rfftn(torch.fft.irfftn(spectra, grid, axes), dim=axes))
            for axis in axes:
                parts = _same_cycles(parts, axis, grid[axis - 1], size[axis - 1], half=axis == len(size))
            spectra, grid = torch.view_as_complex(parts), size
        # With half a kernel of zeros behind the map, nothing that wraps around meets anything.
        whole = size if self.wrap else tuple(n + taps // 2 for n, taps in zip(size, grid, strict=True))
        if whole != grid:
            kernels = torch.fft.irfftn(spectra, grid, axes)
            for axis, n in zip(axes, whole, strict=True):
                kernels = _repeated(kernels, axis, n)
            spectra = torch.fft.rfftn(kernels, dim=axes)
        return whole, torch.view_as_real(spectra)


def _half(grid: tuple[int, ...]) -> tuple[int, ...]:
    """The frequencies that a real map of a size has: those of the last axis that are not negative."""
    return (*grid[:-1], grid[-1] // 2 + 1)


def _repeated(kernels: Tensor, axis: int, size: int) -> Tensor:
    """Return kernels along one axis as they act on `size` positions that repeat themselves.

    The tap of offset 0 comes first and is followed by the positive offsets, then by the negative ones, as a discrete
    Fourier transform has them. Offsets that reach the same position are added up.
    """
    taps = kernels.shape[axis]
    ordered = torch.fft.fftshift(kernels, axis)
    filled = F.pad(ordered, [0, 0] * (kernels.dim() - 1 - axis) + [0, -taps % size])
    return filled.unflatten(axis, (-1, size)).sum(axis).roll(-(taps // 2), axis)


def _same_cycles(parts: Tensor, axis: int, taps: int, size: int, *, half: bool) -> Tensor:
    """Return spectra (real and imaginary part last) along one axis for `size` positions: each wave as it was, or 0.

    A full axis holds the negative numbers behind the others. So a number is found by its value and never by its place,
    and none meets its neighbor across the highest frequency. The highest of an even `size` stands for both signs there:
    it gets the mean of the two.
    """
    cycles = range(size // 2 + 1) if half else [(at + size // 2) % size - size // 2 for at in range(size)]
    known = [2 * abs(k) <= taps for k in cycles]

    def take(numbers: Sequence[int]) -> Tensor:
        places = [k % taps if there else 0 for k, there in zip(numbers, known, strict=True)]
        return parts.index_select(axis, torch.tensor(places, device=parts.device))

    both = (take(cycles) + take([-k if 2 * k == -size else k for k in cycles])) / 2
    kept = torch.tensor(known, dtype=both.dtype, device=both.device)
    return both * kept.view(-1, *[1] * (both.dim() - 1 - axis))
