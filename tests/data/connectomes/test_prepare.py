"""Preparing a folder of series: who is kept, who is left out and why, and that all of them are counted."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from medformer.data.connectomes.cohort import read_cohort
from medformer.data.connectomes.prepare.cohort_preparation import Prepared, prepare_cohort
from medformer.data.connectomes.prepare.quality import Limits
from medformer.errors import DataError
from medformer.files import read_csv


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "cohort"


def left_out(made: Prepared) -> dict[str, tuple[str, str]]:
    return {one.case_id: (one.reason, one.detail) for one in made.problems if one.severity == "error"}


def test_everyone_of_a_sound_folder_is_kept(pcp, out: Path) -> None:
    pcp.write()
    made = prepare_cohort(pcp.root, out)
    assert (made.kept, made.excluded, made.warnings) == (6, {}, {})
    cohort = read_cohort(made.manifest)
    assert [subject.id for subject in cohort.cases] == [f"S_{n}" for n in range(6)]
    assert [subject.label for subject in cohort.cases] == [1, 1, 0, 0, 1, 1]
    assert {name: block.regions for name, block in cohort.store.atlases.items()} == {"small": 5, "tiny": 4}
    assert cohort.store.atlas("small").names == ("1", "2", "3", "4", "5")
    np.testing.assert_array_equal(cohort.store.series("tiny", "S_3"), pcp.signals(3, 4).astype(np.float32))
    assert cohort.by_id["S_3"].covariates["time_points"] == "12"


@pytest.mark.parametrize(
    ("place", "start"),
    [
        ("Outputs/cpac/filt_noglobal", ""),
        ("Outputs/cpac/filt_noglobal", "Outputs"),
        ("Outputs/cpac/filt_noglobal", "Outputs/cpac"),
        ("Outputs/cpac/filt_noglobal", "Outputs/cpac/filt_noglobal"),
        ("ABIDE_pcp/cpac/filt_noglobal", ""),
        ("", ""),
    ],
)
def test_layouts(pcp, out: Path, place: str, start: str) -> None:
    pcp.write(place=place)
    assert prepare_cohort(pcp.root / start, out).kept == 6


def test_nilearn_keeps_all_series_in_one_folder_with_the_table_above(pcp, out: Path) -> None:
    folder = pcp.write(regions={"dosenbach160": 161}, place="ABIDE_pcp/cpac/filt_noglobal")
    for path in folder.glob("rois_*/*.1D"):
        path.rename(folder / path.name)
    made = prepare_cohort(pcp.root, out)
    assert made.kept == 6
    block = read_cohort(out).store.atlas("dos160")
    assert block.regions == 161


def test_another_pipeline_is_chosen_or_missed_by_name(pcp, out: Path) -> None:
    pcp.write(place="Outputs/niak/nofilt_global")
    with pytest.raises(
        DataError, match=r"pipeline 'cpac' and the strategy 'filt_noglobal'.*There is niak/nofilt_global"
    ):
        prepare_cohort(pcp.root, out)
    assert prepare_cohort(pcp.root, out, pipeline="niak", strategy="nofilt_global").kept == 6


def test_a_table_without_file_names_finds_every_scan_of_a_person(pcp, out: Path) -> None:
    folder = pcp.write(place="")
    pcp.table.unlink()
    (pcp.root / "participants.tsv").write_text("participant_id\tlabel\nsub-1\t1\nsub-2\t0\nsub-3\t0\n")
    for path in folder.glob("rois_*/*.1D"):
        path.unlink()
    for name in ("sub-1_ses-1", "sub-1_ses-2", "sub-2"):
        pcp.write_series(name, "small", pcp.signals(len(name), 5))
    made = prepare_cohort(pcp.root, out)
    cohort = read_cohort(out)
    assert [(one.id, one.group) for one in cohort.cases] == [
        ("sub-1_ses-1", "sub-1"),
        ("sub-1_ses-2", "sub-1"),
        ("sub-2", "sub-2"),
    ]
    assert left_out(made)["sub-3"] == ("no-data", "no file of small")


def test_bad_series_are_left_out_each_by_its_name(pcp, out: Path) -> None:
    folder = pcp.write(12)
    cut = folder / "rois_small" / "S_1_rois_small.1D"
    cut.write_bytes(cut.read_bytes()[:-30])
    holes = pcp.signals(2, 5)
    holes[3, 1] = np.nan
    pcp.write_series("S_2", "small", holes)
    (folder / "rois_tiny" / "S_3_rois_tiny.1D").unlink()
    pcp.write_series("S_4", "small", pcp.signals(4, 6))
    pcp.write_series("S_5", "tiny", pcp.signals(5, 4, length=9))
    pcp.write_series("S_6", "small", pcp.signals(6, 5), numbers=(1, 2, 3, 5, 4))
    still = pcp.signals(7, 5)
    still[:, :2] = 7.0
    pcp.write_series("S_7", "small", still)
    pcp.write_series("stranger", "small", pcp.signals(8, 5))
    pcp.edit_table("9,S_9,", "9,no_filename,")
    one_still = pcp.signals(10, 5)
    one_still[:, 0] = 0
    pcp.write_series("S_10", "small", one_still)
    made = prepare_cohort(pcp.root, out)
    found = left_out(made)
    assert {name: reason for name, (reason, _) in found.items()} == {
        "S_1": "truncated",
        "S_2": "not-finite",
        "S_3": "missing-atlas",
        "S_4": "region-count",
        "S_5": "unequal-lengths",
        "S_6": "region-names",
        "S_7": "too-constant",
        "S_9": "not-in-table",
        "stranger": "not-in-table",
        "0000009": "no-file",
    }
    assert "found 6 regions for atlas 'small', expected 5" in found["S_4"][1]
    assert "no tiny; found small" in found["S_3"][1]
    assert found["S_6"][1] == "column 4 of small is region 5, expected 4, as most subjects have"
    assert made.excluded == dict.fromkeys((reason for reason, _ in found.values()), 1) | {"not-in-table": 2}
    assert made.warnings == {"constant-regions": 1}
    cohort = read_cohort(out)
    assert [subject.id for subject in cohort.cases] == ["S_0", "S_8", "S_10", "S_11"]
    assert cohort.store.ids == ("S_0", "S_8", "S_10", "S_11")
    block = cohort.store.block("small", "correlation")
    assert np.isfinite(block).all()
    np.testing.assert_array_equal(block[2][:4], 0)
    with open(out / "exclusions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(made.problems)
    assert {row["id"] for row in rows if row["severity"] == "error"} == set(found)
    noted = json.loads((out / "preparation.json").read_text())
    assert (noted["kept"], noted["excluded"], noted["warnings"]) == (4, made.excluded, made.warnings)
    assert noted["settings"]["max_constant_regions"] == 0.2


def test_a_first_subject_unlike_all_others_does_not_cost_the_others(pcp, out: Path) -> None:
    pcp.write(6)
    pcp.write_series("S_0", "small", pcp.signals(0, 6))
    made = prepare_cohort(pcp.root, out)
    assert left_out(made) == {
        "S_0": ("region-count", "found 6 regions for atlas 'small', expected 5, as most subjects have")
    }
    assert made.kept == 5
    assert [case.id for case in read_cohort(out).cases] == [f"S_{n}" for n in range(1, 6)]
    assert read_cohort(out).store.atlas("small").regions == 5
    (row,) = read_csv(out / "exclusions.csv")
    assert Path(row["path"]).name == "S_0_rois_small.1D"


def test_a_first_subject_with_another_order_of_regions_is_the_odd_one(pcp, out: Path) -> None:
    pcp.write(6)
    pcp.write_series("S_0", "tiny", pcp.signals(0, 4), numbers=(1, 2, 4, 3))
    made = prepare_cohort(pcp.root, out)
    assert left_out(made) == {
        "S_0": ("region-names", "column 3 of tiny is region 4, expected 3, as most subjects have")
    }
    assert read_cohort(out).store.atlas("tiny").numbers == ("1", "2", "3", "4")


def test_without_a_majority_nobody_is_chosen(pcp, out: Path) -> None:
    pcp.write(4)
    for number in (0, 2):
        pcp.write_series(f"S_{number}", "small", pcp.signals(0, 6))
    with pytest.raises(DataError, match=r"no regions of small are those of most.*2 have 6, such as 'S_0'; 2 have 5"):
        prepare_cohort(pcp.root, out)
    assert not (out / "manifest.csv").exists() and not (out / "features" / "store.json").exists()


def test_an_atlas_of_few_does_not_cost_the_others_unless_it_is_named(pcp, out: Path) -> None:
    pcp.write(6, regions={"small": 5})
    pcp.write_series("S_3", "tiny", pcp.signals(3, 4))
    with pytest.raises(DataError, match=r"5 subjects have no tiny, and only 1 have all.*Choose atlases with --atlas"):
        prepare_cohort(pcp.root, out)
    assert prepare_cohort(pcp.root, out, atlases=["small"]).kept == 6
    assert prepare_cohort(pcp.root, out, atlases=["small", "tiny"]).excluded == {"missing-atlas": 5}


def test_a_series_shorter_than_the_number_of_regions_is_kept_and_counted(pcp, out: Path) -> None:
    pcp.write()
    for atlas, count in (("small", 5), ("tiny", 4)):
        pcp.write_series("S_2", atlas, pcp.signals(2, count, length=5))
    made = prepare_cohort(pcp.root, out)
    assert made.kept == 6
    assert made.warnings == {"few-time-points": 1}
    for measure in ("correlation", "partial", "precision", "covariance", "tangent"):
        assert np.isfinite(read_cohort(out).store.block("small", measure)).all()


def test_a_series_whose_rows_seem_to_be_regions_is_named(pcp, out: Path) -> None:
    pcp.write()
    levels = 1000 + 300 * np.random.default_rng(5).normal(size=(12, 1))
    pcp.write_series("S_2", "small", levels[:5].T + pcp.signals(2, 5))
    pcp.write_series("S_3", "small", levels + pcp.signals(3, 5))
    made = prepare_cohort(pcp.root, out)
    assert (made.kept, made.warnings) == (6, {"transposed": 1})
    (row,) = read_csv(out / "exclusions.csv")
    assert (row["id"], row["reason"]) == ("S_3", "transposed")


def test_limits(pcp, out: Path) -> None:
    pcp.write()
    pcp.edit_table("5,S_5,B,1,15,2,0.6", "5,S_5,B,1,15,2,-9999")
    for atlas, count in (("small", 5), ("tiny", 4)):
        pcp.write_series("S_2", atlas, pcp.signals(2, count, length=8))
    made = prepare_cohort(pcp.root, out, limits=Limits(max_mean_fd=0.45, min_time_points=10))
    assert left_out(made) == {
        "S_2": ("short-scan", "8 time points; the limit is 10"),
        "S_4": ("motion", "0.500 mm; the limit is 0.45 mm"),
        "S_5": ("motion", "how much is not known; the limit is 0.45 mm"),
    }


def test_quality_control(pcp, out: Path) -> None:
    pcp.write()
    path = pcp.table
    header, *rows = path.read_text().splitlines()
    raters = ",qc_rater_1,qc_anat_rater_2,qc_func_rater_2,qc_anat_rater_3,qc_func_rater_3"
    rated = [row + (",fail,OK,OK,OK,OK" if row.startswith("1,") else ",OK,OK,maybe,OK,OK") for row in rows]
    path.write_text("\n".join([header + raters, *rated]) + "\n")
    assert left_out(prepare_cohort(pcp.root, out)) == {"S_1": ("not-usable", "")}
    assert prepare_cohort(pcp.root, out, limits=Limits(usable_only=False)).kept == 6


def test_usable_only_needs_a_verdict(pcp, out: Path) -> None:
    pcp.write()
    with pytest.raises(DataError, match=r"(?s)6 not-usable.*no verdict of the quality control"):
        prepare_cohort(pcp.root, out, limits=Limits(usable_only=True))


def test_a_person_at_two_sites_is_left_out(pcp, out: Path) -> None:
    pcp.write()
    pcp.edit_table("1,S_1,B", "0,S_1,B")
    assert {name: reason for name, (reason, _) in left_out(prepare_cohort(pcp.root, out)).items()} == {
        "S_0": "two-sites",
        "S_1": "two-sites",
    }


def test_dosenbach_with_160_columns_is_refused(pcp, out: Path) -> None:
    pcp.write(regions={"dos160": 160})
    with pytest.raises(DataError, match=r"found 160 regions for atlas 'dos160', expected 161 \(dos160 has 161 regions"):
        prepare_cohort(pcp.root, out)
    assert not (out / "manifest.csv").exists()
    assert not (out / "features" / "store.json").exists()


def test_atlases_are_chosen_or_missed_by_name(pcp, out: Path) -> None:
    folder = pcp.write()
    (folder / "rois_tiny" / "S_3_rois_tiny.1D").unlink()
    assert prepare_cohort(pcp.root, out, atlases=["small"]).kept == 6
    assert list(read_cohort(out).store.atlases) == ["small"]
    with pytest.raises(DataError, match="no data of cc200; found the atlases small, tiny"):
        prepare_cohort(pcp.root, out, atlases=["cc200"])
    with pytest.raises(DataError, match="Subject 'S_3' has no tiny"):
        prepare_cohort(pcp.root, out, missing_atlas="error")


def test_labels_name_the_columns_by_their_numbers(pcp, out: Path, tmp_path: Path) -> None:
    pcp.write()
    for number in range(6):
        pcp.write_series(f"S_{number}", "tiny", pcp.signals(number, 4), numbers=(20, 10, 40, 30))
    table = tmp_path / "tiny.csv"
    table.write_text("# mine\n10,Insula_L\n20,Insula_R\n40,Vermis, upper\n")
    prepare_cohort(pcp.root, out, labels={"tiny": table})
    assert read_cohort(out).store.atlas("tiny").names == ("Insula_R", "Insula_L", "Vermis, upper", "30")


@pytest.mark.parametrize("start", ["", "Outputs", "Outputs/cpac", "Outputs/cpac/filt_noglobal"])
def test_labels_that_lie_beside_the_series_are_found_and_are_no_matrices(pcp, out: Path, start: str) -> None:
    pcp.write()
    table = pcp.root / "Outputs" / "labels" / "tiny_labels.csv"
    table.parent.mkdir()
    table.write_text("index,name,x,y,z\n1,a,1,2,3\n2,b,1,2,3\n3,c,1,2,3\n4,d,1,2,3\n")
    (pcp.series / "extraction.csv").write_text("id,reason\n")
    assert prepare_cohort(pcp.root / start, out, atlases=["tiny"]).kept == 6
    block = read_cohort(out).store.atlas("tiny")
    assert block.names == ("a", "b", "c", "d")
    assert block.coordinates == ((1.0, 2.0, 3.0),) * 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda pcp: pcp.table.unlink(), "holds no phenotypic table"),
        (lambda pcp: (pcp.root / "Phenotypic_2.csv").write_text("x"), "holds 2 phenotypic tables"),
        (
            lambda pcp: pcp.edit_table("S_", "T_"),
            "No row .* the table lists 'T_0', 'T_1', 'T_2', the files are called 'S_0'.*FILE_ID",
        ),
    ],
)
def test_nothing_to_prepare(pcp, out: Path, change, message: str) -> None:
    pcp.write()
    change(pcp)
    with pytest.raises(DataError, match=message):
        prepare_cohort(pcp.root, out)


def test_no_folder(pcp, out: Path) -> None:
    with pytest.raises(DataError, match="does not exist; expected a folder"):
        prepare_cohort(pcp.root, out)


@pytest.mark.real_data
def test_the_sample_of_abide(medformer_data: Path, out: Path) -> None:
    abide = medformer_data / "abide"
    tables = {name: abide / "atlases" / f"{file}_labels.csv" for name, file in (("aal", "aal"), ("cc200", "CC200_ROI"))}
    made = prepare_cohort(abide / "pcp_layout_sample", out, labels=tables)
    assert made.kept == 24
    assert made.excluded == {"no-data": 847, "not-usable": 164, "no-file": 77}
    store = read_cohort(out).store
    assert {name: block.regions for name, block in store.atlases.items()} == {"aal": 116, "cc200": 200, "ho": 111}
    assert store.atlas("aal").names[:2] == ("Precentral_L", "Precentral_R")
    assert store.atlas("ho").names[0] == "10"
    places = store.atlas("cc200").coordinates
    assert places is not None and places[0] == (-39.6, -85.4, 1.4)
