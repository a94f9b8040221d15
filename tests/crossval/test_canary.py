from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from feature_table import FeatureTable
from sklearn.feature_selection import SelectKBest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from synthetic_connectomes import synthetic_connectomes

from medformer.crossval.checks.canary import canary_verdict, null_auc, within_fold_auc
from medformer.crossval.checks.permute import permuted_assignment
from medformer.crossval.plan import PlanCase
from medformer.crossval.plan.schemes import make_plan
from medformer.crossval.run.collect import collect, read_oof
from medformer.crossval.run.directory import RunDirectory
from medformer.crossval.run.estimator import EstimatorLearner
from medformer.crossval.run.execute import LearnerJob, execute
from medformer.errors import DataError

PERMUTATIONS = 20

COHORT = synthetic_connectomes(240, effect=1.5, seed=1)
PLAN_CASES = [
    PlanCase(row["id"], row["group"], f"{row['site']}, {row['label']}", "", row["site"], row["label"])
    for row in COHORT.table()
]
PLAN = make_plan(PLAN_CASES, folds=5, validation=0.2, seed=0)
LABELS = dict(zip(COHORT.ids, map(int, COHORT.labels), strict=True))
MATRIX = np.stack(list(COHORT.features.values()))
CLASSIFIER = make_pipeline(StandardScaler(), LogisticRegression(C=1e-3))

Table = list[dict[str, Any]]


def permuted_labels(seed: int) -> dict[str, int]:
    return {name: LABELS[giver] for name, giver in permuted_assignment(PLAN_CASES, seed).items()}


def crossvalidate(folder: Path, labels: dict[str, int], matrix: Any = MATRIX, classifier: Any = CLASSIFIER) -> Table:
    run = RunDirectory.create(folder)
    learner = EstimatorLearner(FeatureTable(dict(zip(COHORT.ids, matrix, strict=True)), labels), classifier)
    execute(PLAN, LearnerJob(learner, run, 0), run)
    table = read_oof(collect(run, PLAN))
    run.release()
    return table


def select_on_everybody(labels: dict[str, int]) -> Any:
    """The leak: the features most related to the labels, those of the test cases included."""
    return SelectKBest(k=50).fit_transform(MATRIX, [labels[name] for name in COHORT.ids])


def pooled_auc(table: Table) -> float:
    return float(roc_auc_score([row["label"] for row in table], [row["score"] for row in table]))


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> list[Table]:
    folder = tmp_path_factory.mktemp("honest")
    return [crossvalidate(folder / str(seed), permuted_labels(seed)) for seed in range(PERMUTATIONS)]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Table:
    return crossvalidate(tmp_path_factory.mktemp("real") / "run", LABELS)


def test_an_honest_pipeline_is_at_chance_on_permuted_labels(honest: list[Table], real: Table) -> None:
    within = [within_fold_auc(table) for table in honest]
    pooled = [pooled_auc(table) for table in honest]
    print(f"{PERMUTATIONS} permutations: AUC within folds {np.mean(within):.3f}, pooled {np.mean(pooled):.3f}")
    assert np.mean(within) == pytest.approx(0.5, abs=0.03)
    verdict = canary_verdict(honest, real=real)
    assert verdict.answer == "at chance"
    assert verdict.value == pytest.approx(np.mean(within))
    assert verdict.low < 0.5 < verdict.high < 0.56
    assert verdict.real == pytest.approx(within_fold_auc(real))
    assert within_fold_auc(real) > 0.7
    assert within_fold_auc(real) > max(np.mean(within) + 0.15, verdict.high)


def test_single_permutations_are_seldom_suspected(honest: list[Table]) -> None:
    answers = [canary_verdict([table]).answer for table in honest]
    assert answers.count("leak suspected") <= 2


def test_the_spread_that_is_stated_is_the_spread_of_permutations(honest: list[Table]) -> None:
    found = np.std([within_fold_auc(table) for table in honest])
    stated = np.mean([np.std(null_auc(table, 500, np.random.default_rng(0))) for table in honest])
    assert stated == pytest.approx(found, rel=0.35)


def test_features_selected_on_all_cases_are_detected(tmp_path: Path) -> None:
    labels = permuted_labels(0)
    table = crossvalidate(tmp_path / "run", labels, select_on_everybody(labels))
    verdict = canary_verdict([table])
    assert pooled_auc(table) > 0.6
    assert verdict.answer == "leak suspected"
    assert "Leak suspected: the labels of test cases took part" in verdict.text


def test_features_selected_in_each_fold_are_not(tmp_path: Path) -> None:
    inside = make_pipeline(SelectKBest(k=50), *CLASSIFIER)
    assert (
        canary_verdict([crossvalidate(tmp_path / "run", permuted_labels(0), classifier=inside)]).answer == "at chance"
    )


def test_a_scaler_fitted_on_all_cases_cannot_be_heard(tmp_path: Path, honest: list[Table]) -> None:
    """Which is why fitted parts are refused before they run; see the tests of the estimator learner."""
    scaled = StandardScaler().fit_transform(MATRIX)
    table = crossvalidate(tmp_path / "run", permuted_labels(0), scaled)
    assert canary_verdict([table]).answer == "at chance"
    assert within_fold_auc(table) == pytest.approx(within_fold_auc(honest[0]), abs=0.05)


def score_table(labels: Sequence[int], scores: Sequence[float], folds: Sequence[int], **columns: Any) -> Table:
    return [
        {"id": f"c{row}", "fold": fold, "repeat": 0, "label": label, "score": score}
        | {name: values[row] for name, values in columns.items()}
        for row, (label, score, fold) in enumerate(zip(labels, scores, folds, strict=True))
    ]


