"""Whole volumes for classification: the middle of each case, at the plan's patch size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from medformer.data.volumes.plan.volume_plan import VolumePlan
from medformer.data.volumes.prepare.augment import VolumeAugmentation
from medformer.data.volumes.prepare.crop import centered_start
from medformer.data.volumes.prepare.patches import cut_patch
from medformer.data.volumes.prepare.store import PreparedStore
from medformer.seeds import derive_seed


class WholeImages:
    """Training data (see `medformer.data.network_inputs.TrainingData`) of one image per case.

    A case that is larger than the plan's patch is cut to its middle, a smaller one gets the lowest value of each
    channel around it.
    """

    def __init__(
        self,
        store: PreparedStore,
        plan: VolumePlan,
        ids: Sequence[str],
        labels: Mapping[str, int] | None = None,
        *,
        augmentation: VolumeAugmentation | None = None,
        seed: int = 0,
    ) -> None:
        """Store the settings.

        Args:
            store: Has the cases prepared.
            plan: Says how large an image is.
            ids: The cases.
            labels: Class of each case; without them, items have none.
            augmentation: None for validation and test.
            seed: Of the training.
        """
        self.store = store
        self.patch = plan.patch
        self.ids = tuple(ids)
        self.labels = labels
        self.augmentation = augmentation
        self.seed = seed

    def __len__(self) -> int:
        """Number of cases."""
        return len(self.ids)

    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, Any]:
        """Give {"image": float32 (C, *patch), "label": int64, "id": str}; a plain index is one of epoch 0."""
        epoch, position = index if isinstance(index, tuple) else (0, index)
        name = self.ids[position]
        case = self.store[name]
        seed = derive_seed(self.seed, "augment", epoch, name)
        image, _ = cut_patch(case, centered_start(case.shape, self.patch), self.patch, self.augmentation, seed)
        item = {"image": torch.from_numpy(image), "id": name}
        if self.labels is not None:
            item["label"] = torch.tensor(self.labels[name], dtype=torch.int64)
        return item
