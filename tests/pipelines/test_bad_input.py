"""Bad input through the command line: the right exit code, the case and what to do, no traceback, nothing lost."""

from __future__ import annotations

import os
import shutil
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medformer.files import read_csv

Medformer = Callable[..., Any]
Damage = Callable[[Any], None]

CASE = "p002_f01"


def corrupt_jpeg(data: Any) -> None:
    file = data.case(CASE).image
    content = file.read_bytes()
    file.write_bytes(content[:200] + bytes(len(content) - 200))


def truncated_png(data: Any) -> None:
    file = data.case(CASE).image.with_suffix(".png")
    Image.open(data.case(CASE).image).save(file)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    data.rewrite(lambda case: replace(case, image=file) if case.id == CASE else case)


def mask_of_another_size(data: Any) -> None:
    Image.new("L", (60, 48), 255).save(data.case(CASE).mask)


def mask_file_missing(data: Any) -> None:
    data.case(CASE).mask.unlink()


def mask_not_given(data: Any) -> None:
    data.rewrite(lambda case: replace(case, mask=None) if case.id == CASE else case)


def image_missing(data: Any) -> None:
    data.case(CASE).image.unlink()


def one_pixel(data: Any) -> None:
    for file in (data.case(CASE).image, data.case(CASE).mask):
        Image.new("RGB", (1, 1), (180, 60, 50)).save(file)
    data.refresh()


def grey_mask(data: Any) -> None:
    Image.open(data.case(CASE).image).convert("L").save(data.case(CASE).mask)


def void_outline(data: Any) -> None:
    file = data.case(CASE).mask
    mask = (np.asarray(Image.open(file)) > 0).astype(np.uint8)
    mask[0] = 255
    Image.fromarray(mask).save(file)


def mask_changed_since_prepare(data: Any) -> None:
    data.rewrite(lambda case: replace(case, covariates={"mask_sha256": "0" * 64}) if case.id == CASE else case)


def image_changed_since_prepare(data: Any) -> None:
    Image.new("RGB", (64, 48), (180, 60, 50)).save(data.case(CASE).image)


DAMAGES: list[tuple[Damage, str]] = [
    (corrupt_jpeg, "corrupt"),
    (truncated_png, "corrupt"),
    (mask_of_another_size, "48 x 60"),
    (mask_file_missing, "missing-mask"),
    (mask_not_given, "mask"),
    (image_missing, "missing-image"),
    (one_pixel, "tiny"),
    (grey_mask, "non-binary-mask"),
    (image_changed_since_prepare, "changed"),
    (mask_changed_since_prepare, "changed"),
    (void_outline, "--foreground 1,"),
]


@pytest.mark.parametrize(("damage", "word"), DAMAGES, ids=[damage.__name__ for damage, _ in DAMAGES])
def test_a_bad_case_is_named_and_nothing_is_trained(
    medformer: Medformer, own_data: Any, settings: tuple[str, ...], tmp_path: Path, damage: Damage, word: str
) -> None:
    damage(own_data)
    out = tmp_path / "checked"
    medformer("polyp", "check", own_data.manifest, "--out", out).refused(3, CASE, word)
    assert {row["id"] for row in read_csv(out / "problems.csv") if row["severity"] == "error"} == {CASE}
    run = tmp_path / "run"
    medformer("polyp", "crossval", "--out", run, "--data", own_data.manifest, *settings).refused(3, CASE, word)
    assert not (run / "folds").exists()


def in_mode(mode: str) -> Callable[[Path, Path], None]:
    def convert(source: Path, target: Path) -> None:
        picture = Image.open(source)
        if mode == "16-bit":
            gray = np.asarray(picture.convert("L")).astype(np.uint16) * 257
            Image.fromarray(gray).save(target)
        else:
            picture.convert(mode).save(target)

    return convert


@pytest.mark.parametrize("mode", ["16-bit", "RGBA", "P", "L", "LA", "1"])
def test_other_kinds_of_pictures_are_read(
    medformer: Medformer, finished: Path, own_data: Any, tmp_path: Path, mode: str
) -> None:
    file = own_data.case(CASE).image.with_suffix(".png")
    in_mode(mode)(own_data.case(CASE).image, file)
    own_data.rewrite(lambda case: replace(case, image=file) if case.id == CASE else case)
    checked = medformer("polyp", "check", own_data.manifest)
    assert checked.code == 0, checked.err
    assert f"warning: {CASE}: wrong-mode" in checked.out
    out = tmp_path / "out"
    predicted = medformer("polyp", "predict", finished, file, "--out", out)
    assert predicted.code == 0, predicted.err
    mask = np.asarray(Image.open(out / "masks" / f"{CASE}.png"))
    assert mask.shape == (48, 64) and set(np.unique(mask)) <= {0, 255}


