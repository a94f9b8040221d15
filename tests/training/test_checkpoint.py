from __future__ import annotations

import json
import struct
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from medformer.errors import CheckpointError
from medformer.tensor_file import write_tensors
from medformer.training.saving import load_model, read_metadata

METADATA = {"architecture": "tiny/6", "model": {"width": 6}, "classes": ["polyp"], "dice": 0.5}


@pytest.fixture
def saved(tiny: ModuleType, tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    write_tensors(path, tiny.seeded_net().state_dict(), METADATA)
    return path


def test_weights_and_metadata_come_back(tiny: ModuleType, saved: Path) -> None:
    model = tiny.TinyNet()
    assert load_model(saved, model, {"architecture": "tiny/6"}) == METADATA == read_metadata(saved)
    expected = tiny.seeded_net().state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())


def test_equal_models_make_equal_files(tiny: ModuleType, saved: Path) -> None:
    again = saved.with_name("again.safetensors")
    write_tensors(again, tiny.seeded_net().state_dict(), METADATA)
    assert again.read_bytes() == saved.read_bytes()


def test_tied_weights_come_back(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    write_tensors(tmp_path / "tied.safetensors", model.state_dict(), {})
    other = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    load_model(tmp_path / "tied.safetensors", other)
    assert torch.equal(other[1].weight, model[0].weight)


def test_another_architecture_is_told_apart_by_name_and_by_tensors(tiny: ModuleType, saved: Path) -> None:
    other = nn.Sequential(tiny.TinyNet(8), nn.Linear(2, 2))
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load_model(saved, other, {"architecture": "meta_polyp/caformer_s18"})
    text = str(caught.value)
    assert "architecture is 'tiny/6', expected 'meta_polyp/caformer_s18'" in text
    assert "missing 11 (0.body.0.weight, " in text and "unexpected 9 (" in text and ", ...)" in text
    assert all(torch.equal(tensor, before[name]) for name, tensor in other.state_dict().items())


def test_other_shapes_are_listed(tiny: ModuleType, saved: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"other shape 7 \(body\.0\.weight: \(6, 3, 3, 3\) instead of \(8, 3, 3, 3\)"
    ):
        load_model(saved, tiny.TinyNet(8))
    write_tensors(saved, tiny.TinyNet().state_dict(), {"model": {"name": "meta_unet", "mixers": ["pooling"]}})
    with pytest.raises(
        CheckpointError, match=r"with model\.name=meta_unet, model\.mixers=\[\"pooling\"\]\. Set the same"
    ):
        load_model(saved, tiny.TinyNet(8))


def test_metadata_alone_can_refuse(tiny: ModuleType, saved: Path) -> None:
    with pytest.raises(CheckpointError, match="input is None, expected 352"):
        load_model(saved, tiny.TinyNet(), {"input": 352})


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_by_another_name_is_never_opened(tiny: ModuleType, tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "model.safetensors"
    trap = tmp_path / "executed"
    torch.save({"trap": _Trap(trap)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"pickle.*expected safetensors"):
        load_model(path, tiny.TinyNet())
    with pytest.raises(CheckpointError, match="pickle"):
        read_metadata(path)
    assert not trap.exists()


class _Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("keep", [0, 5, 200, -1])
def test_a_truncated_file_is_named(tiny: ModuleType, saved: Path, keep: int) -> None:
    saved.write_bytes(saved.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is not a complete safetensors file"):
        load_model(saved, tiny.TinyNet())


@pytest.mark.parametrize("content", [b"\x89HDF\r\n\x1a\n" + b"0" * 90, b"version https://git-lfs.github.com/spec/v1\n"])
def test_other_formats_are_recognized(tiny: ModuleType, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"HDF5|Git LFS"):
        load_model(path, tiny.TinyNet())


def test_metadata_that_is_not_json_is_damage(tiny: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(1)}, path, {"medformer": "{"})
    with pytest.raises(CheckpointError, match="not a complete"):
        read_metadata(path)


def test_a_header_that_promises_too_much_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    header = json.dumps({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(CheckpointError, match="not a complete"):
        read_metadata(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tiny: ModuleType, saved: Path, value: float) -> None:
    model = tiny.seeded_net()
    with torch.no_grad():
        model.head.weight[0, 2] = value
    write_tensors(saved, model.state_dict(), METADATA)
    with pytest.raises(CheckpointError, match=r"NaN or infinity in 'head\.weight'"):
        load_model(saved, tiny.TinyNet())


def test_a_missing_file_is_named(tiny: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere\.safetensors: No such file"):
        load_model(tmp_path / "nowhere.safetensors", tiny.TinyNet())


@pytest.mark.parametrize("length", [0x180, 0x8B1F])
def test_a_header_length_that_looks_like_another_format_is_none(tmp_path: Path, length: int) -> None:
    path = tmp_path / "model.safetensors"
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode().ljust(length)
    path.write_bytes(struct.pack("<Q", length) + header + bytes(4))
    assert read_metadata(path) == {}


def test_a_file_of_plain_safetensors_without_metadata_loads(tiny: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "plain.safetensors"
    save_file(tiny.seeded_net().state_dict(), path)
    assert load_model(path, tiny.TinyNet()) == {}


def test_an_interruption_while_a_file_is_read_is_no_damage(
    tiny: ModuleType, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted = iter([True])

    def clone(tensor: torch.Tensor) -> torch.Tensor:
        # safetensors makes an error of its own of an exception that a signal raises inside of it.
        if next(interrupted, False):
            raise SafetensorError("could not determine the shape of a tensor")
        return torch.empty_like(tensor).copy_(tensor)

    monkeypatch.setattr(torch.Tensor, "clone", clone)
    with pytest.raises(KeyboardInterrupt):
        load_model(saved, tiny.TinyNet())
    load_model(saved, tiny.TinyNet())
