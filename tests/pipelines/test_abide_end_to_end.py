"""The whole way of connectomes: series become a cohort, a cross-validation, an explanation, a report."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bundles import folders_told

from medformer.config import AbideConfig
from medformer.config_loading import load_config
from medformer.crossval.plan import read_plan
from medformer.crossval.run.classes import ClassPredictor
from medformer.crossval.run.contract import Context
from medformer.crossval.run.directory import RunDirectory
from medformer.crossval.run.execute import LearnerJob, execute
from medformer.crossval.run.executors.processes import ProcessExecutor
from medformer.data.connectomes.cohort import read_cohort
from medformer.data.synthetic.abide import write_synthetic_abide
from medformer.files import read_csv, read_json, write_csv
from medformer.progress import SilentReporter
from medformer.tasks.abide.features import CohortFeatures, FoldFeatures
from medformer.tasks.abide.learner import ConnectomeLearner
from medformer.tasks.abide.task import AbideTask
from medformer.training.loop import Loop

Medformer = Callable[..., Any]

QUICK = (
    "--config",
    "abide/roi",
    "model.width=8",
    "training.epochs=3",
    "training.save_minutes=0",
    "pretraining.epochs=2",
    "crossval.folds=3",
    "crossval.validation=0.25",
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("series")
    write_synthetic_abide(folder, subjects=48, regions={"coarse": 12, "fine": 16}, sites=3, effect=3.0, volumes=80)
    return folder


@pytest.fixture(scope="module")
def cohort(source: Path, tmp_path_factory: pytest.TempPathFactory, medformer: Medformer) -> Path:
    out = tmp_path_factory.mktemp("prepared") / "cohort"
    result = medformer("abide", "prepare", source, "--out", out)
    assert result.code == 0, result.err
    assert "48 subjects (24 autism, 24 control) from 3 sites, atlases coarse (12), fine (16)" in result.out
    return out


@pytest.fixture(scope="module")
def run(cohort: Path, tmp_path_factory: pytest.TempPathFactory, medformer: Medformer) -> Path:
    out = tmp_path_factory.mktemp("run") / "run"
    command = ("abide", "crossval", "--data", cohort / "manifest.csv", "--out", out, *QUICK, "--permute-labels")
    result = medformer(*command, drawn=True)
    assert result.code == 0, result.err
    return out


def test_report_and_card_hold_no_folder(run: Path) -> None:
    assert not folders_told(run)


def test_a_cross_validation_leaves_one_score_per_subject_and_all_that_is_promised(run: Path, cohort: Path) -> None:
    rows, plan = read_csv(run / "oof.csv"), read_plan(run / "splits.json")
    labels = {row["id"]: row["label"] for row in read_csv(cohort / "manifest.csv")}
    assert {row["id"]: row["label"] for row in rows} == labels
    for row in rows:
        assert 0 <= float(row["score"]) <= 1
        assert int(row["prediction"]) == (float(row["score"]) >= float(row["threshold"]))
    for fold in plan.folds:
        sites = {case.site for case in plan.cases if case.id in fold.test}
        assert len(sites) == 3
        quality = read_json(run / "folds" / str(fold.index) / "pretraining.json")
        assert quality["subjects"] == len(fold.validation)
    assert {path.parent.name for path in run.glob("baselines/*/oof.csv")} >= {
        "ridge_all",
        "svm_fine",
        "stack",
        "covariates",
    }
    assert read_csv(run / "canary" / "oof.csv") != rows
    for fold in plan.folds:
        (joined,) = read_json(run / "folds" / str(fold.index) / "wide.json")["networks"]
        assert joined["value"] == 0 and "too few inner validation cases" in joined["reason"]
        assert joined["sees"] == "fine"
    report = (run / "report.html").read_text("utf-8")
    assert "The simple model and the network" in report and "added no network to the simple model" in report
    assert "Masked pretraining" in report and "The cohort" in report and "ridge_all" in report


def test_a_baseline_predicts_what_it_predicted_in_the_fold_that_tested_a_subject(
    run: Path, cohort: Path, tmp_path: Path, medformer: Medformer
) -> None:
    for name in ("ridge_all", "logistic_fine", "stack"):
        out = tmp_path / name
        result = medformer("abide", "predict", run, cohort, "--out", out, "--model", name)
        assert result.code == 0, result.err
        assert f"3 {name} models" in result.out and f"baselines/{name}/oof.csv" in result.out
        rows = {row["id"]: row for row in read_csv(out / "predictions.csv")}
        tested = read_csv(run / "baselines" / name / "oof.csv")
        assert len(rows) == len(tested) == 48
        for row in tested:
            assert float(rows[row["id"]][f"score_fold_{row['fold']}"]) == pytest.approx(float(row["score"]), abs=1e-9)
    for name, words in (("ridge_al", ("ridge_all",)), ("covariates", ("which new cases need not have",))):
        medformer("abide", "predict", run, cohort, "--out", tmp_path / "x", "--model", name).refused(2, *words)
    finding = "Nothing here speaks against the simpler model"
    named = [finding in (run / page).read_text("utf-8") for page in ("report.html", "model_card.md")]
    assert named[0] == named[1]


def test_the_same_run_again_gives_the_same_table(run: Path, cohort: Path, tmp_path: Path, medformer: Medformer) -> None:
    again = tmp_path / "again"
    result = medformer(
        "abide", "crossval", "--data", cohort / "manifest.csv", "--out", again, *QUICK, "--no-baselines", report=False
    )
    assert result.code == 0, result.err
    assert (again / "oof.csv").read_bytes() == (run / "oof.csv").read_bytes()


def test_a_run_that_was_cut_off_in_pretraining_and_in_training_ends_the_same(
    run: Path, cohort: Path, tmp_path: Path, medformer: Medformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "cut"
    command = ("abide", "crossval", "--data", cohort / "manifest.csv", "--out", out, *QUICK, "--no-baselines")
    original, calls = Loop._end_epoch, [0]
    for stop_at in (1, 6):
        calls[0] = 0

        def pressed(loop: Loop, limit: int = stop_at) -> None:
            calls[0] += 1
            if calls[0] > limit:
                raise KeyboardInterrupt
            original(loop)

        with monkeypatch.context() as patched:
            patched.setattr(Loop, "_end_epoch", pressed)
            assert medformer(*command, *(["--resume"] if out.is_dir() else [])).code == 130
    result = medformer(*command, "--resume", report=False)
    assert result.code == 0, result.err
    assert (out / "oof.csv").read_bytes() == (run / "oof.csv").read_bytes()


def test_the_report_needs_neither_weights_nor_data(run: Path, tmp_path: Path, medformer: Medformer) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    for weights in copy.rglob("*.safetensors"):
        weights.unlink()
    result = medformer("report", copy)
    assert result.code == 0, result.err
    assert (copy / "metrics.json").read_bytes() == (run / "metrics.json").read_bytes()


def test_what_a_fold_learns_from_does_not_depend_on_its_test_subjects(cohort: Path, run: Path) -> None:
    settings = ["features.harmonize=combat", "features.confounds=[mean_fd]", "data.measure=tangent"]
    config = load_config("abide/roi", [f"data.manifest={cohort / 'manifest.csv'}", *settings], model=AbideConfig)
    fold = read_plan(run / "splits.json").folds[0]

    class Disturbed(CohortFeatures):
        """Test subjects whose connectomes are somebody else's, many times stronger."""

        def __getitem__(self, name: str) -> Any:
            if name not in fold.test:
                return super().__getitem__(name)
            vector = super().__getitem__(fold.train[0]).copy()
            vector[: self.columns.edges] *= 7
            return vector

    read = read_cohort(cohort)
    honest, disturbed = ({}, {})
    for made, kind in ((honest, CohortFeatures), (disturbed, Disturbed)):
        features = kind(read, config)
        fitted, train = FoldFeatures.fit(config, features, fold.train)
        made |= {part: fitted.transform(features, ids) for part, ids in fold.parts.items()}
        assert all(np.array_equal(made["train"][atlas], inputs) for atlas, inputs in train.items())
    for atlas in ("coarse", "fine"):
        assert np.array_equal(honest["train"][atlas], disturbed["train"][atlas])
        assert np.array_equal(honest["validation"][atlas], disturbed["validation"][atlas])
        assert not np.array_equal(honest["test"][atlas], disturbed["test"][atlas])


