from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from html import unescape
from pathlib import Path

import pytest

from medformer.crossval.run.directory import RunDirectory
from medformer.errors import DataError
from medformer.files import read_csv, read_json, write_csv, write_json
from medformer.reporting.explanation import read_explanation
from medformer.reporting.finished_run import FinishedRun
from medformer.reporting.read_run import _Gates, read_finished_run
from medformer.reporting.report import build_report, render_section
from medformer.reporting.sections import SECTIONS

Copy = Callable[[], RunDirectory]


@pytest.fixture(scope="module")
def report(connectomes: Path) -> str:
    return build_report(connectomes).read_text("utf-8")


@pytest.fixture
def copy(connectomes: Path, tmp_path: Path) -> Copy:
    """Gives a copy of the connectome run to change."""

    def give() -> RunDirectory:
        shutil.copytree(connectomes, tmp_path / "run")
        return RunDirectory.open(tmp_path / "run")

    return give


def part(report: str, key: str) -> str:
    """The text of a section, without its drawings."""
    found = re.search(rf'<section id="{key}".*?</section>', report, re.DOTALL)
    assert found is not None
    text = found.group().replace("<wbr>", "")
    return " ".join(unescape(re.sub(r"<svg.*?</svg>|<[^>]+>", " ", text, flags=re.DOTALL)).split())


def keys_of(run: FinishedRun) -> set[str]:
    """Which sections a run has."""
    return {section.key for section in SECTIONS if section.applies(run)}


def texts(run: RunDirectory, key: str) -> str:
    """The text of one section of a run; empty where the run has no such section."""
    finished = read_finished_run(run.path)
    sections = [section for section in SECTIONS if section.key == key and section.applies(finished)]
    facts = {section.key: section.facts(finished) for section in sections}
    return part(f'<section id="{key}">{render_section(key, finished, facts)}</section>', key) if key in facts else ""


def test_sections_come_in_reading_order(report: str) -> None:
    keys = re.findall(r'<section id="([^"]+)"', report)
    assert keys.index("data") + 1 == keys.index("cohort")
    assert keys.index("results") < keys.index("gallery") < keys.index("site-probe") < keys.index("attribution")
    assert keys.index("attribution") < keys.index("data") < keys.index("pretraining")
    assert "150 subjects" in part(report, "summary")
    assert "a person, with all of their scans" in part(report, "data")


def test_report_repeats_and_asks_for_nothing(connectomes: Path, report: str) -> None:
    assert build_report(connectomes).read_text("utf-8") == report
    assert not re.findall(r'(?:href|src)="(?!#|data:)[^"]*"', report)
    assert "<b onclick" not in report and "<i>sub" not in report


def test_leading_connections_are_those_of_the_table(report: str, connectomes: Path) -> None:
    text = part(report, "attribution")
    first = read_csv(connectomes / "explain" / "edges.csv")[0]
    assert f"1 dos160 {first['name_i']} ({first['network_i']}) {first['name_j']} ({first['network_j']})" in text
    assert "sensorimotor – sensorimotor dos160" in text
    assert "cc200 is not drawn on a brain, because the coordinates of its regions are not known" in text
    assert "1 region without coordinates cannot be shown" in text
    assert "Rank correlation between 5 folds" in text
    assert "(rank correlation) 0.050 at most 0.5" in text
    assert report.count('aria-label="The 30 leading connections of dos160 on a glass brain') == 1


def test_every_figure_says_what_it_shows(report: str) -> None:
    for key in ("attribution", "pretraining"):
        section = re.search(rf'<section id="{key}".*?</section>', report, re.DOTALL)
        assert section is not None
        labels = re.findall(r'role="img" aria-label="([^"]*)"', section.group())
        assert labels and all(len(label) > 60 for label in labels)


def test_doubts_come_as_cautions(copy: Copy) -> None:
    run = copy()
    about = read_json(run.explain / "explain.json")
    about["randomization"]["passed"] = False
    about["completeness"] |= {"largest_gap": 0.31, "complete": False}
    about["stability"] |= {"folds": 1, "spearman": None, "jaccard": None}
    about["separation"] = -0.2
    write_json(run.explain / "explain.json", about)
    text = texts(run, "attribution")
    for sentence in (
        "A network with random weights gives nearly the same map",
        "miss up to 31% of the scores",
        "Only one fold could be explained",
        "how the model errs",
    ):
        assert sentence in text
    assert "Rank correlation between" not in text


