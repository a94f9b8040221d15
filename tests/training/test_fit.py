from __future__ import annotations

import csv
import itertools
import json
import os
import signal
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import MixedPrecision
from safetensors.torch import load_file
from torch import nn

from medformer.config.shared import TrainingConfig
from medformer.errors import ConfigError, DataError, DivergenceError, InterruptedRun, ResourceError
from medformer.evaluation.metrics import validation_metric
from medformer.progress import SilentReporter
from medformer.tensor_file import read_tensors, write_tensors
from medformer.training.loader import BatchSource
from medformer.training.saving import history_columns, read_metadata


class Scores:
    """A validation that answers from a list and remembers the weights it saw."""

    measure = "dice"

    def __init__(self, *values: float) -> None:
        self.values = list(values)
        self.seen: list[dict[str, torch.Tensor]] = []
        self.modes: list[tuple[bool, bool]] = []

    def __call__(self, model: nn.Module) -> float:
        self.seen.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        self.modes.append((model.training, torch.is_grad_enabled()))
        return self.values[len(self.seen) - 1]


class Recorder(SilentReporter):
    """Writes down what it receives, and may send this process a signal after some steps or at a line."""

    def __init__(self, stop_after: int = -1, stop_at_line: str = "nowhere") -> None:
        self.stop_after = stop_after
        self.stop_at_line = stop_at_line
        self.started: list[tuple[str, int | None]] = []
        self.fields: list[dict[str, float]] = []
        self.lines: list[str] = []
        self.done = 0

    def start(self, label: str, total: int | None) -> None:
        self.started.append((label, total))

    def advance(self, n: int = 1, **fields: float) -> None:
        self.done += n
        self.fields += [fields] * n
        if self.done == self.stop_after:
            os.kill(os.getpid(), signal.SIGTERM)

    def line(self, text: str) -> None:
        self.lines.append(text)
        if text.startswith(self.stop_at_line):
            os.kill(os.getpid(), signal.SIGTERM)

    def finish(self) -> None:
        pass


def test_training_learns_and_leaves_the_saved_weights_in_the_model(tiny: ModuleType, tmp_path: Path) -> None:
    model = tiny.seeded_net()
    before = tiny.HeldOutDice()(model.eval())
    result = tiny.train(tmp_path, model=model, data=tiny.Squares(24), config={"epochs": 15, "ema": 0.9})
    assert result.best is not None and result.best > max(0.8, before + 0.2)
    with torch.no_grad():
        assert tiny.HeldOutDice()(model) == pytest.approx(result.best, abs=1e-6)
    assert result.ended == "epochs" and result.epochs == 15 and result.updates == 15 * 6
    assert read_metadata(result.weights)["epoch"] == result.best_epoch


def test_history_has_one_row_per_epoch(tiny: ModuleType, tmp_path: Path) -> None:
    result = tiny.train(tmp_path, validate=Scores(0.5, 0.4, 0.6))
    with open(tmp_path / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    columns = history_columns(validation_metric("dice"))
    assert tuple(rows[0]) == columns and "validation_dice" in columns
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert [row["steps"] for row in rows] == ["2", "4", "6"]
    assert [row["validation_dice"] for row in rows] == ["0.5", "0.4", "0.6"]
    assert [row["best"] for row in rows] == ["1", "0", "1"]
    assert all(float(row["train_loss"]) > 0 and float(row["grad_norm"]) > 0 for row in rows)
    assert result.history[0]["validation_dice"] == 0.5
    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text("utf-8").splitlines()]
    assert lines == [dict(row) for row in result.history] and list(lines[0]) == list(columns)


def test_two_runs_of_one_seed_are_equal(tiny: ModuleType, tmp_path: Path) -> None:
    for name in ("a", "b"):
        tiny.train(tmp_path / name)
        torch.rand(7)
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()
    assert tiny.curve(tmp_path / "a") == tiny.curve(tmp_path / "b")