def test_folds_in_processes_learn_the_same_and_nothing_of_each_other(run: Path, cohort: Path, tmp_path: Path) -> None:
    out, plan = RunDirectory.create(tmp_path / "out"), read_plan(run / "splits.json")
    first, second = plan.folds[:2]
    config = load_config(str(run / "config.yaml"), model=AbideConfig)
    study = AbideTask().open(config, SilentReporter())

    class Disturbing(ConnectomeLearner):
        """One whose subjects of the second fold's test part have somebody else's connectomes, many times stronger."""

        def fit(self, context: Context) -> ClassPredictor:
            class Disturbed(CohortFeatures):
                def __getitem__(self, name: str) -> Any:
                    vector = super().__getitem__(name)
                    return vector if name not in second.test else super().__getitem__(second.train[0]) * 7

            features = Disturbed(self.study.data, self.study.config)
            return ConnectomeLearner(study=self.study, features=features).fit(context)

    job = LearnerJob(Disturbing(study=study, features=study.features), out, config.seed)
    # One process for both, so that what the first leaves there would be seen.
    two = replace(plan, folds=(first, second))
    with ProcessExecutor(workers=1, cpus_per_fold=torch.get_num_threads()) as executor:
        execute(two, job, out, executor=executor)
    same = {
        fold: [
            (out.fold(fold.index) / name).read_bytes() == (run / "folds" / str(fold.index) / name).read_bytes()
            for name in ("model.safetensors", "pretraining/model.safetensors", "predictions.csv")
        ]
        for fold in two.folds
    }
    assert same == {first: [False] * 3, second: [True] * 3}


