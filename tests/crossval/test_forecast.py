"""What is said before training, and what fits into a number of hours."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import pytest
import torch

from medformer.config import PolypConfig
from medformer.config.shared import CrossvalConfig
from medformer.config_loading import load_config, load_task_config
from medformer.crossval.plan import Fold, PlanCase
from medformer.crossval.run.directory import FORMAT
from medformer.crossval.run.forecast.hours import as_begun, fit_time
from medformer.crossval.run.forecast.say import foresee, starts_from
from medformer.data.cases import Case
from medformer.data.manifest import Manifest
from medformer.errors import ConfigError
from medformer.files import digest, strict_json, write_json
from medformer.tasks.polyp.learner import FrameLearner
from medformer.tasks.polyp.study import PolypStudy
from medformer.training.pace import Pace
from medformer.yaml_files import dump_yaml

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
    learner, fold = FrameLearner(study(*settings, "training.batch_size=4"), Path(), {}), folds()[0]
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    pace = learner.pace(fold)
    assert torch.equal(torch.rand(1), expected)
    # 70 training frames, 10 of validation; four views of 10 + 20 frames afterwards.
    assert (pace.steps, pace.size, pace.batch_size, pace.pretraining) == (17, (64, 64), 4, 0)
    assert pace.step > 0 and pace.after == pytest.approx(12 * pace.validation)


@dataclass(frozen=True)
class Timed:
    """A study whose steps take what a network of so many pixels takes."""

    config: PolypConfig
    second: float

    held_out: ClassVar[tuple[Case, ...]] = ()
    minutes_decide_size: ClassVar[bool] = False
    cases: ClassVar[tuple[Case, ...]] = tuple(Case(f"case{n}", None, group=f"patient{n // 2}") for n in range(100))
    shrunk = PolypStudy.shrunk

    @property
    def crossval(self) -> CrossvalConfig:
        return self.config.crossval

    def configured(self, config: PolypConfig) -> Timed:
        return replace(self, config=config)

    def without(self, cases: object) -> Timed:
        return self

    def check(self) -> None:
        pass

    def plan_case(self, case: Case, record: object) -> PlanCase:
        return PlanCase(case.id, case.group)

    def learner(self, inventory: object, cache: Path) -> Any:
        size = self.config.data.image_size
        step = self.second * prod(size) / prod((224, 224))
        wanted = self.config.pretraining
        extra = wanted.epochs * 4 if wanted.enabled else 0
        return SimpleNamespace(
            pace=lambda fold: Pace(
                len(fold.train) // 16, step, validation=step, after=step, pretraining=extra, batch_size=16, size=size
            )
        )


def fitted(second: float, *overrides: str) -> tuple[PolypConfig, str]:
    settings = ["crossval.stratify=[]", "data.image_size=[224, 224]", "crossval.folds=5", *overrides]
    found, lines = fit_time(cast(Any, Timed(study(*settings).config, second)), cast(Any, defaultdict(int)), Path())
    return found.config, " ".join(lines)


def test_hours_become_minutes_of_each_training() -> None:
    config, said = fitted(1.0, "training.hours=2", "training.epochs=1000")
    # Two hours without a tenth, in five parts, and a step's time for the tests of each.
    assert config.training.minutes == pytest.approx((7200 * 0.9 / 5 - 1) / 60, rel=0.01)
    assert (config.data.image_size, config.crossval.folds) == ((224, 224), 5)
    assert "--hours 2: 21.6 minutes for each training" in said and "Given up" not in said


def test_a_run_that_fits_stays_as_it_is() -> None:
    config, said = fitted(1.0, "training.hours=24", "training.epochs=20")
    assert config.training.minutes is None and "nothing is given up" in said


def test_the_canary_halves_the_time_and_minutes_of_a_config_do_not_count() -> None:
    config, _ = fitted(0.1, "training.hours=1", "training.minutes=600", "crossval.permute_labels=true")
    assert config.training.minutes == pytest.approx(3600 * 0.9 / 10 / 60, rel=0.01)


def test_images_are_given_up_before_folds_and_folds_to_three() -> None:
    config, said = fitted(1.0, "training.hours=0.4")
    # 1296 s in five parts are 259 s, which are 194 steps with their validation; 192 px take 0.73 times as long.
    assert config.data.image_size == (192, 192) and config.crossval.folds == 5
    assert "16 x (192 x 192) instead of 16 x (224 x 224)" in said
    config, said = fitted(1.0, "training.hours=0.12")
    assert config.data.image_size == (128, 128) and config.crossval.folds == 3
    assert "3 folds instead of 5" in said and said.index("steps of") < said.index("folds instead")
    assert "fewer than the 250" not in said and "fewer than the 250" in fitted(1.0, "training.hours=0.08")[1]


def test_no_more_steps_are_wanted_than_the_epochs_have() -> None:
    # Ten epochs of four steps: 72 s for each of five trainings are enough for them.
    config, said = fitted(1.0, "training.hours=0.1", "training.epochs=10")
    assert (config.data.image_size, config.crossval.folds) == ((224, 224), 5) and "Given up" not in said


def test_what_may_not_be_given_up_stays() -> None:
    config, said = fitted(1.0, "training.hours=0.12", "training.give_up=[]")
    assert (config.data.image_size, config.crossval.folds) == ((224, 224), 5)
    assert "fewer than the 250 that a training should have" in said


def test_pretraining_gets_a_third_at_most() -> None:
    config, said = fitted(1.0, "training.hours=1", "pretraining.enabled=true", "pretraining.epochs=500")
    assert config.pretraining.epochs == 54 and "54 epochs of pretraining instead of 500" in said


def test_hours_that_are_enough_for_nothing_are_refused_with_what_is_needed() -> None:
    with pytest.raises(ConfigError, match=r"not enough for 3 fold\(s\).*Give at least 0\.0\d+"):
        fitted(1.0, "training.hours=0.001")
    with pytest.raises(ConfigError, match=r"Give at least \d+(\.\d\d?)?, or"):
        fitted(3600.0, "training.hours=1", "training.give_up=[]")
    with pytest.raises(ConfigError, match="one after another on one device"):
        fitted(1.0, "training.hours=1", "execution.executor=ray")


@pytest.mark.parametrize("more", [(), ("pretraining.enabled=true", "pretraining.epochs=500")])
def test_the_hours_that_are_asked_for_are_enough(more: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        fitted(10.0, "training.hours=0.01", *more)
    (hours,) = re.findall(r"Give at least ([\d.]+),", str(caught.value))
    assert fitted(10.0, f"training.hours={hours}", *more)[0].training.minutes


def test_a_run_says_whose_weights_it_begins_with(tmp_path: Path) -> None:
    def said(weights: str) -> str:
        return starts_from(load_config("polyp/default", [f"model.weights={weights}"], model=PolypConfig), None)

    assert said("tf_efficientnet_lite0.in1k") == "the weights tf_efficientnet_lite0.in1k"
    assert said(str(tmp_path / "mine.pth")) == "the weights in mine.pth"
    assert said(str(tmp_path / "run/folds/2/model.safetensors")) == "the encoder of fold 2 of run"


def test_a_resumed_run_keeps_what_its_hours_decided(tmp_path: Path) -> None:
    begun = study("training.hours=1", "training.minutes=7.5", "crossval.folds=3", "data.image_size=[160, 160]").config
    record = strict_json(begun.model_dump(mode="json"))
    (tmp_path / "config.yaml").write_text(dump_yaml(record))
    write_json(tmp_path / "run.json", {"format": FORMAT, "task": "polyp", "config_sha256": digest(record)})
    asked = study("training.hours=1").config
    assert as_begun(asked, tmp_path, resume=True) == begun
    assert as_begun(asked, tmp_path, resume=False) == asked
    other = study("training.hours=2").config
    assert as_begun(other, tmp_path, resume=True) == other
    fixed = study("training.hours=1", "training.give_up=[size]", "crossval.folds=4").config
    assert as_begun(fixed, tmp_path, resume=True).crossval.folds == 4
    # Its own config.yaml says what they decided, and is the config of the same run.
    repeated = load_task_config("polyp", str(tmp_path / "config.yaml"), [], {})
    assert repeated.training.hours is None and as_begun(repeated, tmp_path, resume=True) == begun
