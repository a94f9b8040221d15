"""Folders of label maps are scored whatever their axes and formats, or refused with the file and the reason."""

from __future__ import annotations

import io
import re
import unicodedata
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medformer.data.cases import Case
from medformer.data.manifest import write_manifest
from medformer.data.volumes.read.dataset_file import named_labels, write_info
from medformer.errors import ConfigError, DataError
from medformer.evaluation.masks.volumes import volume_row
from medformer.files import write_json
from medformer.inference.scored_cases import CaseSource
from medformer.inference.volumes.scoring import score_label_maps
from medformer.progress import SilentReporter
from pipelines.console import PlainReporter

SPACING = np.diag((1.0, 1.5, 2.0, 1.0))


def write(path: Path, array: np.ndarray, affine: np.ndarray = SPACING) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(array, affine).to_filename(path)


def cube(value: int = 1, dtype: type = np.uint8) -> np.ndarray:
    array = np.zeros((10, 11, 12), dtype)
    array[2:5, 3:6, 4:8] = value
    return array


def test_a_prediction_with_other_axes_scores_as_the_aligned_array(tmp_path: Path) -> None:
    truth, found = cube(), np.roll(cube(), 2, axis=2)
    found[0, 0, 0] = 1
    write(tmp_path / "m" / "a.nii.gz", truth)
    stored = nib.Nifti1Image(found, SPACING)
    for codes in ("LPS", "LAS", "SPR"):
        turn = nib.orientations.ornt_transform(
            nib.orientations.io_orientation(SPACING), nib.orientations.axcodes2ornt(codes)
        )
        (tmp_path / "p").mkdir(exist_ok=True)
        stored.as_reoriented(turn).to_filename(tmp_path / "p" / "a.nii.gz")
        rows, _ = score_label_maps(tmp_path / "p", tmp_path / "m")
        assert rows == [volume_row("a", found, truth, labels={1: "label 1"}, spacing=(1.0, 1.5, 2.0))]


def test_progress_ends_without_the_score_of_one_case(tmp_path: Path) -> None:
    for folder in ("m", "p"):
        for name in ("a", "b"):
            write(tmp_path / folder / f"{name}.nii.gz", cube())
    said = io.StringIO()
    score_label_maps(tmp_path / "p", tmp_path / "m", reporter=PlainReporter(said))
    assert re.fullmatch(r"scoring 2/2 in [\d.]+ s\n", said.getvalue())


def test_another_box_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "m" / "a.nii.gz", cube())
    moved, coarse = SPACING.copy(), np.diag((1.0, 1.5, 2.4, 1.0))
    moved[0, 3] = 3.0
    for affine, words in ((moved, "3 mm apart"), (coarse, "mm apart"), (SPACING * (-1, 1, 1, 1), "mm apart")):
        write(tmp_path / "p" / "a.nii.gz", cube(), affine)
        with pytest.raises(DataError, match=rf"p/a\.nii\.gz does not lie on the grid of .*m/a\.nii\.gz: .*{words}"):
            score_label_maps(tmp_path / "p", tmp_path / "m")
    write(tmp_path / "p" / "a.nii.gz", cube()[1:])
    with pytest.raises(DataError, match="9 x 11 x 12"):
        score_label_maps(tmp_path / "p", tmp_path / "m")


def test_a_label_that_no_reference_has_is_a_false_positive(tmp_path: Path) -> None:
    write(tmp_path / "m" / "a.nii.gz", np.zeros((10, 11, 12), np.uint8))
    write(tmp_path / "p" / "a.nii.gz", cube(2))
    rows, summary = score_label_maps(tmp_path / "p", tmp_path / "m")
    assert rows[0]["dice:label 2"] == 0.0
    assert (rows[0]["truth_ml:label 2"], rows[0]["pred_ml:label 2"]) == (0.0, pytest.approx(36 * 3 / 1000))
    assert set(summary["by_label"]) == {"label 2"}