def test_what_only_looks_like_pictures_is_listed_and_the_others_are_done(
    medformer: Medformer, finished: Path, own_data: Any, tmp_path: Path
) -> None:
    folder, out = tmp_path / "new", tmp_path / "out"
    (folder / "folder.png").mkdir(parents=True)
    picture = Image.open(own_data.case(CASE).image)
    picture.save(folder / "good.png")
    picture.save(folder / "postscript.jpg", format="EPS")
    picture.save(os.path.join(os.fsencode(folder), b"gr\xf6sse.png"))
    os.mkfifo(folder / "pipe.png")
    (folder / "gone.png").symlink_to("nowhere.png")
    (folder / "loop.png").symlink_to("loop.png")
    predicted = medformer("polyp", "predict", finished, folder, "--out", out)
    found = ("postscript", "bad-name", "pipe.png is a named pipe", "gone.png does not exist", "loop.png is a link")
    predicted.refused(3, "5 of 6 images cannot be used; the other one is done", *found)
    assert all((predicted.out + predicted.err).count(words) == 1 for words in found[1:]), predicted.out
    assert [file.name for file in (out / "masks").iterdir()] == ["good.png"]


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (3000, 3000)])
def test_tiny_and_huge_pictures_get_masks_of_their_size(
    medformer: Medformer, finished: Path, tmp_path: Path, size: tuple[int, int]
) -> None:
    file, out = tmp_path / "picture.png", tmp_path / "out"
    Image.new("RGB", (size[1], size[0]), (190, 70, 60)).save(file)
    predicted = medformer("polyp", "predict", finished, file, "--out", out)
    assert predicted.code == 0, predicted.err
    with Image.open(out / "masks" / "picture.png") as mask:
        assert (mask.height, mask.width) == size
        assert {value for _, value in mask.getcolors()} <= {0, 255}
    (row,) = read_csv(out / "predictions.csv")
    assert (int(row["height"]), int(row["width"])) == size


def test_a_picture_whose_header_claims_too_much_is_not_decoded(
    medformer: Medformer, finished: Path, tmp_path: Path
) -> None:
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", len(header)) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    bomb = tmp_path / "bomb.png"
    bomb.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    )
    medformer("polyp", "predict", finished, bomb, "--out", tmp_path / "out").refused(3, str(bomb))


