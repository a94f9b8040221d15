from __future__ import annotations

import copy

import pytest
import torch

from medformer.config import ConnectomeModelConfig
from medformer.errors import ConfigError
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


def test_a_hidden_atlas_is_rebuilt_from_the_others_of_its_subject() -> None:
    """Connections of one atlas are a linear map of those of the other, unknown to the network."""
    model, shown = make("roi_metaformer"), sample(200)
    source = torch.Generator().manual_seed(2)
    mapping = torch.randn(shown["aal"].shape[1], shown["cc200"].shape[1], generator=source)
    truth = shown["aal"] @ mapping / shown["aal"].shape[1] ** 0.5
    errors = {}
    for across in (True, False):
        network = masked_autoencoder(copy.deepcopy(model), across=across)
        optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
        given = {"aal": shown["aal"], "cc200": torch.zeros_like(truth)}
        for _ in range(150):
            loss = (network(given)["cc200"] - truth).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        errors[across] = loss.item() / truth.var().item()
    assert errors[True] < 0.75 < 0.95 < errors[False]


def test_subjects_do_not_look_at_each_other_across_atlases() -> None:
    network, edges = masked_autoencoder(make("roi_metaformer"), across=True).eval(), sample(4)
    changed = {atlas: torch.cat([block[:1], 100 * block[1:] + 7]) for atlas, block in edges.items()}
    before, after = network(edges), network(changed)
    assert all((before[atlas][0] - after[atlas][0]).abs().max() < 1e-5 for atlas in edges)


def test_a_model_without_tokens_of_regions_rebuilds_no_hidden_atlas() -> None:
    with pytest.raises(ConfigError, match="no tokens of regions"):
        masked_autoencoder(make("metaformer_paper"), across=True)


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
