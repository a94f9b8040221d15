"""A store gives back what was written, maps it, computes connections once, and refuses what is damaged."""

from __future__ import annotations

import json
import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from medformer.connectome.measures import block_from_series, triangle_size
from medformer.data.connectomes.store import FeatureStore, StoredAtlas, StoreWriter, open_store
from medformer.errors import DataError

SERIES = StoredAtlas(6, "series", tuple("abcdef"), ((1.0, 2.0, 3.0), *[None] * 5), tuple("xxxyyy"))
MATRIX = StoredAtlas(5, "correlation", tuple("12345"))


def rows(seed: int, length: int = 30) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {"small": generator.normal(size=(length, 6)), "given": generator.uniform(-0.2, 0.2, triangle_size(5))}


def written(folder: Path, subjects: int = 3) -> FeatureStore:
    with StoreWriter(folder, {"small": SERIES, "given": MATRIX}) as writer:
        for seed in range(subjects):
            writer.add(f"s{seed}", rows(seed, 30 + seed))
    return open_store(folder)


def test_what_was_written_comes_back_mapped(tmp_path: Path) -> None:
    store = written(tmp_path)
    assert store.ids == ("s0", "s1", "s2")
    assert [len(store.series("small", name)) for name in store.ids] == [30, 31, 32]
    for seed in range(3):
        series = store.series("small", f"s{seed}")
        np.testing.assert_array_equal(series, rows(seed, 30 + seed)["small"].astype(np.float32))
        assert isinstance(series, np.memmap) and series.dtype == np.float32
    np.testing.assert_array_equal(store.block("given", "correlation")[1], rows(1, 31)["given"].astype(np.float32))
    block = store.atlas("small")
    assert (block.names, block.coordinates, block.networks) == (SERIES.names, SERIES.coordinates, SERIES.networks)


def test_blocks_are_computed_once_and_follow_the_measure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = written(tmp_path)
    block = store.block("small", "correlation")
    assert block.shape == (3, 15) and isinstance(block, np.memmap)
    np.testing.assert_array_equal(block[2], block_from_series(store.series("small", "s2"), "correlation"))
    assert store.block("small", "tangent").shape == (3, 21)
    assert store.block("given", "precision").shape == (3, 15)

    def fails(*_: object, **__: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr("medformer.data.connectomes.store.block_from_series", fails)
    np.testing.assert_array_equal(open_store(tmp_path).block("small", "correlation"), block)


def test_a_block_of_an_older_store_is_computed_again(tmp_path: Path) -> None:
    before = np.array(written(tmp_path).block("small", "correlation"))
    digest = open_store(tmp_path).digest()
    with StoreWriter(tmp_path, {"small": SERIES}) as writer:
        for seed in range(3):
            writer.add(f"s{seed}", rows(seed + 10))
    store = open_store(tmp_path)
    assert store.digest() != digest
    after = store.block("small", "correlation")
    assert not np.allclose(before, after)
    np.testing.assert_array_equal(after[0], block_from_series(store.series("small", "s0"), "correlation"))


def test_the_digest_is_of_the_content_not_of_the_place(tmp_path: Path) -> None:
    assert written(tmp_path / "a").digest() == written(tmp_path / "b").digest()
    assert written(tmp_path / "c", subjects=2).digest() != written(tmp_path / "a").digest()


def test_another_process_maps_the_files_again(tmp_path: Path) -> None:
    store = written(tmp_path)
    store.block("small", "correlation")
    sent = pickle.dumps(store)
    assert len(sent) < 1000
    assert isinstance(pickle.loads(sent).series("small", "s1"), np.memmap)


def test_a_writer_that_fails_leaves_no_store(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="added twice"), StoreWriter(tmp_path, {"small": SERIES}) as writer:
        writer.add("s0", rows(0))
        writer.add("s0", rows(0))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DataError, match=r"store\.json is not there"):
        open_store(tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"small": np.zeros((9, 6))}, "has no atlas 'given'"),
        ({"small": np.zeros((9, 5)), "given": np.zeros(10)}, r"'s9', atlas 'small': found the shape \(9, 5\)"),
        ({"small": np.zeros((0, 6)), "given": np.zeros(10)}, "expected 6 numbers"),
        ({"small": np.zeros((9, 6)), "given": np.zeros(11)}, "atlas 'given'.*expected 10 numbers"),
    ],
)
def test_a_subject_that_does_not_fit_is_named(tmp_path: Path, values: dict[str, np.ndarray], message: str) -> None:
    with (
        StoreWriter(tmp_path, {"small": SERIES, "given": MATRIX}) as writer,
        pytest.raises(DataError, match=message),
    ):
        writer.add("s9", values)


def test_damage_is_named(tmp_path: Path) -> None:
    store = written(tmp_path)
    with pytest.raises(DataError, match="no atlas 'cc200'; it holds small, given"):
        store.block("cc200", "correlation")
    with pytest.raises(DataError, match="no subject 'nobody'"):
        store.series("small", "nobody")
    with pytest.raises(DataError, match="only correlations"):
        store.series("given", "s0")
    description = json.loads((tmp_path / "store.json").read_text())
    for change, message in [
        ({"format": "medformer-connectomes/9"}, "expected 'medformer-connectomes/1'"),
        ({"ids": ["s0"]}, "prepare the cohort again|Prepare the cohort again"),
        ({"atlases": 3}, "does not describe"),
    ]:
        (tmp_path / "store.json").write_text(json.dumps(description | change))
        with pytest.raises(DataError, match=message):
            open_store(tmp_path)
    (tmp_path / "store.json").write_text("{")
    with pytest.raises(DataError, match="not valid JSON"):
        open_store(tmp_path)


def test_a_truncated_file_is_refused_when_the_store_is_opened(tmp_path: Path) -> None:
    written(tmp_path)
    path = tmp_path / "small.series.npy"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(DataError, match=r"small\.series\.npy cannot be read"):
        open_store(tmp_path)


def test_memory_does_not_grow_with_the_cohort(tmp_path: Path) -> None:
    one = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    written(tmp_path / "first").block("small", "correlation")  # what is imported on the way is not counted
    tracemalloc.start()
    with StoreWriter(tmp_path / "many", {"small": SERIES}) as writer:
        for number in range(3000):
            writer.add(f"s{number}", {"small": one})
    store = open_store(tmp_path / "many")
    assert store.series("small", "s2999").shape == (40, 6)
    assert sum(len(store.series("small", name)) for name in store.ids) == 3000 * 40
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # All of them are 2.9 MB; what is kept is a name and a number each.
    assert peak < 1.5e6
