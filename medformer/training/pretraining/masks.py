"""What masked pretraining hides: blocks of images and volumes, connections of connectomes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor

from medformer.connectome.measures import triangle_size
from medformer.errors import ConfigError, DataError

TensorInputs = Tensor | Mapping[str, Tensor]
"""Images (B, C, *S), or connections {atlas: (B, d)}."""


InputName = Literal["image", "edges"]


class MaskStrategy(Protocol):
    """Decides what is hidden; it must be picklable.

    Attributes:
        inputs: What of a batch it is drawn for.
        noise: Standard deviation of Gaussian noise on what is not hidden (denoising).
    """

    @property
    def inputs(self) -> InputName: ...

    @property
    def noise(self) -> float: ...

    def draw(self, inputs: Any, generator: torch.Generator | None = None) -> Any:
        """Return boolean masks that broadcast to the inputs, one tensor or one per atlas.

        Args:
            inputs: `TensorInputs`.
            generator: Draws; torch's own without one.
        """

    def identity(self) -> dict[str, Any]:
        """Return the settings that must be the same on resume, JSON-able."""


@dataclass(frozen=True)
class BlockMask:
    """Hides whole blocks of images or volumes.

    An image is cut into blocks from its first pixel on (those at the far ends may be cut off), and of each image
    `round(ratio * blocks)` of them, at least one and never all, are hidden in every channel. Blocks rather than pixels,
    because a hidden pixel can be guessed from its neighbors (He et al., Masked autoencoders, CVPR 2022).

    Args:
        block: Side of a block, pixels or voxels.
        ratio: Share that is hidden, in (0, 1).
    """

    block: int
    ratio: float
    inputs: ClassVar[InputName] = "image"
    noise: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        if self.block < 1:
            raise ValueError(f"the side of a masked block must be at least 1, got {self.block}")
        _require_share(self.ratio)

    def draw(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw what to hide of images (B, C, *S): boolean (B, 1, *S).

        Raises:
            ConfigError: One block is the whole image, and nothing would be left to see.
        """
        size = images.shape[2:]
        grid = [-(-length // self.block) for length in size]
        count = torch.Size(grid).numel()
        if count < 2:
            points, whole = ("voxels", "patches") if len(size) == 3 else ("pixels", "images")
            raise ConfigError(
                f"Masked pretraining got blocks of {self.block} {points} for {whole} of {' x '.join(map(str, size))}; "
                f"expected smaller blocks than {whole}. Set pretraining.block={max(1, max(size) // 4)}."
            )
        device = images.device if generator is None else generator.device
        hidden = min(count - 1, max(1, round(self.ratio * count)))
        mask = _choose(len(images), count, hidden, device, generator).reshape(len(images), 1, *grid)
        for axis, length in enumerate(size, start=2):
            mask = mask.repeat_interleave(self.block, axis).narrow(axis, 0, length)
        return mask.to(images.device)

    def identity(self) -> dict[str, Any]:
        return {"mask": "blocks", "block": self.block, "ratio": self.ratio}


@dataclass(frozen=True)
class ConnectionMask:
    """Hides connections of each atlas: the upper triangle of a symmetric matrix, with or without its diagonal.

    Of `edges`, each connection is hidden independently with probability `ratio`, as in METAFormer (Mahler et al., MLCN
    2023, with a ratio of 0.1). Of `regions`, `round(ratio * regions)` regions (at least one) lose all their
    connections, so that a connection cannot be guessed from its neighbors in the matrix. Of `atlases`, `round(ratio *
    atlases)` (at least one and never all) are hidden as a whole, to be rebuilt from the others of the subject.

    Args:
        ratio: Share that is hidden, in (0, 1).
        regions: Number of regions of each atlas.
        kind: What is hidden.
        noise: Standard deviation of Gaussian noise on what is not hidden.
    """

    ratio: float
    regions: Mapping[str, int]
    _: KW_ONLY
    kind: Literal["edges", "regions", "atlases"] = "edges"
    noise: float = 0.0
    inputs: ClassVar[InputName] = "edges"

    def __post_init__(self) -> None:
        _require_share(self.ratio)

    def draw(self, edges: Mapping[str, Tensor], generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Draw what to hide of connections {atlas: (B, d)}: boolean, of their shapes.

        Raises:
            ConfigError: The only atlas would be hidden as a whole.
            DataError: Connections of other atlases than these.
        """
        if self.kind == "atlases":
            return self._draw_atlases(edges, generator)
        return {atlas: self._draw(atlas, block, generator) for atlas, block in edges.items()}

    def identity(self) -> dict[str, Any]:
        return {"mask": self.kind, "ratio": self.ratio, "noise": self.noise}

    def _draw_atlases(self, edges: Mapping[str, Tensor], generator: torch.Generator | None) -> dict[str, Tensor]:
        if len(edges) < 2:
            raise ConfigError(
                f"Masked pretraining got pretraining.mask=atlases and one atlas, {next(iter(edges))}; expected at "
                "least two, since a hidden atlas is rebuilt from the others. Set pretraining.mask=regions."
            )
        first = next(iter(edges.values()))
        count = min(len(edges) - 1, max(1, round(self.ratio * len(edges))))
        device = first.device if generator is None else generator.device
        gone = _choose(len(first), len(edges), count, device, generator).to(first.device)
        return {atlas: gone[:, [place]].expand_as(block) for place, (atlas, block) in enumerate(edges.items())}

    def _draw(self, atlas: str, block: Tensor, generator: torch.Generator | None) -> Tensor:
        device = block.device if generator is None else generator.device
        if self.kind == "edges":
            drawn = torch.rand(block.shape, device=device, generator=generator) < self.ratio
            return drawn.to(block.device)
        count = self.regions[atlas]
        gone = _choose(block.shape[0], count, max(1, round(self.ratio * count)), device, generator)
        rows, columns = torch.triu_indices(count, count, self._first_diagonal(atlas, block), device=device)
        return (gone[:, rows] | gone[:, columns]).to(block.device)

    def _first_diagonal(self, atlas: str, block: Tensor) -> int:
        count, size = self.regions[atlas], block.shape[1]
        for diagonal in (False, True):
            if size == triangle_size(count, diagonal):
                return 0 if diagonal else 1
        raise DataError(
            f"Atlas '{atlas}' has {size} connections per subject; expected {triangle_size(count)}, or "
            f"{triangle_size(count, True)} with the diagonal, for {count} regions. Prepare the cohort again."
        )


def _require_share(ratio: float) -> None:
    if not 0.0 < ratio < 1.0:
        raise ValueError(f"the masked share must be in (0, 1), got {ratio}")


def _choose(cases: int, count: int, chosen: int, device: torch.device, generator: torch.Generator | None) -> Tensor:
    """Choose `chosen` of `count` for each case: boolean (cases, count)."""
    order = torch.rand(cases, count, device=device, generator=generator).argsort(1)
    return torch.zeros_like(order, dtype=torch.bool).scatter_(1, order[:, :chosen], True)
