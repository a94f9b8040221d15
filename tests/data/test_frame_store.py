"""Decoded frames on disk: the pixels of the files, whatever happens to what is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medformer.data.cases import Case
from medformer.data.frames import store as module
from medformer.data.frames.store import FrameStore, read_frame
from medformer.errors import DataError, ResourceError
from medformer.files import sha256
from medformer.progress import Reporter

SIZE = (24, 32)
BOTH = 24 * 32 * 4


class Lines(Reporter):
    def __init__(self) -> None:
        self.said: list[str] = []

    def line(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture(autouse=True)
def any_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the tests keep frames on a disk that is nearly full."""
    monkeypatch.setattr(module, "SPARE", 0.0)


@pytest.fixture
def cases(tmp_path: Path) -> list[Case]:
    generator = np.random.default_rng(5)
    made = []
    for number in range(4):
        image, mask = tmp_path / f"{number}.png", tmp_path / f"{number}_mask.png"
        Image.fromarray(generator.integers(0, 256, (40, 56, 3), dtype=np.uint8)).save(image)
        Image.fromarray((generator.random((40, 56)) < 0.4).astype(np.uint8) * 255).save(mask)
        made.append(Case(f"case{number}", image, mask))
    return made


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of the cases whose files are decoded."""
    read: list[str] = []

    def counted(case: Case, *arguments: object, **options: object) -> object:
        read.append(case.id)
        return read_frame(case, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "read_frame", counted)
    return read


def _kept(folder: Path, cases: Sequence[Case], *, limit_gb: float = 1.0, lines: Lines | None = None) -> FrameStore:
    store = FrameStore(folder / "cache", SIZE, limit_gb=limit_gb)
    store.keep(cases, reporter=lines)
    return store


def _require_pixels(store: FrameStore, cases: Sequence[Case]) -> None:
    for case in cases:
        for found, expected in zip(store.load(case), read_frame(case, SIZE), strict=True):
            assert found.dtype == expected.dtype and np.array_equal(found, expected)


def test_every_frame_is_read_once_for_all_stores(tmp_path: Path, cases: list[Case], reads: list[str]) -> None:
    lines = Lines()
    _require_pixels(_kept(tmp_path, cases, lines=lines), cases)
    assert sorted(reads) == [case.id for case in cases]
    assert (
        len(lines.said) == 1 and "4 frames at 24 x 32 px" in lines.said[0] and str(tmp_path / "cache") in lines.said[0]
    )
    reads.clear()
    again = _kept(tmp_path, cases, lines=lines)
    again.keep(cases, masks=False)
    _require_pixels(again, cases)
    assert not again.load(cases[0], masks=False)[1].any()
    assert not reads and len(lines.said) == 1


def _flip(content: bytes) -> bytes:
    return content[:-50] + bytes([content[-50] ^ 1]) + content[-49:]


@pytest.mark.parametrize(
    "damage", [_flip, lambda content: content[:200], lambda content: b""], ids=["bit", "cut", "empty"]
)
def test_what_is_damaged_is_read_again(
    tmp_path: Path, cases: list[Case], reads: list[str], damage: Callable[[bytes], bytes]
) -> None:
    _kept(tmp_path, cases)
    reads.clear()
    file = min((tmp_path / "cache").iterdir())
    file.write_bytes(damage(file.read_bytes()))
    _require_pixels(_kept(tmp_path, cases), cases)
    assert len(reads) == 1


def test_another_content_rule_size_or_decoder_is_another_frame(
    tmp_path: Path, cases: list[Case], reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _kept(tmp_path, cases)
    reads.clear()
    cases[0].required_image().write_bytes(cases[1].required_image().read_bytes())
    changed = [*cases[:3], replace(cases[3], foreground=("0",))]
    _require_pixels(_kept(tmp_path, changed), changed)
    assert sorted(reads) == ["case0", "case3"]
    assert not np.array_equal(read_frame(changed[3], SIZE)[1], read_frame(cases[3], SIZE)[1])
    reads.clear()
    FrameStore(tmp_path / "cache", (16, 16), limit_gb=1.0).keep(cases[:1])
    monkeypatch.setattr(module.PIL, "__version__", "0")
    _kept(tmp_path, cases[:1])
    assert reads == ["case0", "case0"]


def test_a_file_that_changed_since_it_was_looked_at_is_refused(tmp_path: Path, cases: list[Case]) -> None:
    path = cases[2].required_image()
    store = FrameStore(tmp_path / "cache", SIZE, limit_gb=1.0, hashes={path: sha256(path)})
    path.write_bytes(cases[1].required_image().read_bytes())
    with pytest.raises(DataError, match=r"2\.png has changed since this run looked at it"):
        store.keep(cases)


def test_sizes_that_differ_are_named(tmp_path: Path, cases: list[Case]) -> None:
    Image.fromarray(np.zeros((41, 56), np.uint8)).save(cases[1].required_mask())
    with pytest.raises(DataError, match=r"'case1'.*40 x 56.*41 x 56"):
        _kept(tmp_path, cases)


@pytest.mark.parametrize(
    ("limit_gb", "spare", "files"),
    [(2.5 * BOTH / 1e9, 0.0, 4), (0.0, 0.0, 0), (1.0, 1e30, 0)],
    ids=["limit", "off", "disk"],
)
def test_what_has_no_room_is_read_from_its_files(
    tmp_path: Path, cases: list[Case], monkeypatch: pytest.MonkeyPatch, limit_gb: float, spare: float, files: int
) -> None:
    monkeypatch.setattr(module, "SPARE", spare)
    lines = Lines()
    store = _kept(tmp_path, cases, limit_gb=limit_gb, lines=lines)
    _require_pixels(store, cases)
    held = list((tmp_path / "cache").glob("*"))
    assert len(held) == files
    left = len(cases) - files // 2
    assert [f"{left} frames of 4 will be read from their files" in line for line in lines.said[-1:]] == [True] * (
        limit_gb > 0
    )


def test_a_disk_that_fails_stops_nothing(tmp_path: Path, cases: list[Case], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> None:
        raise ResourceError("No space left on device")

    monkeypatch.setattr(module, "write_bytes", full)
    _require_pixels(_kept(tmp_path, cases), cases)


def test_a_file_that_another_fold_renames_meanwhile_leaves_the_room_as_it_is(
    tmp_path: Path, cases: list[Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    _kept(tmp_path, cases[:2])
    there = list((tmp_path / "cache").iterdir())
    monkeypatch.setattr(Path, "iterdir", lambda folder: iter([folder / ".medformer-tmp-1", *there]))
    lines = Lines()
    _require_pixels(_kept(tmp_path, cases, lines=lines), cases)
    assert len(lines.said) == 1 and lines.said[0].startswith("4 frames at 24 x 32 px")


def test_what_is_removed_meanwhile_is_read_from_its_file(tmp_path: Path, cases: list[Case]) -> None:
    store = _kept(tmp_path, cases)
    for file in (tmp_path / "cache").iterdir():
        file.unlink()
    _require_pixels(store, cases)
