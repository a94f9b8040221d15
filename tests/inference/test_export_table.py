from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medformer.errors import DataError, ResourceError
from medformer.files import read_csv, write_csv
from medformer.inference import export_table
from medformer.inference.frames.export import image_exports


def probability(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((6, 8)).astype(np.float32)


def ids(out: Path) -> list[str]:
    return [row["id"] for row in read_csv(out / "predictions.csv")]


def test_the_table_lists_what_was_exported(tmp_path: Path) -> None:
    with image_exports(tmp_path, threshold=0.4) as export:
        rows = [export.add(f"f{i}", None, probability(i), source=f"in/f{i}.jpg") for i in range(3)]
    assert read_csv(tmp_path / "predictions.csv") == [{name: str(value) for name, value in row.items()} for row in rows]


@pytest.mark.parametrize("error", [KeyboardInterrupt, DataError("corrupt")])
def test_an_interruption_keeps_everything_exported_before(tmp_path: Path, error: Any) -> None:
    with pytest.raises((KeyboardInterrupt, DataError)), image_exports(tmp_path, threshold=0.5) as export:
        for i in range(4):
            export.add(f"f{i}", None, probability(i))
        raise error
    assert ids(tmp_path) == ["f0", "f1", "f2", "f3"]


def test_the_table_grows_while_the_work_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 0.0, 0.5, 2.0, 2.0])
    monkeypatch.setattr(export_table.time, "monotonic", lambda: next(clock))
    export = image_exports(tmp_path, threshold=0.5, overlays=False)
    seen = []
    for i in range(3):
        export.add(f"f{i}", None, probability(i))
        seen.append(len(ids(tmp_path)))
    assert seen == [1, 1, 3]


def test_resuming_computes_only_what_is_missing(tmp_path: Path) -> None:
    with image_exports(tmp_path, threshold=0.5, overlays=False) as export:
        export.add("f0", None, probability(0))
        export.add("f1", None, probability(1))
    (tmp_path / "masks" / "f1.png").unlink()
    with image_exports(tmp_path, threshold=0.5, overlays=False, resume=True) as export:
        assert [export.done(f"f{i}") for i in range(3)] == [True, False, False]
        for i in (1, 2):
            export.add(f"f{i}", None, probability(i))
    assert ids(tmp_path) == ["f0", "f1", "f2"]
    uninterrupted = tmp_path / "again"
    with image_exports(uninterrupted, threshold=0.5, overlays=False) as export:
        for i in range(3):
            export.add(f"f{i}", None, probability(i))
    assert (uninterrupted / "predictions.csv").read_bytes() == (tmp_path / "predictions.csv").read_bytes()


@pytest.mark.parametrize(
    "changed", [{"threshold": 0.6}, {"probabilities": "npz"}, {"probabilities": "none"}, {"overlays": True}]
)
def test_rows_made_with_other_settings_are_not_kept(tmp_path: Path, changed: dict[str, Any]) -> None:
    settings: dict[str, Any] = {"threshold": 0.5, "probabilities": "png", "overlays": False}
    with image_exports(tmp_path, **settings) as export:
        export.add("f0", None, probability())
    assert image_exports(tmp_path, **settings, resume=True).done("f0")
    assert not image_exports(tmp_path, **{**settings, **changed}, resume=True).done("f0")


def test_another_image_or_run_under_the_same_name_is_made_again(tmp_path: Path) -> None:
    image, out = tmp_path / "in" / "f0.png", tmp_path / "out"
    image.parent.mkdir()
    image.write_bytes(b"first")
    with image_exports(out, threshold=0.5, run="A") as export:
        export.add("f0", None, probability(0), images=[image])
        export.add("f1", None, probability(1), images=[image])

    def again(run: str) -> Any:
        return image_exports(out, threshold=0.5, overlays=False, run=run, resume=True)

    assert again("A").done("f0", [image])
    assert not again("B").done("f0", [image])
    image.write_bytes(b"second")
    export = again("A")
    assert not export.done("f0", [image]) and export.outdated == ["f0"]
    with export:
        export.add("f0", None, probability(2), images=[image])
    assert again("A").done("f0", [image])
    # What a call is not given stays, and the table says that another run made it.
    assert sorted(ids(out)) == ["f0", "f1"] and again("B").of_others == 2


def test_a_kill_while_a_case_is_made_again_leaves_no_row_of_the_earlier_mask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with image_exports(tmp_path, threshold=0.5, overlays=False, run="A") as export:
        export.add("f0", None, probability(0))
    export = image_exports(tmp_path, threshold=0.5, overlays=False, run="B", resume=True)
    assert not export.done("f0")
    monkeypatch.setattr("medformer.inference.frames.export.write_mask", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export.add("f0", None, probability(1))
    assert ids(tmp_path) == []


def test_without_resume_the_table_starts_empty(tmp_path: Path) -> None:
    for name in ("old", "new"):
        with image_exports(tmp_path, threshold=0.5) as export:
            export.add(name, None, probability())
    assert ids(tmp_path) == ["new"]


def test_two_cases_of_one_name_do_not_overwrite_each_other(tmp_path: Path) -> None:
    with (
        pytest.raises(DataError, match=r"'F1' \(b/F1.png\) and 'f1' \(a/f1.png\) would be exported to the same"),
        image_exports(tmp_path, threshold=0.5) as export,
    ):
        export.add("f1", None, probability(0), source="a/f1.png")
        export.add("F1", None, probability(1), source="b/F1.png")
    assert ids(tmp_path) == ["f1"]


def test_a_full_disk_keeps_the_cases_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any, **options: Any) -> None:
        raise ResourceError("Could not write: no space left on device")

    with pytest.raises(ResourceError, match="no space left"), image_exports(tmp_path, threshold=0.5) as export:
        export.add("f0", None, probability(0))
        monkeypatch.setattr("medformer.inference.frames.export.write_mask", full)
        export.add("f1", None, probability(1))
    assert ids(tmp_path) == ["f0"]


def test_the_first_error_is_the_one_that_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any) -> None:
        raise ResourceError("table cannot be written")

    with pytest.raises(DataError, match="corrupt"), image_exports(tmp_path, threshold=0.5) as export:
        export.add("f0", None, probability(0))
        monkeypatch.setattr(export_table, "write_csv", full)
        raise DataError("corrupt")


def test_a_table_of_another_kind_is_not_resumed(tmp_path: Path) -> None:
    write_csv(tmp_path / "predictions.csv", [{"id": "a", "score": 1}], ["id", "score"])
    with pytest.raises(DataError, match="does not have the columns of an export"):
        image_exports(tmp_path, threshold=0.5, resume=True)