def test_labels_can_be_named(tmp_path: Path) -> None:
    write(tmp_path / "m" / "a.nii.gz", np.zeros((10, 11, 12), np.uint8))
    write(tmp_path / "p" / "a.nii.gz", np.zeros((10, 11, 12), np.uint8))
    with pytest.raises(DataError, match="--labels 1,2"):
        score_label_maps(tmp_path / "p", tmp_path / "m")
    rows, _ = score_label_maps(tmp_path / "p", tmp_path / "m", labels=named_labels("1=liver, 4"))
    assert rows[0]["dice:liver"] == rows[0]["dice:label 4"] == 1.0
    write(tmp_path / "p" / "a.nii.gz", cube(3))
    with pytest.raises(DataError, match=r"p/a\.nii\.gz holds the value 3 in 36 voxels; .* 1 liver, 4 label 4"):
        score_label_maps(tmp_path / "p", tmp_path / "m", labels=named_labels("1=liver,4"))
    described = tmp_path / "dataset.json"
    described.write_text('{"channel_names": {"0": "CT"}, "labels": {"background": 0, "tumor": 3}}')
    assert named_labels(str(described)).labels == ((3, "tumor"),)


def test_regions_are_scored_in_the_place_of_their_labels(tmp_path: Path) -> None:
    truth, found = cube(1), cube(1)
    truth[2:5, 3:6, 6:8], found[2:5, 3:6, 5:8] = 2, 2
    write(tmp_path / "m" / "a.nii.gz", truth)
    write(tmp_path / "p" / "a.nii.gz", found)
    labels = {"background": 0, "whole": [1, 2], "core": [2]}
    described = {"channel_names": {"0": "T1"}, "labels": labels, "regions_class_order": [1, 2]}
    write_json(tmp_path / "dataset.json", described)
    scored = volume_row(
        "a",
        found,
        truth,
        labels={1: "label 1", 2: "core"},
        spacing=(1.0, 1.5, 2.0),
        regions={"whole": (1, 2), "core": (2,)},
    )
    assert (scored["dice:whole"], scored["dice:core"]) == (1.0, pytest.approx(2 * 18 / (18 + 27)))
    rows, summary = score_label_maps(
        tmp_path / "p", tmp_path / "m", labels=named_labels(str(tmp_path / "dataset.json"))
    )
    assert rows == [scored] and set(summary["by_label"]) == {"whole", "core"}
    # A manifest declares them as well.
    write_manifest(tmp_path / "m.csv", [Case("a", tmp_path / "m" / "a.nii.gz", tmp_path / "m" / "a.nii.gz", group="p")])
    write_info(tmp_path / "m.csv", named_labels(str(tmp_path / "dataset.json")))
    (row,), _ = score_label_maps(tmp_path / "p", tmp_path / "m", cases=CaseSource(manifest=tmp_path / "m.csv"))
    assert {name: row[name] for name in scored} == scored


@pytest.mark.parametrize("text", ["", "liver", "0,1", "-1", "1,1", "1=a,2=a", "1.5"])
def test_labels_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--labels.*1=liver"):
        named_labels(text)


@pytest.mark.parametrize("side", ["p", "m"])
def test_values_that_are_no_labels_are_named_with_their_file(tmp_path: Path, side: str) -> None:
    for folder in ("p", "m"):
        write(tmp_path / folder / "a.nii.gz", cube())
    odd = cube(dtype=np.int16)
    odd[0, 0, :2] = -1
    write(tmp_path / side / "a.nii.gz", odd)
    for labels in (None, named_labels("1=liver")):
        with pytest.raises(DataError, match=rf"{side}/a\.nii\.gz holds the value -1 in 2 voxels"):
            score_label_maps(tmp_path / "p", tmp_path / "m", labels=labels)
    write(tmp_path / side / "a.nii.gz", cube().astype(np.float32) * 0.5)
    with pytest.raises(DataError, match=rf"{side}/a\.nii\.gz holds 0\.5"):
        score_label_maps(tmp_path / "p", tmp_path / "m")


