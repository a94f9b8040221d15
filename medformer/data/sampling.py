"""The order in which a training epoch visits the cases, as data that carries its own epoch."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from medformer.seeds import derive_seed


class EpochSampler(Sampler[tuple[int, int]]):
    """Yields (epoch, index) pairs.

    Loader workers that live through several epochs hold a copy of the dataset made before the first one, so telling the
    dataset its epoch in the main process would not reach them. An index that carries the epoch always does. The order
    depends on the seed and the epoch alone: after `set_epoch(k)` a resumed run continues with the order of epoch k.
    """

    def __init__(self, length: int, *, seed: int, shuffle: bool = True, rank: int = 0, replicas: int = 1) -> None:
        """Store the plan.

        Args:
            length: Number of cases.
            seed: The run's (or fold's) seed.
            shuffle: Whether to permute the cases in every epoch.
            rank: Which process this is, in 0 .. replicas-1.
            replicas: Number of processes that share an epoch. Each gets equally many cases, because unequal numbers
                would leave some waiting for a gradient exchange; the first cases of the order fill up the last round.
        """
        if length < 1:
            raise ValueError(f"EpochSampler needs at least one case, got {length}")
        if not 0 <= rank < replicas:
            raise ValueError(f"rank must be in 0 .. {replicas - 1}, got {rank}")
        self.length = length
        self.seed = seed
        self.shuffle = shuffle
        self.rank = rank
        self.replicas = replicas
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Cases per epoch of this process."""
        return -(-self.length // self.replicas)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yield this process's share of the epoch."""
        order = np.arange(self.length)
        if self.shuffle:
            order = np.random.default_rng(derive_seed(self.seed, "order", self.epoch)).permutation(self.length)
        padded = np.resize(order, len(self) * self.replicas)
        for index in padded[self.rank :: self.replicas]:
            yield self.epoch, int(index)
