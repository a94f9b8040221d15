"""Parts compute on the device what they compute on a CPU, in every precision."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from medformer.config.shared import ModelConfig
from medformer.inference.volumes.windows import stream
from medformer.models.backbone.blocks import init_fan_in
from medformer.models.backbone.layers import channels_last
from medformer.models.backbone.mixers import MIXERS, make_mixer
from medformer.models.backbone.mixers.hopfield_memory import memory_banks
from medformer.models.backbone.norms import NormName, make_norm
from medformer.models.networks.build import NETWORKS, build_network
from medformer.models.networks.grid import Grid
from medformer.models.precision import autocast

pytestmark = pytest.mark.gpu

CHANNELS = 64
SIZES = {1: (37,), 2: (9, 12), 3: (6, 5, 8)}


def _dims(cannot: object) -> int:
    return next(n for n in (2, 3, 1) if f"{n}-D" not in cannot)  # type: ignore[operator]


def _same(
    model: nn.Module, x: Tensor, device: torch.device, precision: str, off: float, slope_off: float | None = None
) -> None:
    """Compare a step on the device in a precision with one on a CPU in float32.

    Args:
        model: What computes.
        x: Its input.
        device: Where.
        precision: How.
        off: Difference of the results, as a share of their norm.
        slope_off: The same of the gradient; as of the results without it.
    """
    results = []
    for where, kind in ((torch.device("cpu"), "32-true"), (device, precision)):
        model.to(where).zero_grad()
        given = x.detach().to(where).requires_grad_()
        with autocast(where, kind):  # type: ignore[arg-type]
            y = model(given).float()
        # As a loss is scaled, so that float16 holds the gradient.
        (gradient,) = torch.autograd.grad(1024 * y.square().mean() / y.detach().square().mean(), given)
        results.append((y.detach().cpu(), gradient.float().cpu()))
    for full, found, share in zip(*results, (off, slope_off or off), strict=True):
        assert bool(torch.isfinite(found).all())
        assert (found - full).norm() <= share * full.norm() + 1e-6


@pytest.mark.parametrize("name", list(MIXERS))
def test_a_mixer(name: str, device: torch.device, precision: str) -> None:
    if precision == "bf16-mixed" and "bf16" in MIXERS[name].cannot:
        pytest.skip(MIXERS[name].cannot["bf16"])
    torch.manual_seed(0)
    dims = _dims(MIXERS[name].cannot)
    mixer = make_mixer(name, CHANNELS, spatial_dims=dims, stage=3)
    mixer.apply(init_fan_in)
    for bank in memory_banks(mixer).values():
        bank.store(torch.randn(5, CHANNELS), torch.rand(5, dims), [0, 1, 2, 0, 1], list(range(5)))
    x = torch.randn(2, CHANNELS, *SIZES[dims])
    _same(mixer, x, device, precision, 2e-3 if precision == "32-true" else 0.1)


@pytest.mark.parametrize("name", ["meta_polyp", "meta_unet", "meta_unet_fine", "dformer", "pranet", "agunet", "plsnet"])
def test_a_network(name: str, device: torch.device, precision: str) -> None:
    torch.manual_seed(0)
    dims = _dims(NETWORKS[name].cannot)
    config = ModelConfig(name=name, backbone="tiny", init="fan_in")
    model = build_network(config, Grid(2, 1, (32, 32, 32)[:dims])).eval()
    # In low precision rounding alone moves the logits of untrained networks by a third, and gradients by more.
    off, slope_off = (0.01, 0.05) if precision == "32-true" else (0.5, 2.0)
    _same(model, torch.randn(2, 2, *(32, 32, 32)[:dims]), device, precision, off, slope_off)


@pytest.mark.parametrize("name", ["separable_conv", "dynamic_filter", "focal_modulation", "selective_scan"])
def test_float16_holds_large_activations(name: str, device: torch.device) -> None:
    torch.manual_seed(0)
    mixer = make_mixer(name, CHANNELS, spatial_dims=2, stage=3)
    mixer.apply(init_fan_in)
    x = 64 * torch.randn(2, CHANNELS, 9, 12)
    with torch.no_grad():
        full = mixer(x)
        with autocast(device, "16-mixed"):
            low = mixer.to(device)(x.to(device)).float().cpu()
    assert (low - full).norm() <= 0.02 * full.norm()


@pytest.mark.parametrize("name", ["channel", "layer", "map", "group", "instance", "joint"])
def test_a_norm_leaves_the_order_of_memory(name: NormName, device: torch.device) -> None:
    torch.manual_seed(0)
    norm, x = make_norm(name, 8, (6, 5)), channels_last(torch.randn(3, 8, 6, 5))
    found = norm.to(device)(x.to(device))
    assert found.movedim(1, -1).is_contiguous()
    torch.testing.assert_close(found.cpu(), norm.cpu()(x), atol=1e-4, rtol=1e-4)


def test_windows_are_added_up_on_the_device(device: torch.device) -> None:
    torch.manual_seed(0)
    model, image = nn.Conv3d(1, 3, 3, padding=1).requires_grad_(False), torch.rand(1, 20, 17, 23)
    expected = torch.cat(list(stream(image, model, patch=(8, 8, 8), batch_size=3)), 3)
    pieces = list(stream(image, model.to(device), patch=(8, 8, 8), batch_size=3, device=device))
    assert all(piece.device.type == "cpu" for piece in pieces)
    torch.testing.assert_close(torch.cat(pieces, 3), expected, atol=1e-3, rtol=1e-3)
