"""What networks are given: training items by epoch and number, and batches of connections by atlas or of images.

batches(inputs, model, size)     of {atlas: (n, d)} or of images (C, *S), where the model is
with_float64(values)             a tensor where sums in float64 are possible
ItemImages(data)                 the images of data whose items are tables, as training has them
draw_scale, resize_batch         multi-scale training: every batch is seen at one of a few sizes, or at each of them
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from medformer.config.shared import Scaling
from medformer.seeds import derive_seed

Edges = Mapping[str, NDArray[np.float32]]
"""By atlas, (n, d)."""


class Images(Protocol):
    """Images of one shape: an array (n, C, *S), or anything that gives (C, *S) by number, read when asked for."""

    def __len__(self) -> int:
        """Number of images."""

    def __getitem__(self, index: int, /) -> Any:
        """Give one, float32 (C, *S)."""


Inputs = Edges | Images


class TrainingData(Protocol):
    """What is trained on: `data[(epoch, index)]` gives a table of tensors, or tables of such, and "id": str.

    Which tensors, the objective says (see `medformer.training.losses.objectives`). An item depends on its epoch and
    index alone, never on a random state or on the items before it; that is what makes a resumed run equal to an
    uninterrupted one. With loader workers it must be picklable. Data may also give whole batches
    (`medformer.training.loader.WholeBatches`).
    """

    def __len__(self) -> int:
        """Number of cases."""

    def __getitem__(self, index: tuple[int, int], /) -> Any:
        """Give one item."""


@dataclass
class ItemImages:
    """The images of data that training could use, as they are in one epoch.

    Attributes:
        data: Items with an `image` (C, *S).
        epoch: Of those items that depend on it.
    """

    data: TrainingData
    epoch: int = 0

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int, /) -> Any:
        return self.data[(self.epoch, index)]["image"]


def cases_of(inputs: Inputs) -> int:
    """Number of cases; of connections, that of the first atlas."""
    return len(next(iter(inputs.values()))) if isinstance(inputs, Mapping) else len(inputs)


@overload
def batches(inputs: Edges, model: nn.Module, size: int) -> Iterator[dict[str, Tensor]]: ...
@overload
def batches(inputs: Images, model: nn.Module, size: int) -> Iterator[Tensor]: ...
@overload
def batches(inputs: Inputs, model: nn.Module, size: int) -> Iterator[dict[str, Tensor]] | Iterator[Tensor]: ...
def batches(inputs: Inputs, model: nn.Module, size: int) -> Iterator[Any]:
    """Yield what the model is given of up to `size` cases at a time, where it is."""
    device = next(model.parameters()).device
    count = cases_of(inputs)
    for first in range(0, count, size):
        rows = range(first, min(first + size, count))
        # Copies, because memory-mapped arrays may be read-only.
        if isinstance(inputs, Mapping):
            parts = {atlas: np.array(block[rows.start : rows.stop], np.float32) for atlas, block in inputs.items()}
            yield {atlas: torch.from_numpy(part).to(device) for atlas, part in parts.items()}
        else:
            yield torch.from_numpy(np.stack([np.asarray(inputs[row], np.float32) for row in rows])).to(device)


def with_float64(values: Tensor) -> Tensor:
    """Return a tensor where float64 can be computed: as it is, or on the CPU, because Apple's GPUs have no float64."""
    return values.cpu() if values.device.type == "mps" else values


def nonfinite_cases(ids: Sequence[str], tensors: Mapping[str, Any]) -> list[str]:
    """Return the ids of the cases whose data hold NaN or infinity.

    Args:
        ids: Of the cases, in the order of the first axis of every tensor.
        tensors: As an objective takes them from a batch.
    """
    fine = [True] * len(ids)
    for tensor in _each(tensors):
        finite = torch.isfinite(tensor).reshape(len(ids), -1).all(1).tolist()
        fine = [before and now for before, now in zip(fine, finite, strict=True)]
    return [case for case, good in zip(ids, fine, strict=True) if not good]


def _each(tensors: Mapping[str, Any]) -> Iterator[Tensor]:
    for value in tensors.values():
        if isinstance(value, Mapping):
            yield from _each(value)
        else:
            yield value


def draw_scale(scales: Sequence[float], seed: int, epoch: int, step: int, scaling: Scaling = "drawn") -> float:
    """Return the scale of one step; it depends on (seed, epoch, step) alone and therefore replays.

    It is drawn uniformly, or, as published, the next one in turn. All processes of a distributed run get the same, so
    none waits for one with a bigger batch.
    """
    if scaling == "as_published":
        return float(scales[step % len(scales)])
    if len(scales) == 1:
        return float(scales[0])
    generator = np.random.default_rng(derive_seed(seed, "scale", epoch, step))
    return float(scales[int(generator.integers(len(scales)))])


def resize_batch(batch: dict[str, Any], scale: float, scaling: Scaling = "drawn") -> dict[str, Any]:
    """Resize "image" (B, C, H, W) and "mask" (B, 1, H, W) of a batch by `scale`; other entries pass unchanged.

    Sizes are rounded to the nearest pixel: the networks take any size, so nothing is snapped to multiples of 32.
    Images are interpolated bilinearly with antialiasing. Masks take the nearest value and stay 0 or 1, because our
    losses and their empty-mask rule are defined on binary truth.

    As PraNet's code does it, sides become the nearest multiples of 32, and image and mask are both interpolated
    bilinearly with their corners aligned and without antialiasing; borders of the mask then lie between 0 and 1. At a
    scale of 1 nothing is resized.
    """
    image, mask = batch["image"], batch["mask"]
    if scaling == "as_published":
        if scale == 1:
            return batch
        size = tuple(max(1, round(length * scale / 32)) * 32 for length in image.shape[-2:])
        resized = {
            name: F.interpolate(maps, size=size, mode="bilinear", align_corners=True)
            for name, maps in (("image", image), ("mask", mask))
        }
        return {**batch, **resized}
    size = tuple(max(1, round(length * scale)) for length in image.shape[-2:])
    if size == tuple(image.shape[-2:]):
        return batch
    resized_image: Tensor = F.interpolate(image, size=size, mode="bilinear", align_corners=False, antialias=True)
    resized_mask: Tensor = F.interpolate(mask, size=size, mode="nearest-exact")
    return {**batch, "image": resized_image, "mask": resized_mask}
