from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from pydantic import JsonValue
from safetensors.torch import save_file
from torch import Tensor

from medformer.errors import CheckpointError
from medformer.models.backbone.blocks import Architecture
from medformer.models.backbone.metaformer import MetaFormer
from medformer.models.backbone.variants import build_backbone, build_classifier
from medformer.models.weights.loading import inflate, load_pretrained
from medformer.tensor_file import write_tensors


def to_sail(name: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors under the names of sail-sg's two repositories, pointwise weights two-dimensional as there."""
    v1 = name.startswith("poolformer_")
    renamed = {}
    for key, value in state.items():
        key = key.removeprefix("backbone.")
        parts = key.split(".")
        if parts[0] == "stem":
            new = (
                f"patch_embed.proj.{parts[-1]}"
                if v1
                else f"downsample_layers.0.{'conv' if parts[1] == 'conv' else 'post_norm'}.{parts[-1]}"
            )
        elif parts[0] == "stages" and parts[2] == "downsample":
            stage = int(parts[1])
            if v1:
                new = f"network.{2 * stage - 1}.proj.{parts[-1]}"
            else:
                new = f"downsample_layers.{stage}.{'conv' if parts[3] == 'conv' else 'pre_norm'}.{parts[-1]}"
        elif parts[0] == "stages":
            rest = ".".join(parts[3:])
            if v1:
                rest = rest.replace("layer_scale1.scale", "layer_scale_1").replace(
                    "layer_scale2.scale", "layer_scale_2"
                )
                new = f"network.{2 * int(parts[1])}.{rest}"
            else:
                new = f"stages.{parts[1]}.{rest}"
        elif parts[1] == "norm":
            new = f"norm.{parts[-1]}"
        else:
            new = "head." + ".".join(parts[2:])
        renamed[new] = value
    return renamed


@pytest.mark.parametrize("name", ["poolformer_s12", "poolformerv2_s12", "randformer_s12", "caformer_s18"])
def test_the_original_layouts_load(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    source, target = build_classifier(name, 10).eval(), build_classifier(name, 10).eval()
    torch.save({"state_dict": to_sail(name, source.state_dict())}, tmp_path / "weights.pth")
    kept = load_pretrained(target, tmp_path / "weights.pth")
    assert not kept
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(source(x), target(x))


def test_an_inflated_network_answers_a_stack_of_slices_like_the_slice() -> None:
    """Away from the ends of the stack, inflation gives the 2-D response."""
    kernel = torch.randn(4, 3, 7, 7)
    volume = inflate(kernel, (4, 3, 7, 7, 7))
    assert volume is not None
    plane = torch.randn(1, 3, 9, 9)
    stack = plane.unsqueeze(2).expand(-1, -1, 9, -1, -1)
    expected = torch.conv2d(plane, kernel)
    torch.testing.assert_close(torch.conv3d(stack, volume)[:, :, 1], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_kernel_spreads_along_the_axis_of_another_size(axis: int) -> None:
    kernel = torch.randn(4, 3, 7, 7)
    shape = [7, 7, 7]
    shape[axis] = 3
    volume = inflate(kernel, (4, 3, *shape))
    assert volume is not None and volume.shape == (4, 3, *shape)
    torch.testing.assert_close(volume.sum(2 + axis), kernel)
    assert inflate(kernel, (4, 3, 3, 3, 7)) is None


def test_an_axis_that_loses_its_extent_keeps_the_response_to_what_is_constant_along_it() -> None:
    kernel = torch.randn(4, 3, 3, 3)
    point = inflate(kernel, (4, 3, 1, 1, 1))
    assert point is not None
    torch.testing.assert_close(point.flatten(2).sum(-1), kernel.sum((2, 3)))
    line = inflate(kernel, (4, 3, 3, 1, 3))
    assert line is not None
    torch.testing.assert_close(line.sum((2, 3)), kernel.sum(2))


@pytest.mark.parametrize("dims", [1, 3])
def test_weights_of_2d_go_into_other_dimensions(dims: int, tmp_path: Path) -> None:
    source = build_backbone("caformer_s18")
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    target = build_backbone("caformer_s18", spatial_dims=dims, in_channels=1)
    kept = load_pretrained(target, tmp_path / "weights.safetensors")
    assert not kept
    torch.testing.assert_close(target.stages[3].blocks[2].mlp.fc1.weight, source.stages[3].blocks[2].mlp.fc1.weight)
    sums = [float(network.stem.conv.weight.detach().sum()) for network in (target, source)]
    assert sums[0] == pytest.approx(sums[1], abs=1e-3)


def test_a_head_for_other_classes_is_refused_by_name(tmp_path: Path) -> None:
    save_file(build_classifier("poolformerv2_s12", 7).state_dict(), tmp_path / "w.safetensors")
    state = {k.removeprefix("backbone."): v for k, v in build_classifier("poolformerv2_s12", 7).state_dict().items()}
    save_file(state, tmp_path / "w.safetensors")
    target = build_classifier("poolformerv2_s12", 3)
    with pytest.raises(CheckpointError, match=r"head\."):
        load_pretrained(target, tmp_path / "w.safetensors")


def test_filters_that_were_learned_for_another_size_are_refused(tmp_path: Path) -> None:
    def encoder(*grid: int) -> MetaFormer:
        mixer: dict[str, JsonValue] = {"name": "dynamic_filter", "grid": list(grid)}
        return MetaFormer(2, 3, Architecture([mixer], depths=(1, 1), channels=(8, 8)))

    save_file(encoder(16, 8).state_dict(), tmp_path / "w.safetensors")
    load_pretrained(encoder(16, 8), tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=r"filters\.spectra: \(4, 80, 2\) instead of \(4, 40, 2\)"):
        load_pretrained(encoder(8, 8), tmp_path / "w.safetensors")


def test_weights_of_another_variant_are_refused_by_name(tmp_path: Path) -> None:
    save_file(build_backbone("poolformerv2_s12").state_dict(), tmp_path / "w.safetensors")
    before = build_backbone("caformer_s18")
    state = {key: value.clone() for key, value in before.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"missing .*token_mixer"):
        load_pretrained(before, tmp_path / "w.safetensors")
    assert all(torch.equal(value, state[key]) for key, value in before.state_dict().items())


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("executed",))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_pickle_is_refused_and_never_run(suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(pickle.dumps({"weight": Harmful()}))
    with pytest.raises(CheckpointError, match="pickle") as refused:
        load_pretrained(build_backbone("poolformerv2_s12"), path)
    assert "weights_only" not in str(refused.value)
    assert "executed" not in capsys.readouterr().out


def test_missing_and_truncated_files_are_named(tmp_path: Path) -> None:
    model = build_backbone("poolformerv2_s12")
    for name in ("absent.safetensors", "absent.pth"):
        with pytest.raises(CheckpointError, match="absent"):
            load_pretrained(model, tmp_path / name)
    torch.save(model.state_dict(), tmp_path / "cut.pth")
    content = (tmp_path / "cut.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=r"cut\.pth"):
        load_pretrained(model, tmp_path / "cut.pth")
    (tmp_path / "text.pth").write_text("not weights")
    with pytest.raises(CheckpointError, match=r"text\.pth is not a PyTorch file; expected \.safetensors"):
        load_pretrained(model, tmp_path / "text.pth")


def test_a_file_of_another_variant_is_named(tmp_path: Path) -> None:
    torch.save({"state_dict": build_backbone("poolformer_s12").state_dict()}, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=r"It is made for model\.backbone=poolformer_s12 with its own mixers"):
        load_pretrained(build_backbone("caformer_s18"), tmp_path / "weights.pth")
    torch.save({"state_dict": {"a": torch.zeros(3)}}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="fits no backbone"):
        load_pretrained(build_backbone("convformer_c8"), tmp_path / "other.pth")


def test_the_encoder_of_a_network_of_ours_is_taken(tmp_path: Path) -> None:
    source, target = build_classifier("convformer_c8", 3), build_backbone("convformer_c8")
    about = {"task": "volume", "model": {"name": "meta_unet", "backbone": "convformer_c8"}}
    write_tensors(tmp_path / "model.safetensors", source.state_dict(), about)
    assert not load_pretrained(target, tmp_path / "model.safetensors")
    assert all(torch.equal(value, source.backbone.state_dict()[key]) for key, value in target.state_dict().items())
    with pytest.raises(CheckpointError, match=r"trained for the task volume, with model\.backbone=convformer_c8"):
        load_pretrained(build_backbone("caformer_s18"), tmp_path / "model.safetensors")
    write_tensors(
        tmp_path / "model.safetensors", source.state_dict(), {**about, "model": {**about["model"], "mixers": None}}
    )
    with pytest.raises(CheckpointError, match=r"backbone=convformer_c8, model\.mixers=null\. Set the same"):
        load_pretrained(build_backbone("convformer_c8", mixers=["attention"]), tmp_path / "model.safetensors")
    write_tensors(tmp_path / "peer.safetensors", {"network.conv.weight": torch.zeros(3)}, about)
    with pytest.raises(CheckpointError, match="no encoder of the shared backbone"):
        load_pretrained(target, tmp_path / "peer.safetensors")
