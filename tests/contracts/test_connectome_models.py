"""Every registered connectome model keeps the contract, `roi_metaformer` with every registered mixer."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from medformer.config import ConnectomeModelConfig
from medformer.models.autoencoder import masked_autoencoder
from medformer.models.backbone.mixers import MIXERS
from medformer.models.connectome.build import CONNECTOME_MODELS, build_connectome_model
from medformer.models.connectome.classifier import ConnectomeClassifier, edge_count
from medformer.models.networks.build import INDEPENDENT, NETWORKS

MODELS: list[tuple[str, str | None]] = [(name, None) for name in CONNECTOME_MODELS.examples()]
MODELS += [("roi_metaformer", mixer) for mixer in MIXERS]
MODELS += [
    (f"roi:{name}", None) for name in NETWORKS.examples() if not {"1-D", INDEPENDENT} & NETWORKS[name].cannot.keys()
]
MODELS = list(dict.fromkeys(MODELS))
HONEST = [case for case in MODELS if "independent subjects" not in CONNECTOME_MODELS[case[0]].cannot]
ATLASES = [{"one": 2}, {"aal": 8, "dos.160": 5}, {"items": 3, "b": 12, "c": 12}]


def ids(case: tuple[str, str | None]) -> str:
    return "-".join(part for part in case if part)


def build(case: tuple[str, str | None], regions: dict[str, int]) -> ConnectomeClassifier:
    name, mixer = case
    settings = {"mixers": (mixer,)} if mixer else {}
    config = ConnectomeModelConfig(name=name, width=32, depth=1, dropout=0.0, drop_path=0.0, drop_regions=0.0)
    return build_connectome_model(config.model_copy(update=settings), regions)


def make(case: tuple[str, str | None], regions: dict[str, int]) -> ConnectomeClassifier:
    torch.manual_seed(0)
    model = build(case, regions)
    with torch.no_grad():
        for parameter in model.parameters():
            # Read-outs that start at zero would hide everything before them.
            parameter.add_(0.1 * torch.randn_like(parameter))
        for buffer in () if model.wide is None else model.wide.buffers():
            buffer.add_(0.1 * torch.randn_like(buffer))
    return model


def sample(regions: dict[str, int], subjects: int = 4) -> dict[str, Tensor]:
    source = torch.Generator().manual_seed(1)
    return {atlas: torch.randn(subjects, edge_count(n, False), generator=source) for atlas, n in regions.items()}


@pytest.mark.parametrize("case", MODELS, ids=ids)
@pytest.mark.parametrize("regions", ATLASES, ids=[",".join(a) for a in ATLASES])
def test_any_atlases_give_finite_logits_and_every_parameter_a_gradient(
    case: tuple[str, str | None], regions: dict[str, int]
) -> None:
    model, edges = make(case, regions), sample(regions)
    logits = model(edges)
    assert logits.shape == (4, 2)
    assert bool(torch.isfinite(logits).all())
    logits.square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize("case", HONEST, ids=ids)
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_other_subjects_change_nothing_at_all(case: tuple[str, str | None], training: bool) -> None:
    regions = ATLASES[1]
    model, edges = make(case, regions).train(training), sample(regions)
    changed = {atlas: torch.cat([block[:1], 100 * block[1:] + 7]) for atlas, block in edges.items()}
    assert (model(edges)[0] - model(changed)[0]).abs().max() == 0
    autoencoder = masked_autoencoder(model).train(training)
    before, after = autoencoder(edges), autoencoder(changed)
    assert all((before[atlas][0] - after[atlas][0]).abs().max() == 0 for atlas in edges)


@pytest.mark.parametrize("case", MODELS, ids=ids)
def test_atlases_are_told_apart_by_name_not_by_order(case: tuple[str, str | None]) -> None:
    regions = ATLASES[2]
    model, edges = make(case, regions).eval(), sample(regions)
    backwards = {"not used": torch.zeros(4, 1), **dict(reversed(edges.items()))}
    exchanged = {**edges, "b": edges["c"], "c": edges["b"]}
    with torch.no_grad():
        assert torch.equal(model(edges), model(backwards))
        assert not torch.equal(model(edges), model(exchanged))


@pytest.mark.parametrize("case", MODELS, ids=ids)
def test_forward_keeps_no_state_and_state_round_trips(case: tuple[str, str | None]) -> None:
    regions = ATLASES[1]
    model, edges = make(case, regions).train(), sample(regions)
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        first = model(edges)
        assert torch.equal(model(edges), first)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    torch.manual_seed(7)
    other = build(case, regions)
    other.load_state_dict(before)
    with torch.no_grad():
        assert torch.equal(other.train()(edges), first)
