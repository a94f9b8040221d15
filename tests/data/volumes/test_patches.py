from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from medformer.config import VolumeAugmentConfig, VolumeDataConfig
from medformer.data.cases import Case
from medformer.data.volumes.plan.volume_plan import Intensity, VolumePlan
from medformer.data.volumes.prepare.augment import VolumeAugmentation
from medformer.data.volumes.prepare.patches import PatchData, draw_start
from medformer.data.volumes.prepare.store import PreparedStore
from medformer.imaging.geometry import Axes
from medformer.training.loader import EpochSampler

MakeCase = Callable[..., Case]

PLAN = VolumePlan(
    spacing=(1.0, 1.0, 1.0),
    intensity=(Intensity("ct", -1000.0, 1000.0, 0.0, 1.0),),
    labels=((1, "Large"), (2, "Small")),
    patch=(12, 10, 8),
    strides=((1, 1, 1),),
    kernel_sizes=((3, 3, 3),),
    batch_size=2,
)
AUGMENTATION = VolumeAugmentation(VolumeAugmentConfig(), PLAN.spacing)
SIZES = {"big": (30, 26, 22), "small": (7, 6, 5), "mixed": (30, 6, 8)}


@pytest.fixture
def store(tmp_path: Path, make_case: MakeCase) -> PreparedStore:
    """Every voxel holds its own number, so that a patch tells where it is from."""
    cases = []
    for name, size in SIZES.items():
        image = np.linspace(-500.0, 500.0, int(np.prod(size)), dtype=np.float32).reshape(size)
        labels = np.zeros(size, np.uint8)
        labels[: size[0] // 2] = 1
        labels[-2, -2, -2] = 2
        cases.append(make_case(name, image, labels))
    return PreparedStore(tmp_path / "prepared", PLAN, cases, memory_gb=0.0)


def _data(store: PreparedStore, *ids: str, augmentation: VolumeAugmentation | None = None, **config: Any) -> PatchData:
    return PatchData(
        store, PLAN, ids or tuple(SIZES), config=VolumeDataConfig(**config), augmentation=augmentation, seed=5
    )


def test_items_are_patches_of_the_plans_size(store: PreparedStore) -> None:
    data = _data(store, patches=4, augmentation=AUGMENTATION)
    assert len(data) == 12
    for index in range(12):
        item = data[(0, index)]
        assert item["image"].shape == (1, 12, 10, 8) and item["image"].dtype == torch.float32
        assert item["mask"].shape == (1, 12, 10, 8) and item["mask"].dtype == torch.int64
        assert item["id"] == list(SIZES)[index // 4] and set(item["mask"].unique().tolist()) <= {0, 1, 2}


def test_a_patch_is_a_piece_of_its_case(store: PreparedStore) -> None:
    volume, classes = store["big"].image[0], store["big"].classes
    assert classes is not None
    for index in range(10):
        item = _data(store, "big", patches=10)[(3, index)]
        corner = np.argwhere(volume == item["image"][0, 0, 0, 0].item())[0]
        place = tuple(slice(first, first + side) for first, side in zip(corner, PLAN.patch, strict=True))
        assert np.array_equal(volume[place], item["image"][0].numpy())
        assert np.array_equal(classes[place], item["mask"][0].numpy())


def test_a_small_case_lies_whole_inside_the_patch_with_the_lowest_value_around(store: PreparedStore) -> None:
    case = store["small"]
    assert case.classes is not None
    data = _data(store, "small", patches=30)
    places = set()
    for index in range(30):
        item = data[(0, index)]
        image, mask = item["image"][0].numpy(), item["mask"][0].numpy()
        # The lowest value is the case's own first voxel, too.
        inside = np.argwhere(image > case.lowest[0])
        assert len(inside) == case.image.size - 1 and (mask > 0).sum() == (case.classes > 0).sum()
        places.add(tuple(int(place) for place in np.argwhere(mask == 2)[0]))
    assert len(places) > 15


def test_items_depend_on_epoch_and_index_alone(store: PreparedStore) -> None:
    first, second = (_data(store, patches=3, augmentation=AUGMENTATION) for _ in range(2))
    second[(1, 2)]
    for index in (0, 4, 8):
        one, two = first[(2, index)], second[(2, index)]
        assert torch.equal(one["image"], two["image"]) and torch.equal(one["mask"], two["mask"])
    assert not torch.equal(first[(0, 0)]["image"], first[(1, 0)]["image"])
    assert not torch.equal(first[(0, 0)]["image"], first[(0, 1)]["image"])


def test_a_patch_does_not_depend_on_the_other_cases(store: PreparedStore) -> None:
    alone, among = _data(store, "mixed", patches=2), _data(store, patches=2)
    assert torch.equal(alone[(1, 1)]["image"], among[(1, 5)]["image"])


def test_loader_processes_give_the_same_patches(store: PreparedStore) -> None:
    data = _data(store, patches=2, augmentation=AUGMENTATION)
    assert len(pickle.dumps(data)) < 10_000
    found = []
    for workers in (0, 1):
        order = EpochSampler(len(data), seed=1)
        found.append(list(DataLoader(data, batch_size=2, sampler=order, num_workers=workers)))
    for one, two in zip(*found, strict=True):
        assert one["id"] == two["id"] and torch.equal(one["image"], two["image"])


def test_labels_are_chosen_alike_however_small(store: PreparedStore) -> None:
    """One voxel of the small label gets as many patches as thousands of the large one."""
    data = _data(store, "big", patches=300, foreground=1.0)
    small = sum(bool((data[(0, index)]["mask"] == 2).any()) for index in range(300))
    assert 0.4 < small / 300 < 0.65


def test_the_share_of_foreground_is_kept() -> None:
    voxels = {1: np.array([np.ravel_multi_index((50, 50, 50), (100, 100, 100))])}
    starts = Counter(
        draw_start(np.random.default_rng(seed), (100, 100, 100), (10, 10, 10), voxels, 0.33) for seed in range(2000)
    )
    assert starts.most_common(1)[0][0] == (45, 45, 45)
    assert starts[(45, 45, 45)] / 2000 == pytest.approx(0.33, abs=0.03)


@pytest.mark.parametrize("size", [(20, 20, 20), (10, 20, 3), (10, 10, 10), (4, 4, 4), (1, 30, 1)])
def test_starts_stay_in_reach_and_use_all_of_it(size: Axes) -> None:
    voxels = {2: np.arange(np.prod(size))}
    starts = [draw_start(np.random.default_rng(seed), size, (10, 10, 10), voxels, 0.5) for seed in range(400)]
    for axis in range(3):
        room = size[axis] - 10
        found = {start[axis] for start in starts}
        assert found == set(range(min(room, 0), max(room, 0) + 1))


def test_without_labels_there_is_no_mask(tmp_path: Path, make_case: MakeCase) -> None:
    case = make_case("bare", np.random.default_rng(0).normal(size=(16, 16, 16)).astype(np.float32))
    plan = replace(PLAN, labels=())
    store = PreparedStore(tmp_path / "prepared", plan, [case], memory_gb=0.1, labels=False)
    data = PatchData(store, plan, ["bare"], config=VolumeDataConfig(), augmentation=AUGMENTATION, seed=0)
    assert set(data[(0, 1)]) == {"image", "id"}


def test_a_turned_patch_shows_what_lies_beyond_it(store: PreparedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of a volume, nothing of a rotated patch has to be invented."""
    off = dict.fromkeys(VolumeAugmentConfig.model_fields, 0.0)
    turning = VolumeAugmentation(VolumeAugmentConfig(**{**off, "affine": 1.0}), PLAN.spacing)
    middle = np.array([np.ravel_multi_index((15, 13, 11), SIZES["big"])])
    monkeypatch.setattr(store, "voxels", lambda _: {1: middle})
    data = _data(store, "big", patches=8, foreground=1.0, augmentation=turning)
    volume = store["big"].image[0]
    for index in range(8):
        # The values rise from one end of the volume to the other, along every line through it.
        found = data[(0, index)]["image"][0].numpy()
        assert volume.min() < found.min() and found.max() < volume.max()
        assert np.abs(np.diff(found, axis=0)).max(0).min() > 0.0