def test_loader_processes_change_nothing(tiny: ModuleType, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tiny.train(tmp_path / "a", workers=1)
    tiny.train(tmp_path / "b")
    assert tiny.curve(tmp_path / "a") == tiny.curve(tmp_path / "b")


def test_validation_alone_chooses_weights_and_stops(tiny: ModuleType, tmp_path: Path) -> None:
    scores = Scores(0.1, 0.7, 0.7, 0.6, 0.9)
    result = tiny.train(tmp_path, validate=scores, config={"epochs": 5, "patience": 2})
    assert (result.ended, result.epochs, result.best, result.best_epoch) == ("patience", 4, 0.7, 2)
    saved = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(saved[name], tensor) for name, tensor in scores.seen[1].items())
    assert scores.modes == [(False, False)] * 4


def test_without_validation_the_last_average_is_kept(tiny: ModuleType, tmp_path: Path) -> None:
    result = tiny.train(tmp_path, validate=None, config={"patience": 1})
    assert (result.ended, result.best, result.best_epoch, result.epochs) == ("epochs", None, 3, 3)
    assert not any(name.startswith("validation") for name in result.history[0])
    with pytest.raises(InterruptedRun):
        tiny.train(tmp_path, validate=None, reporter=Recorder(stop_at_line="Epoch 2"))
    average = load_file(tmp_path / "state.safetensors")
    for name, tensor in load_file(tmp_path / "model.safetensors").items():
        assert torch.equal(tensor, average[f"average.{name}"])
    assert not torch.equal(average["average.head.weight"], average["model.head.weight"])


def test_every_batch_is_full_unless_there_is_only_one(tiny: ModuleType) -> None:
    source = BatchSource(tiny.Squares(10), 4, seed=0, workers=0, pin=False)
    assert [len(batch["id"]) for batch in source.batches(0, 0)] == [4, 4] and source.steps == 2
    small = BatchSource(tiny.Squares(3), 4, seed=0, workers=0, pin=False)
    assert [len(batch["id"]) for batch in small.batches(0, 0)] == [3] and small.steps == 1
    assert list(small.batches(0, 1)) == []


def test_a_batch_is_given_as_often_as_it_is_visited(tiny: ModuleType) -> None:
    data = tiny.Squares(10)
    source = BatchSource(data, 4, seed=0, workers=0, pin=False, visits=3)
    steps = [batch["id"] for batch in source.batches(2, 0)]
    assert source.steps == len(steps) == 6 and steps[:3] == [steps[0]] * 3 and steps[3:] == [steps[3]] * 3
    assert steps[0] != steps[3] and len(data.asked) == 8, "it is loaded once"
    assert [batch["id"] for batch in source.batches(2, 2)] == steps[2:]
    assert list(source.batches(2, 6)) == []


@pytest.mark.parametrize("clip_by", ["norm", "value"])
def test_a_gradient_is_clipped_as_a_whole_or_value_by_value(tiny: ModuleType, tmp_path: Path, clip_by: str) -> None:
    limit = 1e-3
    with pytest.raises(InterruptedRun):
        tiny.train(tmp_path, reporter=Recorder(stop_after=1), config={"clip": limit, "clip_by": clip_by})
    state = load_file(tmp_path / "state.safetensors")
    # After one step Adam remembers a tenth of the gradient.
    gradient = torch.cat([10 * value.flatten() for name, value in state.items() if name.endswith("exp_avg")])
    if clip_by == "norm":
        assert float(gradient.norm()) == pytest.approx(limit, rel=1e-3)
    else:
        assert float(gradient.abs().max()) == pytest.approx(limit, rel=1e-3)
        assert float(gradient.norm()) > 2 * limit


def test_starting_in_the_middle_of_an_epoch_does_not_load_what_came_before(tiny: ModuleType) -> None:
    data = tiny.Squares(12)
    source = BatchSource(data, 4, seed=0, workers=0, pin=False)
    full = [batch["id"] for batch in source.batches(5, 0)]
    data.asked.clear()
    assert [batch["id"] for batch in source.batches(5, 2)] == full[2:]
    assert len(data.asked) == 4 and {epoch for epoch, _ in data.asked} == {5}


