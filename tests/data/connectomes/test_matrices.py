"""Connectomes that come as matrices, in one file or in many, end as the same edges."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from medformer.array_file import NpzRows
from medformer.data.connectomes.cohort import read_cohort
from medformer.data.connectomes.prepare.cohort_preparation import prepare_cohort, read_new
from medformer.data.connectomes.prepare.quality import Limits
from medformer.data.connectomes.prepare.reading import Layout
from medformer.data.connectomes.read.matrices import as_edges, read_square
from medformer.data.connectomes.read.source import UnusableError
from medformer.data.people import plain
from medformer.errors import DataError
from medformer.files import read_json

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


def test_an_array_that_is_stored_by_columns_is_the_same(tmp_path: Path) -> None:
    content = arrays()
    content["fc_mine"] = np.array([matrix(n) for n in range(4)])[:, UPPER[0], UPPER[1]]
    assert content["fc_mine"].flags.f_contiguous and not content["fc_mine"].flags.c_contiguous
    block = read_cohort(prepared(tmp_path, content).manifest).store.block("mine", "correlation")
    np.testing.assert_array_equal(block[2], matrix(2)[UPPER])


def test_bad_rows_are_left_out(tmp_path: Path) -> None:
    content = arrays()
    content["fc_mine"][0, 3] = np.nan
    content["fc_mine"][3, [0, 4, 5, 6]] = 0.0
    made = prepared(tmp_path, content, limits=Limits(min_time_points=50, max_constant_regions=0.3))
    assert made.excluded == {"not-finite": 1}
    assert made.warnings == {"constant-regions": 1}
    assert prepared(tmp_path, arrays(), limits=Limits(min_time_points=150)).excluded == {"short-scan": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dx": None}, "lacks label; found ids"),
        ({"fc_mine": None}, "lacks fc_<atlas>"),
        ({"dx": np.zeros(3)}, "there are 4 ids, but other numbers of rows: label 3"),
        ({"fc_mine": np.zeros((4, 11))}, r"fc_mine.*vectors of 11 .*expected the triangle"),
        ({"fc_mine": np.array([["x"] * 10] * 4)}, "expected numbers, a row of correlations"),
        ({"sex": np.array([0, 1, 0, 1])}, r"holds '0' \(2\), '1' \(2\); expected 1 or M"),
        ({"ids": np.array([{}] * 4)}, "ids: it holds pickled Python objects, which could run code"),
        ({"fc_dos160": np.zeros((4, 160 * 159 // 2))}, "dos160 has 161 regions, not 160"),
    ],
)
def test_a_file_that_is_no_such_thing(tmp_path: Path, change: dict[str, np.ndarray | None], message: str) -> None:
    content = {name: value for name, value in {**arrays(), **change}.items() if value is not None}
    with pytest.raises(DataError, match=message):
        prepared(tmp_path, content)


def test_no_npz(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
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
    assert made.excluded == {"no-data": 1}
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
        "s1": "not-symmetric",
        "s2": "corrupt",
        "s3": "not-correlation",
        "s4": "not-finite",
        "s5": "corrupt",
        "s6": "corrupt",
        "s7": "corrupt",
        "s8": "not-in-table",
    }
    assert "across the diagonal differ by up to 0.5" in found["s1"][1]
    assert "expected one square matrix" in found["s2"][1]
    assert "the diagonal runs from" in found["s3"][1]
    assert "2 square matrices (a, b)" in found["s6"][1]
    assert made.kept == 1


def test_what_is_wrong_with_the_two_halves_is_said() -> None:
    for half, values in (("lower", np.triu(matrix(0))), ("upper", np.tril(matrix(0), -1))):
        with pytest.raises(UnusableError, match=f"its {half} half is empty; fill it"):
            as_edges(values)
    one_side = matrix(0)
    one_side[0, 1] = np.nan
    with pytest.raises(UnusableError, match="finite on one side of the diagonal alone"):
        as_edges(one_side)
    with pytest.raises(UnusableError, match="the diagonal is 0, as of distances"):
        as_edges((1 - matrix(0)) / 2 + np.eye(5) * 1e-16)


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


def folder_of(tmp_path: Path, change: Callable[[int, np.ndarray], np.ndarray], count: int = 6) -> Path:
    folder = tmp_path / "matrices"
    for number in range(count):
        write(folder / "mine" / f"s{number}.npy", change(number, matrix(number)))
    rows = "".join(f"s{number},{number % 2}\n" for number in range(count))
    (folder / "phenotypic.csv").write_text("id,label\n" + rows)
    return folder


def filled(values: np.ndarray, diagonal: float) -> np.ndarray:
    changed = np.array(values)
    np.fill_diagonal(changed, diagonal)
    return changed


def small_z(values: np.ndarray) -> np.ndarray:
    """Fisher's z within (-1, 1), so that its values do not show what it is."""
    return np.arctanh(filled(values * 0.7, 0))


