"""A number that judges a network, computed in parts, which several processes can share out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn


class PartwiseScore(ABC):
    """Judges a network by parts that do not depend on each other, such as batches or cases.

    A part is what one process looks at as a whole, so that its result does not depend on how many processes there are.
    The network is in evaluation mode, and gradients are off.
    """

    @abstractmethod
    def __len__(self) -> int:
        """Number of parts."""

    @abstractmethod
    def parts(self, model: nn.Module, numbers: Sequence[int]) -> Iterator[Any]:
        """Yield the results of some of the parts, in this order: tensors, arrays or numbers."""

    @abstractmethod
    def score(self, parts: Sequence[Any]) -> float:
        """Return the score, from the results of all parts in order."""

    def __call__(self, model: nn.Module) -> float:
        """Return the score of a network."""
        return self.score(list(self.parts(model, range(len(self)))))
