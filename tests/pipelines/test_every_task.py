"""What the three tasks have in common, through the command line: splits of a manifest, the audit, the site probe."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from medformer.config import SCHEMAS
from medformer.config_loading import load_config
from medformer.crossval.run.directory import RunDirectory
from medformer.crossval.run.execute import LearnerJob
from medformer.data.synthetic.abide import write_synthetic_abide
from medformer.data.synthetic.brain_volumes import write_synthetic_volumes
from medformer.files import read_csv, read_json, write_csv
from medformer.progress import SilentReporter
from medformer.tasks import get_task

Medformer = Callable[..., Any]
Row = dict[str, str]

VOLUME = (
    "model.backbone=tiny",
    "plan.patch=[16, 16, 16]",
    "plan.batch_size=2",
    "training.epochs=1",
    "data.patches=1",
    "data.workers=0",
    "crossval.folds=2",
    "inference.overlap=0.25",
)
PRETRAIN = {"polyp": ("model.name=meta_polyp", "model.backbone=tiny", "pretraining.block=8")}
ABIDE = ("model.width=8", "training.epochs=1", "crossval.folds=2", "crossval.validation=0.25")


@dataclass(frozen=True)
class Trial:
    """A task and a copy of its data that a test may change.

    Attributes:
        task: Its name.
        manifest: The table of cases.
        settings: Options and overrides that make a run take about a second.
    """

    task: str
    manifest: Path
    settings: tuple[str, ...]

    def rewrite(self, change: Callable[[Row], Row]) -> list[Row]:
        """Change every row of the manifest, and return them."""
        rows = [change(row) for row in read_csv(self.manifest)]
        write_csv(self.manifest, rows, list(rows[0]))
        return rows

    def run(self, medformer: Medformer, verb: str, out: Path, *more: str, report: bool = True) -> Any:
        """Train or cross-validate."""
        return medformer(self.task, verb, "--data", self.manifest, "--out", out, *self.settings, *more, report=report)


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_volumes(tmp_path_factory.mktemp("volumes"), cases=8, spacing=12.0)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory, medformer: Medformer) -> Path:
    folder = tmp_path_factory.mktemp("abide")
    write_synthetic_abide(folder / "series", subjects=32, regions={"coarse": 12}, sites=2, effect=3.0, volumes=60)
    assert medformer("abide", "prepare", folder / "series", "--out", folder / "cohort").code == 0
    return folder / "cohort" / "manifest.csv"


TASKS = ("polyp", "volume", "abide")


def new_trial(request: pytest.FixtureRequest, folder: Path) -> Trial:
    """A copy of the data of the task that a fixture is asked for."""
    task, settings = request.param, request.getfixturevalue("settings")
    manifest = request.getfixturevalue({"polyp": "data", "volume": "volumes", "abide": "cohort"}[task])
    shutil.copytree(manifest.parent, folder)
    overrides = {"polyp": (*settings, "training.epochs=1"), "volume": VOLUME, "abide": ABIDE}[task]
    return Trial(task, folder / manifest.name, overrides)


@pytest.fixture(params=TASKS)
def trial(request: pytest.FixtureRequest, tmp_path: Path) -> Trial:
    return new_trial(request, tmp_path / "data")


@dataclass(frozen=True)
class HeldOut:
    """A finished cross-validation, with everything beside it, of a manifest that holds rows out.

    Attributes:
        trial: Its task and data.
        run: Its folder.
        result: How the command ended.
        test: The ids that are held out, in the manifest's order.
        others: All others.
    """

    trial: Trial
    run: Path
    result: Any
    test: list[str]
    others: set[str]


@pytest.fixture(scope="module", params=TASKS)
def held_out(request: pytest.FixtureRequest, medformer: Medformer, tmp_path_factory: pytest.TempPathFactory) -> HeldOut:
    folder = tmp_path_factory.mktemp("held_out")
    trial = new_trial(request, folder / "data")
    groups = sorted({row["group"] for row in read_csv(trial.manifest)})
    parts = {group: "Test" if place < len(groups) // 4 else "val" for place, group in enumerate(groups)}
    parts[groups[-1]] = "Holdout"
    sites = {group: ("north", "south")[place % 2] for place, group in enumerate(groups)}
    rows = trial.rewrite(lambda row: row | {"split": parts[row["group"]], "site": sites[row["group"]]})
    test = [row["id"] for row in rows if row["split"] == "Test"]
    result = trial.run(medformer, "crossval", folder / "run", "crossval.permute_labels=true")
    assert result.code == 0, result.err
    return HeldOut(trial, folder / "run", result, test, {row["id"] for row in rows} - set(test))


def test_train_learns_from_the_train_rows_and_reports_on_the_test_rows(
    medformer: Medformer, trial: Trial, tmp_path: Path
) -> None:
    groups = sorted({row["group"] for row in read_csv(trial.manifest)})
    tested = groups[: len(groups) // 4]
    rows = trial.rewrite(lambda row: row | {"split": "test" if row["group"] in tested else "train"})
    run = tmp_path / "run"
    result = trial.run(medformer, "train", run)
    assert result.code == 0, result.err
    (fold,) = read_json(run / "splits.json")["folds"]
    test = [row["id"] for row in rows if row["split"] == "test"]
    assert sorted(fold["test"]) == sorted(test)
    assert {*fold["train"], *fold["validation"]} == {row["id"] for row in rows} - set(test)
    group = {row["id"]: row["group"] for row in rows}
    assert not {group[name] for name in fold["train"]} & {group[name] for name in fold["validation"]}
    assert [row["id"] for row in read_csv(run / "oof.csv")] == test
    assert (run / "report.html").stat().st_size > 0
    assert {tuple(row["id"] for row in read_csv(oof)) for oof in run.glob("baselines/*/oof.csv")} == {tuple(test)}
    assert f"Report: {run / 'report.html'}" in result.out


def test_test_rows_are_in_no_fold_and_can_be_predicted_in_the_end(
    medformer: Medformer, held_out: HeldOut, tmp_path: Path
) -> None:
    run, result, test, others = held_out.run, held_out.result, held_out.test, held_out.others
    plan = read_json(run / "splits.json")
    assert {case["id"] for case in plan["cases"]} == others
    for fold in plan["folds"]:
        assert {*fold["train"], *fold["validation"], *fold["test"]} == others
    for table in (run / "oof.csv", run / "canary" / "oof.csv"):
        assert {row["id"] for row in read_csv(table)} == others
    assert "have the split 'Holdout'. They are drawn into folds" in result.err, "only `test` is held out"
    assert f"{len(test)} test row(s)" in result.err and "held out" in (run / "report.html").read_text("utf-8")
    assert not any(name in note for name in others | set(test) for note in read_json(run / "run.json")["notes"])
    (command,) = [line.split("medformer ")[1] for line in result.err.splitlines() if "when this run is done" in line]
    predicted = medformer(*command.replace(" DIR", f" {tmp_path / 'new'}").split())
    assert predicted.code == 0, predicted.err
    table = tmp_path / "new" / ("volumes.csv" if held_out.trial.task == "volume" else "predictions.csv")
    found = [row["id"] for row in read_csv(table)]
    assert found == test if held_out.trial.task != "abide" else set(found) > set(test)


def test_files_of_a_run_have_the_permissions_that_the_umask_gives(held_out: HeldOut, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    expected = {kind: (tmp_path / kind).stat().st_mode for kind in ("file", "folder")}
    entries = sorted(held_out.run.rglob("*"))
    assert {"model.safetensors", "oof.csv", "report.html"} <= {entry.name for entry in entries}
    assert [one for one in entries if one.stat().st_mode != expected["folder" if one.is_dir() else "file"]] == []


def test_a_patient_of_a_fold_and_of_the_held_out_rows_is_a_leak(
    medformer: Medformer, trial: Trial, tmp_path: Path
) -> None:
    rows = read_csv(trial.manifest)
    alike = [row for row in rows if (row["site"], row.get("label")) == (rows[0]["site"], rows[0].get("label"))]
    leak = {"split": "test", "group": rows[0]["group"]}
    trial.rewrite(lambda row: row | (leak if row["id"] == alike[-1]["id"] else {"split": ""}))
    result = trial.run(medformer, "crossval", tmp_path / "run", report=False)
    result.refused(4, f"group:{rows[0]['group']}", "the folds", "held-out test")
    medformer(trial.task, "check", trial.manifest).refused(4, f"group:{rows[0]['group']}", "not test")


def test_pretraining_does_not_see_test_rows(medformer: Medformer, trial: Trial, tmp_path: Path) -> None:
    groups = sorted({row["group"] for row in read_csv(trial.manifest)})
    rows = trial.rewrite(lambda row: row | {"split": "test" if row["group"] == groups[0] else ""})
    encoder = tmp_path / "encoder"
    result = trial.run(medformer, "pretrain", encoder, "pretraining.epochs=1", *PRETRAIN.get(trial.task, ()))
    assert result.code == 0, result.err
    seen = set(read_json(encoder / "subjects.json"))
    assert seen == {row["id"] for row in rows if row["split"] != "test"}
    for command in (("report", encoder), ("compare", encoder, encoder)):
        medformer(*command).refused(2, "is a pretraining: its encoder scored no case")
    trial.rewrite(lambda row: row | {"split": "test"})
    none = trial.run(medformer, "pretrain", tmp_path / "none", *PRETRAIN.get(trial.task, ()))
    none.refused(3, "split that begins with `test`")


def test_train_without_a_split_column_trains_on_all_and_has_nothing_to_report(
    medformer: Medformer, trial: Trial, tmp_path: Path
) -> None:
    rows = trial.rewrite(lambda row: {name: value for name, value in row.items() if name != "split"})
    run = tmp_path / "run"
    result = trial.run(medformer, "train", run)
    assert result.code == 0, result.err
    assert "no test rows, so there is nothing to report" in result.out and str(run / "folds" / "0") in result.out
    (fold,) = read_json(run / "splits.json")["folds"]
    assert fold["test"] == [] and fold["validation"]
    assert {*fold["train"], *fold["validation"]} == {row["id"] for row in rows}
    assert (run / "folds" / "0" / "model.safetensors").is_file()
    medformer("report", run).refused(3, "a training without test rows")
    medformer("compare", run, run).refused(3, "a training without test rows")
    assert read_json(run / "run.json")["state"] == "done"
    assert not (run / "oof.csv").exists() and not (run / "report.html").exists()


def test_check_finds_a_person_on_both_sides_of_the_split(medformer: Medformer, trial: Trial, tmp_path: Path) -> None:
    rows = read_csv(trial.manifest)
    alike = [row for row in rows if (row["site"], row.get("label")) == (rows[0]["site"], rows[0].get("label"))]
    first, second = alike[0]["id"], alike[1]["id"]
    trial.rewrite(
        lambda row: (
            row
            | {"split": "test" if row["id"] == second else "train"}
            | ({"group": rows[0]["group"]} if row["id"] == second else {})
        )
    )
    out = tmp_path / "checked"
    check = (trial.task, "check", trial.manifest, "--out", out)
    leak = f"group:{rows[0]['group']}"
    medformer(*check).refused(4, leak, first, second, "train", "test", "--accept-leak")
    findings = {finding["name"]: finding["accepted"] for finding in read_json(out / "audit.json")["findings"]}
    assert findings[leak] is False
    accepted = medformer(*check, *(word for name in findings for word in ("--accept-leak", name)))
    assert accepted.code == 0, accepted.err
    assert ", accepted by name" in accepted.out
    trial.rewrite(lambda row: row | {"split": "train"})
    whole = medformer(trial.task, "check", trial.manifest)
    assert whole.code == 0 and f"{len(rows)} cases, 0 cannot be used" in whole.out


def test_the_site_is_probed_where_there_are_two(held_out: HeldOut) -> None:
    probe = read_json(held_out.run / "site_probe.json")
    assert (
        probe["applicable"] and probe["sites"] == 2 and probe["chance"] == 0.5 and 0 <= probe["balanced_accuracy"] <= 1
    )


def test_the_work_of_every_fold_can_be_sent_to_another_process(trial: Trial, tmp_path: Path) -> None:
    overrides = [word for word in trial.settings if "=" in word]
    overrides.append(f"data.manifest={trial.manifest}")
    config = load_config(f"{trial.task}/default", overrides, model=SCHEMAS[trial.task])
    study = get_task(trial.task).open(config, SilentReporter())
    inventory = study.inspect(None, SilentReporter())
    run = RunDirectory(tmp_path / "run")
    names = list(study.by_id)
    others = study.relabelled(dict(zip(names, reversed(names), strict=True)), run.canary.path)
    learners = [study.learner(inventory, run.cache), others.learner(inventory, run.cache)]
    for learner in [*learners, *(make() for make in study.baselines(inventory).values())]:
        there = pickle.loads(pickle.dumps(LearnerJob(learner, run, config.seed)))
        assert type(there.learner) is type(learner)
        assert there.learner.study.by_id == learner.study.by_id
    if trial.task == "abide":
        assert [case.label for case in others.cases] == [case.label for case in reversed(study.cases)]
    else:
        assert all(case.mask.is_file() and case.mask.is_relative_to(run.canary.path) for case in others.cases)
    if trial.task == "volume":
        # The hash of another's label map would bring back what was prepared from the case's own.
        assert all(case.mask in learners[0].hashes for case in study.cases)
        assert not any(case.mask in learners[1].hashes for case in others.cases)


def test_check_refuses_a_cohort_of_one_class(medformer: Medformer, cohort: Path, tmp_path: Path) -> None:
    shutil.copytree(cohort.parent, tmp_path / "data")
    trial = Trial("abide", tmp_path / "data" / cohort.name, ())
    trial.rewrite(lambda row: row | {"label": "1"})
    medformer("abide", "check", trial.manifest).refused(3, "All 32 subjects are of the class 1")
