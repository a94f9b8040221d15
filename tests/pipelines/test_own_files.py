"""What a command may replace or delete: files that it wrote, and no others. An earlier result outlives a failure."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medformer.crossval.run import outputs
from medformer.crossval.run.outputs import output_file, output_folder
from medformer.data.manifest import write_manifest
from medformer.errors import ConfigError, DataError, ResourceError
from medformer.files import read_csv, write_text

Medformer = Callable[..., Any]


def contents(folder: Path) -> dict[str, str]:
    """Every file that a user sees, with what it holds."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and not file.name.startswith(".medformer")]
    return {file.relative_to(folder).as_posix(): file.read_text("utf-8") for file in files}


def fill(out: Path, files: dict[str, str], **flags: Any) -> None:
    with output_folder(out, **flags) as work:
        for name, text in files.items():
            write_text(work / name, text)


def test_results_are_replaced_only_with_a_flag_and_what_is_not_new_goes(tmp_path: Path) -> None:
    out = tmp_path / "a" / "out"
    fill(out, {"masks/1.png": "old", "masks/deep/2.png": "old", "table.csv": "old"})
    with pytest.raises(ConfigError, match=r"not empty\. Add --overwrite"):
        fill(out, {})
    fill(out, {"masks/1.png": "new", "table.csv": "new"}, overwrite=True)
    assert contents(out) == {"masks/1.png": "new", "table.csv": "new"}
    assert not (out / "masks" / "deep").exists() and not (out / outputs.NEXT).exists()
    fill(out, {"masks/3.png": "third"}, overwrite=True, resume=False)
    assert contents(out) == {"masks/3.png": "third"}


@pytest.mark.parametrize("flags", [{}, {"overwrite": True}, {"overwrite": False, "resume": True}])
def test_a_folder_that_is_not_ours_is_refused(tmp_path: Path, flags: dict[str, bool]) -> None:
    write_text(tmp_path / "masks" / "1.png", "drawn by hand")
    with pytest.raises(ConfigError, match="no list of ours"):
        fill(tmp_path, {"masks/1.png": "ours"}, **flags)
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == ["1.png"]
    assert contents(tmp_path) == {"masks/1.png": "drawn by hand"}


@pytest.mark.parametrize("flags", [{"overwrite": True}, {"overwrite": False, "resume": True}])
def test_results_of_another_command_are_not_replaced(tmp_path: Path, flags: dict[str, bool]) -> None:
    fill(tmp_path, {"manifest.csv": "a cohort"}, by="abide prepare")
    fill(tmp_path, {"manifest.csv": "again"}, by="abide prepare", overwrite=True)
    with pytest.raises(ConfigError, match="holds what `medformer abide prepare` wrote"):
        fill(tmp_path, {"predictions.csv": "new"}, by="abide predict", **flags)
    assert contents(tmp_path) == {"manifest.csv": "again"}


def test_results_are_not_put_beside_those_of_another_command(tmp_path: Path) -> None:
    """Else the list would name them as its own, and they would go with it."""
    fill(tmp_path, {"manifest.csv": "a cohort"}, by="abide prepare")
    with pytest.raises(ConfigError, match="are not put beside it"):
        fill(tmp_path, {"comparison.csv": "new"}, resume=True, beside=True)
    assert contents(tmp_path) == {"manifest.csv": "a cohort"}


@pytest.mark.parametrize("flags", [{"overwrite": True}, {"resume": True}])
def test_a_file_that_came_later_is_never_touched(tmp_path: Path, flags: dict[str, bool]) -> None:
    fill(tmp_path, {"masks/1.png": "old"})
    write_text(tmp_path / "masks" / "2.png", "mine")
    write_text(tmp_path / "notes.txt", "mine")
    before = contents(tmp_path)
    with pytest.raises(ConfigError, match=r"masks/2\.png is not a file that medformer wrote"):
        fill(tmp_path, {"masks/2.png": "new"}, **flags)
    assert contents(tmp_path) == before
    fill(tmp_path, {"masks/3.png": "new"}, overwrite=True)
    assert contents(tmp_path) == {"masks/2.png": "mine", "masks/3.png": "new", "notes.txt": "mine"}


