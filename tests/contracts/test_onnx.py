"""Every registered network, backbone and mixer becomes an ONNX file of any batch, computed as PyTorch does.

Networks and mixers in every number of dimensions that they have; backbones, with the head that classifies, in those in
which a task can name them; connectome models on two atlases.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medformer.config import ConnectomeModelConfig
from medformer.config.shared import ModelConfig
from medformer.inference.onnx.export import Difference, Port, Run, write_graph
from medformer.models.backbone.mixers import MIXERS, make_mixer
from medformer.models.backbone.variants import VARIANTS, build_backbone, with_head
from medformer.models.connectome.build import CONNECTOME_MODELS, build_connectome_model
from medformer.models.connectome.classifier import edge_count
from medformer.models.networks.build import NETWORKS, build_network
from medformer.models.networks.grid import Grid

pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.slow

DIMENSIONS = (1, 2, 3)
ONNX = "ONNX"
MIXED = [(name, dims) for name in MIXERS for dims in DIMENSIONS if f"{dims}-D" not in MIXERS[name].cannot]
BUILT = [
    (name, dims) for name in NETWORKS.examples() for dims in DIMENSIONS if f"{dims}-D" not in NETWORKS[name].cannot
]
# The sizes of a family differ in numbers alone; each of ours is a design of its own.
FAMILIES = {name.rpartition("_")[0]: name for name in reversed(VARIANTS.examples())}
OURS = ("convformer_t10", "convformer_v8", "convformer_c8")
BACKBONES = [
    (name, dims) for name in (*FAMILIES.values(), *OURS) for dims in (2, 3) if f"{dims}-D" not in VARIANTS[name].cannot
]
CONNECTOMES = [
    name for name in CONNECTOME_MODELS.examples() if "independent subjects" not in CONNECTOME_MODELS[name].cannot
]
REGIONS = {"coarse": 9, "fine": 12}


def compare(module: nn.Module, shape: tuple[int, ...], path: Path) -> None:
    """Write a module as a file, and compare it for batches of one and three.

    Norms over the two positions of a coarse map enlarge rounding, so that the measure is how far PyTorch itself is from
    double precision; what computes something else is further off.
    """
    exact = copy.deepcopy(module).double()

    def check(run: Run) -> dict[str, Any]:
        for batch in (1, 3):
            x = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(batch))
            with torch.no_grad():
                right, own = exact(x.double()), module(x)
            rounding = float((own - right).abs().max())
            Difference(max(1e-3, 30 * rounding)).add(run({"x": x.numpy()}), right.numpy())
        return {}

    example = torch.zeros(2, *shape)
    with torch.no_grad():
        output = Port("y", module(example), {0: "batch"}, "")
    record = write_graph(path, module, [Port("x", example, {0: "batch"}, "")], output, check, {})
    assert record["outputs"][0]["shape"][0] == "batch"


@pytest.mark.parametrize(("name", "dims"), [case for case in MIXED if ONNX not in MIXERS[case[0]].cannot])
def test_a_mixer_becomes_a_file(name: str, dims: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    mixer = make_mixer(name, 32, spatial_dims=dims, stage=2).eval()
    compare(mixer, (32, *(9, 8, 7)[:dims]), tmp_path / "mixer.onnx")


# 33 and 65 are no multiples of any stride, and large enough for the keys of the decoder's attention to be averaged. A
# signal of 33 would leave two positions on the coarsest map, whose norm enlarges rounding a thousandfold.
@pytest.mark.parametrize(("name", "dims"), [case for case in BUILT if ONNX not in NETWORKS[case[0]].cannot])
def test_a_network_becomes_a_file(name: str, dims: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    size = (65,) if dims == 1 else (33, 30, 17)[:dims]
    config = ModelConfig(name=name, backbone="convformer_v8", init="fan_in", drop_path=0.0)
    network = build_network(config, Grid(in_channels=2, out_channels=3, size=size)).eval()
    compare(network, (2, *size), tmp_path / "network.onnx")


@pytest.mark.parametrize(("name", "dims"), [case for case in BACKBONES if ONNX not in VARIANTS[case[0]].cannot])
def test_a_backbone_that_classifies_becomes_a_file(name: str, dims: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    backbone = build_backbone(name, spatial_dims=dims, in_channels=3, init="fan_in", drop_path=0.0)
    compare(with_head(backbone, name, 2).eval(), (3, *(65, 72, 48)[:dims]), tmp_path / "backbone.onnx")


class OfOneVector(nn.Module):
    """A connectome model whose atlases lie side by side, (B, d) to logits (B, 2)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        parts = x.split([edge_count(regions, False) for regions in REGIONS.values()], 1)
        return self.model(dict(zip(REGIONS, parts, strict=True)))


@pytest.mark.parametrize("name", [name for name in CONNECTOMES if ONNX not in CONNECTOME_MODELS[name].cannot])
def test_a_connectome_model_becomes_a_file(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = ConnectomeModelConfig(name=name, width=32, depth=2, dropout=0.0, drop_path=0.0, drop_regions=0.0)
    model = build_connectome_model(config, REGIONS).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # Read-outs that start at zero would hide everything before them.
            parameter.add_(0.1 * torch.randn_like(parameter))
    size = sum(edge_count(regions, False) for regions in REGIONS.values())
    compare(OfOneVector(model), (size,), tmp_path / "connectome.onnx")
