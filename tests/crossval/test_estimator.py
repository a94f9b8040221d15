from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from feature_table import FeatureTable, fit_and_test
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.ensemble import RandomForestClassifier, VotingClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from medformer.crossval.plan import Fold, Plan, PlanCase
from medformer.crossval.plan.schemes import make_plan
from medformer.crossval.run.collect import collect, read_oof
from medformer.crossval.run.directory import RunDirectory
from medformer.crossval.run.estimator import EstimatorLearner, require_unfitted
from medformer.crossval.run.execute import LearnerJob, execute
from medformer.errors import DataError, LeakageError
from medformer.files import read_csv, read_json

Features = dict[str, NDArray[np.float64]]


class Spy(LogisticRegression):
    """A classifier that remembers what it was fitted on; the first feature says which case a row is."""

    seen: list[list[int]] = []  # noqa: RUF012

    def fit(self, X: NDArray[np.float64], y: NDArray[np.int64], sample_weight: Any = None) -> Any:
        self.seen.append([int(value) for value in X[:, 0]])
        return super().fit(X, y, sample_weight)


@pytest.fixture
def labeled() -> tuple[list[PlanCase], Features, dict[str, int]]:
    generator = np.random.default_rng(0)
    cases, features, labels = [], {}, {}
    for index in range(48):
        name, label = f"c{index:02d}", index % 2
        cases.append(PlanCase(name, f"g{index // 2}", str(label), "", f"site{index % 3}", str(label)))
        features[name] = np.array([index, *(generator.normal(size=3) + 1.5 * label)])
        labels[name] = label
    return cases, features, labels


@pytest.fixture
def fold(labeled: tuple[list[PlanCase], Features, dict[str, int]]) -> Fold:
    return make_plan(labeled[0], folds=3, validation=0.3, seed=0).folds[1]


@pytest.fixture
def features(labeled: tuple[list[PlanCase], Features, dict[str, int]]) -> Features:
    return labeled[1]


@pytest.fixture
def labels(labeled: tuple[list[PlanCase], Features, dict[str, int]]) -> dict[str, int]:
    return labeled[2]


def scores(learner: EstimatorLearner, fold: Fold, folder: Path, seed: int = 0) -> dict[str, float]:
    fit_and_test(learner, fold, folder, seed)
    return {row["id"]: float(row["score"]) for row in read_csv(folder / "predictions.csv")}


def test_a_run_ends_in_an_out_of_fold_table(
    labeled: tuple[list[PlanCase], Features, dict[str, int]], run: RunDirectory
) -> None:
    cases, features, labels = labeled
    plan = make_plan(cases, folds=3, validation=0.3, seed=0)
    table = FeatureTable(
        features,
        labels,
        sites={case.id: case.site for case in cases},
        covariates={case.id: {"age": "20.5", "sex": "F"} for case in cases},
    )
    learner = EstimatorLearner(table, make_pipeline(StandardScaler(), LogisticRegression()), covariates=True)
    execute(plan, LearnerJob(learner, run, 0), run)
    rows = read_oof(collect(run, plan))
    assert list(rows[0]) == (
        ["id", "fold", "repeat", "group", "site", "age", "sex", "label", "score", "threshold", "prediction"]
    )
    assert {row["id"]: row["label"] for row in rows} == labels
    assert all(row["prediction"] == int(row["score"] >= row["threshold"]) for row in rows)
    assert np.mean([row["prediction"] == row["label"] for row in rows]) > 0.8
    learned = read_json(run.fold(0) / "threshold.json")
    assert learned["threshold"] == next(row["threshold"] for row in rows if row["fold"] == 0)
    assert "balanced accuracy over" in learned["from"]
    written = {path.suffix for path in run.folds.rglob("*") if path.is_file()}
    assert written == {".csv", ".json"}


def test_only_training_cases_reach_fit(fold: Fold, features: Features, labels: dict[str, int], tmp_path: Path) -> None:
    Spy.seen.clear()
    fit_and_test(EstimatorLearner(FeatureTable(features, labels), Spy()), fold, tmp_path)
    assert [[f"c{index:02d}" for index in seen] for seen in Spy.seen] == [list(fold.train)]


