from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medformer.data.cases import Case
from medformer.data.volumes.plan.volume_plan import Intensity
from medformer.errors import ConfigError, DataError, ResourceError
from medformer.inference.volumes import label_map
from medformer.inference.volumes.components import same_rule
from medformer.inference.volumes.segmenter import VolumeSegmenter

torch.set_num_threads(1)


@pytest.mark.parametrize("flips", [False, True])
@pytest.mark.parametrize("shape", [(20, 9, 13), (4, 30, 5), (1, 9, 9), (8, 8, 8)])
def test_on_the_plans_own_grid_every_voxel_is_what_the_network_said(
    oracle: ModuleType, tmp_path: Path, shape: tuple[int, int, int], flips: bool
) -> None:
    labels = oracle.labeled(shape)
    path = oracle.write_image(tmp_path / "a.nii.gz", labels)
    result = VolumeSegmenter([(oracle.Oracle(), oracle.plan())], flips=flips).segment(path)
    np.testing.assert_array_equal(result.array, labels)
    assert result.array.dtype == np.uint8
    assert result.geometry.shape == shape
    assert result.labels == {3: "Ring", 200: "Core"}
    assert result.confidence.keys() == {3, 200} - ({3, 200} - set(np.unique(labels).tolist()))
    assert all(value > 0.999 for value in result.confidence.values())


def test_volumes_are_milliliters(oracle: ModuleType, tmp_path: Path) -> None:
    labels = oracle.balls((20, 20, 20))
    path = oracle.write_image(tmp_path / "a.nii.gz", labels, np.diag([2.0, 0.5, 3.0, 1.0]))
    result = VolumeSegmenter([(oracle.Oracle(), oracle.plan(spacing=(2.0, 0.5, 3.0)))]).segment(path)
    counts = [np.count_nonzero(labels == value) for value in (3, 200)]
    assert result.volumes_ml == {3: pytest.approx(counts[0] * 0.003), 200: pytest.approx(counts[1] * 0.003)}


@pytest.mark.parametrize("spacing", [(1.5, 1.5, 1.5), (0.6, 1.0, 2.0)])
def test_another_spacing_comes_back_to_the_grid_of_the_file(
    oracle: ModuleType, tmp_path: Path, spacing: tuple[float, float, float]
) -> None:
    labels = oracle.balls((40, 36, 44))
    # Gray values whose blend at a border is one of the two sides, as a network that has learned would say.
    path = oracle.write_image(tmp_path / "a.nii.gz", labels, dtype=np.int16)
    result = VolumeSegmenter(
        [(oracle.Oracle(sharpness=0.05), oracle.plan(spacing=spacing, patch=(16, 16, 16)))]
    ).segment(path)
    core, found = labels == 200, result.array == 200
    assert 2 * np.count_nonzero(core & found) / (np.count_nonzero(core) + np.count_nonzero(found)) > 0.93
    assert result.array.shape == labels.shape


class Constant(nn.Module):
    """Says the same everywhere: given probabilities of the classes."""

    def __init__(self, *probabilities: float) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(probabilities).log()[:, None, None, None])

    def forward(self, x: Tensor) -> Tensor:
        return self.logits.expand(len(x), -1, *x.shape[2:])


def test_probabilities_are_averaged_not_votes_and_not_logits(oracle: ModuleType, tmp_path: Path) -> None:
    path = oracle.write_image(tmp_path / "a.nii.gz", np.zeros((6, 6, 6)))
    # Two of three networks prefer background, and the mean logit does too; the mean probability prefers label 3.
    members = [
        (Constant(0.5, 0.48, 0.02), oracle.plan()),
        (Constant(0.5, 0.48, 0.02), oracle.plan()),
        (Constant(0.2, 0.7, 0.1), oracle.plan()),
    ]
    result = VolumeSegmenter(members).segment(path)
    assert (result.array == 3).all()
    assert result.confidence == {3: pytest.approx((0.48 + 0.48 + 0.7) / 3, abs=1e-5)}