def test_model_at_chance_explains_nothing(copy: Copy) -> None:
    run = copy()
    metrics = read_json(run.metrics_json)
    metrics["pooled"]["metrics"]["auc"] |= {"value": 0.52, "low": 0.44, "high": 0.6}
    write_json(run.metrics_json, metrics)
    assert "not clearly better than chance (AUC 0.520, 95% interval 0.440 to 0.600)" in texts(run, "attribution")


def test_damaged_explanation_is_named(copy: Copy) -> None:
    run = copy()
    rows = read_csv(run.explain / "regions.csv")
    write_csv(run.explain / "regions.csv", rows[1:], list(rows[0]))
    with pytest.raises(DataError, match=r"explain is not a complete explanation .*abide explain. again"):
        read_finished_run(run.path)
    (run.explain / "explain.json").unlink()
    assert read_explanation(run.explain) is None
    assert texts(run, "attribution") == ""


def test_pretraining_is_held_against_the_mean_connection(report: str, copy: Copy) -> None:
    text = part(report, "pretraining")
    assert (
        "The network explains 24.5% of what the mean connection does not, and is better than it in every fold" in text
    )
    assert "All 120 0.7550 1.0000 24.5% 38.0% 20.0%" in text
    run = copy()
    record = read_json(run.fold(2) / "pretraining.json")
    write_json(run.fold(2) / "pretraining.json", {**record, "masked_mse": 1.02})
    assert "In 1 fold of 5 the network is no better than the mean connection" in texts(run, "pretraining")


def test_the_report_says_what_the_gates_decided(report: str, copy: Copy) -> None:
    text = part(report, "wide")
    assert "2 cc200 0.500 0.500 0.0400 0.0300" in text and "1 cc200 0.000 0.500 0.0200 0.0300" in text
    assert "was not added in any fold" not in text
    assert "added 3 of 5 networks to the linear model" in part(report, "summary")
    run = copy()
    for fold in range(5):
        record = read_json(run.fold(fold) / "wide.json")
        few = {"value": 0.0, "gain": None, "error": None, "best": None}
        write_json(run.fold(fold) / "wide.json", {"networks": [record["networks"][0] | few]})
    assert "The network was not added in any fold" in texts(run, "wide")


def test_cohort_counts_who_was_left_out_and_which_rules_applied(report: str, copy: Copy) -> None:
    text = part(report, "cohort")
    assert "150 subjects were kept and 36 left out" in text
    assert "motion 35 no_filename 1 All 36" in text
    assert "the first 12 of 36; exclusions.csv" in text
    assert "region without signal its connections are 0 12 subjects" in text
    assert "4 subjects came from sites that the training part of their fold does not contain" in text
    run = copy()
    write_json(run.cohort_json, {"kept": 1})
    assert "1 subject was kept; none was left out." in texts(run, "cohort")
    write_json(run.cohort_json, {})
    assert texts(run, "cohort") == ""


def test_other_runs_have_none_of_these(classified: Path) -> None:
    assert {"attribution", "pretraining", "cohort"}.isdisjoint(keys_of(read_finished_run(classified)))


def test_the_positive_class_is_called_what_the_cohort_calls_it(connectomes: Path, tmp_path: Path) -> None:
    shutil.copytree(connectomes, tmp_path / "run")
    run = RunDirectory.open(tmp_path / "run")
    assert "Positive (" not in texts(run, "data") + texts(run, "ranking")
    names = {"1": "major depression", "0": "control"}
    write_json(run.cohort_json, {**read_json(run.cohort_json), "label_names": names})
    assert "Positive (major depression)" in texts(run, "data")
    assert "Positive (major depression)" in texts(run, "ranking")


@pytest.mark.parametrize("key", ["sees", "atlas"])
def test_what_a_simple_model_reads_is_found_under_its_first_name_too(key: str) -> None:
    gate = {"value": 0.0, "gain": None, "error": None, "best": None, "reason": ""}
    read = _Gates.model_validate({"networks": [{key: "cc200", **gate}]})
    assert read.plain["networks"] == [{"sees": "cc200", **gate}]
