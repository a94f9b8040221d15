"""What a classifier is given, in batches: connections by atlas, or images one by one.

batches(inputs, model, size)     of {atlas: (n, d)} or of images (C, *S), where the model is
ItemImages(data)                 the images of data whose items are tables, as training has them
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Edges = Mapping[str, NDArray[np.float32]]
"""By atlas, (n, d)."""


class Images(Protocol):
    """Images of one shape: an array (n, C, *S), or anything that gives (C, *S) by number, read when asked for."""

    def __len__(self) -> int:
        """Number of images."""

    def __getitem__(self, index: int, /) -> Any:
        """Give one, float32 (C, *S)."""


Inputs = Edges | Images


class Items(Protocol):
    """Data whose items are tables of tensors, by epoch and number (see `medformer.training.loader.TrainingData`)."""

    def __len__(self) -> int:
        """Number of items."""

    def __getitem__(self, index: tuple[int, int], /) -> Any:
        """Give one item."""


class ItemImages:
    """The images of data that training could use, as they are in one epoch.

    Args:
        data: Items with an `image` (C, *S).
        epoch: Of those items that depend on it.
    """

    def __init__(self, data: Items, epoch: int = 0) -> None:
        self.data = data
        self.epoch = epoch

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
