from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from medformer.errors import DataError
from medformer.models.connectome.classifier import check_edges, edge_counts, module_key, row_indices
from medformer.models.connectome.roi_metaformer import RowDecoder


@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize("regions", [2, 3, 11])
def test_row_indices_rebuild_the_matrix_in_the_order_of_numpy(regions: int, diagonal: bool) -> None:
    full = np.random.default_rng(0).normal(size=(regions, regions)).astype(np.float32)
    full = full + full.T
    if not diagonal:
        np.fill_diagonal(full, 0)
    edges = torch.from_numpy(full[np.triu_indices(regions, 0 if diagonal else 1)])
    rebuilt = torch.cat([edges, torch.zeros(1)])[row_indices(regions, diagonal)]
    np.testing.assert_array_equal(rebuilt.numpy(), full)


@pytest.mark.parametrize("diagonal", [False, True])
def test_the_row_decoder_averages_what_both_regions_say(diagonal: bool) -> None:
    decoder = RowDecoder(5, diagonal, width=5)
    with torch.no_grad():
        decoder.projection.weight.copy_(torch.eye(5))
        nn.init.zeros_(decoder.projection.bias)
        rows = torch.randn(2, 5, 5)
        expected = ((rows + rows.mT) / 2)[:, *torch.triu_indices(5, 5, 0 if diagonal else 1)]
        torch.testing.assert_close(decoder(rows), expected)


def test_counts_follow_the_triangle() -> None:
    published = {"aal": 116, "cc200": 200, "dos160": 161}
    assert edge_counts(published, diagonal=False) == {"aal": 6670, "cc200": 19900, "dos160": 12880}
    assert edge_counts({"aal": 116}, diagonal=True) == {"aal": 6786}


def test_no_atlas_and_an_atlas_of_one_region_are_refused() -> None:
    with pytest.raises(DataError, match="no atlas, expected at least one"):
        edge_counts({}, diagonal=False)
    with pytest.raises(DataError, match="'tiny' has 1 region"):
        edge_counts({"aal": 116, "tiny": 1}, diagonal=False)


def test_a_wrong_batch_is_named() -> None:
    with pytest.raises(DataError, match="got ho, without 'aal'"):
        check_edges({"ho": torch.zeros(2, 3)}, {"ho": 3, "aal": 6})
    with pytest.raises(DataError, match=r"'aal': got connections of shape \(2, 7\), expected \(batch, 6\)"):
        check_edges({"aal": torch.zeros(2, 7)}, {"aal": 6})
    with pytest.raises(DataError, match=r"shape \(2, 6, 1\)"):
        check_edges({"aal": torch.zeros(2, 6, 1)}, {"aal": 6})


def test_any_atlas_name_is_a_module_name_and_no_two_are_the_same() -> None:
    names = ["aal", "schaefer.100", "schaefer%2E100", "items", "type"]
    modules = nn.ModuleDict({module_key(name): nn.Identity() for name in names})
    assert len(modules) == len(names)
