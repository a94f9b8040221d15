from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from medformer.config import VolumeAugmentConfig
from medformer.data.cases import Case
from medformer.data.volumes.plan.volume_plan import Intensity, VolumePlan
from medformer.data.volumes.prepare.augment import VolumeAugmentation
from medformer.data.volumes.prepare.patches import WholeImages
from medformer.data.volumes.prepare.store import PreparedStore

MakeCase = Callable[..., Case]

PLAN = VolumePlan(
    spacing=(1.0, 1.0, 1.0),
    intensity=(Intensity("ct", -10.0, 10.0, 0.0, 1.0),),
    labels=(),
    patch=(12, 12, 12),
    strides=((1, 1, 1),),
    kernel_sizes=((3, 3, 3),),
    batch_size=2,
)
LABELS = {"large": 1, "small": 0}
AUGMENTATION = VolumeAugmentation(VolumeAugmentConfig(flip=0.5, affine=1.0), PLAN.spacing)


@pytest.fixture
def store(tmp_path: Path, make_case: MakeCase) -> PreparedStore:
    generator = np.random.default_rng(0)
    cases = [
        make_case("large", generator.normal(size=(20, 14, 12)).astype(np.float32)),
        make_case("small", generator.normal(size=(8, 12, 10)).astype(np.float32)),
    ]
    return PreparedStore(tmp_path / "prepared", PLAN, cases, memory_gb=0.1, labels=False)


def test_images_are_the_middle_of_their_cases(store: PreparedStore) -> None:
    data = WholeImages(store, PLAN, ["large", "small"], LABELS)
    assert len(data) == 2
    large, small = data[(0, 0)], data[(0, 1)]
    assert large["id"] == "large" and large["label"].item() == 1 and large["label"].dtype == torch.int64
    assert np.array_equal(large["image"].numpy(), store["large"].image[:, 4:16, 1:13])
    assert small["image"].shape == (1, 12, 12, 12)
    assert np.array_equal(small["image"][:, 2:10, :, 1:11].numpy(), store["small"].image)
    assert (small["image"][:, :2] == float(store["small"].lowest[0])).all()


def test_without_labels_items_have_none(store: PreparedStore) -> None:
    assert set(WholeImages(store, PLAN, ["small"])[0]) == {"image", "id"}


def test_augmentation_replays_and_differs_between_epochs(store: PreparedStore) -> None:
    first, second = (WholeImages(store, PLAN, list(LABELS), LABELS, augmentation=AUGMENTATION, seed=3) for _ in "ab")
    assert torch.equal(first[(1, 0)]["image"], second[(1, 0)]["image"])
    assert not torch.equal(first[(1, 0)]["image"], first[(2, 0)]["image"])
    assert first[(1, 0)]["image"].shape == (1, 12, 12, 12)
