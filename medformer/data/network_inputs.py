"""What networks are given: training items by epoch and number, and batches of connections by atlas or of images.

batches(inputs, model, size)     of {atlas: (n, d)} or of images (C, *S), where the model is
to_device(values, device)        a copy where the network is, from page-locked memory to a GPU
loaded_ahead(load, numbers, n)   what `load` gives for each number, loaded by threads while the caller works
with_float64(values)             a tensor where sums in float64 are possible
ItemImages(data)                 the images of data whose items are tables, as training has them
draw_scale, resize_batch         multi-scale training: every batch is seen at one of a few sizes, or at each of them
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, overload

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


Loaded = TypeVar("Loaded")


def loaded_ahead(load: Callable[[int], Loaded], numbers: Sequence[int], threads: int) -> Iterator[Loaded]:
    """Yield `load(number)` of each number in order, or raise what it raised.

    Args:
        load: Does most of its work without Python's lock, as decoding and resizing of images do.
        numbers: Of what is loaded.
        threads: That load so many ahead while the caller works; 0 loads one when it is asked for.
    """
    if not threads:
        yield from map(load, numbers)
        return
    pool = ThreadPoolExecutor(threads)
    waiting: deque[Future[Loaded]] = deque()
    try:
        for number in numbers:
            waiting.append(pool.submit(load, number))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the CPU where a network is; a GPU copies from page-locked memory while the host goes on."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


@overload
def batches(inputs: Edges, model: nn.Module, size: int) -> Iterator[dict[str, Tensor]]: ...
@overload
def batches(inputs: Images, model: nn.Module, size: int) -> Iterator[Tensor]: ...
@overload
def batches(inputs: Inputs, model: nn.Module, size: int) -> Iterator[dict[str, Tensor]] | Iterator[Tensor]: ...
def batches(inputs: Inputs, model: nn.Module, size: int) -> Iterator[Any]:
    """Yield what the model is given of up to `size` cases at a time, where it is."""
    for number in range(count_batches(inputs, size)):
        yield batch_of(inputs, model, size, number)


def count_batches(inputs: Inputs, size: int) -> int:
    """How many batches of up to `size` cases there are."""
    return -(-cases_of(inputs) // size)


def batch_of(inputs: Inputs, model: nn.Module, size: int, number: int) -> Any:
    """One of the batches that `batches` gives."""
    device = next(model.parameters()).device
    rows = range(number * size, min((number + 1) * size, cases_of(inputs)))
    # Copies, because memory-mapped arrays may be read-only.
    if isinstance(inputs, Mapping):
        parts = {atlas: np.array(block[rows.start : rows.stop], np.float32) for atlas, block in inputs.items()}
        return {atlas: to_device(torch.from_numpy(part), device) for atlas, part in parts.items()}
    return to_device(torch.from_numpy(np.stack([np.asarray(inputs[row], np.float32) for row in rows])), device)


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
