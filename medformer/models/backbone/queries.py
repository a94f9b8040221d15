"""What the memories of a network are asked in a forward pass, and where in the image each question is from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from medformer.models.backbone.blocks import Backbone
from medformer.models.backbone.mixers.hopfield_memory import MemoryBank, memory_banks


class Queries(NamedTuple):
    """What one bank was asked.

    Attributes:
        values: Before any refinement, detached, `(B, N, C)`; a scene is one query of its sample.
        places: Middle of each one's part of the image, as shares of its axes, `(N, spatial_dims)`; beyond 1 lies what
            the network padded. None of a scene.
    """

    values: Tensor
    places: Tensor | None

    def plus(self, other: Queries) -> Queries:
        """Those of a bank that is asked several times: about each atlas."""
        if self.places is None or other.places is None:
            # A network asks a bank of scenes once for each of its inputs; the samples have one scene for each.
            return Queries(torch.cat([self.values, other.values], 1), None)
        return Queries(torch.cat([self.values, other.values], 1), torch.cat([self.places, other.places]))


@contextmanager
def recorded_queries(model: nn.Module) -> Iterator[dict[MemoryBank, Queries]]:
    """Record what the banks of a network are asked by the forward passes inside the block, in the order of asking.

    Nothing is recorded when a checkpointed block is computed again after it.

    Args:
        model: The network that is called with images `(B, C, *S)` first, or with connections by atlas.
    """
    found: dict[MemoryBank, Queries] = {}
    image: Sequence[int] = ()
    padded: Sequence[int] = ()

    def before_model(_: nn.Module, given: tuple[Any, ...]) -> None:
        nonlocal image
        image = given[0].shape[2:] if isinstance(given[0], Tensor) else ()

    def before_backbone(_: nn.Module, given: tuple[Any, ...]) -> None:
        nonlocal padded
        padded = given[0].shape[2:]

    def before_bank(bank: nn.Module, given: tuple[Any, ...]) -> None:
        assert isinstance(bank, MemoryBank)
        z: Tensor = given[0].detach()
        if z.dim() == 2:
            new = Queries(z.unsqueeze(1), None)
        else:
            new = Queries(z.flatten(1, -2), _middles(z.shape[1:-1], padded or image, image or padded).to(z.device))
        found[bank] = found[bank].plus(new) if bank in found else new

    hooks = [model.register_forward_pre_hook(before_model)]
    hooks += [m.register_forward_pre_hook(before_backbone) for m in model.modules() if isinstance(m, Backbone)]
    hooks += [bank.register_forward_pre_hook(before_bank) for bank in memory_banks(model).values()]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _middles(grid: Sequence[int], padded: Sequence[int], image: Sequence[int]) -> Tensor:
    """The middle of each position of a map as shares of the image, `(N, spatial_dims)`.

    Networks pad an image at the end of each axis, and the map covers what the backbone is given.
    """
    axes = [
        (torch.arange(n, dtype=torch.float32) + 0.5) * (whole / n / length)
        for n, whole, length in zip(grid, padded or grid, image or grid, strict=True)
    ]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, -2)
