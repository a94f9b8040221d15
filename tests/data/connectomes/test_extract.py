from __future__ import annotations

import csv
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest

from medformer.data.connectomes.cohort import read_cohort
from medformer.data.connectomes.prepare.cohort_preparation import prepare_cohort
from medformer.data.connectomes.prepare.extract import Settings, atlas_file, atlas_files, extract_bids
from medformer.data.connectomes.read.files import label_table
from medformer.errors import ConfigError, DataError, UnknownNameError

VOLUMES = 80
SPACE = "space-MNI152NLin2009cAsym"
MOTION = [f"{kind}_{axis}" for kind in ("trans", "rot") for axis in "xyz"]


def block_labels() -> np.ndarray:
    volume = np.zeros((6, 6, 4), np.int16)
    for number, (x, y) in enumerate(((0, 0), (0, 3), (3, 0), (3, 3)), start=11):
        volume[x : x + 3, y : y + 3] = number
    return volume


def save(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([3.0, 3.0, 3.0, 1.0])), path)
    return path


def write_scan(root: Path, subject: str, *, seed: int, volumes: int = VOLUMES) -> tuple[Path, Path]:
    """One scan of one subject, on whose every voxel the head's first motion parameter acts."""
    rng = np.random.default_rng(seed)
    motion = rng.standard_normal((VOLUMES, 6))
    labels = block_labels()
    signals = rng.standard_normal((VOLUMES, 4))
    values = 1000.0 + signals[:, np.maximum(labels - 11, 0)].transpose(1, 2, 3, 0) + 3.0 * motion[:, 0]
    func = root / f"sub-{subject}" / "func"
    bold = save(
        func / f"sub-{subject}_task-rest_{SPACE}_desc-preproc_bold.nii.gz", values.astype(np.float32)[..., :volumes]
    )
    table = pd.DataFrame(motion, columns=MOTION)
    for name in MOTION:
        table[f"{name}_derivative1"] = table[name].diff()
        table[f"{name}_power2"] = table[name] ** 2
        table[f"{name}_derivative1_power2"] = table[name].diff() ** 2
    for name in ("csf", "white_matter", "cosine00", "global_signal"):
        table[name] = rng.standard_normal(VOLUMES)
    table["framewise_displacement"] = [np.nan, *np.full(VOLUMES - 1, 0.125)]
    confounds = func / f"sub-{subject}_task-rest_desc-confounds_timeseries.tsv"
    table.to_csv(confounds, sep="\t", na_rep="n/a", index=False)
    return bold, confounds


@pytest.fixture
def bids(tmp_path: Path) -> Path:
    root = tmp_path / "fmriprep"
    for number, subject in enumerate(("01", "02", "03")):
        write_scan(root, subject, seed=number)
    (root / "participants.tsv").write_text(
        "participant_id\tdx_group\tage\tsex\tsite\nsub-01\t1\t12.5\tM\tA\nsub-02\t2\t14\tF\tA\nsub-03\t2\tn/a\tF\tB\n"
    )
    return root


@pytest.fixture
def atlas(tmp_path: Path) -> dict[str, Path]:
    return {"blocks": save(tmp_path / "blocks.nii.gz", block_labels())}


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def series_of(out: Path, scan: str, strategy: str = "simple") -> np.ndarray:
    return np.loadtxt(out / "Outputs" / "fmriprep" / strategy / "rois_blocks" / f"{scan}_rois_blocks.1D")