@pytest.mark.parametrize("estimator", [LogisticRegression(), RidgeClassifier()])
def test_the_other_test_cases_change_nothing(
    fold: Fold, features: Features, labels: dict[str, int], estimator: Any, tmp_path: Path
) -> None:
    pipeline = make_pipeline(StandardScaler(), estimator)
    before = scores(EstimatorLearner(FeatureTable(features, labels), pipeline), fold, tmp_path / "a")
    kept, *others = fold.test
    changed = {name: vector + 1e3 if name in others else vector for name, vector in features.items()}
    flipped = {name: 1 - label if name in others else label for name, label in labels.items()}
    after = scores(EstimatorLearner(FeatureTable(changed, flipped), pipeline), fold, tmp_path / "b")
    assert after[kept] == before[kept]
    assert read_json(tmp_path / "a" / "threshold.json") == read_json(tmp_path / "b" / "threshold.json")


def test_the_threshold_comes_from_the_validation_part_alone(
    fold: Fold, features: Features, labels: dict[str, int], tmp_path: Path
) -> None:
    def learn(folder: str, labels: dict[str, int], **settings: Any) -> dict[str, Any]:
        learner = EstimatorLearner(FeatureTable(features, labels), LogisticRegression(), **settings)
        fit_and_test(learner, fold, tmp_path / folder)
        return dict(read_json(tmp_path / folder / "threshold.json"))

    content = learn("a", labels)
    assert content["from"].startswith("balanced accuracy over inner validation cases")
    assert content["learned"] and sum(content["cases"].values()) == len(fold.validation)
    relabeled = labels | {name: 1 - labels[name] for name in fold.validation}
    assert learn("b", relabeled)["threshold"] != content["threshold"]
    assert learn("c", labels, threshold=0.5) == {"threshold": 0.5, "from": "config"}


def test_too_few_validation_cases_decide_nothing(
    fold: Fold, features: Features, labels: dict[str, int], tmp_path: Path
) -> None:
    alone = next(name for name in fold.validation if labels[name])
    few = Fold(fold.index, fold.train, (alone, *[name for name in fold.validation if not labels[name]]), fold.test)
    found = scores(EstimatorLearner(FeatureTable(features, labels), RidgeClassifier()), few, tmp_path)
    content = read_json(tmp_path / "threshold.json")
    assert content["threshold"] == 0.5 and not content["learned"] and content["cases"]["positive"] == 1
    # Decision values go through the logistic function, which keeps the classifier's own decision at 0.
    assert content["sigmoid"] == {"slope": 1.0, "intercept": 0.0}
    assert not content["calibration"]["learned"] and "at least 10 of each" in content["calibration"]["reason"]
    ridge = RidgeClassifier().fit([features[name] for name in fold.train], [labels[name] for name in fold.train])
    values = ridge.decision_function([features[name] for name in fold.test])
    assert [found[name] for name in fold.test] == pytest.approx(expit(values))


def test_decision_values_become_probabilities_in_the_same_order(
    fold: Fold, features: Features, labels: dict[str, int], tmp_path: Path
) -> None:
    found = scores(EstimatorLearner(FeatureTable(features, labels), RidgeClassifier()), fold, tmp_path)
    ridge = RidgeClassifier().fit([features[name] for name in fold.train], [labels[name] for name in fold.train])
    values = ridge.decision_function([features[name] for name in fold.test])
    assert np.argsort(values).tolist() == np.argsort([found[name] for name in fold.test]).tolist()
    assert all(0 < score < 1 for score in found.values())
    assert read_json(tmp_path / "threshold.json")["sigmoid"]["slope"] > 0


def test_random_parts_are_seeded_by_run_and_fold(
    fold: Fold, features: Features, labels: dict[str, int], tmp_path: Path
) -> None:
    def forest(seed: int, at: Fold) -> dict[str, float]:
        learner = EstimatorLearner(FeatureTable(features, labels), RandomForestClassifier(5))
        return scores(learner, at, tmp_path, seed)

    again = Fold(fold.index, fold.train, fold.validation, fold.test, repeat=1)
    assert forest(0, fold) == forest(0, fold)
    assert forest(0, fold) != forest(1, fold)
    assert forest(0, fold) != forest(0, again)


def test_the_job_travels_to_another_process(
    fold: Fold, features: Features, labels: dict[str, int], tmp_path: Path
) -> None:
    learner = EstimatorLearner(FeatureTable(features, labels), make_pipeline(StandardScaler(), LogisticRegression()))
    there = tmp_path / "there"
    pickle.loads(pickle.dumps(LearnerJob(learner, RunDirectory(there), 0)))(fold, there, False)
    found = {row["id"]: float(row["score"]) for row in read_csv(there / "predictions.csv")}
    assert found == scores(learner, fold, tmp_path / "here")