def test_milliliters_and_distances_of_a_sheared_grid(tmp_path: Path) -> None:
    sheared = np.diag((1.0, 1.0, 2.0, 1.0))
    sheared[0, 1] = 0.3
    one, two = np.zeros((12, 12, 6), np.uint8), np.zeros((12, 12, 6), np.uint8)
    one[5, 5, 3], two[5, 9, 3] = 1, 1
    write(tmp_path / "p" / "a.nii.gz", one, sheared)
    write(tmp_path / "m" / "a.nii.gz", two, sheared)
    (row,), _ = score_label_maps(tmp_path / "p", tmp_path / "m")
    assert row["truth_ml:label 1"] == pytest.approx(0.002)
    assert row["hd95_mm"] == pytest.approx(np.hypot(4.0, 1.2))


def test_names_pair_whatever_the_form_of_their_accents(tmp_path: Path) -> None:
    write(tmp_path / "p" / unicodedata.normalize("NFD", "m\xfcller.nii.gz"), cube())
    write(tmp_path / "m" / "m\xfcller.nii.gz", cube())
    rows, _ = score_label_maps(tmp_path / "p", tmp_path / "m")
    assert [row["id"] for row in rows] == ["m\xfcller"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("{}_pred", "The names of the predictions end in '_pred', those of"),
        ("{}_0000", "The names of the predictions end in '_0000', those of"),
        ("masks/{}", "Name the folder of the maps themselves: --predictions .*masks"),
    ],
)
def test_the_likely_cause_of_names_that_do_not_pair_is_said(tmp_path: Path, name: str, words: str) -> None:
    for case in ("a01", "a02", "a03"):
        write(tmp_path / "m" / f"{case}.nii.gz", cube())
        write(tmp_path / "p" / f"{name.format(case)}.nii.gz", cube())
    with pytest.raises(DataError, match=f"3 without a prediction: .*{words}"):
        score_label_maps(tmp_path / "p", tmp_path / "m")


class Lines(SilentReporter):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def line(self, text: str) -> None:
        self.said.append(text)


def test_labels_that_one_side_lacks_are_said(tmp_path: Path) -> None:
    write(tmp_path / "p" / "a.nii.gz", cube(255))
    write(tmp_path / "m" / "a.nii.gz", cube(1))
    reporter = Lines()
    rows, _ = score_label_maps(tmp_path / "p", tmp_path / "m", reporter=reporter)
    assert rows[0]["dice"] == 0
    assert [line.split(". ")[0] for line in reporter.said] == [
        "Note: label 255: in predictions and in no mask",
        "Note: label 1: in masks and in no prediction",
    ]
    write(tmp_path / "p" / "a.nii.gz", cube(1))
    reporter.said.clear()
    score_label_maps(tmp_path / "p", tmp_path / "m", reporter=reporter)
    assert reporter.said == []


def test_a_folder_scored_against_itself_is_said(tmp_path: Path) -> None:
    write(tmp_path / "p" / "a.nii.gz", cube())
    (tmp_path / "m").symlink_to(tmp_path / "p")
    reporter = Lines()
    score_label_maps(tmp_path / "p", tmp_path / "m", reporter=reporter)
    assert [line for line in reporter.said if "are one folder" in line]


def test_what_cannot_be_scored_is_refused_before_any_scoring(tmp_path: Path) -> None:
    for name in "pm":
        write(tmp_path / name / "a.nii.gz", cube())
    (tmp_path / "groups.csv").write_text("id,group\nb,1\n")
    # The prediction is not read: it is no file of voxels.
    (tmp_path / "p" / "a.nii.gz").write_bytes(b"")
    with pytest.raises(DataError, match=r"has no group for 1 of 1 scored cases: a\. Its ids are b;"):
        score_label_maps(tmp_path / "p", tmp_path / "m", cases=CaseSource(groups=tmp_path / "groups.csv"))


def test_an_image_is_not_scored_as_a_label_map(tmp_path: Path) -> None:
    write(tmp_path / "p" / "a.nii.gz", np.random.default_rng(0).integers(0, 200, cube().shape).astype(np.uint8))
    write(tmp_path / "m" / "a.nii.gz", cube())
    with pytest.raises(DataError, match=r"p/a.nii.gz is no label map: it holds \d+ different values"):
        score_label_maps(tmp_path / "p", tmp_path / "m")
