"""Connectomes as training data: rows of matrices, batch by batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from medformer.errors import DataError
from medformer.seeds import derive_seed


@dataclass(eq=False)
class ConnectomeData:
    """Subjects for a training loop (see `medformer.data.network_inputs.TrainingData`), which takes them batch by batch.

    The noise depends only on the seed, the epoch and the subject's id.

    Args:
        edges: By atlas, float32 (n, d); memory-mapped arrays are read a batch at a time.
        labels: 1 (positive) or 0 per subject, (n,); None for reconstruction, which needs none.
        ids: Of the subjects, in the order of the rows.
        noise: Standard deviation of Gaussian noise added to every connection.
        seed: Decides the noise.
        offsets: What is known of each subject's log odds beforehand, which the network is to add to, (n,); see
            `ClassificationObjective`.

    Raises:
        DataError: There is no atlas, or the numbers of subjects differ.
    """

    edges: Mapping[str, NDArray[np.float32]]
    labels: ArrayLike | None
    ids: Sequence[str]
    _: KW_ONLY
    noise: float = 0.0
    seed: int = 0
    offsets: ArrayLike | None = None

    def __post_init__(self) -> None:
        if not self.edges:
            raise DataError("There are no connections to train on, expected at least one atlas.")
        self._labels = None if self.labels is None else torch.as_tensor(np.asarray(self.labels, np.int64))
        self._offsets = None if self.offsets is None else torch.as_tensor(np.asarray(self.offsets, np.float32))
        counts = {f"atlas {atlas}": len(block) for atlas, block in self.edges.items()}
        if self._labels is not None:
            counts["labels"] = len(self._labels)
        if self._offsets is not None:
            counts["offsets"] = len(self._offsets)
        wrong = [f"{name} has {count}" for name, count in counts.items() if count != len(self.ids)]
        if wrong:
            raise DataError(
                f"There are {len(self.ids)} subjects, but {', '.join(wrong)}; expected one row per subject."
            )

    def __len__(self) -> int:
        """Number of subjects."""
        return len(self.ids)

    def __getitem__(self, index: tuple[int, int]) -> dict[str, Any]:
        """Give one subject as {"edges": {atlas: (d,)}, "id": str} and, as they are known, "label" and "offset": ()."""
        batch = self.batch([index])
        edges = {atlas: block[0] for atlas, block in batch.pop("edges").items()}
        return {"edges": edges, **{key: value[0] for key, value in batch.items()}}

    def batch(self, indices: Sequence[tuple[int, int]]) -> dict[str, Any]:
        """Give subjects by (epoch, index): {"edges": {atlas: (B, d)}, "id": [str]} and, as known, "label" and "offset".

        Both are (B,).
        """
        rows = np.array([row for _, row in indices])
        edges = {atlas: np.asarray(block[rows], np.float32) for atlas, block in self.edges.items()}
        if self.noise:
            for place, (epoch, row) in enumerate(indices):
                self._disturb({atlas: block[place] for atlas, block in edges.items()}, epoch, self.ids[row])
        batch: dict[str, Any] = {
            "edges": {atlas: torch.from_numpy(block) for atlas, block in edges.items()},
            "id": [self.ids[row] for row in rows],
        }
        known = {"label": self._labels, "offset": self._offsets}
        return batch | {key: value[torch.from_numpy(rows)] for key, value in known.items() if value is not None}

    @property
    def names(self) -> Sequence[str]:
        """Id of the case of each item."""
        return self.ids

    def plain(self) -> ConnectomeData:
        """The same items without noise."""
        return replace(self, noise=0.0)

    def _disturb(self, subject: Mapping[str, NDArray[np.float32]], epoch: int, name: str) -> None:
        """Add noise in place."""
        generator = np.random.default_rng(derive_seed(self.seed, "noise", epoch, name))
        for connections in subject.values():
            connections += np.float32(self.noise) * generator.standard_normal(len(connections), np.float32)
