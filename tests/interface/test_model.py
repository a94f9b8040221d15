"""What all models of the Python interface share: what they are given, and results of classes."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

import medformer as mf
from medformer.crossval.run.classes import ClassPredictor
from medformer.data.cases import Case
from medformer.data.connectomes.read.matrices import Values
from medformer.errors import ConfigError, DataError, ResourceError
from medformer.inference.classification import Decision
from medformer.interface.load import model_of
from medformer.interface.model import ClassModel, paths_of, require_one_of, threshold_of
from medformer.interface.volumes import hold_scan
from medformer.tasks.trained import Trained
from medformer.training.devices import choose_device


def test_one_path_or_several_are_paths_and_nothing_else() -> None:
    assert paths_of("a.png") == paths_of([Path("a.png")]) == [Path("a.png")]
    for wrong, words in (
        ([], "empty list"),
        (3, "Got int; expected a NumPy array, a path"),
        ([np.zeros(3)], "Got list; .*several arrays are given one at a time"),
        ({"a.png": 1}, "Got dict; expected a NumPy array, a path"),
        ("", "Got an empty text; expected a path"),
    ):
        with pytest.raises(DataError, match=words):
            paths_of(wrong)


def test_settings_without_sense_are_refused() -> None:
    assert (threshold_of(0.3, None), threshold_of(0.3, 0), threshold_of(0.3, 1.0)) == (0.3, 0.0, 1.0)
    assert threshold_of(0.3, np.float32(0.25)) == 0.25
    wrong: Any
    for wrong in (-0.1, 50, float("nan"), "0.5", True, np.array([0.1, 0.2])):
        with pytest.raises(ConfigError, match=r"threshold=.*expected a number from 0 to 1"):
            threshold_of(0.3, wrong)
    require_one_of("values", "fisher-z", Values)
    with pytest.raises(ConfigError, match="values='fisher'; expected 'auto' or 'correlation' or 'fisher-z'"):
        require_one_of("values", "fisher", Values)
    with pytest.raises(ConfigError, match="task='polyps'; expected 'polyp' or 'abide' or 'volume'"):
        mf.load("run", task=cast(Any, "polyps"))
    with pytest.raises(ConfigError, match=r"Unknown task 'polyps'\. Did you mean 'polyp'"):
        mf.crossval(cast(Any, "polyps"), "polyps.csv", out="run")
    with pytest.raises(ConfigError, match="direction='up'; expected 'higher' or 'lower'"):
        mf.compare("a", "b", direction=cast(Any, "up"))
    with pytest.raises(ConfigError, match="ungrouped='all'; expected 'error' or 'each'"):
        mf.compare("a", "b", ungrouped=cast(Any, "all"))
    with pytest.raises(ConfigError, match=r"--splits splits\.json does not exist"):
        mf.compare("a", "b", folds="splits.json")
    with pytest.raises(ConfigError, match="spatial_dims=4; expected a whole number from 1 to 3"):
        mf.create_backbone("convformer_t10", spatial_dims=4)
    with pytest.raises(ConfigError, match="in_channels=0; expected a whole number from 1"):
        mf.create_backbone("convformer_t10", in_channels=0)
    with pytest.raises(ResourceError, match="Got the device cuda"):
        choose_device(f"cuda:{torch.cuda.device_count()}")


def test_scores_of_many_folds_are_those_of_the_table_to_the_last_digit() -> None:
    scores = np.random.default_rng(0).random((10, 200))
    # NumPy adds a row of ten in another order than ten rows.
    assert any(row.mean() != mean for row, mean in zip(scores.T.copy(), scores.mean(axis=0), strict=True))
    model: Any = object.__new__(ClassModel)
    model._trained = Trained(Path(), "abide", None, tuple(Path(f"folds/{fold}") for fold in range(10)), "")
    scorer: Any = None
    model._predictor = ClassPredictor([(scorer, Decision(0.5))] * 10)
    model.label_names = {1: "autism", 0: "control"}
    names = [f"s{n}" for n in range(200)]
    found = model._classified(names, scores, 0.5, [()] * 200)
    for one, row in zip(found, model.predictor.rows([Case(name) for name in names], scores), strict=True):
        assert (one.id, one.score, one.positive) == (row["id"], row["score"], bool(row["prediction"]))
        assert one.label == ("autism" if one.positive else "control") and list(one.by_fold) == list("0123456789")


@pytest.mark.parametrize("spacing", [(1, 1), (1, 0, 1), (-1, 1, 1), (1, 1, float("nan")), 2.0])
def test_a_spacing_that_is_none_is_refused(spacing: Any) -> None:
    with pytest.raises(DataError, match="expected three numbers above 0"):
        hold_scan(np.zeros((4, 4, 4)), 1, spacing, None)


@pytest.mark.parametrize(
    ("task", "target", "module", "kind"),
    [
        ("polyp", "", "frames", "FrameModel"),
        ("abide", "", "connectomes", "ConnectomeModel"),
        ("volume", "segmentation", "volumes", "VolumeModel"),
        ("volume", "classification", "volumes", "VolumeClassifier"),
    ],
)
def test_only_the_model_of_the_task_is_imported(
    task: str, target: str, module: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for other in {"frames", "connectomes", "volumes"} - {module}:
        # What stands as None among the modules cannot be imported.
        monkeypatch.setitem(sys.modules, f"medformer.interface.{other}", None)
    assert model_of(Trained(Path(), task, SimpleNamespace(target=target), (), "")).__name__ == kind
