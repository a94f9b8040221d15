from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from medformer.errors import InterruptedRun
from medformer.files import read_csv
from medformer.progress import SilentReporter
from medformer.training.trackers.build import TensorBoardTracker, event_files

pytest.importorskip("tensorboard")
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

CONFIG = {"tracker": "tensorboard"}


def events(folder: Path) -> EventAccumulator:
    """What TensorBoard itself reads in the folder of a training."""
    accumulator = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0})
    return accumulator.Reload()


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    read = events(folder)
    return {tag: [(event.step, event.value) for event in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


def curve(folder: Path) -> dict[str, list[tuple[int, Any]]]:
    """The same of history.csv; event files hold float32."""
    rows = read_csv(folder / "history.csv")
    return {
        name: [(int(row["epoch"]), pytest.approx(float(row[name]), rel=1e-6)) for row in rows if row[name]]
        for name in rows[0]
        if name != "epoch" and any(row[name] for row in rows)
    }


class StopAtEveryStep(SilentReporter):
    def advance(self, n: int = 1, **fields: float) -> None:
        if "loss" in fields:
            os.kill(os.getpid(), signal.SIGTERM)


def test_events_are_what_history_holds(tiny: ModuleType, tmp_path: Path) -> None:
    tiny.train(tmp_path, config=CONFIG)
    assert len(scalars(tmp_path)) == 7 and scalars(tmp_path) == curve(tmp_path)
    settings = events(tmp_path).Tensors("settings/text_summary")
    assert len(settings) == 1
    text = settings[0].tensor_proto.string_val[0].decode()
    assert "| training.lr | 0.02 |" in text and f"| name | {tmp_path.name} |" in text


def test_empty_cells_are_left_out(tiny: ModuleType, tmp_path: Path) -> None:
    tiny.train(tmp_path, validate=None, config=CONFIG)
    assert "validation_dice" not in scalars(tmp_path) and scalars(tmp_path) == curve(tmp_path)


def test_tracking_changes_no_bit_of_the_training(tiny: ModuleType, tmp_path: Path) -> None:
    tiny.train(tmp_path / "a", config=CONFIG)
    tiny.train(tmp_path / "b")
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()
    assert tiny.curve(tmp_path / "a") == tiny.curve(tmp_path / "b")


def test_stopping_at_every_step_repeats_and_loses_nothing(tiny: ModuleType, tmp_path: Path) -> None:
    stops = 0
    while True:
        try:
            tiny.train(tmp_path, config=CONFIG, reporter=StopAtEveryStep(), resume=stops > 0)
            break
        except InterruptedRun:
            stops += 1
    assert stops >= 5 and len(event_files(tmp_path / "tensorboard")) > stops
    assert [step for step, _ in scalars(tmp_path)["train_loss"]] == [1, 2, 3]
    assert scalars(tmp_path) == curve(tmp_path)
    assert len(events(tmp_path).Tensors("settings/text_summary")) == 1


def test_a_killed_training_goes_on_bit_for_bit_with_its_events(
    tiny: ModuleType, tmp_path: Path, start: Callable[..., Any]
) -> None:
    killed = tmp_path / "killed"
    with start(killed, "slow", "tensorboard") as process:
        process.wait_for(killed / "state.safetensors")
        time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
        assert process.end() == -signal.SIGKILL
    tiny.train(killed, config={**CONFIG, "epochs": 6}, resume=True)
    assert [step for step, _ in scalars(killed)["best"]] == [1, 2, 3, 4, 5, 6] and scalars(killed) == curve(killed)
    tiny.train(tmp_path / "whole", config={"epochs": 6})
    assert (killed / "model.safetensors").read_bytes() == (tmp_path / "whole/model.safetensors").read_bytes()


@pytest.mark.parametrize("lost", [3, 200])
def test_what_a_killed_process_left_half_written_is_made_up_for(tiny: ModuleType, tmp_path: Path, lost: int) -> None:
    tiny.train(tmp_path, config=CONFIG)
    [file] = event_files(tmp_path / "tensorboard")
    file.write_bytes(file.read_bytes()[:-lost])
    assert scalars(tmp_path) != curve(tmp_path)
    tiny.train(tmp_path, config=CONFIG, resume=True)
    assert scalars(tmp_path) == curve(tmp_path)


def test_a_tracker_chosen_on_resume_gets_the_whole_curve(tiny: ModuleType, tmp_path: Path) -> None:
    tiny.train(tmp_path)
    tiny.train(tmp_path, config=CONFIG, resume=True)
    assert scalars(tmp_path) == curve(tmp_path)


def test_another_training_in_the_folder_does_not_go_on_with_the_curve(tiny: ModuleType, tmp_path: Path) -> None:
    tiny.train(tmp_path, config={**CONFIG, "epochs": 5})
    tiny.train(tmp_path, config={**CONFIG, "epochs": 2})
    assert scalars(tmp_path) == curve(tmp_path) and len(scalars(tmp_path)["train_loss"]) == 2
    tiny.train(tmp_path, config={"epochs": 2})
    assert event_files(tmp_path / "tensorboard") == []


def test_a_full_disk_costs_the_events_and_not_the_training(
    tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    write = TensorBoardTracker._write
    calls = []

    def full(self: TensorBoardTracker, event: Any) -> None:
        calls.append(event)
        if len(calls) == 4:
            # As a disk that fills in the middle of a record.
            self._writer._writer.write(b"\x18\x00\x00")
            raise OSError(28, "No space left on device")
        write(self, event)

    monkeypatch.setattr(TensorBoardTracker, "_write", full)
    said: list[str] = []
    reporter = SilentReporter()
    monkeypatch.setattr(reporter, "line", said.append)
    result = tiny.train(tmp_path, config={**CONFIG, "epochs": 4}, reporter=reporter)
    assert result.ended == "epochs" and scalars(tmp_path) == curve(tmp_path)
    assert [line for line in said if "No space left" in line and "Training goes on" in line] == [
        line for line in said if "tracker" in line
    ]
    assert sum("tracker" in line for line in said) == 1
    assert "Traceback" not in capfd.readouterr().err
