"""The training loop on the device: precisions, resume, several processes, memory, and how often it waits."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from stopping import StopAfter

from medformer.config.shared import ModelConfig, Precision
from medformer.errors import DivergenceError, InterruptedRun, ResourceError
from medformer.models.backbone.blocks import Architecture, MetaFormerBlock, init_fan_in
from medformer.models.backbone.layers import channels_last
from medformer.models.backbone.mixers import make_mixer
from medformer.models.memory import PROCESS, training_memory
from medformer.models.networks.build import build_network
from medformer.models.networks.grid import Grid
from medformer.models.precision import autocast
from tests.training import tiny_training as tiny

pytestmark = pytest.mark.gpu


def test_it_learns_and_resumes(device: torch.device, precision: str, tmp_path: Path) -> None:
    config = {"accelerator": device.type, "precision": precision, "epochs": 15, "ema": 0.9}
    with pytest.raises(InterruptedRun):
        tiny.train(tmp_path, data=tiny.Squares(24), config=config, reporter=StopAfter(20))
    result = tiny.train(tmp_path, data=tiny.Squares(24), config=config, resume=True)
    assert result.updates == 15 * 6 and result.best is not None and result.best > 0.8


def test_it_learns_what_a_cpu_learns(device: torch.device, tmp_path: Path) -> None:
    here, there = (
        tiny.train(tmp_path / name, config={"accelerator": name, "epochs": 2}).history for name in (device.type, "cpu")
    )
    # Dropout draws other numbers on a GPU.
    assert [row["steps"] for row in here] == [row["steps"] for row in there]
    assert here[0]["train_loss"] == pytest.approx(there[0]["train_loss"], rel=0.1)


def test_it_trains_compiled(gpu: torch.device, precision: str, tmp_path: Path) -> None:
    config = {"accelerator": "cuda", "precision": precision, "epochs": 4, "ema": 0.0}
    plain = tiny.train(tmp_path / "plain", config=config)
    compiled = tiny.train(tmp_path / "compiled", config={**config, "compile": True})
    # Dropout draws other numbers in a compiled network.
    assert compiled.updates == plain.updates
    assert compiled.history[-1]["train_loss"] == pytest.approx(plain.history[-1]["train_loss"], rel=0.2)


def test_processes_that_train_together(device: torch.device, tmp_path: Path) -> None:
    config = {"accelerator": device.type, "strategy": "ddp", "epochs": 4}
    alone = tiny.train(tmp_path / "alone", config={**config, "strategy": "auto"})
    together = tiny.train(tmp_path / "together", config=config)
    assert together.updates == alone.updates
    assert together.history[-1]["train_loss"] == pytest.approx(alone.history[-1]["train_loss"], rel=1e-3)


def test_a_lack_of_memory_ends_with_advice_and_leaves_the_device_usable(device: torch.device, tmp_path: Path) -> None:
    class Greedy(tiny.TinyNet):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + torch.empty(2**48, device=x.device)[0]

    with pytest.raises(ResourceError, match=r"training\.batch_size=2") as caught:
        tiny.train(tmp_path / "greedy", model=Greedy(), config={"accelerator": device.type})
    assert caught.value.exit_code == 5
    assert tiny.train(tmp_path / "small", config={"accelerator": device.type}).ended == "epochs"


def test_a_loss_that_is_not_a_number_is_found_though_it_is_read_later(device: torch.device, tmp_path: Path) -> None:
    data = tiny.Squares(40, faults={case: float("nan") for case in range(40)})
    with pytest.raises(DivergenceError, match=r"epoch 1, step 1 of 10.*input itself is not finite"):
        tiny.train(tmp_path, data=data, config={"accelerator": device.type})
    assert not (tmp_path / "model.safetensors").exists() and not (tmp_path / "state.safetensors").exists()


def test_the_host_seldom_waits_for_the_device(gpu: torch.device, tmp_path: Path) -> None:
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            tiny.train(tmp_path, data=tiny.Squares(800), validate=None, config={"accelerator": "cuda", "epochs": 1})
    finally:
        torch.cuda.set_sync_debug_mode("default")
    waits = [str(one.message) for one in said if "synchroniz" in str(one.message)]
    assert len(waits) < 100, f"{len(waits)} waits in 200 steps"


@pytest.mark.parametrize("name", ["meta_unet_fine", "meta_unet", "monai:dynunet"])
def test_memory_is_as_planned(gpu: torch.device, name: str, precision: Precision) -> None:
    side, batch = 64, 2
    grid = Grid(1, 3, (side,) * 3, strides=((2,) * 3,) * 3 + ((1,) * 3,), kernel_sizes=((3,) * 3,) * 4)
    model = build_network(ModelConfig(name=name, backbone="convformer_v8"), grid)
    expected = training_memory(model, (side,) * 3, batch, in_channels=1, device="cuda", precision=precision)
    model.to(gpu).train()
    average = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    low = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision)
    torch.cuda.reset_peak_memory_stats()
    for _ in range(3):
        optimizer.zero_grad()
        image = torch.randn(batch, 1, *(side,) * 3, device=gpu)
        with torch.autocast("cuda", low or torch.bfloat16, enabled=low is not None):
            logits = model(image)
        logarithms = logits.float().log_softmax(1)
        (logarithms.exp().mean() - logarithms[:, :1].mean()).backward()
        optimizer.step()
    used = torch.cuda.max_memory_reserved()
    assert used <= 1.25 * (expected - PROCESS["cuda"]), f"{used / 1e9:.2f} GB for {expected / 1e9:.2f} GB planned"
    assert len(average) > 0


@pytest.mark.parametrize("mixer", ["separable_conv", "attention"])
def test_a_compiled_block_computes_the_same(device: torch.device, precision: Precision, mixer: str) -> None:
    torch.manual_seed(0)
    part = make_mixer(mixer, 32, spatial_dims=2, stage=2)
    block = MetaFormerBlock(32, part, Architecture([mixer]), drop_path=0.0, res_scale=True).to(device)
    block.apply(init_fan_in)
    image = channels_last(torch.randn(2, 32, 12, 12, device=device))
    # Compiling for a CPU takes a compiler and long; that the graph is whole shows without it.
    compiled: Any = torch.compile(block, fullgraph=True, backend="inductor" if device.type == "cuda" else "eager")
    with autocast(device, precision):
        found, expected = compiled(image)[0], block(image)[0]
        found.float().square().mean().backward()
    atol = 2e-3 if precision == "32-true" else 5e-2
    torch.testing.assert_close(found.float(), expected.float(), atol=atol, rtol=atol)
    gradients = [parameter.grad for parameter in block.parameters() if parameter.grad is not None]
    assert gradients and all(bool(torch.isfinite(gradient).all()) for gradient in gradients)