def test_every_scan_becomes_a_file_of_series_with_a_row_in_the_table(
    bids: Path, atlas: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    found = extract_bids(bids, atlas, out)
    assert found.kept == ("sub-01_task-rest", "sub-02_task-rest", "sub-03_task-rest")
    assert not found.refused
    series = series_of(out, "sub-02_task-rest")
    assert series.shape == (VOLUMES, 4)
    assert (out / "Outputs/fmriprep/simple/rois_blocks/sub-02_task-rest_rois_blocks.1D").read_text().startswith("#11\t")
    # What the head's motion added to all regions is gone.
    raw = extract_bids(bids, atlas, tmp_path / "raw", settings=Settings(strategy="none"))
    assert abs(np.corrcoef(series, rowvar=False)[0, 1]) < 0.4
    assert np.corrcoef(series_of(raw.folder, "sub-02_task-rest", "none"), rowvar=False)[0, 1] > 0.8
    people = rows_of(out / "Phenotypic.csv")
    assert people[0] == {
        "FILE_ID": "sub-01_task-rest",
        "SUB_ID": "sub-01",
        "func_mean_fd": "0.125000",
        "dx_group": "1",
        "age": "12.5",
        "sex": "M",
        "site": "A",
    }
    assert [row["index"] for row in rows_of(label_table(out, "blocks"))] == ["11", "12", "13", "14"]


def test_what_was_extracted_can_be_prepared(bids: Path, atlas: dict[str, Path], tmp_path: Path) -> None:
    out = extract_bids(bids, atlas, tmp_path / "out").folder
    labels = {"blocks": label_table(out, "blocks")}
    prepared = prepare_cohort(out, tmp_path / "cohort", pipeline="fmriprep", strategy="simple", labels=labels)
    subjects = read_cohort(prepared.manifest).cases
    assert [(one.id, one.group, one.site, one.label) for one in subjects] == [
        ("sub-01_task-rest", "sub-01", "A", 1),
        ("sub-02_task-rest", "sub-02", "A", 0),
        ("sub-03_task-rest", "sub-03", "B", 0),
    ]
    assert [one.covariates["mean_fd"] for one in subjects] == ["0.125000"] * 3


def test_bad_scans_are_listed_and_the_others_extracted(bids: Path, atlas: dict[str, Path], tmp_path: Path) -> None:
    (bids / "sub-01/func/sub-01_task-rest_desc-confounds_timeseries.tsv").unlink()
    write_scan(bids, "02", seed=1, volumes=VOLUMES - 3)
    damaged, _ = write_scan(bids, "04", seed=4)
    damaged.write_bytes(damaged.read_bytes()[:500])
    _, lacking = write_scan(bids, "05", seed=5)
    pd.read_csv(lacking, sep="\t").drop(columns=["csf", "white_matter"]).to_csv(lacking, sep="\t", index=False)
    found = extract_bids(bids, atlas, tmp_path / "out")
    assert found.kept == ("sub-03_task-rest",)
    assert "no table of confounds" in found.refused["sub-01_task-rest"]
    assert "77 volumes and its confounds 80 rows" in found.refused["sub-02_task-rest"]
    assert str(damaged) in found.refused["sub-04_task-rest"]
    assert "cannot serve the strategy 'simple'" in found.refused["sub-05_task-rest"]
    listed = {row["id"]: row["reason"] for row in rows_of(found.table)}
    assert {name for name, reason in listed.items() if reason} == set(found.refused)
    assert [(row["SUB_ID"], row["FILE_ID"]) for row in rows_of(tmp_path / "out" / "Phenotypic.csv")] == [
        ("sub-03", "sub-03_task-rest"),
        ("sub-01", "no_filename"),
        ("sub-02", "no_filename"),
    ]


def test_participants_are_found_by_their_number_and_nobody_is_dropped(
    bids: Path, atlas: dict[str, Path], tmp_path: Path
) -> None:
    (bids / "participants.tsv").write_text("Participant ID\tdx_group\tage\n1.0\t1\t12.5\n2\t2\t14\n009\t2\t9\n")
    found = extract_bids(bids, atlas, tmp_path / "out", settings=Settings(strategy="none"))
    assert (found.without_participant, found.without_scan) == (("sub-03_task-rest",), ("009",))
    assert [(row["SUB_ID"], row["FILE_ID"], row["age"]) for row in rows_of(tmp_path / "out" / "Phenotypic.csv")] == [
        ("sub-01", "sub-01_task-rest", "12.5"),
        ("sub-02", "sub-02_task-rest", "14"),
        ("009", "no_filename", "9"),
    ]
    made = prepare_cohort(found.folder, tmp_path / "cohort", pipeline="fmriprep", strategy="none")
    assert [case.label for case in read_cohort(made.manifest).cases] == [1, 0]
    assert made.excluded == {"no-file": 1, "not-in-table": 1}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("participant_id\tage\nx1\t3\n", "none of the scans' subjects: it has 'x1', the scans are of 'sub-01'"),
        ("participant_id\tage\n01\t3\n1\t4\n", "'sub-01' may be '01' or '1'"),
        ("participant_id\tage\n01\t3\n01\t4\n", "lists '01' more than once"),
        ("who\tage\n01\t3\n", "lacks a column for the participant"),
    ],
)
def test_a_table_of_others_is_refused_before_hours_of_work(
    bids: Path, atlas: dict[str, Path], tmp_path: Path, table: str, message: str
) -> None:
    (bids / "participants.tsv").write_text(table)
    with pytest.raises(DataError, match=message):
        extract_bids(bids, atlas, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_done_is_not_done_again_unless_something_changed(
    bids: Path, atlas: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    listed = extract_bids(bids, atlas, out).table
    files = sorted((out / "Outputs").rglob("*.1D"))
    before = [file.stat().st_mtime_ns for file in files]
    table = listed.read_bytes()
    write_scan(bids, "02", seed=77)
    extract_bids(bids, atlas, out)
    changed = [file.name for file, time in zip(files, before, strict=True) if file.stat().st_mtime_ns != time]
    assert changed == ["sub-02_task-rest_rois_blocks.1D"]
    assert listed.read_bytes() == table
    extract_bids(bids, atlas, out, settings=Settings(low_pass=0.2))
    assert all(file.stat().st_mtime_ns != time for file, time in zip(files, before, strict=True))


def test_scrubbing_leaves_volumes_out_and_refuses_what_is_too_short(
    bids: Path, atlas: dict[str, Path], tmp_path: Path
) -> None:
    path = bids / "sub-01/func/sub-01_task-rest_desc-confounds_timeseries.tsv"
    for subject, moving in (("01", 6), ("02", 60), ("03", 0)):
        path = bids / f"sub-{subject}/func/sub-{subject}_task-rest_desc-confounds_timeseries.tsv"
        table = pd.read_csv(path, sep="\t")
        table["std_dvars"] = 1.0
        for tissue in ("csf", "white_matter"):
            table[f"{tissue}_derivative1"] = table[tissue].diff()
            table[f"{tissue}_power2"] = table[tissue] ** 2
            table[f"{tissue}_derivative1_power2"] = table[tissue].diff() ** 2
        table.loc[10 : 9 + moving, "framewise_displacement"] = 2.0
        table.to_csv(path, sep="\t", na_rep="n/a", index=False)
    found = extract_bids(bids, atlas, tmp_path / "out", settings=Settings(strategy="scrubbing"))
    rows = {row["id"]: row for row in rows_of(found.table)}
    assert (rows["sub-03_task-rest"]["volumes"], rows["sub-03_task-rest"]["kept_volumes"]) == ("80", "80")
    assert int(rows["sub-01_task-rest"]["kept_volumes"]) <= VOLUMES - 6
    assert "sub-02_task-rest" in found.refused


def test_an_atlas_of_the_wrong_size_is_refused_before_any_scan(
    bids: Path, atlas: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="found 4 regions for atlas 'dos160', expected 161"):
        extract_bids(bids, {"dos160": atlas["blocks"]}, tmp_path / "out")


def test_nothing_usable_is_an_error(bids: Path, atlas: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="None of 3 scans could be used"):
        extract_bids(bids, atlas, tmp_path / "out", settings=Settings(fewest_volumes=VOLUMES + 1))


def test_settings_that_make_no_sense_are_refused(bids: Path, atlas: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'scrubbing'"):
        extract_bids(bids, atlas, tmp_path, settings=Settings(strategy="scrubing"))
    for settings in (Settings(low_pass=0.01, high_pass=0.1), Settings(low_pass=-1.0), Settings(fewest_volumes=1)):
        with pytest.raises(ConfigError, match="expected"):
            extract_bids(bids, atlas, tmp_path, settings=settings)
    with pytest.raises(ConfigError, match="letters, digits and hyphens"):
        extract_bids(bids, {"my/atlas": atlas["blocks"]}, tmp_path)


@pytest.mark.parametrize(
    ("text", "name", "file"),
    [
        ("aal_roi_atlas.nii.gz", "aal", "aal_roi_atlas.nii.gz"),
        ("x/dosenbach160_roi.nii", "dos160", "x/dosenbach160_roi.nii"),
        ("x/My_Parcels.v1.nii.gz", "my-parcels-v1", "x/My_Parcels.v1.nii.gz"),
        ("cc200=some/file.nii.gz", "cc200", "some/file.nii.gz"),
    ],
)
def test_an_atlas_is_named_by_its_file_or_explicitly(text: str, name: str, file: str) -> None:
    assert atlas_file(text) == (name, Path(file))


def test_two_files_of_one_name_are_refused() -> None:
    assert atlas_files(["aal.nii.gz", "mine=b.nii"]) == {"aal": Path("aal.nii.gz"), "mine": Path("b.nii")}
    with pytest.raises(ConfigError, match=r"names a\.nii and b\.nii both 'mine'; call one of them otherwise"):
        atlas_files(["mine=a.nii", "mine=b.nii"])


def test_words_in_a_table_of_confounds_are_named(bids: Path, atlas: dict[str, Path], tmp_path: Path) -> None:
    table = next(bids.rglob("*confounds_timeseries.tsv"))
    head, first, *rest = table.read_text().splitlines()
    table.write_text("\n".join([head, "\t".join(["high"] * len(first.split("\t"))), *rest]) + "\n")
    refused = extract_bids(bids, atlas, tmp_path / "out").refused
    assert [f"{table} holds words among its numbers" in reason for reason in refused.values()].count(True) == 1


def test_a_filter_above_what_a_scan_shows_is_refused(bids: Path, atlas: dict[str, Path], tmp_path: Path) -> None:
    refused = extract_bids(bids, atlas, tmp_path / "out", settings=Settings("none", low_pass=0.4)).refused
    with pytest.raises(DataError, match=r"shows frequencies below 0\.5 Hz; the filter asks for 0\.6 Hz"):
        extract_bids(bids, atlas, tmp_path / "out", settings=Settings("none", low_pass=0.6))
    assert not any("filter asks" in reason for reason in refused.values())