def test_pretraining_may_not_see_whom_a_fold_tests(
    cohort: Path, source: Path, tmp_path: Path, medformer: Medformer
) -> None:
    common = ("abide", "crossval", "--data", cohort / "manifest.csv", *QUICK, "--no-baselines")
    leaking = medformer(*common, "--out", tmp_path / "a", f"pretraining.extra={cohort / 'manifest.csv'}")
    leaking.refused(4, "seen by pretraining on manifest.csv", "(48 seen-data)")

    everyone = tmp_path / "encoder"
    result = medformer("abide", "pretrain", "--data", cohort / "manifest.csv", "--out", everyone, *QUICK)
    assert result.code == 0, result.err
    assert "guessing each connection's mean gives" in result.out
    medformer(*common, "--out", tmp_path / "b", f"pretraining.weights={everyone}").refused(4, "seen by pretraining in")

    others = tmp_path / "others"
    write_synthetic_abide(
        tmp_path / "more", subjects=20, regions={"coarse": 12, "fine": 16}, sites=2, volumes=80, seed=9
    )
    assert medformer("abide", "prepare", tmp_path / "more", "--out", others).code == 0
    rename(others / "manifest.csv")
    result = medformer(*common, "--out", tmp_path / "c", f"pretraining.extra={others / 'manifest.csv'}", report=False)
    assert result.code == 0, result.err


def test_a_network_of_a_run_may_be_trained_further_and_not_be_tested_on_what_it_has_seen(
    run: Path, cohort: Path, tmp_path: Path, medformer: Medformer
) -> None:
    command = ("abide", "crossval", *QUICK, "--no-baselines", "--init-from", run, "pretraining.enabled=false")
    data = ("--data", cohort / "manifest.csv", "--out", tmp_path / "run")
    leaking = medformer(*command, *data)
    fold = read_plan(run / "splits.json").folds[0]
    leaking.refused(4, f"({len({*fold.train, *fold.validation})} seen-data)", "seen by fold 0 of run")
    other = ("crossval.folds=2", "data.atlases=[fine]", "members=2", "training.epochs=1")
    result = medformer(*command, *data, *other, "--accept-leak", "seen-data:*", report=False)
    assert result.code == 0, result.err
    record = read_json(tmp_path / "run/folds/0/start.json")
    assert record["adapted"] == {"fusion.fuse.weight": "of fine: fine"} and not record["left"]
    assert "members 1 there, 2 here" in record["differing"]
    assert any(name.startswith("encoder.tokens.atlas_coarse") for name in record["unused"])


def test_a_copy_under_another_name_is_linked_or_refused(
    cohort: Path, source: Path, tmp_path: Path, medformer: Medformer
) -> None:
    folder = tmp_path / "copied"
    shutil.copytree(source, folder)
    rows = read_csv(cohort / "manifest.csv")
    first, second = rows[0]["id"], next(row["id"] for row in rows if row["label"] != rows[0]["label"])
    for series in folder.rglob(f"{first}_rois_*.1D"):
        text = series.read_text().splitlines(keepends=True)
        # Not byte for byte: the last volumes are missing.
        series.with_name(series.name.replace(first, second)).write_text("".join(text[:-4]))
    out = tmp_path / "cohort"
    prepared = medformer("abide", "prepare", folder, "--out", out)
    assert prepared.code == 0, prepared.err
    assert "1 same-brain" in prepared.out and "different diagnoses" in prepared.out
    checked = medformer("abide", "check", out, "--out", tmp_path / "checked")
    assert checked.code == 0 and f"warning: {second}: same-brain: like '{first}'" in checked.out
    assert [row["reason"] for row in read_csv(tmp_path / "checked" / "problems.csv")] == ["same-brain"]
    run = medformer("abide", "crossval", "--data", out, "--out", tmp_path / "r", *QUICK, "--no-baselines", report=False)
    assert run.code == 0, run.err
    parts = {row["id"]: row["fold"] for row in read_csv(tmp_path / "r" / "oof.csv")}
    assert parts[first] == parts[second]

    table = read_csv(out / "manifest.csv")
    for row in table:
        row["group"] = row["id"]
    write_csv(out / "manifest.csv", table, list(table[0]))
    refused = medformer(
        "abide", "crossval", "--data", out, "--out", tmp_path / "s", *QUICK, "--no-baselines", "seed=3", report=False
    )
    if refused.code:  # the two may fall into one fold by chance
        refused.refused(4, first, second, "near-duplicate")


