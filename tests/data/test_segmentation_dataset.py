from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from medformer.config import AugmentConfig
from medformer.data.cases import Case
from medformer.data.frames.dataset import SegmentationDataset
from medformer.data.frames.store import FrameStore
from medformer.data.frames.transforms import Augmentation
from medformer.data.network_inputs import draw_scale, resize_batch
from medformer.errors import DataError
from medformer.training.loader import EpochSampler

AUGMENTATION = Augmentation(AugmentConfig())


def _case(folder: Path, name: str, size: tuple[int, int] = (40, 56), mask_size: tuple[int, int] | None = None) -> Case:
    generator = np.random.default_rng(len(name) + ord(name[-1]))
    image = generator.integers(0, 256, (*size, 3), dtype=np.uint8)
    mask = np.zeros(mask_size or size, np.uint8)
    mask[10:30, 12:40] = 255
    Image.fromarray(image).save(folder / f"{name}.png")
    Image.fromarray(mask).save(folder / f"{name}_mask.png")
    return Case(
        id=name,
        image=folder / f"{name}.png",
        mask=folder / f"{name}_mask.png",
        group=name,
        site="a",
        split="",
        sha256="",
    )


@pytest.fixture
def cases(tmp_path: Path) -> list[Case]:
    return [_case(tmp_path, f"case{number}", (40 + number, 56)) for number in range(6)]


def _store(folder: Path, cases: list[Case], monkeypatch: pytest.MonkeyPatch) -> FrameStore:
    monkeypatch.setattr("medformer.data.frames.store.SPARE", 0.0)
    store = FrameStore(folder / "kept", (32, 48), limit_gb=1.0)
    store.keep(cases)
    return store


def test_items_are_normalized_tensors_of_the_asked_size(cases: list[Case]) -> None:
    item = SegmentationDataset(cases, (32, 48), augmentation=None, seed=0)[2]
    assert item["image"].shape == (3, 32, 48) and item["image"].dtype == torch.float32
    assert item["mask"].shape == (1, 32, 48) and item["mask"].dtype == torch.float32
    assert set(item["mask"].unique().tolist()) == {0.0, 1.0}
    assert item["id"] == "case2" and -3 < float(item["image"].min()) < float(item["image"].max()) < 3


def test_augmentation_replays_per_epoch_and_case(cases: list[Case]) -> None:
    def dataset(seed: int = 0) -> SegmentationDataset:
        return SegmentationDataset(cases, (32, 48), augmentation=AUGMENTATION, seed=seed)

    first, second = dataset(), dataset()
    assert torch.equal(first[(3, 1)]["image"], second[(3, 1)]["image"])
    assert torch.equal(first[(3, 1)]["mask"], second[(3, 1)]["mask"])
    assert not torch.equal(first[(3, 1)]["image"], first[(4, 1)]["image"])
    assert not torch.equal(first[(3, 1)]["image"], dataset(seed=1)[(3, 1)]["image"])


def test_the_case_and_not_its_position_decides(cases: list[Case]) -> None:
    whole = SegmentationDataset(cases, (32, 48), augmentation=AUGMENTATION, seed=0)
    part = SegmentationDataset(cases[4:], (32, 48), augmentation=AUGMENTATION, seed=0)
    assert torch.equal(whole[(1, 4)]["image"], part[(1, 0)]["image"])


