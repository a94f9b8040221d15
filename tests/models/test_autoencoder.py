from __future__ import annotations

import copy

import pytest
import torch

from medformer.config import ConnectomeModelConfig
from medformer.models.autoencoder import masked_autoencoder
from medformer.models.connectome.build import CONNECTOME_MODELS, build_connectome_model
from medformer.models.connectome.classifier import ConnectomeClassifier, edge_count

REGIONS = {"aal": 9, "cc200": 6}


def make(name: str) -> ConnectomeClassifier:
    torch.manual_seed(0)
    return build_connectome_model(ConnectomeModelConfig(name=name, width=32, dropout=0.0, drop_path=0.0), REGIONS)


def sample(subjects: int = 24) -> dict[str, torch.Tensor]:
    source = torch.Generator().manual_seed(1)
    return {atlas: torch.randn(subjects, edge_count(n, False), generator=source) for atlas, n in REGIONS.items()}


@pytest.mark.parametrize("name", CONNECTOME_MODELS.examples())
def test_pretraining_trains_the_classifiers_own_encoder_and_nothing_else_of_it(name: str) -> None:
    model, edges = make(name), sample()
    before = copy.deepcopy(model.state_dict())
    autoencoder = masked_autoencoder(model)
    optimizer = torch.optim.AdamW(autoencoder.parameters(), lr=1e-2, weight_decay=0.1)
    errors = []
    for _ in range(60):
        rebuilt = autoencoder(edges)
        loss = torch.stack([(rebuilt[atlas] - edges[atlas]).square().mean() for atlas in edges]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        errors.append(loss.item())
        if errors[-1] < 0.9 * errors[0]:
            break
    assert errors[-1] < 0.9 * errors[0]
    changed = {key.split(".")[0] for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {"encoder"}


def test_the_seed_alone_decides_the_decoder() -> None:
    model, edges = make("roi_metaformer").eval(), sample()
    found = []
    for seed in (3, 3, 4):
        torch.rand(1)
        found.append(masked_autoencoder(model, seed)(edges)["aal"])
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
    before = torch.random.get_rng_state()
    masked_autoencoder(model, 3)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("name", CONNECTOME_MODELS.examples())
def test_the_encoder_has_the_same_keys_in_both_networks(name: str) -> None:
    model = make(name)
    in_autoencoder = {k for k in masked_autoencoder(model).state_dict() if k.startswith("encoder.")}
    assert in_autoencoder == {key for key in model.state_dict() if key.startswith("encoder.")}


@pytest.mark.parametrize("name", CONNECTOME_MODELS.examples())
def test_making_a_decoder_leaves_the_classifier_as_it_was(name: str) -> None:
    model = make(name)
    keys = set(model.state_dict())
    masked_autoencoder(model)
    assert set(model.state_dict()) == keys