def test_pairs_of_different_folds_do_not_count() -> None:
    table = score_table([0, 1, 0, 1], [0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1])
    assert within_fold_auc(table) == 1.0
    assert pooled_auc(table) == 0.75
    assert within_fold_auc(score_table([0, 1, 1], [0.5, 0.5, 0.9], [0, 0, 0])) == 0.75
    assert np.isnan(within_fold_auc(score_table([0, 0], [0.5, 0.5], [0, 0])))


def test_within_one_fold_it_is_the_usual_auc_and_its_null_that_of_mann_and_whitney() -> None:
    generator = np.random.default_rng(0)
    labels, scores = generator.permutation([0] * 30 + [1] * 20), generator.normal(size=50)
    table = score_table(labels.tolist(), scores.tolist(), [0] * 50)
    assert within_fold_auc(table) == pytest.approx(roc_auc_score(labels, scores))
    null = null_auc(table, 20_000, np.random.default_rng(1))
    assert null.mean() == pytest.approx(0.5, abs=0.003)
    assert null.std() == pytest.approx(np.sqrt(51 / (12 * 30 * 20)), rel=0.02)


def test_scans_of_a_subject_are_dealt_out_together() -> None:
    """Ten subjects of twenty scans each are ten pieces of evidence, not two hundred."""
    generator = np.random.default_rng(0)
    subjects = np.repeat(np.arange(10), 20)
    scores = subjects + generator.normal(0, 0.1, 200)
    table = score_table((subjects % 2).tolist(), scores.tolist(), [0] * 200)
    grouped = score_table((subjects % 2).tolist(), scores.tolist(), [0] * 200, group=subjects.tolist())
    alone, together = (null_auc(rows, 1000, np.random.default_rng(0)).std() for rows in (table, grouped))
    assert together == pytest.approx(np.sqrt(11 / (12 * 5 * 5)), rel=0.06)
    assert alone < together / 3


def test_repeats_are_averaged_but_add_no_cases() -> None:
    generator = np.random.default_rng(0)
    labels, folds = generator.integers(0, 2, 60).tolist(), [row % 3 for row in range(60)]
    first, second = (score_table(labels, generator.normal(size=60).tolist(), folds) for _ in range(2))
    second = [row | {"repeat": 1} for row in second]
    both, alone = canary_verdict([[*first, *second]]), canary_verdict([first])
    assert both.value == pytest.approx((within_fold_auc(first) + within_fold_auc(second)) / 2)
    assert (both.cases, both.low, both.high) == (60, alone.low, alone.high)


@pytest.mark.parametrize(
    "table",
    [
        score_table([0, 1, 1], [0.1, 0.2, 0.3], [0, 1, 2]),
        score_table([0, 1], [0.1, 0.9], [0, 0]),
        score_table([1, 1], [0.1, 0.9], [0, 0]),
    ],
)
def test_too_few_cases_give_no_verdict(table: Table) -> None:
    verdict = canary_verdict([table])
    assert verdict.answer == "cannot tell"
    assert "too few cases or groups" in verdict.text


def mask_table(dice: Sequence[float]) -> Table:
    return [
        {"id": f"c{row}", "group": f"g{row // 2}", "fold": row % 3, "repeat": 0, "dice": value}
        for row, value in enumerate(dice)
    ]


def test_masks_are_held_against_the_average_mask() -> None:
    generator = np.random.default_rng(0)
    floor, chance = (mask_table(generator.uniform(0.1, 0.5, 60).tolist()) for _ in range(2))
    good = mask_table(generator.uniform(0.5, 0.9, 60).tolist())
    fine = canary_verdict([chance], floor=floor, real=good)
    assert fine.answer == "at chance"
    assert fine.expected == pytest.approx(0.3, abs=0.03)
    assert fine.expected + 0.05 < fine.high < 0.5
    assert "Dice 0.3" in fine.text
    assert "On the real labels: 0.7" in fine.text
    assert "tells little" not in fine.text
    assert "tells little" in canary_verdict([chance], floor=floor, real=chance).text
    assert canary_verdict([good], floor=floor).answer == "leak suspected"
    assert canary_verdict([chance, good], floor=floor).value == pytest.approx((fine.value + 0.7) / 2, abs=0.02)


def test_a_network_that_marks_what_the_average_mask_does_is_at_chance() -> None:
    verdict = canary_verdict([mask_table([0.0] * 8)], floor=mask_table([0.0] * 8))
    assert verdict.answer == "at chance"
    assert verdict.high == pytest.approx(0.05), "no drawing of groups changes the difference; the margin is left"


def test_without_the_average_mask_there_is_no_verdict() -> None:
    verdict = canary_verdict([mask_table([0.3] * 8)])
    assert verdict.answer == "cannot tell"
    assert "nothing to compare with" in verdict.text
    assert verdict.to_json()["text"] == verdict.text


def test_tables_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DataError, match="no permuted run"):
        canary_verdict([])
    with pytest.raises(DataError, match="not of one kind"):
        canary_verdict([mask_table([0.5])], real=score_table([1], [0.5], [0]))
    with pytest.raises(DataError, match=r"different cases \(c3 in one only\)"):
        canary_verdict([mask_table([0.5] * 4)], floor=mask_table([0.5] * 3))
    with pytest.raises(DataError, match="'label'"):
        canary_verdict([[{"id": "a", "score": 0.5}]])
