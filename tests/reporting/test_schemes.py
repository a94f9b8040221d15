"""What a report says of how cases were divided, in every scheme and task, and of what too few cases decided."""

from __future__ import annotations

import re
import shutil
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from undrawn import undrawn

from medformer.config.shared import CrossvalConfig
from medformer.crossval.plan import Plan, PlanCase, read_plan, write_plan
from medformer.crossval.plan.schemes import draw_plan
from medformer.crossval.run.collect import write_metrics
from medformer.crossval.run.directory import RunDirectory
from medformer.crossval.run.journal import FoldState, write_state
from medformer.crossval.run.record import RunInfo, session
from medformer.data.cases import path_from
from medformer.evaluation.masks.segmentation import case_row
from medformer.evaluation.masks.volumes import volume_row
from medformer.evaluation.summary import summarize
from medformer.files import write_csv, write_json
from medformer.inference.classification import learn_decision
from medformer.reporting.read_run import read_finished_run
from medformer.reporting.report import build_model_card, build_report, render_section
from medformer.reporting.sections import SECTIONS

SITES = ("north", "south", "west")
TASKS = ("abide", "polyp", "volume")
SCHEMES = (
    "stratified-group-k-fold",
    "stratified-k-fold",
    "leave-one-site-out",
    "leave-one-dataset-out",
    "hold-out",
    "predefined",
)