FITTED = StandardScaler().fit([[0.0, 1.0], [1.0, 3.0]])


@pytest.mark.parametrize(
    "leaky",
    [
        make_pipeline(FITTED, LogisticRegression()),
        make_pipeline(FunctionTransformer(FITTED.transform), LogisticRegression()),
        VotingClassifier([("a", make_pipeline(FITTED, LogisticRegression()))], voting="soft"),
        LogisticRegression().fit([[0.0], [1.0]], [0, 1]),
    ],
)
def test_what_is_fitted_already_is_refused(leaky: Any, features: Features, labels: dict[str, int]) -> None:
    with pytest.raises(LeakageError, match=r"is fitted already \(it has .*_.*Give it unfitted"):
        EstimatorLearner(FeatureTable(features, labels), leaky)


def test_what_declares_itself_frozen_is_refused(features: Features, labels: dict[str, int]) -> None:
    frozen = pytest.importorskip("sklearn.frozen")
    with pytest.raises(LeakageError, match="StandardScaler is fitted already"):
        EstimatorLearner(
            FeatureTable(features, labels), make_pipeline(frozen.FrozenEstimator(FITTED), LogisticRegression())
        )


def test_fitting_a_fold_leaves_the_given_estimator_unfitted(
    fold: Fold, features: Features, labels: dict[str, int], tmp_path: Path
) -> None:
    pipeline = make_pipeline(StandardScaler(), LogisticRegression())
    fit_and_test(EstimatorLearner(FeatureTable(features, labels), pipeline), fold, tmp_path)
    require_unfitted(pipeline)


Damage = Callable[[Features, dict[str, int], Fold], tuple[Features, dict[str, Any], Fold]]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f, y, at: (f, {k: v for k, v in y.items() if k != at.test[0]}, at), "no label for"),
        (lambda f, y, at: (f, y | {at.train[0]: 2}, at), "The label of c.. is 2; expected 0 or 1"),
        (lambda f, y, at: (f, y | {at.train[0]: "1"}, at), "The label of c.. is '1'; expected 0 or 1"),
        (lambda f, y, at: (f, dict.fromkeys(y, 1), at), "training cases of fold 1 all have label 1"),
        (lambda f, y, at: ({k: v for k, v in f.items() if k != at.train[3]}, y, at), "no features for"),
        (lambda f, y, at: (f | {at.train[2]: np.array([1.0, np.nan, 0, 0])}, y, at), "1 value.* NaN or infinite"),
        (lambda f, y, at: (f | {at.test[1]: np.ones(3)}, y, at), r"have shape \(3,\), those of .* \(4,\)"),
        (lambda f, y, at: (f, y, Fold(1, at.train, (), at.test)), "part of a fold is empty"),
        (lambda f, y, at: (f, y, Fold(1, (), at.validation, at.test)), "part of a fold is empty"),
    ],
)
def test_bad_input_is_named(
    fold: Fold, features: Features, labels: dict[str, int], damage: Damage, message: str, tmp_path: Path
) -> None:
    changed, relabeled, at = damage(features, labels, fold)
    with pytest.raises(DataError, match=message):
        fit_and_test(EstimatorLearner(FeatureTable(changed, relabeled), LogisticRegression()), at, tmp_path)


def test_settings_that_make_no_sense_are_refused(features: Features, labels: dict[str, int]) -> None:
    table = FeatureTable(features, labels, covariates={"c00": {"score": "1"}})
    with pytest.raises(ValueError, match=r"in \[0, 1\], got 1.5"):
        EstimatorLearner(table, LogisticRegression(), threshold=1.5)
    with pytest.raises(ValueError, match=r"expected a classifier .* got LinearRegression"):
        EstimatorLearner(table, LinearRegression())
    with pytest.raises(ValueError, match="got score"):
        EstimatorLearner(table, LogisticRegression(), covariates=True)


def test_a_fold_without_test_cases_only_learns(
    fold: Fold, features: Features, labels: dict[str, int], tmp_path: Path, run: RunDirectory
) -> None:
    only = Fold(0, fold.train, fold.validation, ())
    cases = tuple(PlanCase(name, name) for name in features)
    learner = EstimatorLearner(FeatureTable(features, labels), LogisticRegression())
    execute(Plan("predefined", 0, cases, (only,)), LearnerJob(learner, run, 0), run)
    assert (run.fold(0) / "threshold.json").exists()
    assert not (run.fold(0) / "predictions.csv").exists()
