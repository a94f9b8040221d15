"""An associative memory of training latents that every token, and the whole map, retrieves from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from medformer.models.backbone.layers import Few, KernelSize, Number, Pointwise, full_precision, same_convolution

EMPTY = -1
"""Class, case and order of a slot that holds nothing."""

Rate = Annotated[float, Field(gt=0.0, le=1.0)]


class HopfieldMemory(nn.Module):
    """Local and episodic retrieval with predictive-coding refinement, in the manner of V-HMN (arXiv 2603.25157).

    There is no official code and no published parameter count; this is our reading of what is said of it. The query of
    a token is its neighborhood, seen by a depthwise filter, `z = DW_k(x)`. It is refined towards what it retrieves from
    a bank of such latents of training cases (`MemoryBank`). The mean of all queries, the scene, is refined towards the
    scenes of training cases, and gates every token: `out = W (refined(z) * 2 sigmoid(G refined(mean z)))`. Stored
    latents are never learned, and forward stores nothing: the training loop does (`medformer.training.banks`). Of an
    empty bank nothing is retrieved, so that a new network is a gated depthwise filter. V-HMN's read-out by attention
    pooling belongs to a classifier's head and is not a part of this.

    Args:
        channels: Channels of the map.
        spatial_dims: 1, 2 or 3.
        kernel_size: Neighborhood of a token, per axis if given so.
        slots: Latents in each of the two banks.
        beta: Sharpness of retrieval, as a factor of the cosine similarity; towards infinity it is the nearest latent.
        steps: Refinements.
        rate: Share of the way to what was retrieved that each takes.
    """

    def __init__(
        self,
        channels: int,
        *,
        spatial_dims: int,
        kernel_size: KernelSize = 3,
        slots: Number = 64,
        beta: PositiveFloat = 8.0,
        steps: Few = 2,
        rate: Rate = 0.5,
    ) -> None:
        super().__init__()
        self.query = same_convolution(spatial_dims, channels, channels, kernel_size, groups=channels)
        self.regions = MemoryBank(channels, spatial_dims, slots, beta=beta, steps=steps, rate=rate)
        self.scenes = MemoryBank(channels, spatial_dims, slots, beta=beta, steps=steps, rate=rate)
        self.gate = nn.Linear(channels, channels, bias=False)
        self.proj = Pointwise(channels, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        z = self.query(x).movedim(1, -1)
        # Similarities of latents that are much alike would be the same in half precision.
        with full_precision(x.device):
            z = z.to(torch.promote_types(z.dtype, torch.float32))
            scene = self.scenes(z.flatten(1, -2).mean(1))
            gate = 2.0 * torch.sigmoid(self.gate(scene))
            found = self.regions(z) * gate.view(len(x), *[1] * (x.dim() - 2), -1)
        out: Tensor = self.proj(found.movedim(-1, 1))
        return out


class MemoryBank(nn.Module):
    """Latents of training cases in slots, which queries retrieve from.

    `m = softmax(beta cos(z, latents)) latents`, `z <- z + rate (m - z)`, some times. Towards a fixed m each step takes
    the share `rate` of the distance.

    The slots are buffers: they are saved with the weights, and no gradient changes them. Each class has a ring of its
    own, first in, first out. The rings share the slots: a class with fewer of them than another takes the oldest one of
    the class with the most, so that classes which keep coming end up with equally many, whatever their number.

    Attributes:
        latents: `(slots, C)`.
        places: Where in the image a latent is from, as shares of its axes, `(slots, spatial_dims)`.
        classes: Its class; `EMPTY` where the slot holds nothing, `(slots,)`.
        cases: Number of its case in the training data, `(slots,)`.
        order: Grows with each latent that is stored, `(slots,)`.
    """

    latents: Tensor
    places: Tensor
    classes: Tensor
    cases: Tensor
    order: Tensor

    def __init__(self, channels: int, spatial_dims: int, slots: int, *, beta: float, steps: int, rate: float) -> None:
        super().__init__()
        self.beta, self.steps, self.rate = beta, steps, rate
        self.register_buffer("latents", torch.zeros(slots, channels))
        self.register_buffer("places", torch.zeros(slots, spatial_dims))
        for name in ("classes", "cases", "order"):
            self.register_buffer(name, torch.full((slots,), EMPTY))

    def forward(self, z: Tensor) -> Tensor:
        """Refine queries, `(..., C) -> (..., C)`; an empty bank leaves them as they are."""
        return self.recall(z)[0]

    def recall(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Refine queries, and say how much of each slot they retrieved last, `(..., C) -> (..., C), (..., slots)`.

        Weights add up to 1; those of an empty bank are 0.
        """
        held = (self.classes >= 0).to(z.dtype)
        any_held = held.amax(0)
        latents = self.latents.to(z.dtype)
        keys = _unit(latents).T
        weights = z.new_zeros(())
        for _ in range(self.steps):
            scores = self.beta * (_unit(z) @ keys)
            # A number and not infinity, of which an empty bank's softmax would be undefined.
            weights = scores.masked_fill(held == 0, -1e30).softmax(-1) * any_held
            z = z + self.rate * any_held * (weights @ latents - z)
        return z, weights

    @torch.no_grad()
    def store(self, latents: Tensor, places: Tensor, classes: Sequence[int], cases: Sequence[int]) -> None:
        """Store latents one after the other, each in the place of the oldest that its class, or the largest, can spare.

        Args:
            latents: `(n, C)`.
            places: `(n, spatial_dims)`.
            classes: Of each; at least 0.
            cases: Number of each one's case.
        """
        held, order = self.classes.tolist(), self.order.tolist()
        rows: dict[int, int] = {}
        for row, kind in enumerate(classes):
            slot = _slot(kind, held, order)
            held[slot], order[slot] = kind, max(order) + 1
            rows[slot] = row
        slots, taken = list(rows), list(rows.values())
        self.write(
            slots,
            latents[taken],
            places[taken],
            [held[slot] for slot in slots],
            [cases[row] for row in taken],
            [order[slot] for slot in slots],
        )

    @torch.no_grad()
    def write(
        self,
        slots: Sequence[int],
        latents: Tensor,
        places: Tensor,
        classes: Sequence[int],
        cases: Sequence[int],
        order: Sequence[int],
    ) -> None:
        """Put latents into these slots; see the attributes."""
        index = self._index(slots)
        self.latents[index], self.places[index] = latents.to(self.latents), places.to(self.places)
        self.classes[index], self.cases[index], self.order[index] = map(self._index, (classes, cases, order))

    @torch.no_grad()
    def forget(self, slots: Sequence[int]) -> None:
        """Empty slots."""
        index = self._index(slots)
        for kept in (self.latents, self.places):
            kept[index] = 0.0
        for kept in (self.classes, self.cases, self.order):
            kept[index] = EMPTY

    def _index(self, numbers: Sequence[int]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.int64, device=self.latents.device)


def memory_banks(model: nn.Module) -> dict[str, MemoryBank]:
    """Return the memory banks of a network by their place in it."""
    return {name: module for name, module in model.named_modules() if isinstance(module, MemoryBank)}


def _slot(kind: int, held: Sequence[int], order: Sequence[int]) -> int:
    """The slot for a new latent of a class: an empty one, or the oldest of the largest class; of its own if that is."""
    if EMPTY in held:
        return held.index(EMPTY)
    counts = Counter(held)
    most = max(counts.values())
    largest = [kind] if counts[kind] == most else [other for other, count in counts.items() if count == most]
    return min((slot for slot, other in enumerate(held) if other in largest), key=lambda slot: order[slot])


def _unit(vectors: Tensor) -> Tensor:
    """Vectors of length 1, and smoothly 0 at 0, `(..., C)`."""
    return vectors * torch.rsqrt(vectors.square().sum(-1, keepdim=True) + 1e-6)
