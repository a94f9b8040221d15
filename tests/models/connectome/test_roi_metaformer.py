from __future__ import annotations

import torch

from medformer.models.connectome.inputs import edge_count
from medformer.models.connectome.roi_metaformer import AtlasFusion, RoiMetaFormer

REGIONS = {"coarse": 4, "fine": 12}


def test_at_first_each_atlas_counts_the_same_and_each_region_within_it() -> None:
    fusion = AtlasFusion(REGIONS, width=3, classes=1, dropout=0.0)
    for votes in fusion.votes.values():
        torch.nn.init.ones_(votes)
    silent = {atlas: torch.zeros(1, n, 3) for atlas, n in REGIONS.items()}
    contributions = []
    for atlas in REGIONS:
        features = {**silent, atlas: torch.ones(1, REGIONS[atlas], 3)}
        contributions.append(fusion(features).item())
    torch.testing.assert_close(contributions[0], contributions[1], rtol=1e-5, atol=0)
    one_region = {**silent, "fine": torch.zeros(1, 12, 3)}
    one_region["fine"][0, 5] = 1
    torch.testing.assert_close(fusion(one_region).item(), contributions[1] / 12, rtol=1e-5, atol=0)


def test_attention_follows_the_query_across_atlases() -> None:
    fusion = AtlasFusion(REGIONS, width=2, classes=1, dropout=0.0)
    torch.manual_seed(0)
    features = {atlas: torch.randn(1, n, 2) for atlas, n in REGIONS.items()}
    for votes in fusion.votes.values():
        torch.nn.init.ones_(votes)
    features["fine"][0, 7] = torch.tensor([9.0, 0.25])
    with torch.no_grad():
        fusion.query.weight.copy_(torch.tensor([[20.0, 0.0]]))
    torch.testing.assert_close(fusion(features).item(), fusion.gain * 9.25)


def test_regions_have_votes_of_their_own() -> None:
    # The diagnosis is in one connection; swapping the names of its regions with others must change the answer.
    torch.manual_seed(0)
    model = RoiMetaFormer({"aal": 6}, width=32, depth=1, mixer="attention", dropout=0.0, drop_path=0.0)
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
    assert right > 0.85
    assert 0.35 < other < 0.65
