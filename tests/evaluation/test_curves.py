"""Curves and areas are those of scikit-learn to the last digit, with ties, without, and near each other."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics

from medformer.evaluation.classes.classification import classification_metrics, pr_curve, roc_curve


@pytest.mark.parametrize("size", [2, 3, 10, 101, 400])
@pytest.mark.parametrize("digits", [1, 2, 17])
def test_numbers_are_those_of_scikit_learn(size: int, digits: int) -> None:
    generator = np.random.default_rng([size, digits])
    for _ in range(20):
        label = generator.permutation(np.arange(size) % generator.integers(2, 4) == 0).astype(float)
        score = np.round(np.clip(0.3 * label + 0.7 * generator.random(size), 0.001, 0.999), digits)
        score[0] += 1e-12 if score[0] < 0.5 else -1e-12
        decided = (score > generator.random()).astype(float)
        found = classification_metrics(label, score, decided, part=True)
        assert found["auc"] == metrics.roc_auc_score(label, score)
        assert found["average_precision"] == metrics.average_precision_score(label, score)
        assert found["accuracy"] == metrics.accuracy_score(label, decided)
        assert found["f1"] == metrics.f1_score(label, decided)
        assert found["mcc"] == metrics.matthews_corrcoef(label, decided)
        if digits == 17:
            corners = metrics.roc_curve(label, score, drop_intermediate=False)
            for mine, theirs in zip(roc_curve(label, score), corners, strict=True):
                assert np.array_equal(mine, theirs)
            precision, recall, _ = metrics.precision_recall_curve(label, score)
            curve = pr_curve(label, score)
            assert np.array_equal(curve.precision, precision[::-1]) and np.array_equal(curve.recall, recall[::-1])
