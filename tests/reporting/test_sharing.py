"""A report that is passed on: nothing in it names a case, a patient, a site, a file, a folder or a machine."""

from __future__ import annotations

import html
import shutil
import socket
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import pytest
from bundles import private_names, told

from medformer.crossval.plan import read_plan
from medformer.crossval.run.directory import RunDirectory
from medformer.evaluation.statistics.resampling import DEFAULT
from medformer.files import read_json, write_json
from medformer.reporting.finished_run import FinishedRun
from medformer.reporting.read_run import read_finished_run
from medformer.reporting.report import build_report
from medformer.reporting.sharing import HARMLESS, shared_run

CopyRun = Callable[[], RunDirectory]


@pytest.mark.parametrize("made", ["finished", "classified", "segmented_volumes", "connectomes"])
def test_no_name_is_told(
    made: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source: Path = request.getfixturevalue(made)
    source = source / "run" if (source / "run").is_dir() else source
    run = Path(shutil.copytree(source, tmp_path / "run"))
    record = read_json(run / "run.json")
    record["sessions"][-1]["reason"] = "case00 could not be read"
    record["notes"] = [*record["notes"], "The file /home/ana/scan.nii was moved.", "case00 is odd."]
    write_json(run / "run.json", record)
    # Names of regions are those of an atlas, and brains take seconds to draw.
    shutil.rmtree(run / "explain", ignore_errors=True)
    monkeypatch.setitem(vars(DEFAULT), "resamples", 50)
    shared = [build_report(run, share=True), run / "model_card_share.md"]
    names = {*private_names(run), *private_names(source)}
    names |= {html.escape(name) for name in names} | {socket.gethostname(), "/home/ana", "image/jpeg", "my config.yaml"}
    assert told([run / "oof.csv", run / "run.json"], names)
    # Too short to be a name of a case in a page of text.
    assert not told(shared, {name for name in names if len(name) > 3})
    assert "case 1" in shared[0].read_text("utf-8")


def test_every_part_of_a_run_is_either_harmless_or_made_anew(finished: Path) -> None:
    run = read_finished_run(finished / "run")
    shared = shared_run(run)
    for part in fields(FinishedRun):
        # A part that is new here needs a decision: what of it names somebody?
        same = getattr(shared, part.name) is getattr(run, part.name)
        assert same == (part.name in HARMLESS) or getattr(run, part.name) is None, part.name


def test_networks_of_before_have_no_name(finished: Path) -> None:
    run = read_finished_run(finished / "run")
    finding = {
        "name": "seen-data:a|case00",
        "kind": "seen-data",
        "a": "a",
        "b": "case00",
        "part_a": "fold 0 of st-mary",
    }
    audit = {"findings": [finding | {"part_b": "fold 1 test", "detail": ""}], "unknown": ["st-mary does not say."]}
    start = {0: {"what": "fold 0 of st-mary", "taken": 3, "adapted": {}, "left": {}, "share": 1.0, "differing": []}}
    shared = shared_run(replace(run, audit=audit, starts=start))
    assert "st-mary" not in str((shared.audit, shared.starts))
    found = (shared.audit or {})["findings"][0]
    assert (found["a"], found["part_a"], found["part_b"]) == ("another", "a network of before", "fold 1 test")


def test_numbers_are_those_of_the_report(finished: Path) -> None:
    run = read_finished_run(finished / "run")
    shared = shared_run(run)
    assert (shared.cases, shared.groups, len(shared.sites)) == (run.cases, run.groups, len(run.sites))
    assert shared.pooled == run.pooled
    assert {name: one.difference for name, one in shared.comparisons[0].items()} == {
        name: one.difference for name, one in run.comparisons[0].items()
    }
    assert shared.plan is not None and run.plan is not None
    assert [len(fold.test) for fold in shared.plan.folds] == [len(fold.test) for fold in run.plan.folds]
    assert [row["dice"] for row in shared.rows] == [row["dice"] for row in run.rows]


def test_one_case_has_one_stand_in_everywhere(finished: Path) -> None:
    run = read_finished_run(finished / "run")
    shared = shared_run(run)
    names = {old["id"]: new["id"] for old, new in zip(run.rows, shared.rows, strict=True)}
    assert len(set(names.values())) == len(names) == 24
    baseline = run.baselines["prior_mask"].rows
    assert [row["id"] for row in shared.baselines["prior_mask"].rows] == [names[row["id"]] for row in baseline]
    assert shared.plan is not None
    order = [case.id for case in read_plan(finished / "run" / "splits.json").cases]
    assert (
        [case.id for case in shared.plan.cases]
        == [names[name] for name in order]
        == [f"case {n}" for n in range(1, 25)]
    )
    finding = (shared.audit or {})["findings"][0]
    assert (finding["a"], finding["b"]) == (names["case00"], names["case09"])
    assert shared.record["accepted_leaks"] == [f"near-duplicate:{names['case00']}|{names['case09']}"]


def test_sentences_that_name_a_case_are_left_out(run_copy: CopyRun) -> None:
    run = run_copy()
    record = read_json(run.run_json)
    # Earlier versions listed the held-out cases, which are in no plan.
    held_out = "2 test row(s) of the data (Lee, Ann, b (1)) are held out: no fold sees them."
    notes = ["The images are synthetic.", "case03 is odd.", "See C:\\ana\\m.csv.", held_out]
    write_json(run.run_json, record | {"notes": notes, "parameters": 7})
    shared = shared_run(read_finished_run(run.path))
    assert shared.record["notes"] == [notes[0], "2 test row(s) of the data are held out: no fold sees them."]
    assert shared.parameters == 7


def test_words_and_dates_of_free_columns_get_letters_and_numbers_stay(finished: Path) -> None:
    run = read_finished_run(finished / "run")
    assert run.plan is not None
    values = dict(zip(("2019-03-12", "Dr. Lee", "1.5", "-2e3"), run.plan.cases, strict=False))
    cases = tuple(replace(case, covariates={"reader": value}) for value, case in values.items())
    rest = run.plan.cases[len(cases) :]
    shared = shared_run(replace(run, plan=replace(run.plan, cases=(*cases, *rest)))).plan
    assert shared is not None
    assert [case.covariates["reader"] for case in shared.cases[:4]] == ["value A", "value B", "1.5", "-2e3"]
