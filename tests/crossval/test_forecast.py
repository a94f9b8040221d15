"""What is said before training, and what fits into a number of hours."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from medformer.config import PolypConfig
from medformer.config_loading import load_config
from medformer.crossval.plan import Fold
from medformer.crossval.run.forecast.say import foresee
from medformer.data.manifest import Case, Manifest
from medformer.tasks.polyp.learner import FrameLearner
from medformer.tasks.polyp.study import PolypStudy
from medformer.training.pace import Pace

CPU = "training.accelerator=cpu"


def study(*overrides: str, name: str = "polyp/default") -> PolypStudy:
    config = load_config(name, [CPU, "model.weights=null", *overrides], model=PolypConfig)
    cases = tuple(Case(f"frame{number}", None) for number in range(100))
    return PolypStudy(config=config, data=Manifest(Path("nowhere.csv"), Path(), cases))


def folds(count: int = 5, train: int = 70) -> list[Fold]:
    names = tuple(f"frame{number}" for number in range(100))
    return [Fold(k, names[:train], names[train:80], names[80:]) for k in range(count)]


def paced(pace: Pace) -> Any:
    return SimpleNamespace(pace=lambda fold: pace)


def test_what_all_trainings_take_is_said_with_what_suits_a_cpu() -> None:
    lines, timed = foresee(study(), folds(), paced(Pace(steps=4, step=30.0, validation=5.0, after=60.0)), None)
    # 100 epochs of 4 x 30 + 5 s, five times.
    assert timed and len(lines) == 2
    assert lines[0].startswith("Starts from random weights; 5 trainings of 100 epochs on cpu: about 17 h 21 min in all")
    assert "4 steps of 30 s an epoch" in lines[0] and "tests (about 5 min)" in lines[0]
    assert "--config polyp/cpu" in lines[1] and "training.minutes=10" in lines[1]


def test_a_short_run_gets_no_advice_and_the_canary_counts() -> None:
    pace = paced(Pace(steps=4, step=0.5, validation=1.0, after=1.0))
    (line,), timed = foresee(study("crossval.permute_labels=true", "training.patience=3"), folds(), pace, None)
    assert timed and "at most 25 min in all" in line and "with the canary, 50 min" in line


def test_with_minutes_nothing_is_timed() -> None:
    (line,), timed = foresee(study("training.minutes=4.5"), folds(3), None, None)  # type: ignore[arg-type]
    assert timed and line.startswith("Starts from random weights; 3 trainings of 4 min 30 s on cpu: 13 min 30 s in all")


def test_few_cases_are_not_timed_in_advance() -> None:
    (line,), timed = foresee(study("training.epochs=1"), folds(1), None, None)  # type: ignore[arg-type]
    assert not timed and line == "Starts from random weights; 1 training of 1 epoch on cpu."


def test_timing_a_network_leaves_the_random_stream_alone() -> None:
    settings = ("data.image_size=[64, 64]", "model.name=meta_polyp", "model.backbone=convformer_t10")
    learner, fold = FrameLearner(study(*settings, "training.batch_size=4")), folds()[0]
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    pace = learner.pace(fold)
    assert torch.equal(torch.rand(1), expected)
    # 70 training frames, 10 of validation; four views of 10 + 20 frames afterwards.
    assert (pace.steps, pace.size, pace.batch_size, pace.pretraining) == (17, (64, 64), 4, 0)
    assert pace.step > 0 and pace.after == pytest.approx(12 * pace.validation)
