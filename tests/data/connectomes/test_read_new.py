"""New subjects are read without labels; what cannot be used is named, and the rest goes on."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from medformer.data.connectomes.cohort import Cohort
from medformer.data.connectomes.prepare.cohort_preparation import prepare_cohort, read_new
from medformer.data.connectomes.prepare.reading import Layout
from medformer.data.problems import Problem
from medformer.errors import DataError

ATLASES = {"small": Layout(5), "tiny": Layout(4)}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "new"


def matrix(seed: int, regions: int = 5) -> np.ndarray:
    return np.corrcoef(np.random.default_rng(seed).normal(size=(regions, 20))).astype(np.float32)


def errors(problems: tuple[Problem, ...]) -> dict[str, tuple[str, str]]:
    return {one.case_id: (one.reason, one.detail) for one in problems if one.severity == "error"}


def labels(cohort: Cohort) -> dict[str, int | None]:
    return {case.id: case.label for case in cohort.cases}


def test_series_without_a_table(pcp, out: Path) -> None:
    pcp.write(3, place="Outputs/fmriprep/simple")
    pcp.table.unlink()
    cohort, problems = read_new(pcp.root, atlases=ATLASES, out=out)
    assert problems == ()
    assert labels(cohort) == {"S_0": None, "S_1": None, "S_2": None}
    assert [case.group for case in cohort.cases] == ["S_0", "S_1", "S_2"]
    assert cohort.path == out / "manifest.csv"
    np.testing.assert_array_equal(cohort.store.series("tiny", "S_1"), pcp.signals(1, 4).astype(np.float32))
    assert cohort.by_id["S_1"].covariates["time_points"] == "12"


@pytest.mark.parametrize("start", ["Outputs", "Outputs/fmriprep", "Outputs/fmriprep/simple"])
def test_series_from_any_folder_down_to_the_strategy(pcp, out: Path, start: str) -> None:
    pcp.write(3, place="Outputs/fmriprep/simple")
    assert len(read_new(pcp.root / start, atlases=ATLASES, out=out)[0].cases) == 3


def test_several_strategies_are_not_guessed(pcp, out: Path) -> None:
    pcp.write(2, place="Outputs/fmriprep/simple")
    pcp.write(2, place="Outputs/fmriprep/compcor")
    with pytest.raises(DataError, match=r"2 pipelines and strategies \(fmriprep/compcor, fmriprep/simple\)"):
        read_new(pcp.root, atlases=ATLASES, out=out)
    assert len(read_new(pcp.root, atlases=ATLASES, out=out, strategy="simple")[0].cases) == 2


def test_what_a_table_says_is_kept(pcp, out: Path) -> None:
    pcp.write(4)
    pcp.edit_table("1,S_1,B,1,", "1,S_1,B,-9999,")
    pcp.write_series("stranger", "small", pcp.signals(8, 5))
    pcp.write_series("stranger", "tiny", pcp.signals(8, 4))
    pcp.edit_table("3,S_3,B", "2,S_3,B")  # one person at two sites
    pcp.table.write_text(pcp.table.read_text() + "90,without_file,A,1,20,1,0.1\n91,no_filename,A,1,20,1,0.1\n")
    cohort, problems = read_new(pcp.root, atlases=ATLASES, out=out)
    assert problems == ()
    assert labels(cohort) == {"S_0": 1, "S_1": None, "S_2": 0, "S_3": 0, "stranger": None}
    assert (cohort.by_id["S_3"].site, cohort.by_id["S_3"].covariates["age"]) == ("B", "13")
    assert cohort.by_id["stranger"].site == ""
    assert cohort.digest() == read_new(pcp.root, atlases=ATLASES, out=out)[0].digest()


def test_a_table_without_diagnoses(pcp, out: Path) -> None:
    pcp.write(2)
    pcp.table.write_text("SUB_ID,FILE_ID,AGE\n1,S_0,20\n2,S_1,30\n")
    cohort, _ = read_new(pcp.root, atlases=ATLASES, out=out)
    assert [(case.id, case.group, case.label, case.covariate("age")) for case in cohort.cases] == [
        ("S_0", "0000001", None, 20.0),
        ("S_1", "0000002", None, 30.0),
    ]


def test_only_the_atlases_of_the_model_are_read(pcp, out: Path) -> None:
    pcp.write(2, regions={"small": 5, "tiny": 4, "other": 3})
    assert list(read_new(pcp.root, atlases=ATLASES, out=out)[0].store.atlases) == ["small", "tiny"]


def test_bad_series_are_listed_and_the_rest_goes_on(pcp, out: Path) -> None:
    folder = pcp.write(7)
    pcp.table.unlink()
    holes = pcp.signals(1, 5)
    holes[3, 1] = np.nan
    pcp.write_series("S_1", "small", holes)
    (folder / "rois_tiny" / "S_2_rois_tiny.1D").unlink()
    pcp.write_series("S_3", "small", pcp.signals(3, 6))
    (folder / "rois_small" / "S_4_rois_small.1D").write_bytes(b"\xff\xfe\x00")
    cut = folder / "rois_small" / "S_5_rois_small.1D"
    cut.write_bytes(cut.read_bytes()[:-30])
    cohort, problems = read_new(pcp.root, atlases=ATLASES, out=out)
    found = errors(problems)
    assert {name: reason for name, (reason, _) in found.items()} == {
        "S_1": "not-finite",
        "S_2": "missing-atlas",
        "S_3": "region-count",
        "S_4": "corrupt",
        "S_5": "truncated",
    }
    assert found["S_1"][1] == "1 of 60 values of small"
    assert found["S_2"][1] == "no tiny; found small"
    assert found["S_3"][1] == "found 6 regions for atlas 'small', expected 5, which the model was trained on"
    assert found["S_4"][1] == "it is not text (byte 0)"
    assert list(labels(cohort)) == ["S_0", "S_6"]
    with open(out / "exclusions.csv", newline="") as file:
        rows = {row["id"]: row["path"] for row in csv.DictReader(file)}
    assert list(rows) == list(found)
    assert all(Path(rows[name]).name == f"{name}_rois_small.1D" for name in ("S_1", "S_3", "S_4", "S_5"))


def test_bad_matrices_are_listed_and_the_rest_goes_on(tmp_path: Path, out: Path) -> None:
    folder = tmp_path / "matrices"
    holes = matrix(2)
    holes[1, 2] = holes[2, 1] = np.inf
    given = {"a": matrix(0), "b": matrix(1)[:4], "c": holes, "d": matrix(3, 6), "e": np.arctanh(matrix(4) * 0.999) * 5}
    (folder / "small").mkdir(parents=True)
    for name, values in given.items():
        np.save(folder / "small" / f"{name}.npy", values)
    (folder / "small" / "f.mat").write_text("no matrix")
    savemat(folder / "small" / "g.mat", {"connectivity": matrix(6)})
    np.savetxt(folder / "small" / "h.csv", matrix(7), delimiter=",")
    cohort, problems = read_new(folder, atlases={"small": Layout(5)}, out=out)
    found = errors(problems)
    assert {name: reason for name, (reason, _) in found.items()} == {
        "b": "corrupt",
        "c": "not-finite",
        "d": "region-count",
        "e": "not-correlation",
        "f": "corrupt",
    }
    assert found["b"][1] == "found float32 (4, 5); expected one square matrix of numbers"
    assert "found 6 regions for atlas 'small', expected 5" in found["d"][1]
    assert labels(cohort) == {"a": None, "g": None, "h": None}
    np.testing.assert_allclose(
        cohort.store.block("small", "correlation")[2], matrix(7)[np.triu_indices(5, 1)], atol=1e-6
    )


def npz(path: Path, **change: np.ndarray | None) -> Path:
    content = {"ids": np.array(["x", "y", "z"]), "fc_small": np.stack([matrix(seed) for seed in range(3)])}
    np.savez(path, **{name: value for name, value in {**content, **change}.items() if value is not None})
    return path


def test_npz_with_and_without_labels(tmp_path: Path, out: Path) -> None:
    cohort, problems = read_new(npz(tmp_path / "a.npz"), atlases={"small": Layout(5)}, out=out)
    assert (problems, labels(cohort)) == ((), {"x": None, "y": None, "z": None})
    cohort, _ = read_new(npz(tmp_path / "a.npz", dx=np.array([1, 0, -9999])), atlases={"small": Layout(5)}, out=out)
    assert labels(cohort) == {"x": 1, "y": 0, "z": None}


def test_npz_with_bad_rows(tmp_path: Path, out: Path) -> None:
    values = np.stack([matrix(seed) for seed in range(3)])
    values[1, 0, 1] = values[1, 1, 0] = np.nan
    cohort, problems = read_new(npz(tmp_path / "a.npz", fc_small=values), atlases={"small": Layout(5)}, out=out)
    assert errors(problems) == {"y": ("not-finite", "1 of 10 values of small")}
    assert list(labels(cohort)) == ["x", "z"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": None}, "lacks ids"),
        (
            {"fc_small": None, "fc_tiny": np.stack([matrix(0, 4)] * 3)},
            "no data of small; found the atlases tiny. The model was trained on small",
        ),
        (
            {"fc_small": np.zeros((3, 4, 5))},
            r"(?s)3 corrupt.*fc_small: found the shape \(4, 5\); expected one square matrix",
        ),
        (
            {"fc_small": np.stack([matrix(0, 6)] * 3)},
            "(?s)3 region-count.*found 6 regions for atlas",
        ),
        ({"fc_small": np.full((3, 10), np.inf)}, "(?s)3 not-finite.*10 of 10 values of small"),
    ],
)
def test_nothing_that_can_be_predicted(
    change: dict[str, np.ndarray | None], message: str, tmp_path: Path, out: Path
) -> None:
    with pytest.raises(DataError, match=message):
        read_new(npz(tmp_path / "a.npz", **change), atlases={"small": Layout(5)}, out=out)
    assert not (out / "manifest.csv").exists()


def test_a_prepared_cohort_is_read_where_it_is(pcp, tmp_path: Path, out: Path) -> None:
    pcp.write(4)
    prepared = prepare_cohort(pcp.root, tmp_path / "cohort")
    for source in (prepared.manifest, prepared.manifest.parent):
        cohort, problems = read_new(source, atlases={"small": Layout(5)}, out=out)
        assert (cohort.path, problems, len(cohort.cases)) == (prepared.manifest, (), 4)
    with pytest.raises(DataError, match="found 4 regions for atlas 'tiny', expected 7, which the model was trained on"):
        read_new(prepared.manifest, atlases={"tiny": Layout(7)}, out=out)
    with pytest.raises(DataError, match="holds no atlas 'cc200'; it holds small, tiny"):
        read_new(prepared.manifest, atlases={"cc200": Layout(200)}, out=out)
    assert not out.exists()


def test_a_quality_control_that_failed_refuses_nobody(pcp, out: Path) -> None:
    pcp.write(2)
    header, *rows = pcp.table.read_text().splitlines()
    raters = ",qc_rater_1,qc_anat_rater_2,qc_func_rater_2,qc_anat_rater_3,qc_func_rater_3"
    pcp.table.write_text("\n".join([header + raters, *(row + ",fail,OK,OK,OK,OK" for row in rows)]) + "\n")
    assert len(read_new(pcp.root, atlases=ATLASES, out=out)[0].cases) == 2


def test_no_such_source(tmp_path: Path, out: Path) -> None:
    with pytest.raises(DataError, match="does not exist; expected a folder of time series or matrices"):
        read_new(tmp_path / "none", atlases=ATLASES, out=out)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds neither time series nor matrices"):
        read_new(tmp_path / "empty", atlases=ATLASES, out=out)