@pytest.mark.parametrize("error", [DataError("no"), KeyboardInterrupt()])
def test_an_earlier_result_outlives_a_failed_attempt(tmp_path: Path, error: BaseException) -> None:
    out = tmp_path / "out"
    for earlier in ({}, {"a.csv": "old", "b.csv": "old"}):
        if earlier:
            fill(out, earlier)
        with pytest.raises(type(error)), output_folder(out, overwrite=True) as work:
            write_text(work / "a.csv", "new")
            raise error
        assert out.exists() is bool(earlier)
        assert not earlier or contents(out) == earlier
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_what_can_be_continued_stays_and_is_continued(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for flags, expected in (({"resume": False}, {"a.csv": "1"}), ({"overwrite": True, "resume": False}, {"old": "0"})):
        shutil.rmtree(out, ignore_errors=True)
        if "overwrite" in flags:
            fill(out, {"old": "0"})
        with pytest.raises(DataError), output_folder(out, **flags) as work:
            write_text(work / "a.csv", "1")
            raise DataError("stop")
        assert contents(out) | {} == (expected if "overwrite" not in flags else {"old": "0"}) | (
            {f"{outputs.NEXT}/a.csv": "1"} if "overwrite" in flags else {}
        )
        with output_folder(out, resume=True) as work:
            assert (work / "a.csv").read_text() == "1"
            write_text(work / "b.csv", "2")
        assert contents(out) == {"a.csv": "1", "b.csv": "2"}


def test_a_swap_that_was_cut_off_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new = {f"masks/{number}.png": "new" for number in range(4)}
    for cut in range(4):
        out = tmp_path / str(cut)
        fill(out, {f"masks/{number}.png": "old" for number in range(2, 7)})
        moved: list[str] = []

        def replace(source: str, target: str, moved: list[str] = moved, cut: int = cut, do: Any = os.replace) -> None:
            if outputs.NEXT in str(source) and ".medformer-tmp" not in str(source):
                if len(moved) == cut:
                    raise OSError(5, "pulled the plug")
                moved.append(str(source))
            do(source, target)

        with monkeypatch.context() as patched, pytest.raises(ResourceError, match="could not be moved"):
            patched.setattr(os, "replace", replace)
            fill(out, new, overwrite=True)
        with output_folder(out, resume=True) as work:
            assert work == out
        assert contents(out) == new
        assert sorted(json.loads(line) for line in (out / outputs.LIST).read_text().splitlines()[1:]) == sorted(new)


def test_what_a_kill_cut_off_before_the_first_file_is_no_obstacle(tmp_path: Path) -> None:
    cut_off = tmp_path / "features" / ".medformer-tmp-1-0123456789abcdef-coarse.npy"
    cut_off.parent.mkdir()
    cut_off.write_bytes(b"half")
    fill(tmp_path, {"features/coarse.npy": "whole"})
    assert contents(tmp_path) == {"features/coarse.npy": "whole"} and not cut_off.exists()


def test_a_refused_call_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError), output_folder(tmp_path / "a" / "b", resume=False):
        raise DataError("nothing to read")
    assert list(tmp_path.iterdir()) == []


