"""Image networks as ONNX files: whatever size comes in, the probability is that of our own segmenter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import nn

import medformer
from medformer.data.frames.transforms import resize_image
from medformer.errors import ConfigError, DataError
from medformer.files import read_json, sha256
from medformer.inference.frames.segment import Segmenter
from medformer.inference.onnx import export, quantize
from medformer.inference.onnx.export import Difference, require_onnx, runner
from medformer.inference.onnx.frames import SCALES, write_frames
from medformer.inference.onnx.quantize import write_int8_frames
from medformer.inference.onnx.resizing import from_network, to_network
from medformer.tasks.onnx_export import describe_parity

onnx = pytest.importorskip("onnx")
torch.set_num_threads(1)

SIZE = (32, 48)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (5, 5), 1.5)


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 1, 5, padding=2))


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter([network(0), network(1)], image_size=SIZE, flips=True)


@pytest.fixture(scope="module")
def exported(segmenter: Segmenter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "net.onnx"
    write_frames(path, segmenter, 0.4, [picture(40, 60)], real=False)
    return path


# One axis or both shrink or grow; halves are rounded in another way; an image of one pixel.
@pytest.mark.parametrize("size", [(32, 48), (64, 96), (33, 97), (20, 30), (20, 90), (80, 31), (500, 401), (1, 1)])
def test_resizing_in_the_graph_is_that_of_our_images(size: tuple[int, int]) -> None:
    image = picture(*size)
    found = to_network(torch.from_numpy(image)[None], SIZE)[0].movedim(0, -1).numpy()
    off = np.abs(found - resize_image(image, SIZE))
    assert off.max() <= 1 and np.mean(off > 0) < 0.01
    maps = torch.rand(1, *SIZE, generator=torch.Generator().manual_seed(0))
    expected = nn.functional.interpolate(maps[None], size, mode="bilinear", antialias=True)[0]
    torch.testing.assert_close(from_network(maps, *size), expected, atol=1e-4, rtol=0)


def test_any_batch_of_any_size_gets_the_probability_of_the_segmenter(segmenter: Segmenter, exported: Path) -> None:
    run = runner(exported, "probability", threads=1)
    for size, batch in (((32, 48), 1), ((70, 51), 3), ((17, 90), 2)):
        images = [picture(*size, seed=seed) for seed in range(batch)]
        found = run({"image": np.stack(images)})
        assert found.shape == (batch, *size) and found.dtype == np.float32
        np.testing.assert_allclose(found, np.stack(segmenter.predict(images)), atol=5e-3)


def test_the_file_beside_it_says_what_goes_in_and_out_and_how_far_it_is_off(exported: Path) -> None:
    record = read_json(exported.with_suffix(".json"))
    assert record["sha256"] == sha256(exported) and record["opset"] == 18
    assert record["inputs"][0]["shape"] == ["batch", "height", "width", 3] and record["inputs"][0]["type"] == "uint8"
    assert record["outputs"][0]["name"] == "probability" and record["threshold"] == 0.4 and record["networks"] == 2
    assert {"torch", "onnx", "onnxruntime"} <= set(record["versions"])
    parity = record["parity"]
    assert parity["cases"] == "synthetic" and len(parity["compared"]) == len(SCALES)
    assert parity["max_difference"] <= parity["tolerance"] and 0 <= parity["dice_difference"] < 0.01
    assert describe_parity(record).endswith("on made-up cases.")


def test_a_file_says_nothing_of_the_machine_it_was_made_on(exported: Path) -> None:
    content = exported.read_bytes()
    for place in (Path(medformer.__file__).parent, Path(torch.__file__).parent, Path(__file__).parent, exported.parent):
        assert str(place).encode() not in content
    # Also not inside of a branch.
    node = onnx.helper.make_node("Identity", ["x"], ["y"], doc_string="/home/me/net.py")
    branch = onnx.helper.make_graph([node], "branch", [], [onnx.ValueInfoProto(name="y", doc_string="/home/me")])
    whole = onnx.helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=branch)
    model = onnx.helper.make_model(onnx.helper.make_graph([whole], "whole", [], [], doc_string="/home/me"))
    model.metadata_props.add(key="stack", value="/home/me")
    nodes = len(model.graph.node)
    assert b"/home/me" in model.SerializeToString()
    assert b"/home/me" not in export._without_places(model).SerializeToString()
    assert len(model.graph.node) == nodes and model.graph.node[0].attribute[0].g.node[0].op_type == "Identity"


def test_networks_that_no_file_holds_or_no_runtime_computes_are_refused(
    segmenter: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = onnx.helper.make_node("Nonsense", ["image"], ["probability"], domain="elsewhere")
    unknown = onnx.helper.make_model(onnx.helper.make_graph([node], "unknown", [], []))
    monkeypatch.setattr(export, "_traced", lambda *_: unknown)
    with pytest.raises(ConfigError, match="cannot be exported to ONNX"):
        write_frames(tmp_path / "net.onnx", segmenter, 0.4, [picture(40, 60)])
    monkeypatch.setattr(export, "MOST_BYTES", 1000)
    with pytest.raises(ConfigError, match=r"at most .* GB\. Export one fold with --fold"):
        write_frames(tmp_path / "net.onnx", segmenter, 0.4, [picture(40, 60)])
    assert not list(tmp_path.iterdir())


def test_networks_that_predict_in_mixed_precision_are_compared_in_single(
    segmenter: Segmenter, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "_traced", lambda *_: onnx.load(exported))
    mixed = replace(segmenter, precision="bf16-mixed")
    record = write_frames(tmp_path / "net.onnx", mixed, 0.4, [picture(40, 60)], real=False)
    assert record["parity"] == read_json(exported.with_suffix(".json"))["parity"]


def test_a_file_that_computes_something_else_is_not_kept(
    segmenter: Segmenter, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = export.runner
    # What takes long of an export is done once.
    monkeypatch.setattr(export, "_traced", lambda *_: onnx.load(exported))

    def wrong(path: Path, output: str) -> Any:
        run = right(path, output)
        return lambda arrays: run(arrays) + 0.1

    monkeypatch.setattr(export, "runner", wrong)
    with pytest.raises(DataError, match=r"0\.1 off those of PyTorch"):
        write_frames(tmp_path / "net.onnx", segmenter, 0.4, [picture(40, 60)])
    assert not list(tmp_path.iterdir())


def test_nan_is_a_difference() -> None:
    with pytest.raises(DataError):
        Difference(1.0).add(np.array([np.nan]), np.array([0.5]))


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "find_spec", lambda name: None if name == "onnxscript" else True)
    with pytest.raises(ConfigError, match=r"onnxscript.*pip install 'medformer\[onnx\]'"):
        require_onnx()


@pytest.mark.parametrize(("limit", "kept"), [(1.0, True), (-1.0, False)])
def test_8_bits_are_kept_only_where_they_lose_no_dice(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: float, kept: bool
) -> None:
    monkeypatch.setattr(quantize, "LIMIT", limit)
    if not kept:
        # Whatever there is to be judged.
        monkeypatch.setattr(quantize, "quantize", lambda source, target, _: target.write_bytes(source.read_bytes()))
    path = tmp_path / "net.onnx"
    path.write_bytes(exported.read_bytes())
    record = read_json(exported.with_suffix(".json"))
    pairs: Sequence[Any] = [(picture(40, 60, seed), picture(40, 60, seed)[..., 0] > 128) for seed in range(5)]
    written = write_int8_frames(path, record, pairs, len(pairs))
    note = read_json(path.with_suffix(".json"))["int8"]
    assert note["kept"] is kept and note["cases"] == 5 and abs(note["dice_difference"]) < 0.2
    assert path.with_suffix(".int8.onnx").is_file() is kept and len(written) == kept
    assert kept or "at most" in note["reason"]
    assert all("in 8 bits" in describe_parity(one) for one in written)


def test_without_labelled_cases_there_are_no_8_bits(exported: Path, tmp_path: Path) -> None:
    record = read_json(exported.with_suffix(".json"))
    assert not write_int8_frames(tmp_path / "net.onnx", record, [], 0)
    assert "at least 5" in read_json(tmp_path / "net.json")["int8"]["reason"]
