"""Which config a run takes where none is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from medformer.config_loading import load_config
from medformer.errors import ConfigError
from medformer.tasks.settings import run_config
from medformer.yaml_files import dump_yaml


@pytest.fixture(autouse=True)
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Say whether there is one; there is none at first."""

    def there(is_there: bool) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: is_there)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)

    there(False)
    return there


def chosen(*overrides: str, name: str | None = None, out: Path = Path("nowhere"), resume: bool = False) -> Any:
    return run_config("polyp", name, overrides, {"data.manifest": "a.csv"}, out=out, resume=resume)


def test_a_cpu_gets_the_config_that_is_made_for_it_and_keeps_it(gpu: Any, tmp_path: Path) -> None:
    config = chosen("seed=3")
    assert config == load_config("polyp/cpu", ["seed=3", "data.manifest=a.csv", "base=polyp/cpu"])
    (tmp_path / "config.yaml").write_text(f"base: {config.base}\n")
    gpu(True)
    assert chosen("seed=3", out=tmp_path, resume=True) == config
    assert chosen("seed=3") == load_config("polyp/default", ["seed=3", "data.manifest=a.csv"])


def test_a_run_that_began_with_the_default_goes_on_with_it(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("task: polyp\n")
    assert chosen(out=tmp_path, resume=True) == load_config("polyp/default", ["data.manifest=a.csv"])


@pytest.mark.parametrize(
    "override", ["training.accelerator=cuda", "execution.address=auto", "execution.gpus_per_fold=0.5"]
)
def test_a_run_that_trains_elsewhere_gets_the_default(override: str) -> None:
    assert chosen(override).data.image_size == (352, 352) and not chosen(override).base


def test_a_named_config_is_taken_as_it_is() -> None:
    assert chosen(name="polyp/default") == load_config("polyp/default", ["data.manifest=a.csv"])


def test_epochs_and_another_network_are_not_lost_to_a_shipped_config(tmp_path: Path) -> None:
    training = chosen("training.epochs=7").training
    assert (training.epochs, training.minutes) == (7, None)
    assert chosen("training.epochs=7", "training.minutes=2").training.minutes == 2
    assert chosen("training.epochs=7", name="polyp/cpu").training.minutes is None
    own = tmp_path / "own.yaml"
    own.write_text("extends: polyp/cpu\ntraining: {epochs: 7}\n")
    assert chosen(name=str(own)).training.minutes is None
    own.write_text("extends: polyp/cpu\ntraining: {epochs: 7, minutes: 2}\n")
    assert chosen(name=str(own)).training.minutes == 2
    assert chosen("model.weights=null").model.frozen == 0
    assert chosen("model.weights=null", "model.frozen=2").model.frozen == 2


def test_hours_may_cost_what_the_user_did_not_set(tmp_path: Path) -> None:
    assert chosen("training.hours=2").training.give_up == ("size", "folds")
    assert chosen("training.hours=2", "crossval.folds=5").training.give_up == ("size",)
    own = tmp_path / "own.yaml"
    own.write_text("extends: polyp/cpu\ndata: {image_size: [256, 256]}\n")
    assert chosen("training.hours=2", name=str(own)).training.give_up == ("folds",)
    assert chosen("training.hours=2", "training.give_up=[size]", "data.image_size=[96, 96]").training.give_up == (
        "size",
    )


def test_hours_beside_minutes_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"training\.hours=2 .*training\.minutes=5, .*Expected one"):
        chosen("training.hours=2", "training.minutes=5")
    # Those of a shipped config give way.
    assert chosen("training.hours=2", name="polyp/cpu").training.minutes == 4.5
    with pytest.raises(ConfigError, match=r"training\.hours"):
        chosen("training.hours=0")


def test_the_config_of_a_run_with_hours_means_what_these_decided(tmp_path: Path) -> None:
    begun = chosen("training.hours=2", "training.minutes=null", name="polyp/quick")
    decided = {"hours": 2.0, "minutes": 7.5}
    own = begun.model_copy(update={"training": begun.training.model_copy(update=decided)})
    file = tmp_path / "config.yaml"
    file.write_text(dump_yaml(own.model_dump(mode="json")))
    repeated = {"hours": None, "minutes": 7.5, "give_up": ()}
    assert chosen(name=str(file)) == own.model_copy(update={"training": own.training.model_copy(update=repeated)})
    further = tmp_path / "further.yaml"
    further.write_text("extends: config.yaml\nseed: 4\n")
    assert (chosen(name=str(further)).training.minutes, chosen(name=str(further)).training.hours) == (7.5, None)
    assert chosen("training.minutes=3", name=str(file)).training.minutes == 3
    # Hours that are given count anew, as soon as the minutes are taken back.
    with pytest.raises(ConfigError, match=r"training\.minutes=null takes back"):
        chosen("training.hours=1", name=str(file))
    anew = chosen("training.hours=1", "training.minutes=null", name=str(file)).training
    assert (anew.hours, anew.minutes, anew.give_up) == (1.0, None, begun.training.give_up)
    # A file by hand that has both is still refused.
    file.write_text("training: {hours: 2, minutes: 5}\n")
    with pytest.raises(ConfigError, match="Expected one"):
        chosen(name=str(file))
