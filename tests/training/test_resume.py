from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from medformer.config import AugmentConfig
from medformer.config.shared import ModelConfig
from medformer.errors import CheckpointError, InterruptedRun
from medformer.tensor_file import read_tensors, write_tensors
from medformer.training.saving import SETTINGS_SINCE, read_metadata
from tests.helpers.stopping import StopAfter

SETTINGS: dict[str, Any] = {"scales": (0.75, 1.0), "metadata": {"architecture": "tiny", "size": (12, 12)}}


def _equal(first: Path, second: Path, tiny: ModuleType) -> None:
    assert (first / "model.safetensors").read_bytes() == (second / "model.safetensors").read_bytes()
    assert tiny.curve(first) == tiny.curve(second)


@pytest.fixture(scope="module")
def whole(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted training of 3 epochs of 2 steps."""
    folder = tmp_path_factory.mktemp("whole")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    tiny.train(folder, **SETTINGS)
    torch.set_num_threads(threads)
    return folder


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5])
def test_a_stopped_training_goes_on_bit_for_bit(tiny: ModuleType, tmp_path: Path, whole: Path, steps: int) -> None:
    with pytest.raises(InterruptedRun, match=r"SIGTERM.*--resume"):
        tiny.train(tmp_path, reporter=StopAfter(steps), **SETTINGS)
    result = tiny.train(tmp_path, resume=True, **SETTINGS)
    assert result.updates == 6
    _equal(tmp_path, whole, tiny)


def test_a_state_of_older_code_lacks_newer_settings_and_goes_on_bit_for_bit(
    tiny: ModuleType, tmp_path: Path, whole: Path
) -> None:
    sections = {"model": ModelConfig().model_dump(mode="json"), "augment": AugmentConfig().model_dump(mode="json")}
    settings = {**SETTINGS, "metadata": {**SETTINGS["metadata"], **sections}}
    with pytest.raises(InterruptedRun):
        tiny.train(tmp_path, reporter=StopAfter(3), **settings)
    path = tmp_path / "state.safetensors"
    tensors, content = read_tensors(path)
    metadata = content["identity"]["metadata"]
    sections = {"training": content["identity"]["training"], "model": metadata["model"], "augment": metadata["augment"]}
    for section, keys in SETTINGS_SINCE.items():
        for key in keys:
            del sections[section][key]
    write_tensors(path, tensors, content)
    other = {**settings["metadata"], "model": {**settings["metadata"]["model"], "frozen": 1}}
    with pytest.raises(CheckpointError, match=r"metadata\.model\.frozen was 0, now 1"):
        tiny.train(tmp_path, resume=True, **{**settings, "metadata": other})
    tiny.train(tmp_path, resume=True, **settings)
    before, after = (read_tensors(folder / "model.safetensors")[0] for folder in (whole, tmp_path))
    assert before.keys() == after.keys() and all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert tiny.curve(tmp_path) == tiny.curve(whole)


def test_stopping_at_every_step_changes_nothing(tiny: ModuleType, tmp_path: Path, whole: Path) -> None:
    stops = 0
    while True:
        try:
            # After the first time the network starts from other weights: all of it has to come from the state.
            model = tiny.TinyNet() if stops else tiny.seeded_net()
            tiny.train(tmp_path, model=model, reporter=StopAfter(1), resume=stops > 0, **SETTINGS)
            break
        except InterruptedRun:
            stops += 1
            torch.manual_seed(stops)
    assert stops >= 5
    _equal(tmp_path, whole, tiny)


@pytest.mark.parametrize("steps", [1, 3, 6])
def test_a_crash_goes_back_to_the_last_epoch_and_ends_the_same(
    tiny: ModuleType, tmp_path: Path, whole: Path, steps: int
) -> None:
    with pytest.raises(ZeroDivisionError):
        tiny.train(tmp_path, reporter=StopAfter(steps, None), **SETTINGS)
    tiny.train(tmp_path, resume=True, **SETTINGS)
    _equal(tmp_path, whole, tiny)


def test_a_killed_process_goes_on_bit_for_bit(tiny: ModuleType, tmp_path: Path, start: Callable[..., Any]) -> None:
    with start(tmp_path / "killed", "slow") as process:
        process.wait_for(tmp_path / "killed/state.safetensors")
        time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
        assert process.end() == -signal.SIGKILL
    settings = {"data": tiny.Squares(), "config": {"epochs": 6}}
    result = tiny.train(tmp_path / "killed", resume=True, **settings)
    assert result.epochs == 6
    tiny.train(tmp_path / "whole", **settings)
    _equal(tmp_path / "killed", tmp_path / "whole", tiny)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_group_finds_the_state_saved(
    tmp_path: Path, number: signal.Signals, start: Callable[..., Any]
) -> None:
    with start(tmp_path, "workers") as process:
        process.wait_for(tmp_path / "state.safetensors")
        os.killpg(process.pid, number)
        assert process.end() == InterruptedRun.exit_code
    state = read_metadata(tmp_path / "state.safetensors")["progress"]
    assert state["updates"] > 0 and state["updates"] == 10 * state["epoch"] + state["step"]


def test_a_signal_during_validation_stops_it_and_validation_is_repeated(
    tiny: ModuleType, tmp_path: Path, whole: Path
) -> None:
    class Interrupted:
        measure = "dice"

        def __call__(self, model: nn.Module) -> float:
            os.kill(os.getpid(), signal.SIGINT)
            raise AssertionError("validation went on after the signal")

    with pytest.raises(InterruptedRun, match="SIGINT after step 2 of 2 in epoch 1"):
        tiny.train(tmp_path, validate=Interrupted(), **SETTINGS)
    tiny.train(tmp_path, resume=True, **SETTINGS)
    _equal(tmp_path, whole, tiny)


def test_a_finished_training_is_not_trained_again(tiny: ModuleType, tmp_path: Path) -> None:
    first = tiny.train(tmp_path)
    data = tiny.Squares()
    again = tiny.train(tmp_path, resume=True, data=data)
    assert again == first and data.asked == []


def test_early_stopping_is_remembered(tiny: ModuleType, tmp_path: Path) -> None:
    class Constant:
        measure = "dice"

        def __call__(self, model: nn.Module) -> float:
            return 0.5

    constant = Constant()
    config = {"epochs": 9, "patience": 3}
    with pytest.raises(InterruptedRun):
        tiny.train(tmp_path, validate=constant, config=config, reporter=StopAfter(5))
    result = tiny.train(tmp_path, validate=constant, config=config, resume=True)
    assert (result.ended, result.epochs, result.best_epoch) == ("patience", 4, 1)


def test_resume_without_a_state_starts_at_the_beginning(tiny: ModuleType, tmp_path: Path, whole: Path) -> None:
    tiny.train(tmp_path, resume=True, **SETTINGS)
    _equal(tmp_path, whole, tiny)


def test_training_again_without_resume_removes_what_was_there(tiny: ModuleType, tmp_path: Path) -> None:
    tiny.train(tmp_path)
    with pytest.raises(InterruptedRun):
        tiny.train(tmp_path, reporter=StopAfter(1))
    assert not (tmp_path / "model.safetensors").exists() and tiny.curve(tmp_path) == []


def test_leftovers_of_a_killed_write_are_cleared(tiny: ModuleType, tmp_path: Path) -> None:
    leftover = tmp_path / ".medformer-tmp-7-0123456789abcdef-state.safetensors"
    leftover.write_bytes(b"half")
    tiny.train(tmp_path, config={"epochs": 1})
    assert not leftover.exists()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"config": {"lr": 0.01}}, "training.lr was 0.02, now 0.01"),
        ({"metadata": {"manifest": "bbb"}}, "metadata.manifest was 'aaa', now 'bbb'"),
        ({"scales": (1.0, 0.5)}, "scales was"),
    ],
)
def test_a_state_of_other_settings_is_refused_by_name(
    tiny: ModuleType, tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    tiny.train(tmp_path, metadata={"manifest": "aaa"}, config={"epochs": 1})
    settings = {"metadata": {"manifest": "aaa"}, **change, "config": {"epochs": 1, **change.get("config", {})}}
    with pytest.raises(CheckpointError) as caught:
        tiny.train(tmp_path, resume=True, **settings)
    assert named in str(caught.value)


def test_a_state_of_another_network_is_refused_with_shapes(tiny: ModuleType, tmp_path: Path) -> None:
    tiny.train(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"other shape .*body\.0\.weight: \(6, 3, 3, 3\) instead of \(8, 3, 3, 3\)"
    ):
        tiny.train(tmp_path, resume=True, model=tiny.seeded_net(8))


@pytest.mark.parametrize("content", [b"", b"\x00" * 100, None])
def test_a_damaged_state_is_refused_not_overwritten(tiny: ModuleType, tmp_path: Path, content: bytes | None) -> None:
    tiny.train(tmp_path, config={"epochs": 1})
    state = tmp_path / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-50] if content is None else content)
    before = state.read_bytes()
    with pytest.raises(CheckpointError, match=r"Cannot resume.*delete it"):
        tiny.train(tmp_path, resume=True, config={"epochs": 1})
    assert state.read_bytes() == before and (tmp_path / "model.safetensors").exists()


def test_a_state_whose_best_weights_are_gone_is_refused(tiny: ModuleType, tmp_path: Path) -> None:
    tiny.train(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model.safetensors is missing"):
        tiny.train(tmp_path, resume=True)


@pytest.mark.slow
def test_two_processes_train_stop_for_nan_and_report(tiny: ModuleType, tmp_path: Path) -> None:
    program = [sys.executable, str(tiny.__file__), str(tmp_path), "ddp"]
    done = subprocess.run(program, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-2:] == ["6", "epochs"]
    assert len(tiny.curve(tmp_path)) == 3
    failed = subprocess.run([*program, "nan"], capture_output=True, text=True, timeout=600)
    assert "DivergenceError" in failed.stderr and "not finite in 1 (case3)" in failed.stderr


def test_a_training_with_a_step_at_each_scale_goes_on_in_the_middle_of_a_batch(
    tiny: ModuleType, tmp_path: Path
) -> None:
    settings = {**SETTINGS, "scaling": "as_published", "config": {"epochs": 1}, "data": tiny.Squares(8, side=32)}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert tiny.train(whole, **settings).updates == 4
    with pytest.raises(InterruptedRun):
        tiny.train(parts, reporter=StopAfter(3), **settings)
    assert tiny.train(parts, resume=True, **settings).updates == 4
    _equal(parts, whole, tiny)
    with pytest.raises(CheckpointError, match="scaling was 'as_published', now None"):
        tiny.train(parts, resume=True, **{**settings, "scaling": "drawn"})
