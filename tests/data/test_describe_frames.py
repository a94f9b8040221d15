"""Every kind of bad frame is found, with its code and its file; every good one is described; a file is read once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medformer.data.cases import Case
from medformer.data.frames import describe as describe_module
from medformer.data.frames.describe import describe_frame, foreground_problems, inspect_frames
from medformer.data.frames.descriptors import FRAMES, THUMBNAIL_LENGTH, pixel_hash
from medformer.data.inventory import duplicates
from medformer.data.problems import REASONS, Problem, quarantine, require_usable, write_problems
from medformer.errors import DataError, ResourceError
from medformer.files import read_csv, sha256
from medformer.imaging.mask_rule import read_mask


def picture(seed: int = 0, shape: tuple[int, int] = (40, 50)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def mask(shape: tuple[int, int] = (40, 50)) -> np.ndarray:
    area = np.zeros(shape, np.uint8)
    area[shape[0] // 4 : shape[0] // 2, shape[1] // 4 : shape[1] // 2] = 255
    return area


def case(folder: Path, name: str = "a", image: np.ndarray | None = None, area: np.ndarray | None = None) -> Case:
    image_path, mask_path = folder / f"{name}.png", folder / f"{name}_mask.png"
    Image.fromarray(picture() if image is None else image).save(image_path)
    Image.fromarray(mask() if area is None else area).save(mask_path)
    return Case(name, image_path, mask_path)


def check_cases(cases: Sequence[Case], *, require_masks: bool = True) -> list[Problem]:
    records = inspect_frames(cases, require_masks=require_masks)
    return [*records.problems, *duplicates(cases, records, FRAMES.hashes)]


def codes(*cases: Case, require_masks: bool = True) -> list[str]:
    return [problem.reason for problem in check_cases(cases, require_masks=require_masks)]


def test_a_good_case_has_no_problem(tmp_path: Path) -> None:
    good = case(tmp_path)
    assert codes(replace(good, sha256=sha256(good.image))) == []


def test_missing_files(tmp_path: Path) -> None:
    good = case(tmp_path)
    assert codes(replace(good, image=tmp_path / "gone.png")) == ["missing-image"]
    assert codes(replace(good, mask=tmp_path / "gone.png")) == ["missing-mask"]
    assert codes(replace(good, mask=None)) == ["missing-mask"]
    assert codes(replace(good, mask=None), require_masks=False) == []


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    good = case(tmp_path)
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    for name, fault, reason in (
        ("pipe.png", "is a named pipe", "not-readable"),
        ("gone.png", "does not exist: it is a link to nowhere.png", "missing-image"),
        (".", "is a folder", "not-readable"),
    ):
        (problem,) = check_cases([replace(good, image=tmp_path / name)])
        assert (problem.reason, problem.detail) == (reason, f"the image {fault}")


def test_corrupt_image_and_mask_name_their_own_file(tmp_path: Path) -> None:
    bad = case(tmp_path)
    for path in (bad.image, bad.mask):
        assert path is not None
        path.write_bytes(path.read_bytes()[:60])
    problems = check_cases([bad])
    assert [(problem.reason, problem.path) for problem in problems] == [
        ("corrupt", str(bad.image)),
        ("corrupt", str(bad.mask)),
    ]


def test_a_file_that_changed_since_prepare(tmp_path: Path) -> None:
    good = case(tmp_path)
    assert codes(replace(good, sha256="0" * 64)) == ["changed"]
    assert good.mask is not None
    for expected, found in (("0" * 64, ["changed"]), (sha256(good.mask).upper(), []), ("", [])):
        assert codes(replace(good, covariates={"mask_sha256": expected})) == found
    problem = check_cases([replace(good, covariates={"mask_sha256": "0" * 64})])[0]
    assert (problem.severity, problem.path) == ("error", str(good.mask))


def test_mask_of_another_size(tmp_path: Path) -> None:
    problem = check_cases([case(tmp_path, area=mask((50, 40)))])[0]
    assert problem.reason == "size-mismatch"
    assert "the mask is 50 x 40 px (height x width), the image 40 x 50" in problem.detail


def test_a_mask_has_the_size_of_the_upright_picture_and_not_of_the_stored_one(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    good = replace(case(tmp_path), image=tmp_path / "turned.tif")
    Image.fromarray(np.rot90(picture())).save(good.image, exif=exif)
    assert codes(good) == []
    (problem,) = check_cases([replace(case(tmp_path, "stored", area=mask((50, 40))), image=good.image)])
    assert "the mask is 50 x 40 px (height x width), the image 40 x 50" in problem.detail


def test_one_pixel_is_too_small_and_25_megapixels_are_not(tmp_path: Path) -> None:
    assert codes(case(tmp_path, image=picture(0, (1, 1)), area=np.zeros((1, 1), np.uint8))) == ["tiny", "empty-mask"]
    large = case(tmp_path, image=np.zeros((5000, 5000, 3), np.uint8), area=mask((5000, 5000)))
    assert codes(large) == []


def test_empty_and_full_masks_are_warnings(tmp_path: Path) -> None:
    for level, reason in ((0, "empty-mask"), (255, "full-mask")):
        problems = check_cases([case(tmp_path, area=np.full((40, 50), level, np.uint8))])
        assert [(problem.reason, problem.severity) for problem in problems] == [(reason, "warning")]


def test_a_photograph_as_mask(tmp_path: Path) -> None:
    good = case(tmp_path)
    assert codes(replace(good, mask=good.image)) == ["mask-is-image"]
    soft = np.tile(np.linspace(0, 255, 50).astype(np.uint8), (40, 1))
    problem = check_cases([case(tmp_path, area=soft)])[0]
    assert problem.reason == "non-binary-mask"
    assert "and 42 other values; expected 0 and 1, 0 and 255" in problem.detail


def test_jpeg_noise_and_one_palette_color_are_binary(tmp_path: Path) -> None:
    good = case(tmp_path, image=picture(0, (200, 200)), area=mask((200, 200)))
    noisy = tmp_path / "noisy.jpg"
    Image.fromarray(mask((200, 200))).save(noisy, quality=60)
    assert codes(replace(good, mask=noisy)) == []
    painted = Image.fromarray((mask((200, 200)) > 0).astype(np.uint8)).convert("P")
    painted.putpalette([0, 0, 0, 128, 0, 0])
    painted.save(tmp_path / "painted.png")
    assert codes(replace(good, mask=tmp_path / "painted.png")) == []


def test_masks_of_one_site_store_foreground_in_one_way(tmp_path: Path) -> None:
    cases = [
        case(tmp_path, f"c{level}{number}", area=mask() // 255 * level) for number in range(3) for level in (1, 255)
    ]
    cases[-1] = case(tmp_path, "empty", area=mask() * 0)
    problems = foreground_problems(cases, inspect_frames(cases))
    assert [(problem.case_id, problem.reason, problem.severity) for problem in problems] == [
        ("c2550", "non-binary-mask", "error"),
        ("c2551", "non-binary-mask", "error"),
    ]
    assert "stored as 1 in 3 masks, 255 in 2 masks; expected one value." in problems[0].detail
    apart = [replace(one, site=one.id[:2]) for one in cases]
    assert foreground_problems(apart, inspect_frames(apart)) == []
    named = [replace(one, foreground=("1", "255")) for one in cases]
    assert foreground_problems(named, inspect_frames(named)) == []


def test_named_values_and_a_data_set_without_foreground(tmp_path: Path) -> None:
    classes = mask()
    classes[30:, 30:] = 7
    one = replace(case(tmp_path, area=classes), foreground=("7",))
    cache = tmp_path / "cache"
    share = inspect_frames([one], cache=cache)["a"].facts["foreground"]
    assert share == float((classes == 7).mean())
    other = replace(one, foreground=("255",))
    assert inspect_frames([other], cache=cache)["a"].facts["foreground"] == float((classes == 255).mean())
    wrong = replace(one, foreground=("3",))
    records = inspect_frames([wrong], cache=cache)
    assert "no pixel has one of the values 3" in records.problems[0].detail
    assert [problem.reason for problem in foreground_problems([wrong], records)] == ["nothing-marked"]


def test_masks_that_mark_most_of_nearly_every_picture_are_said(tmp_path: Path) -> None:
    cases = [case(tmp_path, str(n), picture(n), 255 - mask()) for n in range(5)]
    (problem,) = foreground_problems(cases, inspect_frames(cases))
    assert (problem.reason, problem.severity) == ("mostly-marked", "warning")
    assert "5 of 5 masks" in problem.detail
    two = [*cases[:3], *(case(tmp_path, str(n), picture(n)) for n in (3, 4))]
    assert foreground_problems(two, inspect_frames(two)) == []


def test_a_mask_that_marks_something_belongs_to_one_picture(tmp_path: Path) -> None:
    first, second = (case(tmp_path, str(n), picture(n)) for n in range(2))
    shared = [first, replace(second, mask=first.mask)]
    (problem,) = foreground_problems(shared, inspect_frames(shared))
    assert (problem.reason, problem.case_id, problem.severity) == ("shared-mask", "1", "error")
    assert "'0'" in problem.detail
    empty = [replace(one, mask=case(tmp_path, "empty", area=0 * mask()).mask) for one in (first, second)]
    marked = case(tmp_path, "2", picture(2))
    assert foreground_problems([*empty, marked], inspect_frames([*empty, marked])) == []


@pytest.mark.parametrize("mode", ["RGBA", "P", "L", "CMYK", "I;16"])
def test_other_modes_are_read_and_mentioned(tmp_path: Path, mode: str) -> None:
    good = case(tmp_path)
    path = tmp_path / "other.tif"
    gray = Image.fromarray(picture()[:, :, 0].astype(np.uint16) * 257)
    (gray if mode == "I;16" else Image.fromarray(picture()).convert(mode)).save(path)
    problem = check_cases([replace(good, image=path)])[0]
    assert (problem.reason, problem.severity) == ("wrong-mode", "warning")
    assert f"mode {mode}" in problem.detail


def test_duplicates_name_the_earlier_case(tmp_path: Path) -> None:
    first, same_file = case(tmp_path, "a"), case(tmp_path, "b")
    same_pixels = case(tmp_path, "c")
    Image.fromarray(picture()).save(same_pixels.image, compress_level=1)
    other = case(tmp_path, "d", picture(1))
    problems = check_cases([first, same_file, same_pixels, other])
    assert [(problem.case_id, problem.reason) for problem in problems] == [
        ("b", "duplicate-file"),
        ("c", "duplicate-pixels"),
    ]
    assert "as a" in problems[0].detail


def test_every_case_is_checked_and_the_errors_are_listed(tmp_path: Path) -> None:
    cases = [case(tmp_path, f"c{index}", picture(index)) for index in range(13)]
    for bad in cases[1:]:
        bad.image.write_bytes(b"")
    problems = check_cases(cases)
    assert quarantine(problems) == [f"c{index}" for index in range(1, 13)]
    with pytest.raises(DataError, match=r"12 cases cannot be used \(12 corrupt\)(.|\n)*c10: corrupt(.|\n)*and 2 more"):
        require_usable(problems)
    require_usable([problem for problem in problems if problem.severity == "warning"])


def test_what_a_record_holds(tmp_path: Path) -> None:
    good = case(tmp_path)
    assert good.mask is not None
    record = describe_frame(good, image_size=(32, 32))
    assert record.problems == ()
    assert record.hashes == {"file": sha256(good.image), "mask": sha256(good.mask), "pixels": pixel_hash(picture())}
    share = float(read_mask(good.mask).mean())
    assert record.facts == {"height": 40, "width": 50, "foreground": share, "value": "255"}
    assert record.arrays["thumbnail"].shape == (THUMBNAIL_LENGTH,)
    assert list(describe_frame(good).arrays) == ["descriptor"]


def test_each_file_is_opened_once_and_no_image_is_decoded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: list[str]
) -> None:
    cases = [case(tmp_path, name, picture(seed)) for seed, name in enumerate("ab")]
    opened.clear()
    first = inspect_frames(cases, image_size=(32, 32), cache=tmp_path / "cache")
    pictures = [path for path in opened if path.endswith(".png")]
    assert sorted(pictures) == sorted(str(path) for case in cases for path in (case.image, case.mask))
    opened.clear()
    monkeypatch.setattr(describe_module, "read_image", None)
    again = inspect_frames(cases, image_size=(32, 32), cache=tmp_path / "cache")
    assert not [path for path in opened if path.endswith(".png")]
    for name, record in again.items():
        assert (record.hashes, record.facts) == (first[name].hashes, first[name].facts)
        assert {key: array.tobytes() for key, array in record.arrays.items()} == {
            key: array.tobytes() for key, array in first[name].arrays.items()
        }


def test_a_file_that_may_not_be_read_is_corrupt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = case(tmp_path)

    def refused(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refused)
    monkeypatch.setattr(describe_module, "read_image", lambda path, content: refused_picture(path))
    assert codes(good) == ["corrupt"]


def refused_picture(path: Path) -> np.ndarray:
    raise DataError(f"{path} may not be read by this user")


def test_a_path_is_said_once() -> None:
    assert str(Problem("a", "/x/a.png", "corrupt", "/x/a.png is an empty file")).count("/x/a.png") == 1
    assert str(Problem("a", "/x/a.png", "tiny", "1 x 1 px")).endswith("1 x 1 px (/x/a.png)")


def test_problems_are_written_as_a_table(tmp_path: Path) -> None:
    write_problems(tmp_path / "problems.csv", [Problem("a", "/x/a.png", "tiny"), Problem("b", "", "empty-mask", "why")])
    rows = read_csv(tmp_path / "problems.csv")
    assert rows[0] == {
        "id": "a",
        "path": "/x/a.png",
        "severity": "error",
        "reason": "tiny",
        "detail": REASONS["tiny"][1],
    }
    assert (rows[1]["severity"], rows[1]["detail"]) == ("warning", "why")
    with pytest.raises(ResourceError):
        write_problems(tmp_path / "problems.csv" / "below.csv", [])
