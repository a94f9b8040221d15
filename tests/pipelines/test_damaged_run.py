"""Files of a run that were cut off or edited: the file is named, with what to do, and nothing is computed from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Medformer = Callable[..., Any]

DEEP = "[" * 100_000 + "]" * 100_000
LONG_CELL = "id,fold\na," + "1" * 200_000 + "\n"

DAMAGE = {
    "run.json": ["cut", DEEP, "[]", '{"format": "medformer-run/1", "sessions": "none"}'],
    "splits.json": ["cut", DEEP, "{}", '{"format": "medformer-plan/1", "cases": 3}'],
    "config.yaml": ["cut", "model: [", "model: 3\n", "\x00"],
    "audit.json": ["cut", DEEP, "[]", '{"findings": 3}'],
    "site_probe.json": [DEEP, '{"balanced_accuracy": "high"}'],
    "oof.csv": ["cut", LONG_CELL, ""],
    "folds/0/fold.json": ["cut", DEEP, "{}", '{"index": 0, "plan": "", "attempts": "x"}'],
    "folds/0/threshold.json": ["cut", DEEP, '{"threshold": NaN}', '{"threshold": 7}', '{"threshold": "high"}'],
    "folds/0/model.safetensors": ["cut", "", "{}"],
    "folds/0/predictions.csv": ["cut", LONG_CELL],
    "folds/0/history.csv": [LONG_CELL, "a,b\n1\n"],
}
READERS = {
    "report": ("run.json", "splits.json", "config.yaml", "audit.json", "site_probe.json", "oof.csv", "folds/0/history"),
    "predict": ("run.json", "splits.json", "config.yaml", "folds/0/threshold.json", "folds/0/model.safetensors"),
    "compare": ("run.json", "splits.json", "oof.csv"),
    "resume": ("run.json", "splits.json", "config.yaml", "folds/0/fold.json"),
    "status": ("run.json",),
}


@pytest.mark.parametrize("verb", READERS)
def test_a_damaged_file_is_named_and_nothing_is_computed_from_it(
    medformer: Medformer,
    own_run: Path,
    finished: Path,
    data: Path,
    settings: tuple[str, ...],
    tmp_path: Path,
    verb: str,
) -> None:
    image = next((data.parent / "images").iterdir())
    command: dict[str, list[object]] = {
        "report": ["report", own_run],
        "predict": ["polyp", "predict", own_run, image, "--out", tmp_path / "out", "--overwrite"],
        "compare": ["compare", own_run, finished],
        "resume": ["polyp", "crossval", "--out", own_run, "--data", data, *settings, "--resume"],
        "status": ["crossval", "status", own_run],
    }
    for name, contents in DAMAGE.items():
        if not name.startswith(READERS[verb]):
            continue
        path, whole = own_run / name, (finished / name).read_bytes()
        for content in contents:
            path.write_bytes(whole[: len(whole) // 2] if content == "cut" else content.encode())
            result = medformer(*command[verb])
            assert result.code in (2, 3), (name, content[:40], result.code, result.err)
            result.refused(result.code, Path(name).name)
        path.write_bytes(whole)


def test_a_fold_whose_table_was_damaged_is_computed_again(
    medformer: Medformer, own_run: Path, finished: Path, data: Path, settings: tuple[str, ...]
) -> None:
    (own_run / "folds/0/predictions.csv").write_text(LONG_CELL)
    result = medformer("polyp", "crossval", "--out", own_run, "--data", data, *settings, "--resume", report=False)
    assert result.code == 0, result.err
    assert (own_run / "oof.csv").read_bytes() == (finished / "oof.csv").read_bytes()


def test_status_shows_what_it_can_of_a_half_written_run(medformer: Medformer, own_run: Path) -> None:
    (own_run / "splits.json").write_text(DEEP)
    (own_run / "folds/0/fold.json").write_text('{"index": "')
    result = medformer("crossval", "status", own_run)
    assert result.code == 0, result.err
    assert "unreadable" in result.out and "1 of 2 folds done" in result.out
