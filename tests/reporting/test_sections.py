"""The table of sections: each has its template, and nothing from a run's files becomes markup."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import medformer
from medformer.crossval.plan import PlanCase
from medformer.crossval.plan.balance import balance_table
from medformer.crossval.plan.schemes import make_plan
from medformer.crossval.run.directory import RunDirectory
from medformer.files import read_json, write_json, write_text
from medformer.reporting.read_run import read_finished_run
from medformer.reporting.report import build_model_card, build_report, render_section
from medformer.reporting.sections import SECTIONS, facts_of, plans, training

TEMPLATES = Path(medformer.__file__).parent / "reporting" / "templates"
HOSTILE = "<b onclick=alert(1)>hostile</b>"


def test_every_section_has_a_template_and_every_template_a_section() -> None:
    keys = [section.key for section in SECTIONS]
    assert len(set(keys)) == len(keys)
    assert {file.name for file in (TEMPLATES / "sections").iterdir()} == {f"{key}.html.j2" for key in keys}
    checks = {f"{section.key}.j2" for section in SECTIONS if section.is_check}
    assert {file.name for file in (TEMPLATES / "checks").iterdir()} == checks


@pytest.mark.usefixtures("undrawn")
def test_each_section_is_made_of_some_run(
    finished: Path, classified: Path, connectomes: Path, segmented_volumes: Path
) -> None:
    runs = [finished / "run", classified, connectomes, segmented_volumes / "run"]
    found = {key for run in runs for key in facts_of(read_finished_run(run))}
    assert found == {section.key for section in SECTIONS}


@pytest.mark.usefixtures("undrawn")
def test_baselines_that_the_config_asks_for_and_nobody_finds_are_a_caution(finished: Path) -> None:
    run = read_finished_run(finished / "run")
    config = "crossval:\n  baselines: true\n"
    for changed, said in (
        (replace(run, config_text=config), False),
        (replace(run, config_text=config, baselines={}), True),
        (replace(run, config_text=config.replace("true", "false"), baselines={}), False),
    ):
        text = render_section("summary", changed, facts_of(changed))
        assert ("The config of this run asks for baselines" in text) == said


def hostile(value: object, file: str) -> object:
    """The same content with every word replaced, except for what decides how it is read."""
    if isinstance(value, dict):
        return {key: part if key in ("severity", "state") else hostile(part, file) for key, part in value.items()}
    if isinstance(value, list):
        return [hostile(part, file) for part in value]
    return f"{HOSTILE}{file} {value}" if isinstance(value, str) else value


def test_words_of_files_stay_text(connectomes: Path, tmp_path: Path) -> None:
    shutil.copytree(connectomes, tmp_path / "run")
    run = RunDirectory.open(tmp_path / "run")
    files = ["audit.json", "cohort.json", "site_probe.json", "run.json"]
    for file in files:
        content = read_json(run.path / file)
        if file == "audit.json":
            finding = {"name": "x", "kind": "file", "a": "1", "b": "2", "files": ["3", "4"], "detail": "5"}
            content["findings"] = [finding]
            content["problems"] = [{"id": "6", "severity": "warning", "reason": "7", "detail": "8"}]
        if file == "run.json":
            changed = {"notes": ["9"], "accepted_leaks": ["10"], "reason": "11", "manifest": "12"}
            content |= {key: hostile(value, file) for key, value in changed.items()} | {"state": "failed"}
        else:
            content = hostile(content, file)
        write_json(run.path / file, content)
    write_text(run.config_yaml, f"model:\n  name: '{HOSTILE}config.yaml'\n")
    write_json(run.run_json, {**read_json(run.run_json), "config_sha256": ""})
    build_report(run.path)
    page = run.report_html.read_text("utf-8").replace("<wbr>", "")
    assert "<b " not in page
    for file in [*files, "config.yaml"]:
        assert f"&lt;b onclick=alert(1)&gt;hostile&lt;/b&gt;{file}" in page
    _, _, card = run.model_card_md.read_text("utf-8").split("---\n", 2)
    assert "<b" not in card.replace("\\<b", "")


def test_long_names_that_differ_in_the_middle_keep_their_columns() -> None:
    sites = [f"{'hospital' * 4}{index}{'department' * 4}" for index in range(3)]
    cases = [PlanCase(f"c{index}", f"g{index}", site=sites[index % 3]) for index in range(18)]
    plan = make_plan(cases, folds=3, validation=0.25, seed=0)
    run: Any = SimpleNamespace(plan=plan)
    assert list(plans.plan(run)["whole"].values()) == list(balance_table(plan).rows[0])


def test_what_the_inner_validation_part_chose_is_what_was_learned_on_it(finished: Path) -> None:
    run = read_finished_run(finished / "run")
    last, learned = "training:\n  keep: last\n", {"threshold": 0.4, "from": "inner validation", "learned": True}
    fixed = {0: {"threshold": 0.5, "from": "config", "learned": False}}
    for changed, chosen in (
        (run, "the epoch"),
        (replace(run, config_text=last), ""),
        (replace(run, config_text=last, decisions=fixed), ""),
        (replace(run, decisions={0: learned}), "the epoch and the threshold"),
        (
            replace(run, config_text=last, decisions={0: {**learned, "calibration": {"reason": "too few"}}}),
            "the threshold",
        ),
    ):
        assert changed.chosen == chosen
        text = " ".join(render_section("plan", changed, {"plan": plans.plan(changed)}).split())
        part = f"the inner validation part chooses {chosen}, " if chosen else ""
        assert f"fitted on the training part, {part}and the test part is only predicted" in text


def test_a_card_lists_the_settings_that_counted(finished: Path, segmented_volumes: Path) -> None:
    config = "training:\n  epochs: 100\n  minutes: 4.5\n  batch_size: 16\n"
    pretrained = {"name": "net.in1k", "data": "ImageNet-1k", "license": "apache-2.0", "sha256": "ab", "revision": ""}
    for folder, settings in ((finished, "minutes 4.5, batch_size 16"), (segmented_volumes, "minutes 4.5")):
        run = read_finished_run(folder / "run")
        run = replace(run, config_text=config, record={**run.record, "pretrained": pretrained})
        card = build_model_card(run, facts_of(run, for_card=True))
        assert f"\nSettings: {settings}. " in card
        began = "The encoder of that network had started from" if run.starts else "The encoder started from"
        assert f"{began} net.in1k" in card
        assert not run.starts or "Training started from fold 0 of run. The encoder of" in card


def test_what_the_audit_could_not_compare_is_not_said_to_be_compared(finished: Path) -> None:
    run = read_finished_run(finished / "run")
    for audit, words in (
        (run.audit, "compared the cases that this network has seen with"),
        ({"unknown": ["A bundle names no cases."]}, "a part of them is not known"),
        (None, "No audit was written"),
    ):
        changed = replace(run, audit=audit)
        assert words in " ".join(render_section("start", changed, {"start": training.start(changed)}).split())
