"""Connectomes that come as matrices, in one file or in many, end as the same edges."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from medformer.data.connectomes.cohort import read_cohort
from medformer.data.connectomes.prepare.cohort_preparation import prepare_cohort
from medformer.data.connectomes.prepare.quality import Limits
from medformer.data.connectomes.read.npz import NpzRows
from medformer.errors import DataError

REGIONS = 5
UPPER = np.triu_indices(REGIONS, 1)


def matrix(seed: int) -> np.ndarray:
    return np.corrcoef(np.random.default_rng(seed).normal(size=(REGIONS, 20))).astype(np.float32)


def arrays(count: int = 4) -> dict[str, np.ndarray]:
    return {
        "ids": np.array([f"005000{n}" for n in range(count)]),
        "file_id": np.array([f"NYU_005000{n}" for n in range(count)]),
        "dx": np.arange(count) % 2,
        "site": np.array(["NYU"] * count),
        "age": np.arange(count) + 9.5,
        "sex": np.arange(count) % 2 + 1,
        "mean_fd": np.array([0.1, np.nan, 0.3, 0.2][:count]),
        "n_timepoints": np.array([196, 100, 196, 196][:count]),
        "fc_mine": np.array([matrix(n)[UPPER] for n in range(count)], np.float16),
    }


def prepared(tmp_path: Path, content: dict[str, np.ndarray], **options: object):
    np.savez_compressed(tmp_path / "all.npz", **content)
    return prepare_cohort(tmp_path / "all.npz", tmp_path / "out", **options)


def test_one_file_for_all(tmp_path: Path) -> None:
    made = prepared(tmp_path, arrays())
    cohort = read_cohort(made.manifest)
    subject = cohort.by_id["NYU_0050001"]
    assert (subject.group, subject.site, subject.label) == ("0050001", "NYU", 1)
    assert dict(subject.covariates) == {"age": "10.5", "sex": "F", "mean_fd": "", "fiq": "", "time_points": "100"}
    assert (cohort.store.atlas("mine").regions, cohort.store.atlas("mine").content) == (REGIONS, "correlation")
    block = cohort.store.block("mine", "correlation")
    np.testing.assert_array_equal(block, arrays()["fc_mine"].astype(np.float32))
    assert np.isfinite(cohort.store.block("mine", "tangent")).all()


def test_square_matrices_and_persons_without_file_ids(tmp_path: Path) -> None:
    content = arrays()
    del content["file_id"]
    content["label"] = content.pop("dx")
    content["fc_mine"] = np.array([matrix(n) for n in range(4)])
    cohort = read_cohort(prepared(tmp_path, content).manifest)
    assert [subject.id for subject in cohort.cases] == [f"005000{n}" for n in range(4)]
    np.testing.assert_array_equal(cohort.store.block("mine", "correlation")[2], matrix(2)[UPPER])


def test_bad_rows_are_left_out(tmp_path: Path) -> None:
    content = arrays()
    content["fc_mine"][0, 3] = np.nan
    content["fc_mine"][2] = np.arctanh(0.99)
    content["fc_mine"][3, [0, 4, 5, 6]] = 0.0
    made = prepared(tmp_path, content, limits=Limits(min_time_points=50, max_constant_regions=0.3))
    assert made.excluded == {"not-finite": 1, "not-correlation": 1}
    assert made.warnings == {"constant-regions": 1}
    assert prepared(tmp_path, arrays(), limits=Limits(min_time_points=150)).excluded == {"short-scan": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dx": None}, "lacks dx; found ids"),
        ({"fc_mine": None}, "lacks fc_<atlas>"),
        ({"dx": np.zeros(3)}, "dx differ in length from ids; expected 4 rows"),
        ({"fc_mine": np.zeros((4, 11))}, r"fc_mine.*vectors of 11 .*expected the triangle"),
        ({"fc_mine": np.asfortranarray(np.zeros((4, 10)))}, "in Fortran order; expected numbers in C order"),
        ({"fc_mine": np.array([["x"] * 10] * 4)}, "expected numbers in C order"),
        ({"ids": np.array([{}] * 4)}, "without pickled objects"),
        ({"fc_dos160": np.zeros((4, 160 * 159 // 2))}, "dos160 has 161 regions, not 160"),
    ],
)
def test_a_file_that_is_no_such_thing(tmp_path: Path, change: dict[str, np.ndarray | None], message: str) -> None:
    content = {name: value for name, value in {**arrays(), **change}.items() if value is not None}
    with pytest.raises(DataError, match=message):
        prepared(tmp_path, content)


def test_no_npz(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not there"):
        prepare_cohort(tmp_path / "none.npz", tmp_path / "out")
    (tmp_path / "text.npz").write_text("text")
    with pytest.raises(DataError, match="cannot be read"):
        prepare_cohort(tmp_path / "text.npz", tmp_path / "out")


def test_rows_come_in_any_order_without_reading_all(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", fc_x=np.arange(60, dtype=np.float64).reshape(20, 3))
    rows = NpzRows(tmp_path / "a.npz", "fc_x")
    for row in (3, 4, 19, 0):
        np.testing.assert_array_equal(rows.row(row), [3 * row, 3 * row + 1, 3 * row + 2])


def write(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, values)
    elif path.suffix == ".mat":
        savemat(path, {"connectivity": values, "subject": "x", "time": np.arange(7.0)})
    elif path.suffix == ".csv":
        names = [f"r{n}" for n in range(len(values))]
        lines = [",".join(["", *names]), *(",".join([n, *map(str, row)]) for n, row in zip(names, values, strict=True))]
        path.write_text("\n".join(lines) + "\n")
    else:
        np.savetxt(path, values, "%.8f")


@pytest.mark.parametrize("suffix", [".npy", ".csv", ".txt", ".mat"])
@pytest.mark.parametrize(
    ("name", "atlases"), [("mine/{}", ()), ("fc_mine/{}_mine", ()), ("{}_mine", ("mine",)), ("{}", ("mine",))]
)
def test_a_matrix_per_subject(tmp_path: Path, suffix: str, name: str, atlases: tuple[str, ...]) -> None:
    folder = tmp_path / "matrices"
    for number in range(3):
        write(folder / (name.format(f"s{number}") + suffix), matrix(number))
    (folder / "phenotypic.csv").write_text("SUB_ID,label,age\ns0,1,9\ns1,0,8\ns2,1,7\ns3,1,6\n")
    made = prepare_cohort(folder, tmp_path / "out", atlases=atlases)
    assert made.excluded == {"missing-atlas": 1}
    cohort = read_cohort(made.manifest)
    assert [(subject.id, subject.label) for subject in cohort.cases] == [("s0", 1), ("s1", 0), ("s2", 1)]
    np.testing.assert_allclose(cohort.store.block("mine", "correlation")[1], matrix(1)[UPPER], atol=1e-6)


def test_bad_matrices_are_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "matrices"
    skew = matrix(1)
    skew[0, 1] += 0.5
    holes = matrix(4)
    holes[2, 3] = holes[3, 2] = np.nan
    given = {"s0": matrix(0), "s1": skew, "s2": matrix(2)[:4], "s3": np.arctanh(matrix(3) * 0.999) * 5, "s4": holes}
    for name, values in given.items():
        write(folder / "mine" / f"{name}.npy", values)
    (folder / "mine" / "s5.mat").write_text("no matrix")
    savemat(folder / "mine" / "s6.mat", {"a": matrix(6), "b": matrix(7)})
    np.save(folder / "mine" / "s7.npy", np.array([{}]), allow_pickle=True)
    write(folder / "mine" / "s8.npy", matrix(8))
    rows = "".join(f"s{number},{number % 2}\n" for number in range(8))
    (folder / "phenotypic.csv").write_text("SUB_ID,label\n" + rows)
    made = prepare_cohort(folder, tmp_path / "out")
    found = {one.case_id: (one.reason, one.detail) for one in made.problems}
    assert {name: reason for name, (reason, _) in found.items()} == {
        "s1": "not-correlation",
        "s2": "corrupt",
        "s3": "not-correlation",
        "s4": "not-finite",
        "s5": "corrupt",
        "s6": "corrupt",
        "s7": "corrupt",
        "s8": "not-in-table",
    }
    assert "not symmetric" in found["s1"][1]
    assert "expected one square matrix" in found["s2"][1]
    assert "without Fisher's z" in found["s3"][1]
    assert "2 square matrices (a, b)" in found["s6"][1]
    assert made.kept == 1


@pytest.mark.real_data
def test_the_store_of_abide(medformer_data: Path, tmp_path: Path) -> None:
    path = medformer_data / "abide" / "abide_fc_697.npz"
    made = prepare_cohort(path, tmp_path / "out")
    assert (made.kept, made.excluded) == (697, {})
    cohort = read_cohort(made.manifest)
    assert {name: block.regions for name, block in cohort.store.atlases.items()} == {
        "aal": 116,
        "cc200": 200,
        "ho": 111,
    }
    assert len({subject.site for subject in cohort.cases}) == 20
    with np.load(path) as given:
        np.testing.assert_array_equal([subject.label for subject in cohort.cases], given["dx"])
        np.testing.assert_array_equal(cohort.store.block("ho", "correlation")[[0, 600]], given["fc_ho"][[0, 600]])
        assert [one.covariates["sex"] for one in cohort.cases] == ["MF"[code - 1] for code in given["sex"]]
