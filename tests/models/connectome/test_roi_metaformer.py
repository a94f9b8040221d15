from __future__ import annotations

import torch

from medformer.models.backbone.blocks import Architecture
from medformer.models.connectome.classifier import edge_count
from medformer.models.connectome.roi_metaformer import AtlasFusion, RegionTokens, RoiMetaFormer, region_backbone

REGIONS = {"coarse": 4, "fine": 12}

ONE_BLOCK = Architecture(["attention"], depths=[1], channels=[32], mlp_ratio=2.0)


def test_a_new_network_says_nothing_and_every_region_has_a_vote() -> None:
    fusion = AtlasFusion(REGIONS, width=3, classes=2, dropout=0.0)
    torch.manual_seed(0)
    features = {atlas: torch.randn(2, n, 3) for atlas, n in REGIONS.items()}
    assert fusion(features).abs().max() == 0
    for atlas, votes in fusion.votes.items():
        torch.nn.init.ones_(votes)
        expected = fusion.gain * features[atlas.removeprefix("atlas_")].sum((1, 2))
        torch.testing.assert_close(fusion(features)[:, 0], expected)
        torch.nn.init.zeros_(votes)


def test_attention_pooling_finds_the_region_that_its_query_asks_for() -> None:
    torch.manual_seed(0)
    fusion = AtlasFusion(REGIONS, width=4, classes=2, dropout=0.0)
    features = {atlas: torch.randn(1, n, 4) for atlas, n in REGIONS.items()}
    with torch.no_grad():
        torch.nn.init.normal_(fusion.pooled.weight)
        fusion.queries.weight.copy_(50.0 * fusion.norm(features["fine"][0, 7]))
        before = fusion(features)
        elsewhere = {**features, "fine": features["fine"] + 0.1 * (torch.arange(12) != 7)[None, :, None]}
        found = {**features, "fine": features["fine"] + (torch.arange(12) == 7)[None, :, None] * torch.randn(4)}
        assert (fusion(elsewhere) - before).abs().max() < 1e-4 < (fusion(found) - before).abs().max()


def test_regions_are_hidden_in_training_alone() -> None:
    torch.manual_seed(0)
    tokens = RegionTokens(40, 8, diagonal=False, drop_regions=0.5)
    edges = torch.randn(3, edge_count(40, False))
    assert torch.equal(tokens.eval()(edges), tokens(edges))
    first, second = tokens.train()(edges), tokens(edges)
    assert not torch.equal(first, second)
    gone = (first == 0).all(-1).float().mean()
    assert 0.1 < gone < 0.4
    assert not torch.equal((first == 0).all(-1)[0], (first == 0).all(-1)[1])


def test_regions_have_votes_of_their_own() -> None:
    # The diagnosis is in one connection; swapping the names of its regions with others must change the answer.
    torch.manual_seed(0)
    model = RoiMetaFormer(
        {"aal": 6}, width=32, backbone=lambda: region_backbone(ONE_BLOCK), dropout=0.0, drop_regions=0.0
    )
    edges = torch.randn(64, edge_count(6, False))
    label = (edges[:, 3] > 0).long()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        loss = torch.nn.functional.cross_entropy(model({"aal": edges}), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    fresh = torch.randn(400, edge_count(6, False))
    with torch.no_grad():
        right = (model({"aal": fresh}).argmax(1) == (fresh[:, 3] > 0)).float().mean()
        other = (model({"aal": fresh.roll(5, 1)}).argmax(1) == (fresh[:, 3] > 0)).float().mean()
    assert right > 0.75
    assert 0.35 < other < 0.65
