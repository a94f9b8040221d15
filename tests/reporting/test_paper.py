"""What goes into a paper: a checklist that claims nothing that the run does not know, and methods with its numbers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from bundles import private_names, told

from medformer.crossval.plan.schemes import predefined_plan
from medformer.crossval.run.directory import RunDirectory
from medformer.files import read_json, write_json
from medformer.models.weights.store import OWN
from medformer.reporting.finished_run import FinishedRun
from medformer.reporting.model_card import build_model_card
from medformer.reporting.paper.checklist import CLAIM, TRIPOD, Row, checklist, counts
from medformer.reporting.paper.items import ITEMS
from medformer.reporting.paper.methods import methods_text, write_methods
from medformer.reporting.paper.statements import statements_of
from medformer.reporting.read_run import read_finished_run
from medformer.reporting.report import render_section
from medformer.reporting.sections import facts_of
from medformer.reporting.sharing import shared_run
from medformer.reporting.wording import markdown_templates

CopyRun = Callable[[], RunDirectory]
TRIPOD_PARTS = {3: 3, 5: 2, 6: 3, 8: 3, 9: 3, 12: 7, 18: 6, 20: 3, 23: 2, 27: 3}
"""Items of TRIPOD+AI that have parts (a, b, ...), and how many."""

pytestmark = pytest.mark.usefixtures("undrawn")


def said(run: FinishedRun) -> Mapping[str, str]:
    return statements_of(run, facts_of(run, for_card=True), markdown_templates())


def rows(run: FinishedRun) -> dict[str, Row]:
    """The rows of a checklist by their number in CLAIM, or their first one in TRIPOD+AI."""
    statements = statements_of(run, facts_of(run, for_card=True), markdown_templates())
    found = [row for part in checklist(run, statements).values() for row in part]
    return {row.numbers.get(CLAIM, row.numbers.get(TRIPOD, ("",)))[0]: row for row in found}


@pytest.fixture(scope="module")
def images(finished: Path) -> FinishedRun:
    return read_finished_run(finished / "run")


def test_every_number_of_both_guidelines_is_asked_once(images: FinishedRun) -> None:
    items = [item for part in ITEMS.values() for item in part]
    assert sorted(int(item.claim) for item in items if item.claim) == list(range(1, 45))
    asked = [number for item in items for number in item.tripod]
    parts = {
        n: [f"{n}{'abcdefg'[k]}" for k in range(TRIPOD_PARTS[n])] if n in TRIPOD_PARTS else [str(n)]
        for n in range(1, 28)
    }
    assert sorted(asked) == sorted(number for numbers in parts.values() for number in numbers)
    names = {name for item in items for name in item.says}
    assert names <= said(images).keys()


def test_a_segmentation_answers_claim_alone_and_a_classification_both(images: FinishedRun, classified: Path) -> None:
    for run, expected in ((images, {CLAIM: 44}), (read_finished_run(classified), {CLAIM: 44, TRIPOD: 52})):
        found = counts(checklist(run, statements_of(run, facts_of(run, for_card=True), markdown_templates())))
        assert {name: sum(answers.values()) for name, answers in found.items()} == expected
        page = re.sub(r"\s+", " ", render_section("checklist", run, facts_of(run)))
        for answers in found.values():
            assert f": {answers['filled']} of " in page
            assert f"{answers['in part']} in part, and {answers['open']} are for you to write" in page


def test_answers_are_those_of_the_run(images: FinishedRun) -> None:
    found = rows(images)
    assert found["7"].said.startswith("The data were 24 images from 12 groups")
    assert (found["19"].answer, found["7"].answer, found["5"].answer) == ("filled", "in part", "open")
    assert "divided into 3 folds" in found["19"].said and "seed 0" in found["19"].said
    assert "1 finding on both sides of a split, 1 of which the user accepted by name" in found["20"].said
    dice = images.pooled["metrics"]["dice"]
    assert f"{dice['mean']:.3f} (95% interval {dice['low']:.3f} to {dice['high']:.3f})" in found["37"].said
    # Ethics, funding, acquisition and readers are nothing that a run could know.
    for number in ("11", "13", "15", "16", "17", "18", "21", "34", "44"):
        assert found[number].answer == "open" and not found[number].said and found[number].must


def test_first_weights_are_said_as_they_are_recorded(images: FinishedRun) -> None:
    plain = replace(images, starts={})

    def first(**record: object) -> Row:
        return rows(replace(plain, record={**plain.record, **record}))["24"]

    assert first().said == "Training started from random weights." and first().answer == "filled"
    pretrained = {"name": "net.in1k", "data": "ImageNet-1k", "license": "apache-2.0", "sha256": "ab", "revision": ""}
    known = first(pretrained=pretrained)
    assert "net.in1k (trained on: ImageNet-1k; license: apache-2.0" in known.said and known.answer == "filled"
    assert first(pretrained={**pretrained, "data": "not known"}).answer == "in part"
    assert first(pretrained={**pretrained, "data": OWN.data, "license": OWN.license}).answer == "in part"
    before = first(weights={"pretraining.weights": "ab"}, pretrained=pretrained)
    assert "without labels [say on which data" in before.said and "net.in1k" not in before.said
    # Runs of earlier versions record no weights.
    old = {key: value for key, value in plain.record.items() if key != "weights"}
    assert rows(replace(plain, record=old))["24"].answer == "open"
    assert rows(images)["24"].said.startswith("Training started from a trained network [say which")
    assert rows(images)["24"].answer == "in part"
    tuned = rows(replace(images, record={**images.record, "pretrained": pretrained}))["24"]
    assert "The encoder of that network had started from net.in1k (trained on: ImageNet-1k" in tuned.said


def test_masked_pretraining_says_on_what_as_far_as_it_is_known(images: FinishedRun) -> None:
    plain = replace(images, starts={}, pretraining={0: {"masked_mse": 0.1}})
    own = "on the training cases of its fold; labels were not used"
    assert own in said(plain)["first_weights"]
    more = replace(plain, config_text="pretraining:\n  extra: more.csv\n")
    assert "further ones [say which]" in said(more)["first_weights"]
    # The config that is shared leaves out where further cases were.
    assert "cases" not in said(shared_run(more))["first_weights"]
    assert said(replace(plain, pretraining={}, config_text="pretraining:\n  enabled: true\n"))["first_weights"] == ""


def test_volumes_that_are_classified_have_another_loss_than_their_config_names(classified: Path) -> None:
    text = "loss:\n  name: dice_ce\ntraining:\n  epochs: 7\n"
    assert (
        "7 epochs; the loss was cross_entropy"
        in said(replace(read_finished_run(classified), record={"task": "volume"}, config_text=text))["training"]
    )


def test_a_start_that_may_have_seen_the_cases_takes_the_claim_back(images: FinishedRun) -> None:
    def card(**audit: object) -> str:
        run = replace(images, audit={**(images.audit or {}), **audit})
        return build_model_card(run, facts_of(run, for_card=True))

    assert "for unseen groups" in card() and "began with one" not in card()
    unknown, known = card(unknown=["Nobody can tell."]), card(findings=[{"kind": "seen-data"}])
    assert "began with one that may have seen cases that are tested here" in unknown
    assert "began with one that had seen cases that are tested here" in known
    assert "for unseen groups" not in unknown + known


def test_false_alarms_are_of_the_images_that_could_have_one(images: FinishedRun) -> None:
    whole = [{**row, "truth_px": 50, "pred_px": 50} for row in images.rows]
    assert "so that false alarms were not measured" in said(replace(images, rows=whole))["failures"]
    two = [{**row, "truth_px": 0} for row in whole[:2]]
    found = said(replace(images, rows=[*two, *whole[2:]]))["failures"]
    assert "nothing was marked, 2 of 2 images without foreground had a false alarm, and" in found
    assert "measured" not in found


def test_images_without_patients_are_for_the_author_to_explain(images: FinishedRun) -> None:
    assert images.plan is not None
    cases = tuple(replace(case, group=case.id) for case in images.plan.cases)
    found = rows(replace(images, plan=replace(images.plan, cases=cases)))["20"]
    assert found.answer == "in part" and "every image counted as a patient or sequence of its own [say" in found.said
    assert rows(images)["20"].answer == "filled"


def test_parts_that_were_given_are_for_the_author_to_explain(images: FinishedRun) -> None:
    assert images.plan is not None
    fold = images.plan.folds[0]
    plan = predefined_plan(
        images.plan.cases, train=fold.train, validation=list(fold.validation), test=fold.test, seed=0
    )
    found = rows(replace(images, plan=plan))["19"]
    assert found.answer == "in part" and "given, not drawn [say who made them, and how]" in found.said
    assert "seed" not in found.said
    assert "apart by group" not in rows(replace(images, plan=plan))["20"].said
    assert rows(replace(images, plan=plan))["20"].answer == "in part"


def test_parts_are_balanced_by_columns_in_which_cases_differ(images: FinishedRun) -> None:
    assert images.plan is not None
    plan = replace(images.plan, settings={**images.plan.settings, "stratify": ["site", "label"]})
    assert " Parts were balanced by site as far as" in said(replace(images, plan=plan))["division"]
    cases = tuple(replace(case, site="") for case in plan.cases)
    assert "balanced" not in said(replace(images, plan=replace(plan, cases=cases)))["division"]
    apart = replace(plan, scheme="leave-one-site-out", settings={"left_out": "site", "stratify": ["site"]})
    assert "Inner validation parts were balanced by site" in said(replace(images, plan=apart))["division"]


def test_methods_say_what_was_done_and_not_what_could_have_been(images: FinishedRun, segmented_volumes: Path) -> None:
    text = "training:\n  minutes: 30\n  epochs: 100\n  patience: 9\n  keep: best\n"
    found = said(replace(images, config_text=text))
    assert found["training"].startswith("Networks were trained for at most 30 minutes.")
    assert "after 9 epochs without a better one, a training ended early" in found["selection"]
    assert "before" not in found["internal"] and "in this run" in found["internal"]
    leak = {"kind": "seen-group", "a": "old", "b": "case01", "accepted": True}
    accepted = said(replace(images, audit={"findings": [leak], "looked_for": {}}))["internal"]
    assert "had seen some of what is tested, which the user accepted (1 finding" in accepted
    sessions = [{"device": "cpu", "versions": {"torch": "2"}}, {"device": "cuda: H100", "versions": {"torch": "2"}}]
    assert (
        "It ran on cpu and on cuda: H100."
        in said(replace(images, record={"task": "polyp", "sessions": sessions}))["software"]
    )
    volumes = replace(read_finished_run(segmented_volumes / "run"), config_text="inference:\n  components: largest\n")
    assert "only the largest connected component was kept" in said(volumes)["prediction"]
    assert said(volumes)["threshold"].startswith("Every voxel was given its most probable label, so there is no")
    assert " Which components are kept was learned in 1 of 3 folds" in said(volumes)["threshold"]


def test_a_run_without_config_or_plan_leaves_gaps(images: FinishedRun) -> None:
    bare = replace(images, config_text="", plan=None, starts={}, record={"task": "polyp"})
    found = rows(bare)
    assert {number: found[number].answer for number in ("19", "23", "24", "25", "26")} == dict.fromkeys(
        ("19", "23", "24", "25", "26"), "open"
    ) | {"25": "filled"}
    text = methods_text(bare)
    for gap in ("how training and test cases were divided", "what training started from", "software and versions"):
        assert f"[say {gap}]" in text


def test_methods_hold_the_numbers_of_the_run_and_no_names(finished: Path, run_copy: CopyRun) -> None:
    run = run_copy()
    write_json(run.run_json, {**read_json(run.run_json), "parameters": 1500})
    file = write_methods(run.path)
    assert file == run.path / "methods.md"
    text = file.read_text("utf-8")
    assert "meta_polyp with the backbone caformer_s18 (1,500 weights)" in text
    dice = read_json(run.metrics_json)["pooled"]["metrics"]["dice"]
    cells = [f"{dice[key]:.3f}" for key in ("mean", "sd", "median", "q1", "q3")]
    row = next(line for line in text.splitlines() if line.startswith("| Dice (both empty"))
    assert row == f"| Dice (both empty: 1) | 24 | {' | '.join(cells)} | {dice['low']:.3f} to {dice['high']:.3f} |"
    assert re.search(r"^\| prior_mask \| 0\.\d{3} \|", text, re.MULTILINE)
    assert "| Dates |" not in text  # asked by TRIPOD+AI alone
    assert "| De-identification | CLAIM 2024: 11 | **You must say:** how, and by whom. | |" in text.splitlines()
    assert not told([file], private_names(finished / "run") | private_names(run.path))


def test_words_of_the_data_stay_text_in_methods(segmented_volumes: Path, classified: Path) -> None:
    text = methods_text(read_finished_run(segmented_volumes / "run"))
    assert "<i" not in text.replace("\\<i", "")
    assert "| Anterior | " in text
    assert "voxels of 1.00 × 1.00 × 1.50 mm or 1.00 × 1.00 × 1.60 mm" in text
    assert "Sensitivity 0." in methods_text(read_finished_run(classified))


def test_what_is_shared_answers_as_much(images: FinishedRun) -> None:
    shared_images = shared_run(images)
    # What is shared names every key of the config.
    own, shared = rows(replace(images, config_text=shared_images.config_text)), rows(shared_images)
    assert {number: row.answer for number, row in own.items()} == {number: row.answer for number, row in shared.items()}