def test_no_data_at_all_is_said_so(
    medformer: Medformer, finished: Path, settings: tuple[str, ...], tmp_path: Path
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    medformer("polyp", "predict", finished, empty, "--out", tmp_path / "out").refused(3, str(empty), "No image")
    medformer("polyp", "prepare", empty, "--out", tmp_path / "m.csv").refused(3, str(empty), "images/ and masks/")
    run = ("polyp", "crossval", "--out", tmp_path / "run", *settings)
    medformer(*run).refused(2, "--data MANIFEST")
    medformer(*run, "--data", tmp_path / "nowhere.csv").refused(3, "nowhere.csv", "prepare")
    medformer(*run, "--data", empty).refused(3, str(empty), "CSV manifest")
    assert not (tmp_path / "run").exists()


def test_a_picture_that_cannot_be_read_costs_no_other_its_mask(
    medformer: Medformer, finished: Path, own_data: Any, tmp_path: Path
) -> None:
    whole = own_data.case(CASE).image.read_bytes()
    corrupt_jpeg(own_data)
    images, out = own_data.manifest.parent / "images", tmp_path / "out"
    command = ("polyp", "predict", finished, images, "--out", out)
    (images / "lost.png").symlink_to("nowhere")
    words = (
        f"{CASE}.jpg",
        "lost.png does not exist",
        "2 of 17 images cannot be used; the other 15 are done",
        "--resume",
    )
    medformer(*command).refused(3, *words)
    before = {file.name: file.stat().st_mtime_ns for file in (out / "masks").iterdir()}
    assert len(before) == 15 and f"{CASE}.png" not in before
    medformer(*command, "--resume").refused(3, *words)
    (images / "lost.png").unlink()
    assert [f"{row['id']}.png" for row in read_csv(out / "predictions.csv")] == sorted(before)
    own_data.case(CASE).image.write_bytes(whole)
    resumed = medformer(*command, "--resume")
    assert resumed.code == 0, resumed.err
    assert len(list((out / "masks").iterdir())) == 16
    assert {name: (out / "masks" / name).stat().st_mtime_ns for name in before} == before


def test_names_that_would_share_a_mask_are_refused(
    medformer: Medformer, finished: Path, data: Path, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    (images / "a").mkdir(parents=True)
    (images / "b").mkdir()
    source = data.parent / "images" / f"{CASE}.jpg"
    for folder in ("a", "b"):
        shutil.copy(source, images / folder / "frame.jpg")
    told_apart = medformer("polyp", "predict", finished, images, "--out", tmp_path / "out")
    assert told_apart.code == 0, told_apart.err
    assert (tmp_path / "out/masks/a/frame.png").exists() and (tmp_path / "out/masks/b/frame.png").exists()
    Image.open(source).save(images / "a" / "frame.png")
    refused = medformer("polyp", "predict", finished, images, "--out", tmp_path / "other")
    refused.refused(3, "a/frame.jpg", "a/frame.png", "Rename")


def test_prepare_lists_what_does_not_pair_up(medformer: Medformer, own_data: Any) -> None:
    folder = own_data.manifest.parent
    Image.open(own_data.case(CASE).image).save(folder / "images" / f"{CASE}.png")
    own_data.case("p004_f00").mask.unlink()
    own_data.case("p005_f00").image.unlink()
    out = folder / "found.csv"
    prepared = medformer("polyp", "prepare", folder, "--out", out, "--group-pattern", r"^(p\d+)_")
    assert prepared.code == 0, prepared.err
    reasons = {row["id"].split("/")[-1]: row["reason"] for row in read_csv(folder / "found.problems.csv")}
    assert reasons[CASE] in {"duplicate-name", "missing-image"}
    assert (reasons["p004_f00"], reasons["p005_f00"]) == ("missing-mask", "missing-image")
    assert "found.problems.csv" in prepared.out
    medformer("polyp", "check", out).refused(3, "p004_f00", "missing-mask")


def edit(line: int, change: Callable[[list[str]], list[str]]) -> Callable[[list[str]], list[str]]:
    def apply(lines: list[str]) -> list[str]:
        return [*lines[:line], ",".join(change(lines[line].split(","))), *lines[line + 1 :]]

    return apply


MANIFESTS: dict[str, tuple[Callable[[list[str]], list[str]], list[str]]] = {
    "climbs out": (edit(3, lambda row: [row[0], "images/../../x.jpg", *row[2:]]), ["line 4", "leads out", "p001_f00"]),
    "is absolute": (edit(3, lambda row: [row[0], "/etc/passwd", *row[2:]]), ["line 4", "leads out"]),
    "id climbs out": (edit(3, lambda row: ["../x", *row[1:]]), ["line 4", "'../x'"]),
    "same id twice": (lambda lines: [*lines, lines[1]], ["p000_f00", "line 2"]),
    "no group": (edit(3, lambda row: [*row[:3], "", *row[4:]]), ["line 4", "group", "--ungrouped each"]),
    "no rows": (lambda lines: lines[:1], ["no rows", "prepare"]),
    "no bytes": (lambda lines: [], ["is empty", "id"]),
    "no image column": (lambda lines: [lines[0].replace("image", "picture"), *lines[1:]], ["image", "picture"]),
}


@pytest.mark.parametrize("name", MANIFESTS)
@pytest.mark.parametrize("verb", ["check", "crossval"])
def test_a_bad_manifest_is_refused(
    medformer: Medformer, own_data: Any, settings: tuple[str, ...], tmp_path: Path, name: str, verb: str
) -> None:
    change, words = MANIFESTS[name]
    file = own_data.manifest
    file.write_text("\n".join(change(file.read_text("utf-8").splitlines())), "utf-8")
    run = tmp_path / "run"
    arguments = [file] if verb == "check" else ["--out", run, "--data", file, *settings]
    medformer("polyp", verb, *arguments).refused(3, file.name, *words)
    assert not run.exists()


def test_evaluation_refuses_folders_that_do_not_pair_up(medformer: Medformer, own_data: Any, tmp_path: Path) -> None:
    folder, predictions = own_data.manifest.parent, tmp_path / "predictions"
    shutil.copytree(folder / "masks", predictions)
    command = ("polyp", "evaluate", "--predictions", predictions, "--masks", folder / "masks", "--out", tmp_path / "s")
    said = medformer(*command)
    assert said.code == 0 and "No intervals: nobody says whose the 16 cases are" in said.out
    command = (*command, "--ungrouped", "each", "--overwrite")
    (predictions / f"{CASE}.png").unlink()
    medformer(*command).refused(3, CASE, "without a prediction", "--only-common")
    assert medformer(*command, "--only-common").code == 0
    assert (tmp_path / "s" / "unscored.csv").read_text("utf-8") == f"name,without\n{CASE},prediction\n"
    shutil.rmtree(tmp_path / "s")
    Image.new("L", (10, 10)).save(predictions / f"{CASE}.png")
    medformer(*command).refused(3, CASE, "10 x 10", "48 x 64")
    (predictions / f"{CASE}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    medformer(*command).refused(3, f"{CASE}.png")
    assert not list(tmp_path.glob("s/*"))
