from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from medformer.config import ConnectomeModelConfig
from medformer.models.autoencoder import masked_autoencoder
from medformer.models.backbone.variants import count_parameters
from medformer.models.connectome.build import CONNECTOME_MODELS, build_connectome_model
from medformer.models.connectome.classifier import ConnectomeClassifier, edge_count

PUBLISHED = {"aal": 116, "cc200": 200, "dos160": 161}
SMALL = {"aal": 7, "made.up": 12}
HONEST = [n for n in CONNECTOME_MODELS.examples() if "independent subjects" not in CONNECTOME_MODELS[n].cannot]


def make(
    name: str, regions: dict[str, int] = SMALL, *, defects: tuple[str, ...] = (), diagonal: bool = False
) -> ConnectomeClassifier:
    torch.manual_seed(0)
    config = ConnectomeModelConfig(name=name, dropout=0.0, drop_path=0.0, drop_regions=0.0, width=32, defects=defects)
    model = build_connectome_model(config, regions, diagonal=diagonal)
    for name, parameter in model.named_parameters():
        # Read-outs that start at zero would hide everything before them.
        if ("votes" in name or "pooled" in name) and not parameter.detach().any():
            nn.init.normal_(parameter)
    return model


def sample(regions: dict[str, int] = SMALL, *, subjects: int = 5, diagonal: bool = False) -> dict[str, Tensor]:
    source = torch.Generator().manual_seed(1)
    return {a: torch.randn(subjects, edge_count(n, diagonal), generator=source) for a, n in regions.items()}


def with_other_subjects(edges: dict[str, Tensor]) -> dict[str, Tensor]:
    others = {atlas: 50 * torch.randn_like(block) - 3 for atlas, block in edges.items()}
    return {atlas: torch.cat([block[:1], others[atlas][1:]]) for atlas, block in edges.items()}


@pytest.mark.parametrize(
    ("name", "defects", "parameters"),
    [
        ("metaformer_paper", (), 12_082_182),
        ("metaformer_paper", ("across_subjects",), 12_082_182),
        ("metaformer_paper", ("swapped_arguments",), 11_700_510),
        ("metaformer_as_published", (), 11_700_510),
    ],
)
def test_the_published_sizes(name: str, defects: tuple[str, ...], parameters: int) -> None:
    assert count_parameters(make(name, PUBLISHED, defects=defects)) == parameters


def test_the_published_size_with_pretraining_heads() -> None:
    assert count_parameters(masked_autoencoder(make("metaformer_paper", PUBLISHED))) == 22_219_290


def test_swapped_arguments_give_128_heads_and_4_hidden_channels() -> None:
    layers = [m for m in make("metaformer_as_published").modules() if isinstance(m, nn.TransformerEncoderLayer)]
    assert {(layer.self_attn.num_heads, layer.linear1.out_features) for layer in layers} == {(128, 4)}


@pytest.mark.parametrize("name", CONNECTOME_MODELS.examples())
@pytest.mark.parametrize("diagonal", [False, True])
def test_logits_and_reconstructions_have_their_shapes(name: str, diagonal: bool) -> None:
    model, edges = make(name, diagonal=diagonal), sample(diagonal=diagonal)
    assert model(edges).shape == (5, 2)
    rebuilt = masked_autoencoder(model)(edges)
    assert {a: r.shape for a, r in rebuilt.items()} == {a: b.shape for a, b in edges.items()}


@pytest.mark.parametrize("name", HONEST)
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("grad", [False, True])
def test_other_subjects_change_a_subject_by_exactly_zero(name: str, training: bool, grad: bool) -> None:
    model, edges = make(name).train(training), sample()
    changed = with_other_subjects(edges)
    autoencoder = masked_autoencoder(model).train(training)
    with torch.set_grad_enabled(grad):
        assert (model(edges)[0] - model(changed)[0]).abs().max() == 0
        before, after = autoencoder(edges), autoencoder(changed)
    for atlas in edges:
        assert (before[atlas][0] - after[atlas][0]).abs().max() == 0
        assert not torch.equal(before[atlas][1], after[atlas][1])


@pytest.mark.parametrize(
    ("name", "defects"), [("metaformer_as_published", ()), ("metaformer_paper", ("across_subjects",))]
)
def test_as_published_other_subjects_do_change_a_subject(name: str, defects: tuple[str, ...]) -> None:
    model, edges = make(name, defects=defects).eval(), sample()
    with torch.no_grad():
        assert (model(edges)[0] - model(with_other_subjects(edges))[0]).abs().max() > 1e-3


def test_swapped_arguments_alone_keep_subjects_apart() -> None:
    model, edges = make("metaformer_paper", defects=("swapped_arguments",)).eval(), sample()
    with torch.no_grad():
        assert torch.equal(model(edges)[0], model(with_other_subjects(edges))[0])
