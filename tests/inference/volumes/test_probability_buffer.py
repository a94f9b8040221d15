from __future__ import annotations

from pathlib import Path

import pytest
import torch

from medformer.errors import ResourceError
from medformer.inference.volumes import label_map
from medformer.inference.volumes.label_map import ProbabilityBuffer


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("in_memory", [10**6, 100])
def test_weighted_volumes_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, axis: int, in_memory: int) -> None:
    monkeypatch.setattr(label_map, "IN_MEMORY", in_memory)
    first, second = torch.rand(2, 3, 20, 18, 40, generator=torch.Generator().manual_seed(0))
    with ProbabilityBuffer(3, (20, 18, 40), axis=axis, folder=tmp_path) as store:
        store.add(iter(first.split(7, axis + 1)), 0.25)
        store.add(iter(second.split(16, axis + 1)), 0.75)
        total = torch.cat(list(store.pieces()), axis + 1)
    torch.testing.assert_close(total, 0.25 * first + 0.75 * second, atol=1e-3, rtol=0)
    assert not list(tmp_path.iterdir()), "the temporary file is gone"


def test_a_full_disk_says_how_much_was_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_map, "IN_MEMORY", 100)
    store = ProbabilityBuffer(2, (100, 100, 100), axis=2, folder=tmp_path / "made")
    (tmp_path / "made").rmdir()
    with pytest.raises(ResourceError, match=r"No room for the 0\.004 GB .* TMPDIR"):
        store.add(iter([torch.rand(2, 100, 100, 1)]), 1.0)
