"""Every registered network and mixer becomes an ONNX file of any batch, which onnxruntime computes as PyTorch does."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from medformer.config.shared import ModelConfig
from medformer.inference.onnx.export import Difference, Port, Run, write_graph
from medformer.models.backbone.mixers import MIXERS, make_mixer
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


# 33 is no multiple of any stride, and large enough for the keys of the decoder's attention to be averaged.
@pytest.mark.parametrize(("name", "dims"), [case for case in BUILT if ONNX not in NETWORKS[case[0]].cannot])
def test_a_network_becomes_a_file(name: str, dims: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    size = (33, 30, 17)[:dims]
    config = ModelConfig(name=name, backbone="convformer_v8", init="fan_in", drop_path=0.0)
    network = build_network(config, Grid(in_channels=2, out_channels=3, size=size)).eval()
    compare(network, (2, *size), tmp_path / "network.onnx")
