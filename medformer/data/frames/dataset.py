"""Images and masks of a manifest as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

from medformer.data.cases import Case
from medformer.data.frames.store import Frame, FrameStore, read_frame
from medformer.data.frames.transforms import Augmentation, normalize
from medformer.errors import DataError
from medformer.seeds import derive_seed


class SegmentationDataset(Dataset[dict[str, Any]]):
    """Decodes, resizes, augments and normalizes one case at a time.

    The augmentation of a case depends on (seed, epoch, case id) alone. The epoch arrives with the index, as
    `dataset[(epoch, i)]` (see `medformer.training.loader`), which also reaches loader workers that outlive an epoch; a
    plain `dataset[i]` is that of epoch 0.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        image_size: tuple[int, int],
        *,
        augmentation: Augmentation | None,
        seed: int,
        store: FrameStore | None = None,
        masks: bool = True,
    ) -> None:
        """Store the cases.

        Args:
            cases: Rows of a manifest; every one needs a mask, unless masks are not read.
            image_size: Network input (rows, columns) in pixels; every case is stretched to it.
            augmentation: None for validation and test.
            seed: The run's (or fold's) seed.
            store: Gives the frames, those that it keeps without their files; None to read the files every time.
            masks: Whether items have masks; False for pretraining, which looks at images alone.

        Raises:
            DataError: A case has no mask.
        """
        for case in cases:
            if masks and case.mask is None:
                raise DataError(
                    f"Case '{case.id}' ({case.image}) has no mask, expected one for training or evaluation. "
                    "Add it to the manifest's `mask` column or leave the case out."
                )
        self.cases = tuple(cases)
        self.image_size = (int(image_size[0]), int(image_size[1]))
        self.augmentation = augmentation
        self.seed = seed
        self.masks = masks
        self.store = store

    def __len__(self) -> int:
        """Number of cases."""
        return len(self.cases)

    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, Any]:
        """Give a case as {"image": float32 (3, H, W), normalized, "mask": float32 (1, H, W) in {0, 1}, "id": str}.

        Without masks an item has no "mask", and the images are the same.

        Raises:
            DataError: The image or mask cannot be read, or their sizes differ.
        """
        epoch, position = index if isinstance(index, tuple) else (0, index)
        if get_worker_info() is not None:
            # Workers are already one per core; OpenCV's own threads would only compete with them.
            cv2.setNumThreads(0)
        image, mask = self._load(position)
        case = self.cases[position]
        if self.augmentation is not None:
            image, moved = self.augmentation(image, mask, derive_seed(self.seed, "augment", epoch, case.id))
            mask = moved.astype(np.bool_, copy=False)
        item = {"image": torch.from_numpy(normalize(image)), "id": case.id}
        return {**item, "mask": torch.from_numpy(mask[None].astype(np.float32))} if self.masks else item

    @property
    def names(self) -> list[str]:
        """Id of the case of each item."""
        return [case.id for case in self.cases]

    def plain(self) -> SegmentationDataset:
        """The same items without augmentation."""
        data = copy(self)
        data.augmentation = None
        return data

    def _load(self, position: int) -> Frame:
        case = self.cases[position]
        if self.store is None:
            return read_frame(case, self.image_size, masks=self.masks)
        return self.store.load(case, masks=self.masks)
