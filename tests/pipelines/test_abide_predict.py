"""`medformer abide predict`: what a run knows, applied to subjects in every form that they may come in."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import files_of, moved_bundle, private_names, told

import medformer as mf
from medformer.connectome.columns import Columns, FeatureBlock
from medformer.connectome.measures import to_matrices
from medformer.crossval.plan import read_plan, write_plan
from medformer.data.connectomes.cohort import read_cohort
from medformer.data.synthetic.abide import write_synthetic_abide
from medformer.errors import DataError
from medformer.files import read_csv, read_json, write_csv, write_json
from medformer.tasks.abide.features import require_contents

Medformer = Callable[..., Any]

REGIONS = {"coarse": 12, "fine": 14}
FOLDS = 2
# Every step that learns from data: site harmonization, confounds, a scale, pretraining, two networks, a calibration.
SETTINGS = (
    "--config",
    "abide/roi",
    "model.width=8",
    "training.epochs=2",
    "pretraining.epochs=1",
    f"crossval.folds={FOLDS}",
    "crossval.validation=0.25",
    "features.harmonize=combat",
    "features.confounds=[mean_fd]",
    "members=2",
    "--no-baselines",
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("series")
    write_synthetic_abide(folder, subjects=40, regions=REGIONS, sites=2, effect=3.0, volumes=60)
    return folder


@pytest.fixture(scope="module")
def cohort(source: Path, tmp_path_factory: pytest.TempPathFactory, medformer: Medformer) -> Path:
    out = tmp_path_factory.mktemp("prepared") / "cohort"
    assert medformer("abide", "prepare", source, "--out", out).code == 0
    return out


@pytest.fixture(scope="module")
def run(cohort: Path, tmp_path_factory: pytest.TempPathFactory, medformer: Medformer) -> Path:
    out = tmp_path_factory.mktemp("run") / "run"
    result = medformer("abide", "crossval", "--data", cohort, "--out", out, *SETTINGS, report=False)
    assert result.code == 0, result.err
    return out


@pytest.fixture
def matrices(cohort: Path, tmp_path: Path) -> Path:
    """One matrix of correlations per subject and atlas, without any table."""
    folder, prepared = tmp_path / "matrices", read_cohort(cohort)
    for atlas, regions in REGIONS.items():
        (folder / atlas).mkdir(parents=True)
        block = prepared.store.block(atlas, "correlation")
        for row, name in zip(prepared.rows, prepared.by_id, strict=True):
            matrix = to_matrices(np.asarray(block[row : row + 1]), regions)[0]
            np.fill_diagonal(matrix, 1.0)
            np.save(folder / atlas / f"{name}.npy", matrix)
    return folder


def predicted(medformer: Medformer, run: Path, source: Path, out: Path, *more: str) -> dict[str, dict[str, str]]:
    result = medformer("abide", "predict", run, source, "--out", out, *more)
    assert result.code == 0, result.err
    return {row["id"]: row for row in read_csv(out / "predictions.csv")}


@pytest.mark.parametrize("kind", ["cohort", "series"])
def test_scores_are_the_out_of_fold_scores_of_the_network_that_tested_a_subject(
    kind: str, run: Path, cohort: Path, source: Path, tmp_path: Path, medformer: Medformer
) -> None:
    rows = predicted(medformer, run, {"cohort": cohort, "series": source}[kind], tmp_path / "out")
    tested = read_csv(run / "oof.csv")
    assert len(rows) == len(tested) == 40
    for row in tested:
        assert float(rows[row["id"]][f"score_fold_{row['fold']}"]) == float(row["score"])
    thresholds = [read_json(run / "folds" / str(fold) / "threshold.json")["threshold"] for fold in range(FOLDS)]
    for row in rows.values():
        assert float(row["score"]) == pytest.approx(np.mean([float(row[f"score_fold_{k}"]) for k in range(FOLDS)]))
        assert float(row["threshold"]) == pytest.approx(np.mean(thresholds))
        assert int(row["prediction"]) == (float(row["score"]) >= float(row["threshold"]))


def test_subjects_of_the_run_are_pointed_out_and_a_threshold_may_be_given(
    run: Path, cohort: Path, tmp_path: Path, medformer: Medformer
) -> None:
    result = medformer("abide", "predict", run, cohort, "--out", tmp_path / "out", "--threshold", "0.9")
    assert result.code == 0 and "40 of these subjects belong to" in result.out
    # A validation part of so few subjects teaches no calibration, and nothing calls the scores calibrated.
    learned = [read_json(run / "folds" / str(fold) / "threshold.json") for fold in range(FOLDS)]
    assert not any(content["calibration"]["learned"] for content in learned)
    assert "none is calibrated: too few inner validation cases" in result.out
    assert "calibrated probabilities" not in result.out
    assert {row["threshold"] for row in read_csv(tmp_path / "out" / "predictions.csv")} == {"0.9"}


@pytest.mark.parametrize("corrected", [True, False])
def test_a_bundle_far_from_its_run_scores_as_the_run_does(
    corrected: bool, request: pytest.FixtureRequest, source: Path, tmp_path: Path, medformer: Medformer
) -> None:
    run: Path = request.getfixturevalue("run" if corrected else "plain_run")
    bundle = moved_bundle(medformer, run, tmp_path)
    for model, out in ((run, "by_run"), (bundle, "by_bundle")):
        assert medformer("abide", "predict", model, source, "--out", tmp_path / out).code == 0
    tables = [(tmp_path / out / "predictions.csv").read_bytes() for out in ("by_run", "by_bundle")]
    assert tables[0] == tables[1]
    # Only a correction that goes by the name of a site needs it.
    sites = {"SITE1", "SITE2"}
    names = private_names(run)
    assert sites < names
    assert {name.split(": ")[1] for name in told(files_of(bundle), names)} == (sites if corrected else set())
    assert read_json(bundle / "bundle.json")["labels"] == {"1": "autism", "0": "control"}


def test_a_correction_of_few_subjects_is_not_exported(run: Path, tmp_path: Path, medformer: Medformer) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    plan = read_plan(copy / "splits.json")
    trained = plan.folds[0].train[:4]
    cases = [replace(case, site="small") if case.id in trained else case for case in plan.cases]
    write_plan(copy / "splits.json", replace(plan, cases=tuple(cases)))
    result = medformer("export", copy, "--out", tmp_path / "bundle")
    result.refused(3, "small (4)", "fewer than 5 subjects", "features.harmonize=combat")
    assert not (tmp_path / "bundle").exists()


def test_a_fold_that_is_not_trained_is_left_out_and_said(
    run: Path, cohort: Path, tmp_path: Path, medformer: Medformer
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    (copy / "folds" / "0" / "threshold.json").unlink()
    result = medformer("abide", "predict", copy, cohort, "--out", tmp_path / "out")
    assert result.code == 0 and f"1 of {FOLDS} folds are trained" in result.out
    assert "score_fold_0" not in read_csv(tmp_path / "out" / "predictions.csv")[0]


@pytest.fixture(scope="module")
def plain_run(cohort: Path, tmp_path_factory: pytest.TempPathFactory, medformer: Medformer) -> Path:
    """A run whose features need no covariate, on a given split."""
    folder = tmp_path_factory.mktemp("plain")
    shutil.copytree(cohort, folder / "cohort")
    rows = read_csv(cohort / "manifest.csv")
    for place, row in enumerate(rows):
        row["split"] = "test" if place >= 34 else "train"
    write_csv(folder / "cohort" / "manifest.csv", rows, list(rows[0]))
    quick = ("model.width=8", "training.epochs=2", "crossval.validation=0.3", "--data", folder / "cohort")
    result = medformer("abide", "train", "--out", folder / "run", *quick, report=False)
    assert result.code == 0, result.err
    return folder / "run"


def test_matrices_without_a_table_give_the_scores_of_the_series_they_are_from(
    plain_run: Path, matrices: Path, tmp_path: Path, medformer: Medformer
) -> None:
    rows = predicted(medformer, plain_run, matrices, tmp_path / "out")
    tested = read_csv(plain_run / "oof.csv")
    assert len(rows) == 40 and len(tested) == 6
    for row in tested:
        # The connections are rounded to float32 once more on their way.
        assert float(rows[row["id"]]["score"]) == pytest.approx(float(row["score"]), abs=1e-4)
        assert rows[row["id"]]["label"] == ""


def test_a_program_gets_the_scores_of_the_command(
    run: Path, plain_run: Path, cohort: Path, matrices: Path, tmp_path: Path, medformer: Medformer
) -> None:
    rows = predicted(medformer, plain_run, matrices, tmp_path / "plain")
    model = mf.load(plain_run, task="abide")
    assert model.regions == REGIONS and not model.needs
    name = sorted(rows)[0]
    arrays = {atlas: np.load(matrices / atlas / f"{name}.npy") for atlas in REGIONS}
    found = model.predict(arrays)
    # One subject at a time is computed in another batch, which moves the last digits.
    assert found.score == pytest.approx(float(rows[name]["score"]), abs=1e-6)
    assert found.threshold == float(rows[name]["threshold"])
    assert found.positive == (rows[name]["prediction"] == "1")
    assert found.label == model.label_names[int(found.positive)] and found.id == ""
    triangles = {atlas: matrix[np.triu_indices(len(matrix), 1)] for atlas, matrix in arrays.items()}
    fisher = {atlas: np.arctanh(np.clip(edges, -0.999999, 0.999999)) for atlas, edges in triangles.items()}
    assert model.predict(triangles).score == found.score
    assert model.predict(fisher, values="fisher-z").score == pytest.approx(found.score, abs=1e-4)
    assert {one.id: one.score for one in model.predict(matrices)} == {k: float(v["score"]) for k, v in rows.items()}

    # A model whose features are corrected for covariates needs them.
    rows = predicted(medformer, run, cohort, tmp_path / "corrected")
    model, prepared = mf.load(run, task="abide"), read_cohort(cohort)
    case = prepared.cases[0]
    series = {atlas: np.array(prepared.store.series(atlas, case.id)) for atlas in REGIONS}
    known: dict[str, Any] = {"site": case.site, "sex": case.covariates["sex"]}
    known |= {key: float(case.covariates[key]) for key in ("age", "mean_fd")}
    assert {"site", "mean_fd"} <= set(model.needs)
    found = model.predict(series, content="series", covariates=known)
    assert found.score == pytest.approx(float(rows[case.id]["score"]), abs=1e-6)
    assert not found.calibrated
    for wrong, settings, words in (
        (series, {"content": "series"}, "mean_fd"),
        (series, {"content": "series", "covariates": {**known, "mean_fd": -1}}, "not negative"),
        (series, {"content": "series", "covariates": {**known, "sex": "x"}}, "expected 'M' or 'F'"),
        ({"coarse": series["coarse"]}, {"content": "series", "covariates": known}, "fine"),
        (series, {"covariates": known}, "square"),
        ({**series, "fine": series["fine"][:, :5]}, {"content": "series", "covariates": known}, "5 regions"),
    ):
        with pytest.raises(mf.DataError, match=words):
            model.predict(wrong, **settings)
    with pytest.raises(mf.ConfigError, match="got 'weight'; expected some of site"):
        model.predict(series, content="series", covariates={**known, "weight": 70.0})
    for what, settings, words in (
        (series, {"content": "serie"}, "content=.serie.; expected .series. or .correlation."),
        (series, {"content": "series", "covariates": known, "pipeline": "cpac"}, "pipeline=.cpac. is for time series"),
        (cohort, {"covariates": known}, "covariates=.* is for a subject in memory"),
        (cohort, {"content": "series"}, "content=.series. is for a subject in memory"),
        (cohort, {"threshold": 2}, "expected a number from 0 to 1"),
    ):
        with pytest.raises(mf.ConfigError, match=words):
            model.predict(what, **settings)


def test_bad_subjects_are_listed_and_the_others_are_scored(
    plain_run: Path, matrices: Path, tmp_path: Path, medformer: Medformer
) -> None:
    names = sorted(path.stem for path in (matrices / "coarse").iterdir())
    np.save(matrices / "coarse" / f"{names[0]}.npy", np.full((12, 12), np.nan))
    np.save(matrices / "coarse" / f"{names[1]}.npy", np.corrcoef(np.random.default_rng(0).normal(size=(13, 40))))
    np.save(matrices / "coarse" / f"{names[2]}.npy", np.zeros((12, 11)))
    (matrices / "fine" / f"{names[3]}.npy").unlink()
    (matrices / "fine" / f"{names[4]}.npy").write_bytes(b"not numpy")
    result = medformer("abide", "predict", plain_run, matrices, "--out", tmp_path / "out")
    result.refused(3, "5 of 40 subjects cannot be used; the other 35 are done", names[0])
    refused = {row["id"]: row["reason"] for row in read_csv(tmp_path / "out" / "exclusions.csv")}
    assert set(refused) == set(names[:5])
    assert refused[names[0]] == "not-finite" and refused[names[1]] == "region-count"
    assert refused[names[3]] == "missing-atlas"
    assert {row["id"] for row in read_csv(tmp_path / "out" / "predictions.csv")} == set(names[5:])
    assert "5 subjects left out" in result.out


def test_a_source_that_cannot_be_read_costs_no_other(
    plain_run: Path, matrices: Path, tmp_path: Path, medformer: Medformer
) -> None:
    empty, out = tmp_path / "empty", tmp_path / "out"
    empty.mkdir()
    result = medformer("abide", "predict", plain_run, empty, matrices, "--out", out)
    result.refused(3, "1 of 41 subjects cannot be used; the other 40 are done", str(empty))
    assert len(read_csv(out / "predictions.csv")) == 40
    (tmp_path / "also empty").mkdir()
    given = (empty, tmp_path / "also empty", empty)
    nothing = medformer("abide", "predict", plain_run, *given, "--out", tmp_path / "other")
    nothing.refused(3, "nothing was written", str(empty))


def test_what_cannot_be_scored_at_all_is_refused(
    run: Path, plain_run: Path, matrices: Path, tmp_path: Path, medformer: Medformer
) -> None:
    out = tmp_path / "out"
    shutil.rmtree(matrices / "fine")
    medformer("abide", "predict", plain_run, matrices, "--out", out).refused(3, "fine")
    other = tmp_path / "other"
    write_synthetic_abide(other, subjects=4, regions={"coarse": 12, "fine": 15}, sites=2, volumes=40)
    medformer("abide", "predict", plain_run, other, "--out", out, "--overwrite").refused(3, "fine", "15", "14")
    empty = tmp_path / "empty"
    empty.mkdir()
    medformer("abide", "predict", plain_run, empty, "--out", out, "--overwrite").refused(3, str(empty))


def test_a_covariate_that_the_features_need_must_be_known(
    run: Path, cohort: Path, tmp_path: Path, medformer: Medformer
) -> None:
    copy = tmp_path / "cohort"
    shutil.copytree(cohort, copy)
    rows = read_csv(copy / "manifest.csv")
    write_csv(copy / "manifest.csv", [{**row, "mean_fd": ""} for row in rows], list(rows[0]))
    medformer("abide", "predict", run, copy, "--out", tmp_path / "out").refused(3, "mean_fd", "40 subject")
    beside = medformer("abide", "predict", run, copy, cohort, "--out", tmp_path / "both")
    beside.refused(3, "1 of 41 subjects cannot be used; the other 40 are done", "mean_fd")


def test_damage_and_a_run_of_another_task_are_refused(
    run: Path, cohort: Path, tmp_path: Path, medformer: Medformer
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    for name in ("columns.json", "features/coarse.safetensors"):
        file = copy / "folds" / "0" / name
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        result = medformer("abide", "predict", copy, cohort, "--out", tmp_path / "out", "--overwrite")
        result.refused(3, Path(name).name)
        file.write_bytes(whole)
    write_json(copy / "run.json", {**read_json(copy / "run.json"), "task": "polyp"})
    medformer("abide", "predict", copy, cohort, "--out", tmp_path / "new").refused(2, "task polyp")


def test_regions_in_another_order_than_the_run_was_trained_on_are_refused(
    plain_run: Path, source: Path, tmp_path: Path, medformer: Medformer
) -> None:
    numbers = read_json(plain_run / "folds" / "0" / "trained_on.json")["numbers"]["coarse"]
    assert len(numbers) == REGIONS["coarse"]
    copy = tmp_path / "series"
    shutil.copytree(source, copy)
    files = sorted(copy.rglob("*coarse.1D"))
    for file in files[:2]:
        header, *rest = file.read_text().splitlines()
        first, second, *others = header.split("\t")
        file.write_text("\n".join(["\t".join([second, first, *others]), *rest]) + "\n")
    result = medformer("abide", "predict", plain_run, copy, "--out", tmp_path / "out")
    result.refused(3, "2 of 40 subjects", f"region {numbers[1]}, expected {numbers[0]}, which the model was trained on")
    refused = read_csv(tmp_path / "out" / "exclusions.csv")
    assert [(row["reason"], row["path"]) for row in refused] == [("region-names", str(file)) for file in files[:2]]
    assert "of them autism at threshold" in result.out


def test_subjects_of_the_run_are_known_by_any_spelling_and_fishers_z_is_turned_back(
    plain_run: Path, cohort: Path, matrices: Path, tmp_path: Path, medformer: Medformer
) -> None:
    people = {case.id: case.group for case in read_cohort(cohort).cases}
    other = tmp_path / "z"
    for file in sorted(matrices.rglob("*.npy")):
        (other / file.parent.name).mkdir(parents=True, exist_ok=True)
        with np.errstate(divide="ignore"):
            values = np.arctanh(np.load(file))
        np.save(other / file.parent.name / f"sub-{people[file.stem].lstrip('0')}.npy", values)
    out = tmp_path / "out"
    medformer("abide", "predict", plain_run, other, "--out", out).refused(
        3, "hold no correlations", "--values fisher-z"
    )
    result = medformer("abide", "predict", plain_run, other, "--out", out, "--values", "fisher-z")
    assert result.code == 0 and "40 of these subjects belong to" in result.out
    plain = predicted(medformer, plain_run, matrices, tmp_path / "plain")
    scores = {row["id"]: float(row["score"]) for row in read_csv(out / "predictions.csv")}
    for name, person in people.items():
        assert scores[f"sub-{person.lstrip('0')}"] == pytest.approx(float(plain[name]["score"]), abs=1e-3)


def test_series_and_correlations_are_not_mixed_where_the_measure_shrinks_them(cohort: Path) -> None:
    found = read_cohort(cohort)
    assert found.store.atlases["coarse"].content == "series"
    shrunk, plain = (Columns((FeatureBlock("coarse", name, REGIONS["coarse"]),)) for name in ("tangent", "root"))
    with pytest.raises(DataError, match="learned tangent from correlations"):
        require_contents(found, shrunk, {"coarse": "correlation"})
    require_contents(found, shrunk, {"coarse": "series"})
    require_contents(found, shrunk, {})
    require_contents(found, plain, {"coarse": "correlation"})
