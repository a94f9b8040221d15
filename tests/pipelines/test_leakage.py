"""The same picture or patient on both sides of a split stops `check`, `train` and `crossval` before any training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from medformer.data.cases import Case
from medformer.files import read_csv, read_json

Medformer = Callable[..., Any]

FRAME, COPY = "p000_f00", "p003_f00"


@dataclass(frozen=True)
class Leak:
    """A manifest in which two groups hold the same frame.

    Attributes:
        manifest: Its path; four groups of two frames.
        files: The frame, and its near-duplicate in another group.
        name: What the audit calls the pair.
    """

    manifest: Path
    files: tuple[Path, Path]
    name: str = f"near-duplicate:{FRAME}|{COPY}"


def parted(case: Case) -> Case | None:
    """Keep four groups; the last one is for testing."""
    return replace(case, split="test" if case.group == "p003" else "train") if case.group < "p004" else None


@pytest.fixture
def leak(own_data: Any) -> Leak:
    """A frame and its copy, re-encoded and slightly larger, with the mask to go with it, in groups 0 and 3."""
    source, target = own_data.case(FRAME), own_data.case(COPY)
    width, height = 70, 53
    Image.open(source.image).resize((width, height), Image.Resampling.BICUBIC).save(target.image, quality=70)
    Image.open(source.mask).resize((width, height), Image.Resampling.NEAREST).save(target.mask)
    return Leak(own_data.rewrite(parted), (source.image, target.image))


@pytest.fixture
def undivided(leak: Leak, own_data: Any) -> Leak:
    """The same without a split, so that every group is drawn into folds."""
    own_data.rewrite(lambda case: replace(case, split=""))
    return leak


@pytest.fixture
def each_group_a_fold(settings: tuple[str, ...]) -> tuple[str, ...]:
    """As many folds as groups, so that every two groups are on different sides once."""
    return (*settings, "crossval.folds=4", "training.epochs=1")


def test_check_names_both_files(medformer: Medformer, leak: Leak, tmp_path: Path) -> None:
    out = tmp_path / "checked"
    result = medformer("polyp", "check", leak.manifest, "--out", out)
    result.refused(4, *map(str, leak.files), leak.name, "train", "test", "--accept-leak")
    (finding,) = read_json(out / "audit.json")["findings"]
    assert finding["files"] == [str(file) for file in leak.files] and not finding["accepted"]


def test_check_looks_between_groups_where_there_is_no_split(medformer: Medformer, undivided: Leak) -> None:
    medformer("polyp", "check", undivided.manifest).refused(4, *map(str, undivided.files), "p000", "p003")


def test_crossval_names_both_files_and_trains_nothing(
    medformer: Medformer, undivided: Leak, each_group_a_fold: tuple[str, ...], tmp_path: Path
) -> None:
    leak = undivided
    run = tmp_path / "run"
    result = medformer("polyp", "crossval", "--out", run, "--data", leak.manifest, *each_group_a_fold)
    result.refused(4, *map(str, leak.files), leak.name)
    assert not run.exists()


def test_train_names_both_files_and_trains_nothing(
    medformer: Medformer, leak: Leak, settings: tuple[str, ...], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    result = medformer("polyp", "train", "--out", run, "--data", leak.manifest, *settings)
    result.refused(4, *map(str, leak.files), leak.name)
    assert not run.exists()


def test_a_leak_accepted_by_its_name_is_trained_with_and_printed_in_the_report(
    medformer: Medformer, undivided: Leak, each_group_a_fold: tuple[str, ...], tmp_path: Path
) -> None:
    leak = undivided
    run = tmp_path / "run"
    command = ("polyp", "crossval", "--out", run, "--data", leak.manifest, *each_group_a_fold)
    assert medformer(*command).code == 4
    accepted = medformer(*command, "--accept-leak", leak.name)
    assert accepted.code == 0, accepted.err
    assert len(read_csv(run / "oof.csv")) == 8
    assert read_json(run / "run.json")["accepted_leaks"] == [leak.name]
    (finding,) = read_json(run / "audit.json")["findings"]
    assert finding["accepted"] and finding["name"] == leak.name
    html = (run / "report.html").read_text("utf-8")
    assert leak.name in html and "accepted" in html
    # The folders of this machine are left out.
    assert all(file.name in html.replace("<wbr>", "") for file in leak.files)
    assert str(leak.files[0].parent) not in html


def test_accepting_another_leak_accepts_nothing(medformer: Medformer, leak: Leak) -> None:
    other = f"near-duplicate:{FRAME}|p002_f00"
    medformer("polyp", "check", leak.manifest, "--accept-leak", other).refused(4, leak.name)
    accepted = medformer("polyp", "check", leak.manifest, "--accept-leak", leak.name)
    assert accepted.code == 0 and "1 finding, accepted by name" in accepted.out


def test_what_names_no_finding_is_a_usage_error(medformer: Medformer, leak: Leak) -> None:
    medformer("polyp", "check", leak.manifest, "--accept-leak", "everything").refused(
        2, "'everything'", "<kind>:<site>"
    )


def test_a_patient_on_both_sides_of_a_split_is_a_leak(
    medformer: Medformer, own_data: Any, settings: tuple[str, ...], tmp_path: Path
) -> None:
    manifest = own_data.rewrite(lambda case: replace(case, split="test" if case.id > "p006_f00" else "train"))
    pair = [str(own_data.case(f"p006_f0{number}").image) for number in range(2)]
    medformer("polyp", "check", manifest).refused(4, "group:p006", *pair)
    run = tmp_path / "run"
    command = ("polyp", "train", "--out", run, "--data", manifest, *settings)
    medformer(*command).refused(4, "group:p006", *pair)
    assert not list(run.rglob("*.safetensors"))
    # A cross-validation holds the test rows out, and its folds must not share the patient with them either.
    command = ("polyp", "crossval", "--out", tmp_path / "crossed", "--data", manifest, "--no-baselines", *settings)
    medformer(*command).refused(4, "group:p006", *pair)
    # Without the column, its own folds keep the patient on one side.
    own_data.rewrite(lambda case: replace(case, split=""))
    crossed = medformer(*command, "--overwrite", "training.epochs=1", report=False)
    assert crossed.code == 0, crossed.err


def test_the_same_file_under_two_names_is_a_leak(medformer: Medformer, own_data: Any) -> None:
    source, target = own_data.case(FRAME), own_data.case(COPY)
    target.image.write_bytes(source.image.read_bytes())
    result = medformer("polyp", "check", own_data.rewrite(parted))
    result.refused(4, f"file:{FRAME}|{COPY}", str(source.image), str(target.image))


def test_prepare_can_join_duplicates_so_that_no_split_parts_them(medformer: Medformer, leak: Leak) -> None:
    folder = leak.manifest.parent
    for name in ("images", "masks"):
        for file in (folder / name).iterdir():
            if file.name[:4] >= "p004":
                file.unlink()
    prepared = medformer(
        "polyp", "prepare", folder, "--out", folder / "joined.csv", "--group-pattern", r"^(p\d+)_", "--link-duplicates"
    )
    assert prepared.code == 0, prepared.err
    assert "joined 4 groups into 3" in prepared.out
    groups = {row["id"].split("/")[-1]: row["group"] for row in read_csv(folder / "joined.csv")}
    assert groups[FRAME] == groups[COPY] == groups["p000_f01"] == groups["p003_f01"]
    assert medformer("polyp", "check", folder / "joined.csv").code == 0
