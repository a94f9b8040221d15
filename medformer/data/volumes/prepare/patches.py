"""What networks for volumes are trained on: patches of prepared cases, or the middle of each case for classification.

Where a patch lies and how it is augmented depends only on the seed, the epoch and the number of the item.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from medformer.config import VolumeDataConfig
from medformer.data.volumes.plan.volume_plan import VolumePlan
from medformer.data.volumes.prepare.augment import VolumeAugmentation
from medformer.data.volumes.prepare.deformation import centered_start, cut
from medformer.data.volumes.prepare.prepare_case import PreparedCase
from medformer.data.volumes.prepare.store import PreparedStore
from medformer.imaging.geometry import Axes
from medformer.seeds import derive_seed


@dataclass
class PatchData:
    """Training data (see `medformer.data.network_inputs.TrainingData`) of `config.patches` patches per case and epoch.

    A patch lies anywhere inside of its case; along an axis where the case is shorter than the patch, the case lies
    anywhere inside of the patch, and around it is the lowest value of each channel and background. With the probability
    `config.foreground` it has a voxel of a label in its middle, as far as staying inside allows: of one of the labels
    that the case has, each equally likely, however small.

    Attributes:
        store: Has the cases prepared; without labels there, items have no mask.
        plan: Says how large a patch is.
        ids: The cases to train on.
        config: How many patches, and where.
        augmentation: None for none.
        seed: Of the training.
    """

    store: PreparedStore
    plan: VolumePlan
    ids: Sequence[str]
    config: VolumeDataConfig
    augmentation: VolumeAugmentation | None
    seed: int

    def __len__(self) -> int:
        """Patches per epoch."""
        return len(self.ids) * self.config.patches

    def __getitem__(self, index: tuple[int, int]) -> dict[str, Any]:
        """Give {"image": float32 (C, *patch), "mask": int64 (1, *patch) of classes, "id": str}."""
        epoch, position = index
        name = self.ids[position // self.config.patches]
        seed = derive_seed(self.seed, "patch", epoch, name, position % self.config.patches)
        case = self.store[name]
        voxels = self.store.voxels(name) if case.classes is not None else {}
        start = draw_start(np.random.default_rng(seed), case.shape, self.plan.patch, voxels, self.config.foreground)
        image, classes = cut_patch(case, start, self.plan.patch, self.augmentation, derive_seed(seed, "augment"))
        item = {"image": torch.from_numpy(image), "id": name}
        if classes is not None:
            item["mask"] = torch.from_numpy(classes[np.newaxis].astype(np.int64))
        return item

    @property
    def names(self) -> list[str]:
        """Id of the case of each item."""
        return [name for name in self.ids for _ in range(self.config.patches)]

    def plain(self) -> PatchData:
        """Patches of the same cases without augmentation, each around a label where the case has any."""
        return replace(self, augmentation=None, config=self.config.model_copy(update={"foreground": 1.0}))


class Prepared(Protocol):
    """What has prepared cases by id: a `PreparedStore`, or anything that prepares them when asked."""

    def __getitem__(self, name: str, /) -> PreparedCase:
        """Give a case; its arrays must not be written to."""


@dataclass
class WholeImages:
    """Training data (see `medformer.data.network_inputs.TrainingData`) of one image per case.

    A case that is larger than the plan's patch is cut to its middle, a smaller one gets the lowest value of each
    channel around it.

    Attributes:
        store: Has the cases.
        plan: Says how large an image is.
        ids: The cases.
        labels: Class of each case; without them, items have none.
        augmentation: None for validation and test.
        seed: Of the training.
        offsets: What is known of each case's log odds beforehand, which the network is to add to (see
            `ClassificationObjective`); without them, items have none.
    """

    store: Prepared
    plan: VolumePlan
    ids: Sequence[str]
    labels: Mapping[str, int] | None = None
    augmentation: VolumeAugmentation | None = None
    seed: int = 0
    offsets: Mapping[str, float] | None = None

    def __len__(self) -> int:
        """Number of cases."""
        return len(self.ids)

    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, Any]:
        """Give {"image": float32 (C, *patch), "label": int64, "offset": float32, "id": str}, as they are known.

        A plain index is one of epoch 0.
        """
        epoch, position = index if isinstance(index, tuple) else (0, index)
        name = self.ids[position]
        case = self.store[name]
        seed = derive_seed(self.seed, "augment", epoch, name)
        image, _ = cut_patch(
            case, centered_start(case.shape, self.plan.patch), self.plan.patch, self.augmentation, seed
        )
        item = {"image": torch.from_numpy(image), "id": name}
        if self.labels is not None:
            item["label"] = torch.tensor(self.labels[name], dtype=torch.int64)
        if self.offsets is not None:
            item["offset"] = torch.tensor(self.offsets[name], dtype=torch.float32)
        return item

    @property
    def names(self) -> Sequence[str]:
        """Id of the case of each item."""
        return self.ids

    def plain(self) -> WholeImages:
        """The same items without augmentation."""
        return replace(self, augmentation=None)


def draw_start(
    generator: np.random.Generator,
    size: Axes,
    patch: Axes,
    voxels: Mapping[int, NDArray[np.int64]],
    foreground: float,
) -> Axes:
    """Draw where a patch begins; see `PatchData`.

    Args:
        generator: Decides everything.
        size: Of the case.
        patch: Of the patch.
        voxels: Flat indices of voxels of each label that the case has.
        foreground: Probability of having a label in the middle, where there is one.
    """
    room = np.array(size) - patch
    low, high = np.minimum(room, 0), np.maximum(room, 0)
    start = generator.integers(low, high, endpoint=True)
    if generator.random() < foreground and voxels:
        places = voxels[generator.choice(sorted(voxels))]
        middle = np.array(np.unravel_index(places[generator.integers(len(places))], size))
        start = np.clip(middle - np.array(patch) // 2, low, high)
    return int(start[0]), int(start[1]), int(start[2])


def cut_patch(
    case: PreparedCase, start: Axes, patch: Axes, augmentation: VolumeAugmentation | None, seed: int
) -> tuple[NDArray[np.float32], NDArray[Any] | None]:
    """Cut a patch (C, *patch) of a case, with its classes (*patch) if there are any, and augment it."""
    reach = (0, 0, 0) if augmentation is None else augmentation.margin(patch, seed)
    begin = (start[0] - reach[0], start[1] - reach[1], start[2] - reach[2])
    shape = (patch[0] + 2 * reach[0], patch[1] + 2 * reach[1], patch[2] + 2 * reach[2])
    image = cut(case.image, begin, shape, case.lowest)
    classes = None if case.classes is None else cut(case.classes, begin, shape, 0)
    return (image, classes) if augmentation is None else augmentation(image, classes, seed, patch)
