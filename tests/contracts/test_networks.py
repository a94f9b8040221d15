"""Every registered network keeps the contract: dimensions, sizes, independence of samples, state, precision, export."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import get_args

import pytest
import torch
from monai.networks import nets
from safetensors.torch import save_file
from tiny_backbone import tiny_backbones
from torch import Tensor, nn

from medformer.config.shared import ModelConfig
from medformer.errors import CheckpointError, ConfigError
from medformer.models.networks import dformer, peers
from medformer.models.networks.build import INDEPENDENT, NETWORKS, Target, build_network
from medformer.models.networks.grid import Grid
from medformer.models.networks.pretrained import load_encoder, network_encoder

CASES = [(name, dims) for name in NETWORKS.examples() for dims in (1, 2, 3) if f"{dims}-D" not in NETWORKS[name].cannot]
SEGMENTERS = [(name, dims) for name, dims in CASES if "segmentation" not in NETWORKS[name].cannot]
ENCODERS = [(name, dims) for name, dims in SEGMENTERS if "classification" not in NETWORKS[name].cannot]
"""Those that classify by the encoder that they segment with."""
LARGE = "monai:swinunetr"
"""Its graph, all of which is MONAI's, takes as long to follow as those of five other networks."""
# A network is the same graph in every dimension: the slow tests export the lower ones.
EXPORTED = [
    pytest.param(name, dims, marks=pytest.mark.slow if (name, dims + 1) in CASES or name == LARGE else ())
    for name, dims in CASES
    if "export" not in NETWORKS[name].cannot
]
PLANNED, ODD, TINY = (32, 32, 16), (17, 30, 9), (1, 1, 1)


@pytest.fixture(scope="module", autouse=True)
def _small_networks() -> Iterator[None]:
    """A backbone of few channels, and peers that begin with as few."""
    with tiny_backbones(), pytest.MonkeyPatch.context() as patched:
        for name, few in {"SWIN_FEATURES": 12, "FIRST_FILTERS": 8, "MOST_FILTERS": 80}.items():
            patched.setattr(peers, name, few)
        patched.setattr(nets, "resnet18", partial(nets.resnet18, widen_factor=0.25))
        patched.setattr(dformer, "CHANNELS", (32, 64, 128, 256))
        patched.setattr(dformer, "DEPTHS", (2, 1, 2, 1))
        yield


def make(name: str, dims: int, **changes: object) -> nn.Module:
    """A network of few channels, which segments if it can."""
    torch.manual_seed(0)
    config = ModelConfig(name=name, backbone="tiny", init="fan_in", drop_path=0.0).model_copy(update=changes)
    target: Target = "segmentation" if (name, dims) in SEGMENTERS else "classification"
    return build_network(config, Grid(in_channels=2, out_channels=3, size=PLANNED[:dims]), target=target).eval()


def expected(name: str, x: Tensor) -> tuple[int, ...]:
    """The shape of what a network gives for images: a logit of each class, for each position if it segments."""
    return (len(x), 3, *(x.shape[2:] if (name, x.dim() - 2) in SEGMENTERS else ()))


def abstract(name: str, dims: int) -> nn.Module:
    """The same network in shapes alone, and without drawing weights where its library can do that."""
    try:
        with torch.device("meta"):
            return make(name, dims)
    except (NotImplementedError, RuntimeError):
        return make(name, dims).to("meta")


def sample(dims: int, size: tuple[int, ...] = ODD, batch: int = 2) -> Tensor:
    return torch.randn(batch, 2, *size[:dims], generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("name", "dims"), CASES)
def test_any_size_gives_logits_for_each_sample_alone_and_changes_no_state(name: str, dims: int) -> None:
    model = make(name, dims).train(INDEPENDENT not in NETWORKS[name].cannot)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    attributes = {key: set(vars(module)) for key, module in model.named_modules()}
    x = sample(dims)
    with torch.no_grad():
        logits, tiny = model(x), model(smallest := sample(dims, TINY, 1))
        torch.testing.assert_close(model(x[1:]), logits[1:], atol=1e-3, rtol=1e-3)
    assert logits.shape == expected(name, x) and tiny.shape == expected(name, smallest)
    assert bool(torch.isfinite(logits).all() and torch.isfinite(tiny).all())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert {key: set(vars(module)) for key, module in model.named_modules()} == attributes