def test_reporter_hears_of_every_step(tiny: ModuleType, tmp_path: Path) -> None:
    recorder = Recorder()
    tiny.train(tmp_path, reporter=recorder)
    assert recorder.started == [("epoch 1/3", 2), ("epoch 2/3", 2), ("epoch 3/3", 2)]
    assert recorder.done == 6 and all({"loss", "lr"} <= set(fields) for fields in recorder.fields)
    # The numbers that an epoch's progress ends with are those of the epoch, not of its last step.
    means = [line.partition("loss ")[2].partition(",")[0] for line in recorder.lines if line.startswith("Epoch ")]
    assert [f"{fields['loss']:.4f}" for fields in recorder.fields[1::2]] == means
    assert "validation Dice" in recorder.lines[-1]


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that moves one second each time it is read, which is once per step and twice per epoch."""
    seconds = itertools.count()
    monkeypatch.setattr("medformer.training.optimizer.monotonic", lambda: float(next(seconds)))


@pytest.mark.usefixtures("ticking")
@pytest.mark.parametrize(
    ("config", "first"),
    [
        ({"epochs": 3}, ", about 6.0 s left"),
        ({"epochs": 3, "patience": 5}, ", at most 6.0 s left"),
        ({"minutes": 0.2}, ", about 9.0 s left"),
    ],
)
def test_every_epoch_but_the_last_tells_how_long_the_rest_will_take(
    tiny: ModuleType, tmp_path: Path, config: dict[str, Any], first: str
) -> None:
    recorder = Recorder()
    tiny.train(tmp_path, config=config, reporter=recorder)
    epochs = [line for line in recorder.lines if line.startswith("Epoch")]
    assert epochs[0].endswith(first)
    assert len(epochs) >= 3 and ["left" in line for line in epochs] == [True] * (len(epochs) - 1) + [False]


@pytest.mark.usefixtures("ticking")
@pytest.mark.parametrize(
    ("config", "trainings", "said"),
    [
        ({"epochs": 20}, 5, "about 3 min 20 s for this training, 16 min 40 s for the 5 trainings that are left."),
        ({"epochs": 60, "patience": 1}, 1, "at most 10 min for this training."),
        ({"minutes": 1.0}, 15, "for the 15 trainings that are left."),
        ({"epochs": 20}, 1, None),
    ],
)
def test_what_a_long_run_takes_is_said_after_two_steps_and_once(
    tiny: ModuleType, tmp_path: Path, config: dict[str, Any], trainings: int, said: str | None
) -> None:
    recorder = Recorder(stop_after=12)
    with pytest.raises(InterruptedRun):
        tiny.train(tmp_path, data=tiny.Squares(40), config=config, trainings=trainings, reporter=recorder)
    found = [line for line in recorder.lines if line.startswith("A step takes 1.0 s here: ")]
    assert len(found) == (said is not None)
    assert said is None or said in found[0]


@pytest.mark.usefixtures("ticking")
def test_a_time_budget_ends_training_within_an_epoch(tiny: ModuleType, tmp_path: Path) -> None:
    recorder = Recorder()
    result = tiny.train(tmp_path, data=tiny.Squares(400), config={"minutes": 1.0, "epochs": 1}, reporter=recorder)
    assert (result.ended, result.epochs, result.updates, len(result.history)) == ("minutes", 1, 60, 1)
    assert result.weights.exists()
    rates = [fields["lr"] for fields in recorder.fields]
    assert rates[0] == 0.0 and rates[3] == max(rates) == pytest.approx(0.02) and rates[-1] < 0.001


@pytest.mark.usefixtures("ticking")
def test_a_time_budget_runs_over_as_many_epochs_as_fit(tiny: ModuleType, tmp_path: Path) -> None:
    result = tiny.train(tmp_path, config={"minutes": 1.0, "epochs": 1})
    assert result.ended == "minutes" and result.epochs in (15, 16) and 60 <= result.seconds <= 62


@pytest.mark.usefixtures("ticking")
def test_a_stopped_run_has_only_the_rest_of_its_time_left(tiny: ModuleType, tmp_path: Path) -> None:
    config = {"minutes": 1.0}
    recorder = Recorder(stop_after=20)
    with pytest.raises(InterruptedRun):
        tiny.train(tmp_path, data=tiny.Squares(400), config=config, reporter=recorder)
    result = tiny.train(tmp_path, data=tiny.Squares(400), config=config, resume=True)
    assert result.updates == 60 and result.seconds == pytest.approx(61, abs=2)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_case_keeps_its_own_message(tiny: ModuleType, tmp_path: Path, workers: int) -> None:
    data = tiny.Squares(faults={3: DataError("Case 'case3': /data/3.jpg is truncated.")})
    with warnings.catch_warnings(), pytest.raises(DataError) as caught:
        warnings.simplefilter("ignore")
        tiny.train(tmp_path, data=data, workers=workers)
    assert str(caught.value) == "Case 'case3': /data/3.jpg is truncated."


def test_no_cases_is_bad_data(tiny: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no training cases"):
        tiny.train(tmp_path, data=tiny.Squares(0))


def test_one_value_for_a_batch_norm_is_no_defect(tiny: ModuleType, tmp_path: Path) -> None:
    class Pooled(tiny.TinyNet):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x + self.norm(x.mean((2, 3), keepdim=True)))

    with pytest.raises(ConfigError, match="A batch of 1 training case gives a batch normalization of the network one"):
        tiny.train(tmp_path / "one", data=tiny.Squares(1), model=Pooled())
    tiny.train(tmp_path / "two", data=tiny.Squares(2), model=Pooled(), config={"epochs": 1})
    # The last batch of an epoch is never one of one.
    tiny.train(tmp_path / "nine", data=tiny.Squares(9), model=Pooled(), config={"epochs": 1})


def test_a_nan_in_an_image_is_traced_to_its_case(tiny: ModuleType, tmp_path: Path) -> None:
    data = tiny.Squares(8, faults={5: float("nan")})
    with pytest.raises(DivergenceError) as caught:
        tiny.train(tmp_path, data=data, config={"batch_size": 8})
    text = str(caught.value)
    assert "epoch 1, step 1 of 1" in text and "loss nan" in text
    assert all(f"case{number}" in text for number in range(8))
    assert "not finite in 1 (case5)" in text and "No weights were saved yet" in text


class Exploding(nn.Module):
    """A loss that turns infinite at a given call."""

    name = "exploding"

    def __init__(self, call: int) -> None:
        super().__init__()
        self.left = call

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        self.left -= 1
        return (logits - target).square().mean() * (float("inf") if self.left == 0 else 1.0)


def test_divergence_keeps_the_last_good_files_and_gives_advice(tiny: ModuleType, tmp_path: Path) -> None:
    tiny.train(tmp_path / "fine", loss=Exploding(0), config={"epochs": 3})
    with pytest.raises(DivergenceError) as caught:
        tiny.train(tmp_path / "bad", loss=Exploding(4), config={"epochs": 3, "clip": 0.0})
    text = str(caught.value)
    assert "epoch 2, step 2 of 2" in text and "loss inf" in text
    assert "training.lr=0.002 (now 0.02), training.clip=1.0" in text and "those of epoch 1" in text
    state = load_file(tmp_path / "bad/state.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in state.values())
    assert read_metadata(tmp_path / "bad/model.safetensors")["epoch"] == 1
    assert len(tiny.curve(tmp_path / "bad")) == 1


def test_a_validation_that_is_not_a_number_stops(tiny: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(DivergenceError, match="Validation after epoch 1 gave nan"):
        tiny.train(tmp_path, validate=Scores(float("nan")))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory: you tried to allocate"),
        RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."),
        MemoryError(),
    ],
)
def test_out_of_memory_gives_sizes_and_smaller_ones(tiny: ModuleType, tmp_path: Path, error: Exception) -> None:
    class Greedy(tiny.TinyNet):  # type: ignore[name-defined,misc]
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise error

    with pytest.raises(ResourceError) as caught:
        tiny.train(tmp_path, model=Greedy(), scales=(1.5,))
    text = str(caught.value)
    assert "batch of 4, images of 12 x 12 with 3 channels, resized by 1.5" in text
    assert "training.batch_size=2" in text and "data.image_size=[9, 9]" in text and "bf16-mixed" in text
    parameters = sum(p.numel() for p in Greedy().parameters())
    assert f"network of {parameters} parameters" in text


def test_other_runtime_errors_are_not_called_memory(tiny: ModuleType, tmp_path: Path) -> None:
    class Buggy(tiny.TinyNet):  # type: ignore[name-defined,misc]
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        tiny.train(tmp_path, model=Buggy())


def test_scales_are_drawn_per_batch_and_replayed(tiny: ModuleType, tmp_path: Path) -> None:
    sizes: list[list[int]] = []

    class Watching(tiny.TinyNet):  # type: ignore[name-defined,misc]
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.training:
                sizes[-1].append(x.shape[-1])
            return super().forward(x)  # type: ignore[no-any-return]

    for name in ("a", "b"):
        sizes.append([])
        tiny.train(tmp_path / name, model=Watching(), scales=(0.75, 1.0, 1.25), config={"epochs": 8})
    assert sizes[0] == sizes[1] and set(sizes[0]) == {9, 12, 15}


def test_auxiliary_outputs_are_trained_too(tiny: ModuleType, tmp_path: Path) -> None:
    class Deep(tiny.TinyNet):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.auxiliary = nn.Conv2d(3, 1, 1)

        def forward(self, x: torch.Tensor) -> Any:
            main = super().forward(x)
            return (main, self.auxiliary(x[..., ::2, ::2])) if self.training else main

    model = Deep()
    first = model.auxiliary.weight.detach().clone()
    tiny.train(tmp_path, model=model)
    assert not torch.equal(first, model.auxiliary.weight)


def test_bfloat16_trains(tiny: ModuleType, tmp_path: Path) -> None:
    result = tiny.train(tmp_path, config={"precision": "bf16-mixed"})
    assert result.history[-1]["train_loss"] < result.history[0]["train_loss"]


def test_losses_are_computed_in_single_precision(tiny: ModuleType, tmp_path: Path) -> None:
    types: set[torch.dtype] = set()

    class Noting(nn.Module):
        name = "noting"

        def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            # Autocast would give a product another type.
            types.update((logits.dtype, (logits[:, 0] @ target[:, 0]).dtype))
            return (logits - target).square().mean()

    tiny.train(tmp_path, loss=Noting(), config={"precision": "bf16-mixed", "epochs": 1})
    assert types == {torch.float32}


@pytest.fixture
def float16_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fabric keeps float16 to GPUs; this runs the same loss scaling here."""

    def build(_: TrainingConfig, **__: bool) -> Fabric:
        return Fabric(accelerator="cpu", devices=1, plugins=MixedPrecision("16-mixed", "cpu"))

    monkeypatch.setattr("medformer.training.fit.build_fabric", build)