def test_a_store_gives_the_same_pixels_without_the_files(
    cases: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = SegmentationDataset(cases, (32, 48), augmentation=AUGMENTATION, seed=0)
    expected = [plain[(2, index)] for index in range(len(cases))]
    store = _store(tmp_path, cases, monkeypatch)
    cached = SegmentationDataset(cases, (32, 48), augmentation=AUGMENTATION, seed=0, store=store)
    for case in cases:
        case.image.unlink()
    for index, item in enumerate(expected):
        again = cached[(2, index)]
        assert torch.equal(item["image"], again["image"]) and torch.equal(item["mask"], again["mask"])
        assert torch.equal(item["image"], cached[(2, index)]["image"])


@pytest.mark.parametrize("workers", [0, 2])
def test_epochs_reach_persistent_workers(
    cases: list[Case], workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = _store(tmp_path, cases, monkeypatch)
    dataset = SegmentationDataset(cases, (32, 48), augmentation=AUGMENTATION, seed=0, store=store)
    sampler = EpochSampler(len(dataset), seed=0)
    loader = DataLoader(dataset, 2, sampler=sampler, num_workers=workers, persistent_workers=workers > 0)
    for epoch in [0, 1]:
        sampler.begin(epoch)
        for batch in loader:
            for name, image in zip(batch["id"], batch["image"], strict=True):
                expected = dataset[(epoch, int(name.removeprefix("case")))]
                assert torch.equal(image, expected["image"])


def test_size_mismatch_names_the_case(tmp_path: Path) -> None:
    case = _case(tmp_path, "odd", (40, 56), (41, 56))
    dataset = SegmentationDataset([case], (32, 48), augmentation=None, seed=0)
    with pytest.raises(DataError, match=r"'odd'.*40 x 56.*41 x 56"):
        dataset[0]


def test_missing_mask_names_the_case(cases: list[Case]) -> None:
    case = Case(id="bare", image=cases[0].image, mask=None, group="g", site="a", split="", sha256="")
    with pytest.raises(DataError, match=r"'bare'.*no mask"):
        SegmentationDataset([*cases, case], (32, 48), augmentation=None, seed=0)


def test_sampler_visits_every_case_once_in_an_order_of_its_epoch() -> None:
    sampler = EpochSampler(50, seed=4)
    first = list(sampler)
    sampler.begin(1)
    second = list(sampler)
    assert sorted(first) == [(0, index) for index in range(50)]
    assert sorted(second) == [(1, index) for index in range(50)]
    assert [index for _, index in first] != [index for _, index in second]
    resumed = EpochSampler(50, seed=4)
    resumed.begin(1)
    assert list(resumed) == second
    resumed.begin(1, skip=20)
    assert list(resumed) == second[20:] and len(resumed) == 30
    assert list(EpochSampler(50, seed=4, per_epoch=12)) == first[:12]


def test_sampler_shares_an_epoch_between_processes() -> None:
    parts = [list(EpochSampler(10, seed=0, rank=rank, replicas=4)) for rank in range(4)]
    assert {len(part) for part in parts} == {3}
    assert {index for part in parts for _, index in part} == set(range(10))


def test_scales_replay_and_are_all_drawn() -> None:
    drawn = [draw_scale((0.75, 1.0, 1.25), 0, 2, step) for step in range(60)]
    assert drawn == [draw_scale((0.75, 1.0, 1.25), 0, 2, step) for step in range(60)]
    assert set(drawn) == {0.75, 1.0, 1.25}
    assert drawn != [draw_scale((0.75, 1.0, 1.25), 0, 3, step) for step in range(60)]


def test_resize_batch_keeps_the_mask_binary_and_aligned() -> None:
    mask = torch.zeros(2, 1, 48, 64)
    mask[:, :, 10:30, 20:50] = 1
    batch = {"image": mask.repeat(1, 3, 1, 1), "mask": mask, "id": ["a", "b"]}
    for scale in [0.5, 0.75, 1.3]:
        resized = resize_batch(batch, scale)
        height, width = round(48 * scale), round(64 * scale)
        assert resized["image"].shape == (2, 3, height, width) and resized["mask"].shape == (2, 1, height, width)
        assert set(resized["mask"].unique().tolist()) == {0.0, 1.0}
        assert ((resized["image"][:, :1] > 0.5) == (resized["mask"] > 0.5)).float().mean() > 0.97
        assert resized["id"] == ["a", "b"]
    assert resize_batch(batch, 1.0) is batch


def test_published_scales_come_in_turn_and_give_multiples_of_32_with_soft_masks() -> None:
    scales = (0.75, 1.0, 1.25)
    assert [draw_scale(scales, 7, 0, step, "as_published") for step in range(5)] == [0.75, 1.0, 1.25, 0.75, 1.0]
    mask = torch.zeros(1, 1, 352, 352)
    mask[:, :, 100:, 50:] = 1
    batch = {"image": mask.repeat(1, 3, 1, 1), "mask": mask, "id": ["a"]}
    assert resize_batch(batch, 1.0, "as_published") is batch
    for scale, side in ((0.75, 256), (1.25, 448)):
        resized = resize_batch(batch, scale, "as_published")
        assert resized["image"].shape == (1, 3, side, side) and resized["mask"].shape == (1, 1, side, side)
        torch.testing.assert_close(resized["image"][:, :1], resized["mask"])
        # With corners aligned, position i of the new grid is i * 351 / (side - 1) of the old one.
        row = resized["mask"][0, 0, :, -1]
        expected = (torch.arange(side, dtype=torch.float64) * 351 / (side - 1) - 99).clamp(0, 1)
        torch.testing.assert_close(row.double(), expected, atol=1e-4, rtol=0)
        assert ((row > 0) & (row < 1)).any()
