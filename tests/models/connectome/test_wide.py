"""A linear model beside a network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from medformer.config import ConnectomeModelConfig
from medformer.errors import ConfigError, UnknownNameError
from medformer.inference.attribution.checks import randomization_check
from medformer.models.connectome.build import build_connectome_model, check_connectome_model
from medformer.models.connectome.classifier import ConnectomeClassifier, edge_count

REGIONS = {"aal": 8, "dos.160": 5}


def edges() -> dict[str, Tensor]:
    source = torch.Generator().manual_seed(1)
    return {atlas: torch.randn(6, edge_count(n, False), generator=source) for atlas, n in REGIONS.items()}


def build(name: str = "wide:roi_metaformer") -> ConnectomeClassifier:
    torch.manual_seed(0)
    return build_connectome_model(ConnectomeModelConfig(name=name, width=16), REGIONS)


def difference(logits: Tensor) -> Tensor:
    return logits[:, 1] - logits[:, 0]


@pytest.mark.parametrize("name", ["wide:roi_metaformer", "wide:metaformer_paper", "wide:roi:meta_unet"])
def test_the_network_is_the_one_of_that_name_and_the_linear_model_has_no_parameters(name: str) -> None:
    wide, deep = build(name), build(name.removeprefix("wide:"))
    assert wide.wide is not None and deep.wide is None
    assert not list(wide.wide.parameters())
    own = {key: value for key, value in wide.state_dict().items() if not key.startswith("wide.")}
    assert own.keys() == deep.state_dict().keys()
    assert all(torch.equal(value, deep.state_dict()[key]) for key, value in own.items())


def test_a_gate_adds_the_network_to_the_linear_model_except_while_it_is_trained() -> None:
    model, given = build("wide:metaformer_paper").eval(), edges()
    assert model.wide is not None
    with torch.no_grad():
        for atlas in REGIONS:
            model.wide.weights(atlas).normal_()
        model.wide.bias.fill_(0.3)
        deep = model.classify(model.encoder(given))
        linear = model.wide.score(given)
        assert linear.shape == (6,) and difference(deep).abs().min() > 0
        expected = sum(given[atlas] @ model.wide.weights(atlas) for atlas in REGIONS) + 0.3
        assert torch.allclose(linear, expected)
        for gate in (0.0, 0.5, 1.0):
            model.wide.gate.fill_(gate)
            assert torch.allclose(difference(model(given)), linear + gate * difference(deep), atol=1e-5)
        model.wide.gate.fill_(0.0)
        torch.manual_seed(3)
        trained = model.train()(given)
        torch.manual_seed(3)
        assert torch.equal(trained, model.classify(model.encoder(given)))


def test_a_network_whose_read_outs_start_at_zero_adds_nothing_before_it_is_trained() -> None:
    model, given = build().eval(), edges()
    assert model.wide is not None
    with torch.no_grad():
        model.wide.weights("aal").normal_()
        assert torch.allclose(difference(model(given)), model.wide.score(given))


def test_a_map_of_the_linear_model_follows_its_weights() -> None:
    model = build()
    assert model.wide is not None
    generator = torch.Generator().manual_seed(2)
    for atlas in REGIONS:
        model.wide.weights(atlas).copy_(torch.randn(model.wide.weights(atlas).shape, generator=generator))
    model.wide.gate.fill_(0.0)
    given = {atlas: block.numpy() for atlas, block in edges().items()}
    reference = {atlas: np.zeros(block.shape[1], np.float32) for atlas, block in given.items()}
    weights = {atlas: model.wide.weights(atlas).clone() for atlas in REGIONS}
    found = randomization_check(model, given, reference=reference, seed=0, steps=2)
    assert found.stages[-1].maps < 0.6
    assert all(torch.equal(model.wide.weights(atlas), value) for atlas, value in weights.items())


def test_what_has_no_linear_model_beside_it_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="roi_metaformer"):
        check_connectome_model(ConnectomeModelConfig(name="wide:roi_metaformr"))
    with pytest.raises(ConfigError, match="across the subjects"):
        build("wide:metaformer_as_published")
    with pytest.raises(ConfigError, match=r"no token mixers. Set model\.mixers=null"):
        check_connectome_model(ConnectomeModelConfig(name="wide:metaformer_paper", mixers=("pooling",)))