class Spiking(nn.Module):
    """A finite loss whose first gradients overflow float16, while the loss scale still adapts."""

    name = "spiking"

    def __init__(self, spikes: int) -> None:
        super().__init__()
        self.spikes = spikes

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        self.spikes -= 1
        return (logits - target).square().mean() * (1e34 if self.spikes >= 0 else 1.0)


@pytest.mark.usefixtures("float16_on_cpu")
def test_a_float16_overflow_skips_the_step_and_the_scale_survives_a_resume(tiny: ModuleType, tmp_path: Path) -> None:
    config = {"precision": "16-mixed"}
    result = tiny.train(tmp_path, loss=Spiking(1), config=config)
    _, metadata = read_tensors(tmp_path / "state.safetensors")
    assert metadata["progress"]["updates"] == 6 and metadata["progress"]["taken"] == 5
    assert metadata["progress"]["scaler"]["scale"] == 32768.0
    assert result.history[0]["grad_norm"] < 1e6
    assert tiny.train(tmp_path, loss=Spiking(0), config=config, resume=True).history == result.history


@pytest.mark.usefixtures("float16_on_cpu")
def test_overflow_without_end_is_a_divergence(tiny: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(DivergenceError, match=r"step 1 of 2.*32-true"):
        tiny.train(tmp_path, loss=Spiking(10**6), config={"precision": "16-mixed", "epochs": 100})


def test_float16_on_a_cpu_is_refused(tiny: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs a GPU"):
        tiny.train(tmp_path, config={"precision": "16-mixed"})


def test_a_missing_gpu_is_named(tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ResourceError, match=r"devices=2.*1 CUDA devices"):
        tiny.train(tmp_path, config={"accelerator": "cuda", "devices": 2})


def test_a_full_disk_loses_nothing(tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.train(tmp_path, config={"epochs": 2})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(ResourceError, match="No space left"):
        write_tensors(tmp_path / "model.safetensors", tiny.seeded_net().state_dict(), {})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
