from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.utils.data import default_collate

from medformer.data.connectomes.dataset import ConnectomeData
from medformer.errors import DataError

IDS = [f"s{number}" for number in range(9)]


@pytest.fixture
def edges() -> dict[str, NDArray[np.float32]]:
    generator = np.random.default_rng(0)
    return {atlas: generator.normal(size=(9, size)).astype(np.float32) for atlas, size in (("a", 15), ("b", 200))}


def equal(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return (
        first["id"] == second["id"]
        and torch.equal(first["label"], second["label"])
        and all(torch.equal(first["edges"][atlas], second["edges"][atlas]) for atlas in first["edges"])
    )


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_a_batch_is_its_items_together(edges: dict[str, NDArray[np.float32]], noise: float) -> None:
    data = ConnectomeData(edges, np.arange(9) % 2, IDS, noise=noise, seed=4)
    indices = [(2, 7), (2, 0), (2, 3)]
    assert equal(data.batch(indices), default_collate([data[index] for index in indices]))
    assert data.batch(indices)["id"] == ["s7", "s0", "s3"] and len(data) == 9


def test_a_batch_holds_the_rows_and_leaves_the_arrays_alone(edges: dict[str, NDArray[np.float32]]) -> None:
    before = {atlas: block.copy() for atlas, block in edges.items()}
    plain = ConnectomeData(edges, None, IDS).batch([(0, 5), (0, 1)])
    assert "label" not in plain
    np.testing.assert_array_equal(plain["edges"]["b"].numpy(), before["b"][[5, 1]])
    ConnectomeData(edges, None, IDS, noise=1.0).batch([(0, 5), (0, 1)])
    plain["edges"]["a"].zero_()
    assert all(np.array_equal(edges[atlas], before[atlas]) for atlas in edges)


def test_noise_depends_on_seed_epoch_and_subject_alone(edges: dict[str, NDArray[np.float32]]) -> None:
    def noise(index: tuple[int, int], seed: int = 0) -> NDArray[np.float32]:
        found = ConnectomeData(edges, None, IDS, noise=0.1, seed=seed)[index]["edges"]["b"].numpy()
        return found - edges["b"][index[1]]

    first = noise((1, 4))
    assert first.std() == pytest.approx(0.1, rel=0.15)
    np.testing.assert_array_equal(first, noise((1, 4)))
    for other in (noise((2, 4)), noise((1, 5)), noise((1, 4), seed=1)):
        assert np.abs(first - other).max() > 0.1
    turned = {atlas: block[::-1] for atlas, block in edges.items()}
    again = ConnectomeData(turned, None, IDS[::-1], noise=0.1)[(1, 4)]["edges"]["b"].numpy()
    np.testing.assert_array_equal(again, ConnectomeData(edges, None, IDS, noise=0.1)[(1, 4)]["edges"]["b"].numpy())


def test_memory_mapped_rows_are_read_and_copied(edges: dict[str, NDArray[np.float32]], tmp_path: Path) -> None:
    np.save(tmp_path / "b.npy", edges["b"])
    mapped = np.load(tmp_path / "b.npy", mmap_mode="r")
    batch = ConnectomeData({"b": mapped}, np.zeros(9), IDS, noise=0.1).batch([(0, 2)])
    assert batch["edges"]["b"].shape == (1, 200)
    np.testing.assert_array_equal(np.load(tmp_path / "b.npy"), edges["b"])


def test_it_travels_to_another_process(edges: dict[str, NDArray[np.float32]]) -> None:
    data = ConnectomeData(edges, np.arange(9) % 2, IDS, noise=0.1)
    assert equal(pickle.loads(pickle.dumps(data))[(0, 3)], data[(0, 3)])


def test_rows_that_do_not_fit_are_named(edges: dict[str, NDArray[np.float32]]) -> None:
    with pytest.raises(DataError, match="9 subjects, but atlas a has 8"):
        ConnectomeData({**edges, "a": edges["a"][:8]}, None, IDS)
    with pytest.raises(DataError, match="labels has 3"):
        ConnectomeData(edges, [0, 1, 0], IDS)
    with pytest.raises(DataError, match="at least one atlas"):
        ConnectomeData({}, None, IDS)