def test_a_site_without_training_subjects_is_left_uncorrected_and_counted_or_refused(
    cohort: Path, tmp_path: Path, medformer: Medformer
) -> None:
    common = ("abide", "crossval", "--data", cohort / "manifest.csv", *QUICK, "--no-baselines")
    settings = ("crossval.scheme=leave-one-site-out", "features.harmonize=combat")
    result = medformer(*common, "--out", tmp_path / "a", *settings, report=False)
    assert result.code == 0, result.err
    assert sum(read_json(tmp_path / "a" / "cohort.json")["unseen_sites"].values()) == 48
    medformer(*common, "--out", tmp_path / "b", *settings, "features.unseen_site=error").refused(3, "site")


@pytest.mark.parametrize(
    ("override", "code", "words"),
    [
        ("data.atlases=[cc200]", 2, ("cc200", "coarse, fine")),
        ("model.name=roi_metaformr", 2, ("roi_metaformr", "roi_metaformer")),
        ("data.measure=corelation", 2, ("correlation",)),
        ("pretraining.ratio=1.5", 2, ("pretraining.ratio",)),
        ("pretraining.weights=nowhere", 3, ("nowhere",)),
        ("training.epoch=3", 2, ("training.epochs",)),
        ("model.defects=[hard_label_auc]", 2, ("hard_label_auc", "how scores are judged")),
        ("model.defects=[across_subjects]", 2, ("across_subjects", "metaformer_paper")),
    ],
)
def test_mistakes_are_named_before_anything_is_computed(
    cohort: Path, tmp_path: Path, medformer: Medformer, override: str, code: int, words: tuple[str, ...]
) -> None:
    common = ("abide", "crossval", "--data", cohort / "manifest.csv", "--out", tmp_path / "x", *QUICK)
    medformer(*common, override).refused(code, *words)


def test_covariates_that_are_needed_must_be_known(cohort: Path, tmp_path: Path, medformer: Medformer) -> None:
    copy = tmp_path / "cohort"
    shutil.copytree(cohort, copy)
    rows = read_csv(copy / "manifest.csv")
    rows[5]["age"] = ""
    write_csv(copy / "manifest.csv", rows, list(rows[0]))
    common = ("abide", "crossval", "--data", copy, *QUICK, "--no-baselines")
    medformer(*common, "--out", tmp_path / "a", "features.confounds=[age]").refused(3, rows[5]["id"], "age")
    assert medformer(*common, "--out", tmp_path / "b", report=False).code == 0


def test_one_subject_of_a_class_is_too_few(cohort: Path, tmp_path: Path, medformer: Medformer) -> None:
    copy = tmp_path / "cohort"
    shutil.copytree(cohort, copy)
    rows = read_csv(copy / "manifest.csv")
    patient = next(row for row in rows if row["label"] == "1")
    rows = [row for row in rows if row["label"] == "0" or row is patient]
    write_csv(copy / "manifest.csv", rows, list(rows[0]))
    medformer("abide", "crossval", "--data", copy, "--out", tmp_path / "a", *QUICK).refused(
        3, "class '1'", "at least 2"
    )


def rename(manifest: Path) -> None:
    """Other people than those of the first cohort, though the generator counts both from one."""
    store = manifest.parent / "features" / "store.json"
    with open(manifest, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    text = store.read_text("utf-8")
    for row in rows:
        text = text.replace(f'"{row["id"]}"', f'"x{row["id"]}"')
        row["id"], row["group"] = f"x{row['id']}", f"x{row['group']}"
    store.write_text(text, "utf-8")
    write_csv(manifest, rows, list(rows[0]))


def test_runs_on_different_connections_share_a_plan_and_can_be_compared(
    cohort: Path, run: Path, tmp_path: Path, medformer: Medformer
) -> None:
    other = tmp_path / "other"
    common = ("abide", "crossval", "--data", cohort, "--out", other, *QUICK, "--no-baselines")
    assert medformer(*common, "data.measure=correlation", "pretraining.enabled=false", report=False).code == 0
    compared = medformer("compare", run, other)
    assert compared.code == 0, compared.err
    assert "AUC" in compared.out
