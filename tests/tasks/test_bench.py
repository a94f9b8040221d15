"""What `medformer bench` and the speed benchmarks measure with."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from medformer.errors import ConfigError
from medformer.progress import SilentReporter
from medformer.tasks.bench import networks
from medformer.tasks.bench.floor import Ceilings, Cost, cost_of
from medformer.tasks.bench.networks import Specimen, measure, specimen, table
from medformer.tasks.bench.passes import Mode, make_pass, mean_square, peak_memory
from medformer.tasks.bench.rounds import ratio, turns

CPU = torch.device("cpu")


def test_turns_change_who_goes_first_and_leave_out_the_warm_up() -> None:
    order: list[str] = []
    ticks = iter(range(100))
    found = turns({name: lambda name=name: order.append(name) for name in "abc"}, 2, clock=lambda: float(next(ticks)))
    assert "".join(order) == "abcbcacab"
    assert found == {"a": [1.0, 1.0], "b": [1.0, 1.0], "c": [1.0, 1.0]}


def test_a_ratio_has_the_median_of_rounds_and_an_interval_around_it() -> None:
    found = ratio([1.0, 2.0, 9.0, 2.0, 2.0], [2.0, 4.0, 4.0, 4.0, 4.0])
    assert found.median == 0.5 and found.low == 0.5 and 0.5 < found.high <= 2.25
    assert str(ratio([3.0], [4.0])) == "0.75 (0.75-0.75)"


def test_operations_and_tensors_are_those_counted_by_hand() -> None:
    layer, x = nn.Linear(4, 6, bias=False), torch.zeros(5, 4)
    assert cost_of(layer, x, "predict") == Cost(2 * 5 * 4 * 6, 5 * 6 * 4)
    assert cost_of(layer, x, "train").operations == 3 * (2 * 5 * 4 * 6)
    grouped, image = nn.Conv2d(4, 4, 3, padding=1, groups=4), torch.zeros(1, 4, 5, 5)
    assert cost_of(grouped, image, "train").operations == 3 * (2 * 9 * 4 * 25)
    assert layer.weight.device.type == "cpu" and layer.weight.grad is None


def test_a_floor_is_the_operations_at_the_rate_of_the_precision_and_its_tensors_copied() -> None:
    limits = Ceilings(fp32=10.0, bf16=40.0, copy=2.0)
    assert Cost(120, 8).floors(limits, "fp32") == (12.0, 4.0)
    assert Cost(120, 8).floors(limits, "bf16") == Cost(120, 8).floors(limits, "bf16 weights") == (3.0, 2.0)


class Watched(nn.Module):
    """Notes the types it computes in, and takes a megabyte."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.seen: list[Any] = []

    def __deepcopy__(self, memo: Any) -> Watched:
        other = Watched()
        other.seen = self.seen
        return other

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layer(x)
        self.seen.append((out.dtype, self.training, torch.is_grad_enabled()))
        torch.ones(2**22)
        return out


@pytest.mark.parametrize(
    ("work", "mode", "seen"),
    [
        ("predict", Mode("fp32"), (torch.float32, False, False)),
        ("predict", Mode("bf16"), (torch.bfloat16, False, False)),
        ("predict", Mode("bf16 weights"), (torch.bfloat16, False, False)),
        ("train", Mode("bf16"), (torch.bfloat16, True, True)),
    ],
)
def test_a_pass_is_computed_as_its_mode_says(work: Any, mode: Mode, seen: Any) -> None:
    model = Watched()
    make_pass(model, torch.zeros(1, 3), work, mode, CPU, mean_square)()
    assert model.seen == [seen] and model.training and model.layer.weight.grad is None


def test_memory_is_that_of_the_call_alone() -> None:
    held = torch.ones(2**23)
    found = peak_memory(lambda: torch.ones(2**24).sum(), CPU)
    assert held.numel() and (found is None or 6e7 < found < 1.2e8)


@pytest.mark.parametrize(
    ("name", "task", "size", "batch"),
    [
        ("polyp/quick", "polyp", (2, 3, 128, 128), 8),
        ("volume/demo", "volume", (2, 1, 32, 32, 32), 6),
    ],
)
def test_a_specimen_is_what_its_config_trains(name: str, task: str, size: tuple[int, ...], batch: int) -> None:
    found = specimen(name, task)
    assert found.inputs(2).shape == size and found.batch == batch


def test_rows_say_what_was_measured_in_each_precision_that_is_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    small = Specimen("polyp/quick", nn.Conv2d(3, 1, 3), lambda count: torch.zeros(count, 3, 9, 9), "9 x 9", 8)
    monkeypatch.setattr(networks, "specimen", lambda name, task, overrides: small)
    monkeypatch.setattr(networks, "bfloat16_units", lambda device: "AMX")
    monkeypatch.setattr(networks, "measure_ceilings", lambda device, clock: Ceilings(1e9, 2e9, 1e9))
    before = torch.get_num_threads()
    found = measure(["polyp/quick"], SilentReporter(), accelerator="cpu", threads=[1, 2], rounds=1)
    rows = [(row["threads"], row["work"], row["numbers"], row["batch"]) for row in found["rows"]]
    each = [("predict", "fp32", 1), ("predict", "bf16", 1), ("train", "fp32", 2), ("train", "bf16", 2)]
    assert rows == [(count, *row) for count in (1, 2) for row in each]
    assert torch.get_num_threads() == before and list(found["ceilings"]) == [1, 2]
    row = found["rows"][0]
    assert row["operations"] == 2 * 27 * 49 and row["of_products"] == pytest.approx(row["seconds"] / (2 * 27 * 49e-9))
    assert row["cases_per_second"] == pytest.approx(1 / row["seconds"])
    assert len(table(found)) == 1 + len(rows) + 2


def test_a_file_needs_its_task() -> None:
    with pytest.raises(ConfigError, match="Expected --task"):
        measure(["mine.yaml"], SilentReporter())
