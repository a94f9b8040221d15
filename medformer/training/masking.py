"""Masked pretraining: hide a part of each connectome and reward the network for reconstructing it.

    MaskedReconstruction(ratio, regions, *, kind="edges", noise=0.0)

is an objective (see `objectives`) for networks that map {atlas: (B, d)} to {atlas: (B, d)}.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from medformer.connectome.triangle import triangle_size
from medformer.errors import DataError
from medformer.training.loader import Batch
from medformer.training.losses.objectives import Load, Moment, Network, connectome_load

Edges = Mapping[str, Tensor]
"""By atlas, (B, d): the upper triangle of a symmetric matrix, row by row, with or without its diagonal."""


class MaskedReconstruction:
    """Mean squared error on what was hidden, summed over the atlases; what was not hidden does not count.

    A hidden connection is replaced by 0, which is the mean of standardized ones. Masks are drawn anew for every subject
    and step. Of `edges`, each connection is hidden independently with probability `ratio`, as in METAFormer (Mahler et
    al., MLCN 2023, with a ratio of 0.1). Of `regions`, `round(ratio * regions)` regions (at least one) lose all their
    connections, so that a connection cannot be guessed from its neighbors in the matrix.

    Args:
        ratio: Share that is hidden, in (0, 1).
        regions: Number of regions of each atlas.
        kind: What is hidden.
        noise: Standard deviation of Gaussian noise on what is not hidden (denoising); the target stays without.
    """

    def __init__(
        self,
        ratio: float,
        regions: Mapping[str, int],
        *,
        kind: Literal["edges", "regions"] = "edges",
        noise: float = 0.0,
    ) -> None:
        if not 0.0 < ratio < 1.0:
            raise ValueError(f"the masked share must be in (0, 1), got {ratio}")
        self.ratio = ratio
        self.regions = dict(regions)
        self.kind = kind
        self.noise = noise

    def masks(self, edges: Edges, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Draw what to hide: boolean, by atlas, of the shape of the connections.

        Args:
            edges: By atlas.
            generator: Draws; torch's own without one.
        """
        return {atlas: self._mask(atlas, block, generator) for atlas, block in edges.items()}

    def hide(self, edges: Edges, masks: Edges) -> dict[str, Tensor]:
        """Return what the network is given: 0 where a mask is set, noise on the rest if asked for."""
        if self.noise:
            edges = {atlas: block + self.noise * torch.randn_like(block) for atlas, block in edges.items()}
        return {atlas: block.masked_fill(masks[atlas], 0.0) for atlas, block in edges.items()}

    def tensors(self, batch: Batch) -> dict[str, Any]:
        return {"edges": batch["edges"]}

    def load(self, batch: Mapping[str, Any], moment: Moment) -> Load:
        return connectome_load(batch["edges"])

    def __call__(self, network: Network, batch: Mapping[str, Any], moment: Moment) -> Tensor:
        edges: Edges = batch["edges"]
        masks = self.masks(edges)
        found: Edges = network(self.hide(edges, masks))
        return torch.stack([masked_error(found[atlas], edges[atlas], mask) for atlas, mask in masks.items()]).sum()

    def identity(self) -> dict[str, Any]:
        return {"loss": "masked_mse", "mask": self.kind, "ratio": self.ratio, "noise": self.noise}

    def _mask(self, atlas: str, block: Tensor, generator: torch.Generator | None) -> Tensor:
        device = block.device if generator is None else generator.device
        if self.kind == "edges":
            drawn = torch.rand(block.shape, device=device, generator=generator) < self.ratio
            return drawn.to(block.device)
        count = self.regions[atlas]
        hidden = max(1, round(self.ratio * count))
        order = torch.rand(block.shape[0], count, device=device, generator=generator).argsort(1)
        gone = torch.zeros_like(order, dtype=torch.bool).scatter_(1, order[:, :hidden], True)
        rows, columns = torch.triu_indices(count, count, self._offset(atlas, block), device=device)
        return (gone[:, rows] | gone[:, columns]).to(block.device)

    def _offset(self, atlas: str, block: Tensor) -> int:
        """The first diagonal that the triangle of an atlas holds."""
        count, size = self.regions[atlas], block.shape[1]
        for diagonal in (False, True):
            if size == triangle_size(count, diagonal):
                return 0 if diagonal else 1
        raise DataError(
            f"Atlas '{atlas}' has {size} connections per subject; expected {triangle_size(count)}, or "
            f"{triangle_size(count, True)} with the diagonal, for {count} regions. Prepare the cohort again."
        )


def masked_error(found: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error over the set part of a mask; 0 where nothing is set."""
    squares = (found - truth).square() * mask
    return squares.sum() / mask.sum().clamp(min=1)