@pytest.mark.parametrize("in_memory", [10**9, 10])
def test_networks_with_different_plans_are_averaged_on_the_grid_of_the_file(
    oracle: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_memory: int
) -> None:
    monkeypatch.setattr(label_map, "IN_MEMORY", in_memory)
    path = oracle.write_image(tmp_path / "a.nii.gz", np.zeros((6, 7, 20)))
    members = [
        (Constant(0.5, 0.48, 0.02), oracle.plan()),
        (Constant(0.5, 0.48, 0.02), oracle.plan(spacing=(1.5, 1.5, 1.5))),
        (Constant(0.2, 0.7, 0.1), oracle.plan(intensity=(replace(oracle.AS_IS, mean=1.0),))),
    ]
    result = VolumeSegmenter(members, folder=tmp_path).segment(path)
    assert (result.array == 3).all()
    assert result.confidence == {3: pytest.approx((0.48 + 0.48 + 0.7) / 3, abs=1e-3)}
    assert [file.name for file in tmp_path.iterdir()] == ["a.nii.gz"]


def test_an_ensemble_of_one_network_is_that_network(oracle: ModuleType, tmp_path: Path) -> None:
    path = oracle.write_image(tmp_path / "a.nii.gz", oracle.balls((24, 20, 22)))
    network = oracle.Oracle(sharpness=0.02)
    coarse = oracle.plan(spacing=(1.7, 1.7, 1.7))
    single = VolumeSegmenter([(network, coarse)]).segment(path)
    together = VolumeSegmenter([(network, coarse)] * 2).segment(path)
    apart = VolumeSegmenter([(network, coarse), (network, replace(coarse, patch=(9, 9, 9)))]).segment(path)
    np.testing.assert_array_equal(single.array, together.array)
    # The second goes through half precision.
    assert (single.array == apart.array).mean() > 0.999