OTHERS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str]] = {
    "z with inf": (lambda values: filled(small_z(values), np.inf), "the diagonal is inf, as of Fisher's z"),
    "z with 0": (small_z, "the diagonal is 0, as of distances"),
    "z with nan": (lambda values: filled(small_z(values), np.nan), "the diagonal is NaN"),
    "clipped z": (lambda values: filled(small_z(values), 18.7), "the diagonal runs from 18.7 to 18.7"),
    "distances": (lambda values: 1 - values, "the diagonal is 0"),
    "covariances": (lambda values: 2.5 * values, "the diagonal runs from 2.5 to 2.5, as of covariances"),
    "adjacency": (lambda values: filled(values > 0, 0).astype(float), "the diagonal is 0"),
    "adjacency with 1": (lambda values: filled(values > 0, 1).astype(float), "every value is 0 or 1"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_cohort_of_something_else_is_refused_as_a_whole(tmp_path: Path, other: str) -> None:
    change, message = OTHERS[other]
    folder = folder_of(tmp_path, lambda number, values: change(values.astype(float)))
    with pytest.raises(DataError, match=rf"6 of 6 subjects .*{message}.*--values correlation.*--values fisher-z"):
        prepare_cohort(folder, tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.csv").exists()
    with pytest.raises(DataError, match=message):
        read_new(folder, atlases={"mine": Layout(REGIONS)}, out=tmp_path / "new")


def test_nobody_is_selected_by_the_values_of_fishers_z(tmp_path: Path) -> None:
    """With a diagonal of 1, only the subjects with strong correlations show what the matrices hold."""

    def change(number: int, values: np.ndarray) -> np.ndarray:
        changed = values * 0.5
        if number == 3:
            changed[0, 1] = changed[1, 0] = 0.9
        return filled(np.arctanh(filled(changed, 0)), 1)

    folder = folder_of(tmp_path, change)
    values = np.load(folder / "mine" / "s3.npy")
    assert np.abs(values).max() > 1
    with pytest.raises(DataError, match=r"s3\.npy: values reach from .*so nobody is kept.*--values fisher-z"):
        prepare_cohort(folder, tmp_path / "out")
    triangles = {"ids": np.arange(3), "label": np.array([0, 1, 0]), "fc_mine": np.full((3, 10), 0.5)}
    triangles["fc_mine"][2, 4] = 1.2
    with pytest.raises(DataError, match=r"2: fc_mine: values reach from 0\.5 to 1\.2"):
        prepared(tmp_path, triangles)


@pytest.mark.parametrize("diagonal", [np.inf, 0.0, np.nan, 1.0])
def test_fishers_z_is_turned_into_correlations_where_the_user_says_so(tmp_path: Path, diagonal: float) -> None:
    folder = folder_of(tmp_path, lambda number, values: filled(np.arctanh(filled(values, 0) * 0.999), diagonal))
    made = prepare_cohort(folder, tmp_path / "out", values="fisher-z")
    found = read_cohort(made.manifest).store.block("mine", "correlation")
    np.testing.assert_allclose(found[2], matrix(2)[UPPER] * 0.999, atol=1e-5)
    assert read_json(tmp_path / "out" / "preparation.json")["settings"]["values"] == "fisher-z"


@pytest.mark.parametrize("diagonal", [0.0, np.nan, 1.0])
def test_correlations_without_their_diagonal_are_taken_where_the_user_says_so(tmp_path: Path, diagonal: float) -> None:
    folder = folder_of(tmp_path, lambda number, values: filled(values, diagonal))
    found = read_cohort(prepare_cohort(folder, tmp_path / "out", values="correlation").manifest)
    np.testing.assert_allclose(found.store.block("mine", "correlation")[2], matrix(2)[UPPER], atol=1e-6)


def test_one_odd_matrix_is_left_out_with_its_file(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, lambda number, values: small_z(values) if number == 2 else values)
    made = prepare_cohort(folder, tmp_path / "out")
    (problem,) = made.problems
    assert (problem.case_id, problem.reason) == ("s2", "not-correlation")
    assert problem.path == str(folder / "mine" / "s2.npy")


def test_a_region_without_signal_may_have_any_diagonal(tmp_path: Path) -> None:
    def change(number: int, values: np.ndarray) -> np.ndarray:
        changed = np.array(values)
        changed[1] = changed[:, 1] = 0
        return changed

    made = prepare_cohort(folder_of(tmp_path, change), tmp_path / "out", limits=Limits(max_constant_regions=0.3))
    assert (made.kept, made.warnings) == (6, {"constant-regions": 6})


@pytest.mark.parametrize(
    ("rows", "files"),
    [
        (["50001", "50002", "50003"], ["0050001", "0050002", "0050003"]),
        (["0050001", "0050002", "0050003"], ["50001", "50002", "50003"]),
        (["50001.0", "50002.0", "50003.0"], ["sub-0050001", "sub-0050002", "sub-0050003"]),
        (["sub-0050001", "sub-0050002", "sub-0050003"], ["50001_ses-1", "50002_ses-1", "50003_ses-1"]),
    ],
)
def test_subjects_are_found_by_their_number(tmp_path: Path, rows: list[str], files: list[str]) -> None:
    for place, name in enumerate(files):
        write(tmp_path / "matrices" / "mine" / f"{name}.npy", matrix(place))
    # Of a second atlas, one file has lost its zeros.
    for place, name in enumerate([plain(files[0]), *files[1:]]):
        write(tmp_path / "matrices" / "other" / f"{name}.npy", matrix(place + 10))
    table = "".join(f"{name},{place % 2}\n" for place, name in enumerate(rows))
    (tmp_path / "matrices" / "participants.csv").write_text("Subject ID,label\n" + table)
    made = prepare_cohort(tmp_path / "matrices", tmp_path / "out")
    assert (made.excluded, [case.id for case in read_cohort(made.manifest).cases]) == ({}, files)


def test_files_named_after_people_although_the_table_names_scans(tmp_path: Path) -> None:
    for name in ("50001", "0050002", "0050003"):
        write(tmp_path / "matrices" / "mine" / f"{name}.npy", matrix(int(name)))
    rows = "50001,NYU_0050001,1\n50002,NYU_0050002,2\n50003,NYU_0050003,1\n50003,NYU_0050003_2,1\n50004,NYU_0050004,2\n"
    (tmp_path / "matrices" / "Phenotypic.csv").write_text("SUB_ID,FILE_ID,DX_GROUP\n" + rows)
    made = prepare_cohort(tmp_path / "matrices", tmp_path / "out")
    cases = read_cohort(made.manifest).cases
    assert [(case.id, case.group, case.label) for case in cases] == [("50001", "0050001", 1), ("0050002", "0050002", 0)]
    # Which of the two scans of 50003 the file is, nobody says.
    assert {problem.case_id: problem.reason for problem in made.problems} == {
        "NYU_0050003": "no-data",
        "NYU_0050003_2": "no-data",
        "NYU_0050004": "no-data",
        "0050003": "not-in-table",
    }


def test_a_folder_of_notes_is_no_atlas(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, lambda number, values: values)
    (folder / "notes").mkdir()
    (folder / "notes" / "s0.csv").write_text("date,remark\n2020,moved\n")
    (folder / "notes" / "s0.txt").write_text("moved")
    write(folder / "group" / "mean.npy", matrix(99))
    made = prepare_cohort(folder, tmp_path / "out")
    assert (made.kept, list(read_cohort(made.manifest).store.atlases)) == (6, ["mine"])
    (folder / "notes" / "s0.txt").unlink()
    with pytest.raises(DataError, match="No subject"):
        prepare_cohort(folder, tmp_path / "out", atlases=["notes"])


def test_regions_named_in_another_order_are_noticed(tmp_path: Path) -> None:
    folder = tmp_path / "matrices"
    for number in range(4):
        write(folder / "mine" / f"s{number}.csv", matrix(number))
    odd = folder / "mine" / "s0.csv"
    odd.write_text(odd.read_text().replace("r1", "r9").replace("r0", "r1").replace("r9", "r0"))
    (folder / "phenotypic.csv").write_text("id,label\ns0,1\ns1,0\ns2,1\ns3,0\n")
    made = prepare_cohort(folder, tmp_path / "out")
    assert [(problem.case_id, problem.reason) for problem in made.problems] == [("s0", "region-names")]
    assert read_cohort(made.manifest).store.atlas("mine").names == ("r0", "r1", "r2", "r3", "r4")
    layout = {"mine": Layout(REGIONS, ("r0", "r1", "r2", "r3", "r4"))}
    new, problems = read_new(folder, atlases=layout, out=tmp_path / "new")
    assert ([case.id for case in new.cases], problems[0].case_id) == (["s1", "s2", "s3"], "s0")
    backwards = {"mine": Layout(REGIONS, ("r4", "r3", "r2", "r1", "r0"))}
    with pytest.raises(DataError, match="their order, are not those that the model was trained on"):
        read_new(tmp_path / "out", atlases=backwards, out=tmp_path / "newer")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1;0,5\n0,5;1\n", 0.5),
        ("1\t0,5\n0,5\t1\n", 0.5),
        ("0,1\n1,0.25\n0.25,1\n", 0.25),
        ("\ufeff1,0.5\r\n0.5,1\r\n", 0.5),
        ("a b\n1 -0.5\n-0.5 1\n", -0.5),
    ],
)
def test_spellings_of_text(tmp_path: Path, text: str, expected: float) -> None:
    (tmp_path / "a.csv").write_text(text, encoding="utf-8", newline="")
    values, regions = as_edges(read_square(tmp_path / "a.csv").values)
    assert (values.tolist(), regions) == ([expected], 2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"1,2\n3\n", "its row 2 has 1 numbers; the first has 2"),
        (b"1,x\n1,1\n", "it holds 'x', which is no number|found"),
        (b"1,0.5\nx,1\n", "it holds 'x', which is no number"),
        (b"\xff\xfe1", "it is not text"),
        (b"1\n", "expected one square matrix"),
        (b'1,"0.5\n0.5,1\n', "number|square"),
    ],
)
def test_text_that_is_no_matrix(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(UnusableError, match=message):
        read_square(tmp_path / "a.csv")


def test_an_array_without_rows_is_no_matrix(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((0, 0)))
    with pytest.raises(UnusableError, match=r"found float64 \(0, 0\)"):
        read_square(tmp_path / "a.npy")


def test_shadows_of_files_are_no_subjects_and_endings_may_be_large(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, lambda number, values: values)
    (folder / "mine" / "._s0.npy").write_bytes(b"Mac OS X")
    (folder / "mine" / "s1.npy").rename(folder / "mine" / "s1.NPY")
    made = prepare_cohort(folder, tmp_path / "out")
    assert (made.kept, made.problems) == (6, ())
    with pytest.raises(DataError, match=r"s0\.npy is a single file; expected a folder"):
        prepare_cohort(folder / "mine" / "s0.npy", tmp_path / "out")
