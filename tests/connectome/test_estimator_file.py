"""Every fitted estimator that a run may leave comes back from plain data and predicts the same bits."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from sklearn.base import clone
from sklearn.ensemble import RandomForestClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from medformer.connectome.baselines import baseline_names, build_baseline
from medformer.connectome.columns import SelectAtlas, WithoutCovariates
from medformer.connectome.combat import ComBat
from medformer.connectome.estimator_file import load_fitted, save_fitted
from medformer.connectome.pipeline import HARMONIZATIONS, SCALES, feature_pipeline
from medformer.errors import CheckpointError
from medformer.inference.baselines.volumes import GRID, SHAPE, VOLUME_CLASSIFIERS
from medformer.tensor_file import read_tensors, write_tensors

TRAIN, TEST = slice(0, 42), slice(42, 60)
KINDS = ("ridge_one", "ridge_all", "logistic_one", "logistic_all", "svm_one", "svm_all", "stack", "covariates")
EVERYTHING = {"harmonize": "combat", "confounds": ("mean_fd", "site"), "preserve": ("age",)}


def outputs(estimator: Any, X: Any) -> list[Any]:
    """All that a classifier or transformer says of rows, one after the other and alone."""
    methods = ("transform", "predict", "decision_function", "predict_proba")
    return [getattr(estimator, method)(rows) for rows in (X, X[:1]) for method in methods if hasattr(estimator, method)]


def assert_round_trip(unfitted: Any, X: Any, y: Any, path: Path) -> Any:
    fitted = clone(unfitted).fit(X[TRAIN], y[TRAIN])
    save_fitted(fitted, path)
    loaded = load_fitted(unfitted, path)
    expected, found = outputs(fitted, X[TEST]), outputs(loaded, X[TEST])
    assert expected
    for one, other in zip(expected, found, strict=True):
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)
    return loaded


@pytest.mark.parametrize("name", KINDS)
def test_every_baseline_of_connectomes(name: str, cohort: Any, tmp_path: Path) -> None:
    assert set(KINDS) <= set(baseline_names(cohort.columns))
    assert {kind.partition("_")[0] for kind in KINDS} == {n.partition("_")[0] for n in baseline_names(cohort.columns)}
    loaded = assert_round_trip(build_baseline(name, cohort.columns), cohort.X, cohort.y, tmp_path / "fitted")
    assert np.array_equal(loaded.classes_, [0, 1])


@pytest.mark.parametrize("name", VOLUME_CLASSIFIERS)
@pytest.mark.parametrize("channels", [1, 2])
def test_every_baseline_of_volumes(name: str, channels: int, tmp_path: Path) -> None:
    width = channels * (len(SHAPE) + int(np.prod(GRID)))
    X, y = np.random.default_rng(0).normal(size=(60, width)), np.arange(60) % 2
    assert_round_trip(VOLUME_CLASSIFIERS[name].part(), X, y, tmp_path / "fitted")


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("harmonize", HARMONIZATIONS)
@pytest.mark.parametrize("confounds", [(), ("site", "age", "sex", "mean_fd")])
@pytest.mark.parametrize("measure", ["correlation", "tangent"])
def test_every_feature_pipeline(
    scale: Any,
    harmonize: Any,
    confounds: tuple[str, ...],
    measure: str,
    cohort_for: Callable[[str], Any],
    tmp_path: Path,
) -> None:
    cohort = cohort_for(measure)
    unfitted = feature_pipeline(cohort.columns, "one", scale=scale, harmonize=harmonize, confounds=confounds)
    assert_round_trip(unfitted, cohort.X, cohort.y, tmp_path / "fitted")
    # Features leave the house in bundles: they hold sums over subjects, and no array with a row for each of them.
    tensors, _ = read_tensors(tmp_path / "fitted")
    subjects = len(cohort.y[TRAIN])
    assert not [name for name, tensor in tensors.items() if subjects in tensor.shape]


@pytest.mark.parametrize("name", ["ridge_all", "stack"])
def test_a_baseline_behind_every_step_and_with_seeds_of_its_fold(name: str, cohort: Any, tmp_path: Path) -> None:
    features = partial(feature_pipeline, cohort.columns, scale="deviation", **EVERYTHING)
    unfitted = build_baseline(name, cohort.columns, features)
    seeds = {key: 7 for key in unfitted.get_params(deep=True) if key.split("__")[-1] == "random_state"}
    fitted = clone(unfitted).set_params(**seeds).fit(cohort.X[TRAIN], cohort.y[TRAIN])
    save_fitted(fitted, tmp_path / "fitted")
    loaded = load_fitted(unfitted, tmp_path / "fitted")
    for one, other in zip(outputs(fitted, cohort.X[TEST]), outputs(loaded, cohort.X[TEST]), strict=True):
        assert np.array_equal(one, other)
    assert not [key for key in vars(unfitted.steps[-1][1]) if key.endswith("_")]


def test_matrices_keep_their_order_in_memory(tmp_path: Path) -> None:
    scaler = StandardScaler().fit(np.eye(3))
    scaler.mean_ = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    scaler.var_ = np.float32(2.5)
    scaler.names_ = np.array([["a", "bc"]])
    scaler.nothing_ = np.empty((0, 4), np.int16)
    save_fitted(scaler, tmp_path / "fitted")
    loaded = load_fitted(StandardScaler(), tmp_path / "fitted")
    assert loaded.mean_.flags.f_contiguous
    assert not loaded.mean_.flags.c_contiguous
    assert np.array_equal(loaded.mean_, scaler.mean_)
    assert type(loaded.var_) is np.float32
    assert np.array_equal(loaded.names_, scaler.names_)
    assert loaded.nothing_.shape == (0, 4)
    assert loaded.nothing_.dtype == np.int16


@pytest.fixture
def saved(cohort: Any, tmp_path: Path) -> Path:
    path = tmp_path / "fitted.safetensors"
    unfitted = feature_pipeline(cohort.columns, "one", harmonize="combat", scale="feature")
    save_fitted(unfitted.fit(cohort.X[TRAIN], cohort.y[TRAIN]), path)
    return path


def unfitted_for(cohort: Any, **settings: Any) -> Pipeline:
    return feature_pipeline(cohort.columns, "one", **{"harmonize": "combat", "scale": "feature", **settings})


@pytest.mark.parametrize("size", [0, 4, 60, -100, -1])
def test_a_damaged_file_is_named(size: int, saved: Path, cohort: Any) -> None:
    saved.write_bytes(saved.read_bytes()[:size])
    with pytest.raises(CheckpointError, match=r"fitted\.safetensors is not a complete safetensors file"):
        load_fitted(unfitted_for(cohort), saved)


def test_a_missing_or_other_file_is_named(saved: Path, cohort: Any) -> None:
    with pytest.raises(CheckpointError, match="Cannot read"):
        load_fitted(unfitted_for(cohort), saved.with_name("none"))
    write_tensors(saved, {}, {"format": "something"})
    with pytest.raises(CheckpointError, match="holds no fitted estimator"):
        load_fitted(unfitted_for(cohort), saved)
    saved.write_bytes(b"\x80\x04pickle")
    with pytest.raises(CheckpointError, match="a Python pickle"):
        load_fitted(unfitted_for(cohort), saved)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scale": "none"}, "FeatureScale, which is no part"),
        ({"preserve": ("age",)}, r"preserve is \('age', 'sex'\), expected \('age',\)"),
        ({"unseen_site": "error"}, "unseen is 'pooled', expected 'error'"),
        ({"confounds": ("age",)}, "Pipeline.steps"),
    ],
)
def test_another_config_is_refused(settings: dict[str, Any], message: str, saved: Path, cohort: Any) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_fitted(unfitted_for(cohort, **settings), saved)


def test_other_columns_are_refused(saved: Path, cohort: Any) -> None:
    other = replace(cohort.columns, sites=("south", "north", "east"))
    with pytest.raises(CheckpointError, match=r"found Columns\(.*'north', 'south'.*, expected .*'south', 'north'"):
        load_fitted(feature_pipeline(other, "one", harmonize="combat", scale="feature"), saved)


def rewrite(path: Path, old: str, new: str) -> None:
    tensors, metadata = read_tensors(path)
    text = json.dumps(metadata)
    assert old in text
    write_tensors(path, tensors, json.loads(text.replace(old, new)))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("medformer.ComBat", "os.system", "os.system, which is no part of the estimator"),
        ("medformer.ComBat", "sklearn.SVC", "which is no part of the estimator"),
        ('"sites_"', '"__class__"', "'__class__' is no name of a learned attribute"),
        ('"sites_"', '"transform"', "'transform' is no name of a learned attribute"),
        ('["array", ["0"', '["pickle", ["0"', "a value of the kind 'pickle'"),
        ('["array", ["0"', '["array", ["999"', "'999'"),
        ('"preserve"', '"keep"', "unexpected keyword argument 'keep'"),
    ],
)
def test_what_does_not_belong_there_is_refused(old: str, new: str, message: str, saved: Path, cohort: Any) -> None:
    rewrite(saved, old, new)
    with pytest.raises(CheckpointError, match=message):
        load_fitted(unfitted_for(cohort), saved)


def test_another_version_of_the_library_is_refused(saved: Path, cohort: Any) -> None:
    with safe_open(saved, framework="np") as file:
        versions = json.loads(file.metadata()["medformer"])["versions"]
    assert set(versions) == {"sklearn"}
    rewrite(saved, f'"sklearn": "{versions["sklearn"]}"', '"sklearn": "0.24.2"')
    with pytest.raises(CheckpointError, match=r"written with scikit-learn 0\.24\.2; found"):
        load_fitted(unfitted_for(cohort), saved)


def test_without_numbers_of_a_library_its_version_does_not_matter(cohort: Any, tmp_path: Path) -> None:
    steps = [("atlas", SelectAtlas(cohort.columns, "one")), ("combat", ComBat(cohort.columns))]
    unfitted = Pipeline([*steps, ("end", WithoutCovariates(cohort.columns))])
    save_fitted(clone(unfitted).fit(cohort.X), tmp_path / "fitted")
    with safe_open(tmp_path / "fitted", framework="np") as file:
        assert json.loads(file.metadata()["medformer"])["versions"] == {}


def test_what_is_no_plain_data_is_not_written(cohort: Any, tmp_path: Path) -> None:
    forest = RandomForestClassifier(2).fit(cohort.X, cohort.y)
    with pytest.raises(TypeError, match="Tree"):
        save_fitted(forest, tmp_path / "fitted")
    assert not (tmp_path / "fitted").exists()
    given = Pipeline([("function", FunctionTransformer(np.abs))])
    assert_round_trip(given, cohort.X, cohort.y, tmp_path / "fitted")
