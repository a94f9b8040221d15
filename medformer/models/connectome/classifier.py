"""The base of connectome models, and their inputs: one batch of vectorized matrices per atlas, by its name.

A model is an encoder, a head that classifies, on demand a head that reconstructs, and perhaps a linear model beside
them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from medformer.errors import DataError
from medformer.models.wide import WidePath


def edge_count(regions: int, diagonal: bool) -> int:
    """Return the number of connections of an atlas: its upper triangle, with or without the diagonal."""
    return regions * (regions + 1) // 2 if diagonal else regions * (regions - 1) // 2


def edge_counts(regions: Mapping[str, int], diagonal: bool) -> dict[str, int]:
    """Return the number of connections of each atlas.

    Raises:
        DataError: There is no atlas, or an atlas has fewer than two regions.
    """
    if not regions:
        raise DataError("A connectome model got no atlas, expected at least one; name one that the cohort has.")
    for atlas, count in regions.items():
        if count < 2:
            raise DataError(
                f"Atlas '{atlas}' has {count} region(s), expected at least 2: there is no connection to learn from. "
                "Leave it out, or prepare the cohort again."
            )
    return {atlas: edge_count(count, diagonal) for atlas, count in regions.items()}


def check_edges(edges: Mapping[str, Tensor], counts: Mapping[str, int]) -> None:
    """Compare a batch with what a model was built for; atlases that it was not built for are not looked at.

    Raises:
        DataError: An atlas is missing, is not `(batch, connections)`, or has another number of connections.
    """
    for atlas, expected in counts.items():
        if atlas not in edges:
            raise DataError(
                f"The model was built for the atlases {', '.join(counts)}; got {', '.join(edges) or 'none'}, "
                f"without '{atlas}'. Give every atlas, or train a model on those there are."
            )
        shape = tuple(edges[atlas].shape)
        if len(shape) != 2 or shape[1] != expected:
            raise DataError(
                f"Atlas '{atlas}': got connections of shape {shape}, expected (batch, {expected}). "
                "The model was built for another parcellation or another connectivity measure."
            )


def module_key(atlas: str) -> str:
    """Return a name for a submodule: atlas names may hold dots or be methods of a module, its keys may not."""
    return "atlas_" + atlas.replace("%", "%25").replace(".", "%2E")


def row_indices(regions: int, diagonal: bool) -> Tensor:
    """Return where to find each element of the symmetric matrix among an atlas's connections.

    Returns:
        `(regions, regions)` indices into the upper triangle, in the order of `numpy.triu_indices`. Without the
        diagonal, its elements point one past the last connection, where a zero is to be appended.
    """
    upper, lower = torch.triu_indices(regions, regions, offset=0 if diagonal else 1)
    count = edge_count(regions, diagonal)
    index = torch.full((regions, regions), count)
    index[upper, lower] = torch.arange(count)
    index[lower, upper] = torch.arange(count)
    return index


class LinearPath(WidePath):
    """A linear model of all connections beside a network."""

    def __init__(self, counts: Mapping[str, int]) -> None:
        super().__init__()
        self.atlases = tuple(counts)
        for atlas, count in counts.items():
            self.register_buffer(module_key(atlas), torch.zeros(count))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Forget what was fitted: the weights of each atlas come into another order."""
        for atlas in self.atlases:
            weights = self.weights(atlas)
            weights.copy_(weights[torch.randperm(len(weights), device="cpu").to(weights.device)])

    def weights(self, atlas: str) -> Tensor:
        """Log odds per unit of each connection of an atlas, (connections,)."""
        found: Tensor = getattr(self, module_key(atlas))
        return found

    def score(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """The linear model's log odds of class 1, `{atlas: (B, connections)} -> (B,)`."""
        return torch.stack([inputs[atlas] @ self.weights(atlas) for atlas in self.atlases]).sum(0) + self.bias


class ConnectomeClassifier(nn.Module, ABC):
    """Maps the connections of each atlas, `{atlas: (B, connections)}`, to logits `(B, classes)`.

    Class 1 is autism and class 0 control. `features` are what the encoder hands to the heads; each model chooses their
    shape.

    Attributes:
        encoder: `{atlas: (B, connections)} -> {atlas: features}`; masked pretraining trains this very module.
        wide: A linear model that the logits are added to; None without.
    """

    encoder: nn.Module
    wide: LinearPath | None

    def __init__(self) -> None:
        super().__init__()
        self.wide = None

    @abstractmethod
    def classify(self, features: Mapping[str, Tensor]) -> Tensor:
        """Return logits `(B, classes)` of the encoder's features."""

    @abstractmethod
    def decoder(self, *, across: bool = False) -> nn.Module:
        """Return a new head `{atlas: features} -> {atlas: (B, connections)}`, which is no part of this model.

        Args:
            across: Whether an atlas is also reconstructed from the features of the others.

        Raises:
            ConfigError: The model's features of one atlas say nothing about places in another.
        """

    def forward(self, edges: Mapping[str, Tensor]) -> Tensor:
        logits = self.classify(self.encoder(edges))
        return logits if self.wide is None else self.wide(edges, logits)