class Lopsided(nn.Module):
    """Prefers label 3 in the first half of the last axis, whatever it sees."""

    def forward(self, x: Tensor) -> Tensor:
        logits = torch.zeros(len(x), 3, *x.shape[2:])
        logits[:, 1, ..., : x.shape[-1] // 2] = 2.0
        return logits


def test_flips_take_out_what_depends_on_direction(oracle: ModuleType, tmp_path: Path) -> None:
    path = oracle.write_image(tmp_path / "a.nii.gz", np.zeros((8, 8, 8)))
    assert (VolumeSegmenter([(Lopsided(), oracle.plan())]).segment(path).array == 3).sum() == 256
    assert (VolumeSegmenter([(Lopsided(), oracle.plan())], flips=True).segment(path).array == 3).all()


def test_components_are_cleaned_on_the_grid_of_the_file(oracle: ModuleType, tmp_path: Path) -> None:
    labels = np.zeros((12, 12, 12), np.uint8)
    labels[1:5, 1:5, 1:5] = 3
    labels[9, 9, 9] = 3
    labels[7:10, 2:4, 2:4] = labels[2, 8, 8] = 200
    path = oracle.write_image(tmp_path / "a.nii.gz", labels)
    result = VolumeSegmenter([(oracle.Oracle(), oracle.plan())], components=same_rule("largest", (3,))).segment(path)
    assert np.count_nonzero(result.array == 3) == 64 and np.count_nonzero(result.array == 200) == 13
    assert result.volumes_ml[3] == pytest.approx(0.064)


def test_channels_and_cases(oracle: ModuleType, tmp_path: Path) -> None:
    labels = oracle.labeled((9, 10, 11))
    first = oracle.write_image(tmp_path / "a_0000.nii.gz", labels)
    second = oracle.write_image(tmp_path / "a_0001.nii.gz", labels[::-1])
    two = oracle.plan(intensity=(oracle.AS_IS, oracle.AS_IS))
    by_paths = VolumeSegmenter([(oracle.Oracle(), two)]).segment([first, second])
    by_case = VolumeSegmenter([(oracle.Oracle(), two)]).segment(Case("a", first, None, "a", further=(second,)))
    np.testing.assert_array_equal(by_paths.array, labels)
    np.testing.assert_array_equal(by_case.array, labels)
    with pytest.raises(DataError, match=r"1 channel .* expected 2"):
        VolumeSegmenter([(oracle.Oracle(), two)]).segment(first)


def test_labels_beyond_a_byte_take_two(oracle: ModuleType, tmp_path: Path) -> None:
    path = oracle.write_image(tmp_path / "a.nii.gz", np.full((5, 5, 5), 1000))
    result = VolumeSegmenter([(oracle.Oracle((0, 1000)), oracle.plan(labels=((1000, "Far"),)))]).segment(path)
    assert result.array.dtype == np.uint16 and (result.array == 1000).all()


def test_windows_overlap_as_asked(oracle: ModuleType, tmp_path: Path) -> None:
    path = oracle.write_image(tmp_path / "a.nii.gz", np.zeros((8, 8, 16)))
    for overlap, expected in ((0.0, 2), (0.5, 3), (0.75, 5)):
        network = oracle.Oracle()
        VolumeSegmenter([(network, oracle.plan())], overlap=overlap, batch_size=2).segment(path)
        assert network.windows == expected


def test_training_flags_are_put_back(oracle: ModuleType, tmp_path: Path) -> None:
    path = oracle.write_image(tmp_path / "a.nii.gz", np.zeros((8, 8, 8)))
    network = nn.Sequential(nn.Dropout(1.0), oracle.Oracle())
    network.train()
    network[0].eval()
    VolumeSegmenter([(network, oracle.plan())]).segment(path)
    assert network.training and not network[0].training


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_none_name_the_file(oracle: ModuleType, tmp_path: Path, bad: float) -> None:
    path = oracle.write_image(tmp_path / "sick.nii.gz", np.zeros((8, 8, 8)))
    network = Constant(0.2, 0.3, 0.5)
    with torch.no_grad():
        network.logits[1] = bad
    with pytest.raises(DataError, match=r"NaN or infinite for .*sick\.nii\.gz"):
        VolumeSegmenter([(network, oracle.plan())]).segment(path)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_too_little_memory_comes_with_advice(oracle: ModuleType, tmp_path: Path, error: Exception) -> None:
    class Greedy(oracle.Oracle):
        def forward(self, x: Tensor) -> Tensor:
            raise error

    path = oracle.write_image(tmp_path / "a.nii.gz", np.zeros((8, 8, 8)))
    with pytest.raises(ResourceError, match=r"windows of \(8, 8, 8\) .* inference.batch_size=1"):
        VolumeSegmenter([(Greedy(), oracle.plan())]).segment(path)


def test_a_network_of_another_plan_is_refused(oracle: ModuleType, tmp_path: Path) -> None:
    path = oracle.write_image(tmp_path / "a.nii.gz", np.zeros((8, 8, 8)))
    with pytest.raises(DataError, match=r"expected \(1, 3, 8, 8, 8\)"):
        VolumeSegmenter([(oracle.Oracle((0, 1)), oracle.plan())]).segment(path)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"orientation": "LPS"}, "orientation LPS"),
        ({"labels": ((3, "Ring"),)}, "labels"),
        ({"intensity": (Intensity(),) * 2}, "channels 2"),
    ],
)
def test_plans_that_do_not_belong_together_are_refused(
    oracle: ModuleType, change: dict[str, object], what: str
) -> None:
    with pytest.raises(ConfigError, match=f"Network 2 .* {what}"):
        VolumeSegmenter([(oracle.Oracle(), oracle.plan()), (oracle.Oracle(), oracle.plan(**change))])


def test_no_network_and_no_labels_are_refused(oracle: ModuleType) -> None:
    with pytest.raises(ConfigError, match="got none"):
        VolumeSegmenter([])
    with pytest.raises(ConfigError, match="no labels"):
        VolumeSegmenter([(oracle.Oracle(), oracle.plan(labels=()))])