@pytest.mark.parametrize(("name", "dims"), EXPORTED)
def test_a_network_can_be_exported(name: str, dims: int) -> None:
    # Shapes are followed and nothing is computed, which takes a fraction of the time.
    model, x = abstract(name, dims), sample(dims, batch=1).to("meta")
    with torch.no_grad():
        assert torch.export.export(model, (x,)).module()(x).shape == expected(name, x)


@pytest.mark.parametrize(
    ("name", "dims"),
    [
        # The same layers in every dimension: a processor without bfloat16 takes half a minute for some volumes.
        pytest.param(name, dims, marks=pytest.mark.slow if dims != 2 and (name, 2) in CASES else ())
        for name, dims in CASES
        if "bf16" not in NETWORKS[name].cannot
    ],
)
def test_low_precision_gives_nearly_the_same(name: str, dims: int) -> None:
    model, x = make(name, dims), sample(dims, batch=1)
    with torch.no_grad():
        full = model(x)
        with torch.autocast("cpu", torch.bfloat16):
            low = model(x).float()
    assert low.shape == full.shape
    # Many norms of small maps enlarge the differences of layers, but the pattern stays.
    assert torch.cosine_similarity(low.flatten(), full.flatten(), dim=0) > 0.95


@pytest.mark.parametrize(("name", "dims"), ENCODERS)
def test_an_encoder_classifies_any_size(name: str, dims: int) -> None:
    config = ModelConfig(name=name, backbone="tiny_classes", init="fan_in")
    model = build_network(config, Grid(2, 3, PLANNED[:dims]), target="classification").eval()
    x = sample(dims)
    with torch.no_grad():
        logits = model(x)
        assert logits.shape == (2, 3) and model(sample(dims, TINY, 1)).shape == (1, 3)
        # It is the encoder of the network, so that one pretraining serves both.
        model.backbone.load_state_dict(make(name, dims, backbone=config.backbone).backbone.state_dict())
        torch.testing.assert_close(model(x[1:]), logits[1:], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", NETWORKS.examples())
def test_what_a_network_cannot_do_is_refused_with_the_reason(name: str) -> None:
    entry = NETWORKS[name]
    asked: dict[str, dict[str, object]] = {
        "model.mixers": {"mixers": ("pooling",)},
        "model.weights": {"weights": "file.safetensors"},
    }
    for ability, reason in entry.cannot.items():
        with pytest.raises(ConfigError) as caught:
            NETWORKS.require(name, ability)
        assert str(caught.value) == f"The model {name} does not support {ability}: {reason}"
        assert reason.endswith(".")
        dims = next(dims for case, dims in CASES if case == name)
        if ability in asked:
            with pytest.raises(ConfigError, match=ability):
                make(name, dims, **asked[ability])
        if ability in get_args(Target):
            with pytest.raises(ConfigError, match=ability):
                build_network(ModelConfig(name=name), Grid(2, 3, PLANNED[:dims]), target=ability)


@pytest.mark.parametrize(("name", "dims"), [case for case in CASES if "model.mixers" not in NETWORKS[case[0]].cannot])
def test_mixers_of_the_config_are_those_of_the_network(name: str, dims: int) -> None:
    with torch.device("meta"):
        pooled = make(name, dims, mixers=("pooling",))
        mixed = make(name, dims, mixers=("identity", "pooling", {"name": "attention", "heads": 8}, "separable_conv"))
    assert len(pooled.state_dict()) < len(mixed.state_dict())
    heads = [module.heads for key, module in mixed.named_modules() if key.endswith("stages.2.blocks.0.token_mixer")]
    assert heads == [8]
    with pytest.raises(ConfigError, match="got 2 mixers, expected 1 for all stages, or 4, one for each"):
        make(name, dims, mixers=("pooling", "pooling"))


@pytest.mark.parametrize("name", [name for name in NETWORKS.examples() if "model.weights" not in NETWORKS[name].cannot])
def test_weights_fill_the_encoder_and_are_read_only_when_they_are_asked_for(name: str, tmp_path: Path) -> None:
    dims = next(dims for case, dims in CASES if case == name)
    path = tmp_path / "weights.safetensors"
    model = make(name, dims, weights=str(path))
    with pytest.raises(CheckpointError, match=r"weights\.safetensors"):
        load_encoder(model, ModelConfig(name=name, weights=str(path)))
    encoder = network_encoder(model)
    assert encoder is not None
    weights = {key: torch.full_like(value, 2) for key, value in encoder.state_dict().items()}
    save_file(weights, path)
    load_encoder(model, ModelConfig(name=name, weights=str(path)))
    assert all(bool((value == 2).all()) for value in encoder.state_dict().values())
