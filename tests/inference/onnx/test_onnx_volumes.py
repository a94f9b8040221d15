"""Window networks with a recipe: the runner without PyTorch gives the label map of our own segmenter."""

from __future__ import annotations

import ast
import shutil
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medformer.data.cases import Case
from medformer.data.volumes.plan.volume_plan import Intensity, VolumePlan
from medformer.data.volumes.prepare.deformation import centered_start, cut
from medformer.data.volumes.prepare.prepare_case import prepare_image
from medformer.data.volumes.read.regions import Region
from medformer.errors import DataError
from medformer.files import read_json, sha256
from medformer.inference.classification import Decision, PlattScaling
from medformer.inference.forward_passes import mean_probability
from medformer.inference.onnx import export, volume_runner, volumes
from medformer.inference.onnx.graphs import Views
from medformer.inference.onnx.volumes import RECIPE, write_classified_volumes, write_volumes
from medformer.inference.volumes.components import same_rule
from medformer.inference.volumes.segmenter import VolumeSegmenter
from medformer.tasks.onnx_export import describe_parity

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
torch.set_num_threads(1)

LABELS = ((1, "Ring"), (4, "Core"))


def plan(spacing: tuple[float, float, float], patch: tuple[int, int, int], **changes: object) -> VolumePlan:
    fields = {"labels": LABELS, "strides": ((1, 1, 1),), "kernel_sizes": ((3, 3, 3),), "batch_size": 2, **changes}
    intensity = (Intensity(), Intensity("ct", 0.0, 200.0, 90.0, 40.0))
    return VolumePlan(spacing=spacing, intensity=intensity, patch=patch, orientation="RAS", **fields)  # type: ignore[arg-type]


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    # Without a bias no class is more likely than the others.
    return nn.Conv3d(2, 3, 3, padding=1, bias=False).eval()


class Pooled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(2, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).mean((2, 3, 4))


def scan(folder: Path, shape: tuple[int, int, int], affine: np.ndarray, *, together: bool = False) -> Case:
    """Two channels whose values vary smoothly, in two files or in one."""
    generator = np.random.default_rng(0)
    coarse = [generator.integers(0, 250, (4, 4, 4)).astype(np.float32) for _ in range(2)]
    channels = [volume_runner.resample(one, shape, order=1).astype(np.int16) for one in coarse]
    if together:
        nibabel.save(nibabel.Nifti1Image(np.stack(channels, -1), affine), folder / "both.nii.gz")
        return Case("both", folder / "both.nii.gz")
    for number, channel in enumerate(channels):
        nibabel.save(nibabel.Nifti1Image(channel, affine), folder / f"{number}.nii.gz")
    return Case("two", folder / "0.nii.gz", further=(folder / "1.nii.gz",))