def make_run(folder: Path, task: str, scheme: str, *, sites: tuple[str, ...] = SITES, repeats: int = 1) -> RunDirectory:
    cases = [
        PlanCase(
            f"c{index:02d}",
            f"g{index}",
            site=sites[index % len(sites)],
            label=str(index // 3 % 2) if task == "abide" else "",
            covariates={"dataset": sites[index % len(sites)]} if scheme == "leave-one-dataset-out" else {},
        )
        for index in range(36)
    ]
    names = [case.id for case in cases]
    config = CrossvalConfig.model_validate(
        {"scheme": scheme, "folds": 3, "repeats": repeats, "validation": 0.25, "stratify": []}
    )
    plan = draw_plan(cases, config, seed=0, train=names[:24], test=names[24:])
    run = RunDirectory.create(folder / "run")
    info = RunInfo(
        task=task, command=["medformer"], config={"model": {"name": "net"}}, seed=0, device="cpu", data_sha256="0" * 64
    )
    with session(run, info):
        write_plan(run.splits_json, plan)
        rows = [row for fold in plan.folds for row in _rows(task, plan, fold)]
        write_csv(run.oof_csv, rows, list(rows[0]))
        write_metrics(run, summarize)
    return run


def _rows(task: str, plan: Plan, fold: Any) -> list[dict[str, Any]]:
    by_id = {case.id: case for case in plan.cases}
    draw = np.random.default_rng(fold.index)
    rows = []
    for name in fold.test:
        case = by_id[name]
        about = {"id": name, "fold": fold.index, "repeat": fold.repeat, "group": case.group, "site": case.site}
        if task == "abide":
            score = float(np.clip(0.3 * int(case.label) + draw.random() * 0.7, 0, 1))
            rows.append(
                {**about, "label": case.label, "score": score, "threshold": 0.5, "prediction": int(score >= 0.5)}
            )
            continue
        truth = np.zeros((12, 12, 4), np.uint8)
        truth[3:9, 3:9, 1:3] = 1
        found = np.roll(truth, int(draw.integers(0, 4)), axis=0)
        if task == "polyp":
            row = case_row(name, found[..., 1].astype(np.float32), truth[..., 1] > 0, threshold=0.5)
        else:
            row = volume_row(name, found, truth, labels={1: "7102", 2: "spleen"}, spacing=(1, 1, 1))
        rows.append({**row, **about})
    return rows


def sections(run: RunDirectory, *keys: str) -> dict[str, str]:
    """The text of some sections, and of the model card as `card`; drawings and sections that the run lacks left out."""
    finished = read_finished_run(run.path)
    with undrawn():
        facts = {
            section.key: section.facts(finished)
            for section in SECTIONS
            if section.key in {"summary", "audit", "decisions", *keys} and section.applies(finished)
        }
    pages = {key: render_section(key, finished, facts) for key in keys if key in facts}
    found = {
        key: " ".join(
            unescape(re.sub(r"<svg.*?</svg>|<[^>]+>", " ", page.replace("<wbr>", ""), flags=re.DOTALL)).split()
        )
        for key, page in pages.items()
    }
    return {**found, "card": build_model_card(finished, facts)}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_report_names_the_scheme_that_was_run(task: str, scheme: str, tmp_path: Path) -> None:
    run = make_run(tmp_path, task, scheme)
    found = sections(run, "summary", "limits", "results", "plan")
    summary, limits, card = found["summary"], found["limits"], found["card"]
    left_out = {"leave-one-site-out": "site", "leave-one-dataset-out": "dataset"}.get(scheme)
    for text in (summary, card):
        assert ("3-fold cross-validation" in text) == scheme.endswith("k-fold")
        assert ("for unseen groups" in text) == scheme.endswith("k-fold")
        assert ("parts that were given" in text) == (scheme == "predefined")
        assert ("trained on one part of 36" in text) == (scheme == "hold-out")
        assert (f"with one {left_out} left out at a time" in text) == (left_out is not None)
    if left_out:
        assert "nothing about other hospitals" not in summary
        assert f"that were left out: {'AUC' if task == 'abide' else 'mean Dice'} goes from" in summary
        assert f"Fold ({left_out} left out)" in found["results"]
        assert all(f"{fold} ({site})" in found["results"] for fold, site in enumerate(SITES))
        assert f"3 {left_out}s were left out one at a time" in limits
        assert f"tests all cases of one {left_out}" in found["plan"]
    else:
        assert "nothing about other hospitals" in summary and "(north)" not in found["results"]
    # What was done is not advised, and what was not done is.
    assert ("leave-one-site-out" in limits + card) == (scheme.endswith("k-fold") or scheme == "hold-out")
    assert ("Cross-validation measures" in limits) == scheme.endswith("k-fold")


def test_repeats_are_named(tmp_path: Path) -> None:
    run = make_run(tmp_path, "abide", "stratified-group-k-fold", repeats=2)
    assert "3-fold cross-validation, repeated 2 times, on" in sections(run, "summary")["summary"]


@pytest.mark.parametrize("task", TASKS)
def test_a_single_site_has_no_table_of_sites(task: str, tmp_path: Path) -> None:
    run = make_run(tmp_path, task, "stratified-group-k-fold", sites=("north",))
    found = sections(run, "subgroups", "limits", "data")
    assert "Results by site" not in found.get("subgroups", "")
    assert "leave-one-site-out" not in found["limits"]
    assert "All are from one site: north" in found["data"] and "All data come from one site" in found["limits"]


def test_a_label_named_by_its_value_is_called_a_label(tmp_path: Path) -> None:
    found = sections(make_run(tmp_path, "volume", "stratified-group-k-fold"), "labels", "summary")
    assert "label 7102" in found["labels"] and "label 7102, spleen" in found["summary"]


@pytest.mark.parametrize("each", [3, 12])
def test_what_too_few_validation_cases_decided_is_said(each: int, tmp_path: Path) -> None:
    run = make_run(tmp_path, "abide", "stratified-group-k-fold")
    scores, labels = np.linspace(0.1, 0.6, 2 * each), np.repeat([0, 1], each)
    names = [str(number) for number in range(2 * each)]
    for fold in range(3):
        run.fold(fold).mkdir(parents=True, exist_ok=True)
        learn_decision(run.fold(fold), names, labels, scores, calibrate=True, threshold="fit")
    found = sections(run, "summary", "decisions")
    for text in found.values():
        words = text[0].lower() + text[1:]
        if each == 3:
            assert "hreshold stayed at 0.5 in all 3 folds: too few inner validation cases (3 positive and 3" in words
            assert "scores were not calibrated, and are the outputs of the model, in all 3 folds" in words
        else:
            assert "hreshold was learned in all 3 folds, from 12 positive and 12 negative in the inner" in words
            assert "scores were calibrated in all 3 folds, from 12 positive" in words
    assert ("at the fixed threshold 0.50" if each == 3 else "learned on inner validation cases") in found["summary"]


def test_components_of_too_few_validation_volumes_are_said(segmented_volumes: Path) -> None:
    found = sections(RunDirectory.open(segmented_volumes / "run"), "decisions")["decisions"]
    assert "hich components are kept was learned in 1 of 3 folds, from 5 in the inner validation part" in found
    assert "all components were kept in 2 of 3 folds: too few inner validation volumes (4 with" in found


def test_no_path_of_this_machine_is_passed_on(finished: Path) -> None:
    run = RunDirectory.open(finished / "run")
    build_report(run.path)
    for file in (run.report_html, run.model_card_md):
        assert str(finished) not in file.read_text("utf-8")


def test_hostile_names_do_not_leave_the_front_matter(tmp_path: Path) -> None:
    import yaml

    evil = 'north\n---\nlicense: mit\n"- x: [1'
    run = make_run(tmp_path, "abide", "stratified-group-k-fold", sites=(evil, "south"))
    _, front, body = sections(run)["card"].split("---\n", 2)
    content = yaml.safe_load(front)
    assert content["license"] == "unknown" and "# net" in body
    assert content["model-index"][0]["results"][0]["dataset"]["name"].count("south") == 1


def test_an_atlas_name_does_not_leave_its_drawing(connectomes: Path) -> None:
    html = build_report(connectomes).read_text("utf-8")
    assert 'id="brain-0-' in html and 'id="brain-dos160' not in html


def test_degenerate_intervals_are_said_in_report_and_card(tmp_path: Path) -> None:
    run = make_run(tmp_path, "abide", "stratified-group-k-fold")
    rows = [
        {"id": f"c{n}", "fold": n % 2, "repeat": 0, "group": f"g{n}", "site": "a", "label": n // 4}
        | {"score": 0.1 + 0.1 * n, "threshold": 0.5, "prediction": n // 4}
        for n in range(8)
    ]
    write_csv(run.oof_csv, rows, list(rows[0]))
    run.oof_sha256.unlink(missing_ok=True)
    write_metrics(run, summarize)
    write_json(run.audit_json, {"cases": 8, "looked_for": {}, "findings": []})
    found = sections(run, "summary", "results", "ranking")
    for text in found.values():
        assert "none (all resamples equal)" in text and "1.000 to 1.000" not in text


@pytest.mark.parametrize("other", [True, False])
def test_a_baseline_that_failed_is_marked_with_its_reason(other: bool, run_copy: Any) -> None:
    run = run_copy()
    plan = read_plan(run.splits_json)
    if not other:
        shutil.rmtree(run.path / "baselines")
    state = FoldState(1, plan.digest(), state="failed", reason="Out of memory: <b>12 GB</b> at /home/ana/x.py.")
    (run.baseline("unlucky").fold(1)).mkdir(parents=True)
    write_state(run.baseline("unlucky").fold(1), state)
    found = sections(run, "summary", "baselines", "limits")
    assert "unlucky (failed)" in found["baselines"]
    assert (
        "unlucky failed and is missing from the comparison: Out of memory: <b>12 GB</b> at .../x.py."
        in found["baselines"]
    )
    assert "unlucky failed." in found["summary"] and "unlucky failed." in found["card"]
    assert "No baseline was run" not in found["limits"]
    assert ("no baseline could be compared" in found["summary"]) == (not other)


def test_the_pictures_of_the_canary_lie_below_no_folder_of_this_machine(tmp_path: Path) -> None:
    assert path_from(tmp_path / "data", tmp_path / "run" / "canary" / "labels" / "a.png") == "a.png"
    assert path_from(tmp_path / "data", tmp_path / "data" / "masks" / "a.png") == "masks/a.png"
