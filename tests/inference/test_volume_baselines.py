from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from feature_table import FeatureTable, fit_and_test
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.metrics import roc_auc_score

from medformer.crossval.plan import Fold
from medformer.crossval.run.estimator import EstimatorLearner
from medformer.data.cases import Case
from medformer.data.volumes.inspect.describe import inspect_volumes
from medformer.data.volumes.inspect.descriptors import GRID, SHAPE, otsu_threshold, shape_features, volume_features
from medformer.errors import DataError
from medformer.imaging.geometry import Geometry, Volume, reorient
from medformer.imaging.nifti_labels import write_labels
from medformer.inference.baselines.volumes import VOLUME_CLASSIFIERS, LabelPrior


def _ball(size: tuple[int, int, int], center: tuple[float, ...], radius: float) -> NDArray[np.bool_]:
    places = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"), -1)
    return np.asarray(np.linalg.norm(places - np.array(center), axis=-1) <= radius)


def _geometry(shape: tuple[int, ...], *spacing: float) -> Geometry:
    first, second, third = shape
    return Geometry((first, second, third), np.diag([*spacing, 1.0]))


def test_shapes_are_measured_in_millimeters() -> None:
    ball = _ball((40, 40, 40), (19.5, 19.5, 19.5), 12.0).astype(np.float32)
    values = dict(zip(SHAPE, shape_features(7.0 * ball + 3.0, np.full(3, 0.5)), strict=True))
    assert values["log volume"] == pytest.approx(np.log(4 / 3 * np.pi * 6.0**3), abs=0.02)
    assert values["log radius 1"] == pytest.approx(np.log(6.0 / np.sqrt(5)), abs=0.02)
    assert values["elongation"] == pytest.approx(0.0, abs=1e-6) and values["center x"] == pytest.approx(0.5)
    assert values["log extent y"] == pytest.approx(np.log(12.0), abs=0.05)
    # Faces of voxels have one and a half times a ball's surface.
    assert np.exp(values["log surface"]) == pytest.approx(1.5 * 4 * np.pi * 36.0, rel=0.04)
    assert values["foreground mean"] == 10.0 and values["foreground deviation"] == 0.0
    flat = shape_features(ball, np.array([0.5, 0.5, 2.0]))
    assert flat[SHAPE.index("log volume")] == pytest.approx(values["log volume"] + np.log(4))
    assert flat[SHAPE.index("elongation")] == pytest.approx(np.log(4), abs=0.02)


@pytest.mark.parametrize("image", [np.full((4, 4, 4), 5.0), np.arange(4.0).reshape(4, 1, 1), np.eye(3)[None]])
def test_constant_and_thin_images_have_finite_features(image: NDArray[np.float64]) -> None:
    values = volume_features(image.astype(np.float32), _geometry(image.shape, 1.0, 2.0, 3.0))
    assert values.shape == (len(SHAPE) + np.prod(GRID),) and np.isfinite(values).all()


def test_otsu_parts_two_levels_whatever_their_shares() -> None:
    generator = np.random.default_rng(0)
    image = np.concatenate([generator.normal(0, 1, 9000), generator.normal(10, 1, 1000)]).astype(np.float32)
    assert 3 < otsu_threshold(image.reshape(100, 10, 10)) < 7.5
    with pytest.raises(DataError, match="NaN"):
        otsu_threshold(np.full((2, 2, 2), np.nan, np.float32))


def test_features_do_not_depend_on_how_the_array_is_stored() -> None:
    image = np.random.default_rng(0).random((12, 10, 9)).astype(np.float32)
    geometry = _geometry(image.shape, 1.0, 2.0, 3.0)
    turned, affine = reorient(image, geometry.affine, "PIL")
    first, second, third = turned.shape
    expected = volume_features(image, geometry)
    np.testing.assert_allclose(volume_features(turned, Geometry((first, second, third), affine)), expected, atol=1e-5)
    stretched = volume_features(image * 10 + 4, geometry)
    np.testing.assert_allclose(stretched[len(SHAPE) :], expected[len(SHAPE) :], atol=1e-5)


def test_a_large_volume_is_reduced_before_its_shape_is_measured() -> None:
    ball = _ball((128, 80, 32), (63.5, 39.5, 15.5), 14.0).astype(np.float32)
    small = shape_features(ball, np.ones(3))
    large = volume_features(ball, _geometry(ball.shape, 1.0, 1.0, 1.0))
    assert large[SHAPE.index("log volume")] == pytest.approx(small[SHAPE.index("log volume")], abs=0.1)
    assert large[SHAPE.index("log extent x")] == pytest.approx(small[SHAPE.index("log extent x")], abs=0.15)


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    """Two channels: balls, larger with label 1, and noise."""
    folder = tmp_path_factory.mktemp("balls")
    generator = np.random.default_rng(0)
    made = {}
    for number in range(24):
        radius = generator.normal(4.0 + number % 2, 0.3)
        ball = 90 * _ball((16, 16, 16), tuple(generator.uniform(7, 8, 3)), radius) + generator.integers(0, 20, [16] * 3)
        paths = [folder / f"{number}_{channel}.nii.gz" for channel in (0, 1)]
        for path, array in zip(paths, (ball, generator.integers(0, 9, [16] * 3)), strict=True):
            write_labels(path, array, Volume(array, _geometry(array.shape, 1.0, 1.0, 1.0), Path()))
        made[f"c{number}"] = Case(f"c{number}", paths[0], further=(paths[1],), group=f"c{number}")
    return made


@pytest.mark.parametrize("name", VOLUME_CLASSIFIERS)
def test_classifiers_learn_in_a_fold_what_their_features_hold(
    cases: dict[str, Case], tmp_path: Path, name: str
) -> None:
    labels = {case: number % 2 for number, case in enumerate(cases)}
    names = tuple(cases)
    fold = Fold(index=0, repeat=0, train=names[:12], validation=names[12:16], test=names[16:])
    features = inspect_volumes(list(cases.values()), features=True).arrays("features")
    fit_and_test(EstimatorLearner(FeatureTable(features, labels), VOLUME_CLASSIFIERS[name].part()), fold, tmp_path)
    lines = [line.split(",") for line in (tmp_path / "predictions.csv").read_text().splitlines()]
    score = lines[0].index("score")
    auc = roc_auc_score([labels[line[0]] for line in lines[1:]], [float(line[score]) for line in lines[1:]])
    assert auc > 0.9
    assert features["c0"].shape == (2 * (len(SHAPE) + 512),)
    clone(pickle.loads(pickle.dumps(VOLUME_CLASSIFIERS[name].part())))


def test_the_prior_is_the_most_frequent_label_of_a_place() -> None:
    left, right = np.zeros((20, 16, 10), np.uint8), np.zeros((30, 12, 14), np.uint8)
    left[:10], right[:15], right[15:, :6] = 1, 1, 2
    prior = LabelPrior(3).fit(iter([left, right, right]))
    np.testing.assert_allclose(prior.shares_.sum(0), 1.0, atol=1e-5)
    found = prior.predict((40, 24, 9))
    assert found.dtype == np.uint16
    assert (found[:19] == 1).all() and (found[21:, :11] == 2).all() and (found[21:, 13:] == 0).all()
    rare = np.zeros((8, 8, 8), np.uint8)
    rare[4, 4, 4] = 2
    assert LabelPrior(3).fit([left, left, rare]).predict((8, 8, 8)).max() == 1
    with pytest.raises(DataError, match="no training cases"):
        LabelPrior(2).fit([])