@pytest.fixture(scope="module")
def segmenter() -> VolumeSegmenter:
    """Three networks of two plans."""
    members = [
        (network(0), plan((1.0, 1.0, 1.0), (12, 16, 8))),
        (network(1), plan((1.0, 1.0, 1.0), (12, 16, 8))),
        (network(2), plan((1.4, 0.8, 1.0), (8, 8, 8))),
    ]
    return VolumeSegmenter(members, overlap=0.4, components=same_rule("largest", (1, 4)))


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Its axes run from head to foot first, one reversed; it is thinner than a window."""
    affine = np.array([[0, -1.1, 0, 5], [0, 0, 2.0, 0], [-0.9, 0, 0, 3], [0, 0, 0, 1]], float)
    return scan(tmp_path_factory.mktemp("scan"), (21, 26, 6), affine)


@pytest.fixture(scope="module")
def exported(segmenter: VolumeSegmenter, case: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    write_volumes(folder, segmenter, [case])
    return folder


def test_a_graph_averages_the_flips_as_prediction_does() -> None:
    models, activation, flips = [network(0), network(1)], partial(torch.softmax, dim=1), (-3, -2, -1)
    x = torch.randn(3, 2, 5, 6, 7)
    with torch.no_grad():
        expected = mean_probability(models, x, activation, classes=3, flips=flips, precision="32-true")
        found = Views(models, activation, flips)(x)
        assert float((found - activation(models[0](x))).abs().max()) > 1e-2
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_networks_of_different_plans_give_the_label_map_of_the_segmenter(
    segmenter: VolumeSegmenter, case: Case, exported: Path
) -> None:
    recipe = read_json(exported / RECIPE)
    assert [network["weight"] for network in recipe["networks"]] == [pytest.approx(2 / 3), pytest.approx(1 / 3)]
    assert recipe["parity"]["compared"][0]["size"] == [21, 26, 6]
    assert recipe["parity"]["cases"] == "real" and 0 < recipe["parity"]["max_difference"] < 1e-4
    assert "on validation cases" in describe_parity(recipe)
    expected = segmenter.segment(case).array
    found = volume_runner.VolumeRunner(exported / RECIPE).labels(case.images)
    assert set(np.unique(expected)) == {0, 1, 4}
    # The segmenter keeps sums of several plans in half precision.
    assert found.dtype == expected.dtype and np.mean(found != expected) < 2e-3
    for each in recipe["networks"]:
        assert each["sha256"] == sha256(exported / each["file"])
        record = read_json(exported / each["file"].replace(".onnx", ".json"))
        assert record["parity"]["max_difference"] < 1e-4 and record["inputs"][0]["shape"][0] == "batch"
        assert record["parity"]["cases"] == "real"
        # One case is enough to compare every size of a batch.
        assert [row["windows"] for row in record["parity"]["compared"]] == [1, 2, 3]


def test_an_oblique_odd_volume_thinner_than_every_window_gets_the_label_map_of_the_segmenter(
    segmenter: VolumeSegmenter, exported: Path, tmp_path: Path
) -> None:
    turned = np.array([[0.98, -0.19, 0, 0], [0.19, 0.98, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    case = scan(tmp_path, (5, 31, 17), turned @ np.diag([1.7, 0.8, 1.1, 1.0]))
    # The second channel is the same box with one axis the other way round.
    second = nibabel.load(case.images[1])
    nibabel.save(second.as_reoriented(np.array([[0, 1], [1, -1], [2, 1]])), case.images[1])
    expected = segmenter.segment(case).array
    found = volume_runner.VolumeRunner(exported / RECIPE).labels(case.images)
    assert min(np.bincount(expected.ravel())[[0, 1, 4]]) > 50
    assert found.shape == expected.shape == (5, 31, 17)
    assert np.mean(found != expected) < 2e-3


def test_the_command_of_the_runner_writes_a_label_map_on_the_grid_of_the_image(
    segmenter: VolumeSegmenter, exported: Path, tmp_path: Path
) -> None:
    case = scan(tmp_path, (14, 9, 11), np.diag([-1.0, 1.2, 1.0, 1.0]), together=True)
    assert volume_runner.main([str(exported / RECIPE), str(case.image), str(tmp_path / "out.nii.gz")]) == 0
    written, expected = nibabel.load(tmp_path / "out.nii.gz"), segmenter.segment(case).array
    assert np.array_equal(written.affine, nibabel.load(case.image).affine)
    assert np.mean(np.asarray(written.dataobj) != expected) < 2e-3


def test_the_command_refuses_what_would_give_a_wrong_map_or_replace_a_file(
    exported: Path, case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = map(str, case.images)
    out = str(tmp_path / "out.nii.gz")

    def refused(code: int, words: str, *arguments: str) -> bool:
        assert volume_runner.main([str(exported / RECIPE), *arguments]) == code
        return words in capsys.readouterr().err and not Path(out).exists()

    # The last argument was forgotten, so that an image stands in its place.
    assert refused(2, f"would go to {second}", first, second)
    assert refused(3, "got 1 channel(s), expected 2", first, out)
    assert refused(3, "No such file", str(tmp_path / "missing.nii.gz"), out)
    image = nibabel.load(first)
    wrong = ((0, np.nan, 0.0, "NaN or infinite"), (1, 1.0, 0.02, "does not lie on the grid"))
    for number, factor, shift, words in wrong:
        affine, path = image.affine.copy(), tmp_path / f"{number}.nii.gz"
        affine[:3, 0] += shift
        nibabel.save(nibabel.Nifti1Image(image.get_fdata(dtype=np.float32) * np.float32(factor), affine), path)
        assert refused(3, words, first, str(path), out)


def test_a_file_that_is_not_the_recipes_is_refused(exported: Path, tmp_path: Path) -> None:
    shutil.copytree(exported, tmp_path / "copy")
    (tmp_path / "copy" / "window-1.onnx").write_bytes(b"other")
    with pytest.raises(ValueError, match="not the file"):
        volume_runner.VolumeRunner(tmp_path / "copy" / RECIPE)
    with pytest.raises(ValueError, match="no recipe"):
        volume_runner.VolumeRunner(exported / "window-1.json")


def test_nothing_is_kept_of_networks_whose_label_map_is_another(
    segmenter: VolumeSegmenter, exported: Path, case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = count(1)
    # What takes long of an export is done once.
    monkeypatch.setattr(export, "_traced", lambda *_: onnx.load(exported / f"window-{next(numbers)}.onnx"))
    monkeypatch.setattr(volumes, "DICE_TOLERANCE", -1.0)
    monkeypatch.setattr(volumes, "SINGLE_VOXELS", -1)
    with pytest.raises(DataError, match="the exported networks give Ring with a Dice"):
        write_volumes(tmp_path, segmenter, [case])
    assert next(numbers) == 3
    assert not list(tmp_path.iterdir())


def test_single_voxels_of_a_small_label_may_differ_and_no_more() -> None:
    truth = np.zeros((9, 9, 9), np.uint8)
    truth[0, 0] = 1

    def compared(others: int) -> dict[str, Any]:
        found = truth.copy()
        found[0, 0, :others] = 0
        runner: Any = SimpleNamespace(labels=lambda _: found)
        segmenter: Any = SimpleNamespace(segment=lambda _: SimpleNamespace(array=truth, labels={1: "Lesion"}))
        return volumes.compare_label_maps(runner, [Case("a", Path("a.nii.gz"))], segmenter)

    assert compared(2)["dice_difference"] == pytest.approx(1 - 14 / 16)
    with pytest.raises(DataError, match=r"Case 'a': the exported networks give Lesion with a Dice of 0\.714"):
        compared(4)


@pytest.mark.slow
def test_regions_that_overlap_are_written_one_over_the_other(tmp_path: Path) -> None:
    regions = (Region("whole", (1, 4), 1), Region("core", (4,), 4))
    torch.manual_seed(0)
    model = nn.Conv3d(2, 2, 3, padding=1, bias=False).eval()
    segmenter = VolumeSegmenter([(model, plan((1.0, 1.0, 1.0), (8, 8, 8), regions=regions))])
    case = scan(tmp_path, (14, 9, 11), np.eye(4))
    recipe = write_volumes(tmp_path, segmenter, [case])
    assert recipe["regions"] and recipe["parity"]["dice_difference"] == 0
    expected = segmenter.segment(case).array
    assert set(np.unique(expected)) == {0, 1, 4}
    np.testing.assert_array_equal(volume_runner.VolumeRunner(tmp_path / RECIPE).labels(case.images), expected)


@pytest.mark.slow
def test_a_classified_volume_gets_the_calibrated_mean_of_its_middle(tmp_path: Path) -> None:
    torch.manual_seed(0)
    scaling = PlattScaling()
    scaling.slope_, scaling.intercept_ = 1.7, -0.3
    layout = plan((1.0, 1.0, 1.0), (8, 8, 8), labels=())
    members = [(Pooled().eval(), layout, Decision(0.5, scaling)), (Pooled().eval(), layout, Decision(0.5))]
    case = scan(tmp_path, (14, 5, 8), np.eye(4))
    recipe = write_classified_volumes(tmp_path, members, 0.4, [case])
    assert recipe["threshold"] == 0.4 and recipe["parity"]["max_difference"] < 1e-5
    assert [row["size"] for row in recipe["parity"]["compared"]] == [[14, 5, 8]]
    assert "on validation cases" in describe_parity(recipe)
    runner = volume_runner.VolumeRunner(tmp_path / RECIPE)
    prepared = prepare_image(case, layout)
    middle = centered_start(prepared.shape, layout.patch)
    window = torch.from_numpy(cut(prepared.image, middle, layout.patch, prepared.lowest))[None]
    with torch.no_grad():
        scores = [torch.softmax(model(window).double(), 1)[:, 1].numpy() for model, _, _ in members]
    each = [decision.probabilities(score)[0] for (_, _, decision), score in zip(members, scores, strict=True)]
    assert runner.probability(case.images) == pytest.approx(np.mean(each), abs=1e-6)


def test_the_runner_needs_nothing_but_four_packages() -> None:
    tree = ast.parse(Path(volume_runner.__file__).read_text("utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    foreign = {name.split(".")[0] for name in names}
    standard = {"__future__", "hashlib", "json", "sys", "collections", "itertools", "pathlib", "typing"}
    assert foreign - standard == {"nibabel", "numpy", "onnxruntime", "scipy"}