def test_two_calls_do_not_write_into_one_folder(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from medformer.crossval.run.outputs import output_folder\n"
        "with output_folder(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    import subprocess
    import sys

    command = [sys.executable, "-c", script, str(tmp_path / "out")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match=rf"being written by process {other.pid}"):
            fill(tmp_path / "out", {"a": ""}, resume=True)


@pytest.mark.parametrize(
    ("name", "text"),
    [("p001.png", "\x89PNG"), ("patients.csv", "id,diagnosis\n1,2\n"), ("m.json", "{}"), ("empty.csv", "")],
)
def test_prepare_replaces_no_file_of_others(
    medformer: Medformer, data: Path, tmp_path: Path, name: str, text: str
) -> None:
    write_text(tmp_path / name, text)
    words = ("polyp", "prepare", data.parent, "--ungrouped", "each", "--out", tmp_path / name)
    medformer(*words).refused(2, "Add --overwrite")
    medformer(*words, "--overwrite").refused(2, name, "is not replaced")
    assert contents(tmp_path) == {name: text}
    with pytest.raises(ConfigError, match="is not replaced"):
        output_file(tmp_path / "m.csv", overwrite=True, beside=[tmp_path / name])


def test_prepare_replaces_its_own_manifest_and_keeps_it_when_it_fails(
    medformer: Medformer, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "m.csv"
    words = ("polyp", "prepare", data.parent, "--out", out)
    assert medformer(*words, "--ungrouped", "each").code == 0
    before = contents(tmp_path)
    medformer(*words, "--overwrite").refused(3, "no patient or sequence")
    assert contents(tmp_path) == before
    assert medformer(*words, "--ungrouped", "each", "--overwrite").code == 0
    assert contents(tmp_path) == before


@pytest.mark.parametrize("flag", ["--overwrite", "--resume"])
def test_predicting_into_a_data_set_leaves_its_masks_alone(
    medformer: Medformer, finished: Path, data: Path, tmp_path: Path, flag: str
) -> None:
    own = tmp_path / "kvasir"
    shutil.copytree(data.parent, own)
    before = {file: file.read_bytes() for file in sorted(own.rglob("*")) if file.is_file()}
    images = sorted((own / "images").iterdir())
    medformer("polyp", "predict", finished, *images, "--out", own, flag).refused(2, "not empty", "no list of ours")
    assert {file: file.read_bytes() for file in sorted(own.rglob("*")) if file.is_file()} == before


def test_predicting_again_with_another_run_makes_all_masks_again(
    medformer: Medformer, finished: Path, own_run: Path, data: Path, tmp_path: Path
) -> None:
    images, out = sorted((data.parent / "images").iterdir())[:3], tmp_path / "out"
    assert medformer("polyp", "predict", finished, *images, "--out", out).code == 0
    assert "made again" not in medformer("polyp", "predict", finished, *images, "--out", out, "--resume").out
    threshold = own_run / "folds" / "0" / "threshold.json"
    threshold.write_text(threshold.read_text() + "\n")
    again = medformer("polyp", "predict", own_run, *images, "--out", out, "--resume")
    assert again.code == 0 and "3 cases were made from other images, by another run" in again.out
    assert len({row["run_sha256"] for row in read_csv(out / "predictions.csv")}) == 1


def test_a_run_outlives_an_attempt_that_fails_on_its_data(
    medformer: Medformer, own_run: Path, own_data: Any, settings: tuple[str, ...]
) -> None:
    files = [file for file in own_run.rglob("*") if file.is_file() and file.parent.name != "inventory"]
    before = {file: file.read_bytes() for file in files}
    own_data.case("p001_f00").mask.write_bytes(b"broken")
    command = ("polyp", "crossval", "--data", own_data.manifest, *settings, "--out")
    medformer(*command, own_run, "--overwrite").refused(3, "p001_f00")
    assert {name: name.read_bytes() for name in before} == before
    new = own_run.parent / "new"
    medformer(*command, new).refused(3, "p001_f00")
    assert not new.exists()


def test_a_run_is_not_overwritten_by_one_that_reads_from_it(
    medformer: Medformer, own_run: Path, own_data: Any, settings: tuple[str, ...]
) -> None:
    manifest = own_run / "manifest.csv"
    write_manifest(manifest, own_data.read().cases)
    command = ("polyp", "crossval", "--data", manifest, "--out", own_run, "--overwrite", *settings)
    medformer(*command).refused(2, f"would delete {manifest}")
    assert (own_run / "oof.csv").is_file() and manifest.is_file()
