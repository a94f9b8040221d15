from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from medformer.training.loader import BatchSource
from medformer.training.processes.batch_norm import SharedBatchNorm, share_batch_norm, unshared


def _curves(folder: Path, precision: str) -> list[list[dict[str, Any]]]:
    # Importing it sets the number of threads, as in the processes that it starts.
    from two_processes import curves

    return curves(folder, precision)


def test_two_processes_train_a_fold_as_one_does(tmp_path: Path) -> None:
    one, two = _curves(tmp_path, "float64")
    assert len(one) == len(two) == 3
    scores = [row["validation_dice"] for row in one]
    assert max(scores) - min(scores) > 0.02, "nothing was learned, so the comparison says nothing"
    for alone, shared in zip(one, two, strict=True):
        assert alone["steps"] == shared["steps"]
        assert shared["validation_dice"] == pytest.approx(alone["validation_dice"], abs=1e-3)
        assert shared["train_loss"] == pytest.approx(alone["train_loss"], abs=1e-5)
        assert shared["best"] == alone["best"]
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(tmp_path / "2/tensorboard")).Reload().Scalars("train_loss")
    assert [event.step for event in events] == [1, 2, 3], "the first process alone tracks"


@pytest.mark.slow
def test_in_single_precision_too_until_rounding_takes_over(tmp_path: Path) -> None:
    one, two = _curves(tmp_path, "float32")
    assert two[0]["train_loss"] == pytest.approx(one[0]["train_loss"], abs=1e-4)
    # A threshold makes more of rounding than a loss does: the validation Dice parts within the first epoch.
    assert two[-1]["train_loss"] == pytest.approx(one[-1]["train_loss"], abs=5e-3)


@pytest.mark.parametrize("cases", [8, 15, 16, 23, 24, 25])
@pytest.mark.parametrize("replicas", [2, 3])
def test_the_batches_of_all_processes_make_up_the_batch_of_one(tiny: ModuleType, cases: int, replicas: int) -> None:
    data = tiny.Squares(cases)
    shares = [
        BatchSource(data, 2, seed=5, workers=0, pin=False, rank=rank, replicas=replicas) for rank in range(replicas)
    ]
    whole = BatchSource(data, 2 * replicas, seed=5, workers=0, pin=False)
    assert {share.steps for share in shares} == {whole.steps}
    for epoch, start in [(0, 0), (3, 0), (3, whole.steps - 1)]:
        parts = [[batch["id"] for batch in share.batches(epoch, start)] for share in shares]
        together = [sorted(name for part in step for name in part) for step in zip(*parts, strict=True)]
        assert together == [sorted(batch["id"]) for batch in whole.batches(epoch, start)]


class Processes:
    """Threads that stand for the processes of a group: each has a rank, and `all_reduce` waits for all of them."""

    def __init__(self, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.number = number
        self.local = threading.local()
        self.barrier = threading.Barrier(number, timeout=600)
        self.tensors: list[torch.Tensor] = [torch.empty(0)] * number
        base = "medformer.training.processes.batch_norm.dist"
        monkeypatch.setattr(f"{base}.is_initialized", lambda: True)
        monkeypatch.setattr(f"{base}.get_world_size", lambda: number)
        monkeypatch.setattr(f"{base}.get_rank", lambda: self.local.rank)
        monkeypatch.setattr(f"{base}.all_reduce", self.all_reduce)

    def all_reduce(self, tensor: torch.Tensor) -> None:
        self.tensors[self.local.rank] = tensor.clone()
        self.barrier.wait()
        total = torch.stack(self.tensors).sum(0)
        self.barrier.wait()
        tensor.copy_(total)

    def run(self, work: Callable[[int], Any]) -> list[Any]:
        results: list[Any] = [None] * self.number

        def enter(rank: int) -> None:
            self.local.rank = rank
            results[rank] = work(rank)

        threads = [threading.Thread(target=enter, args=(rank,)) for rank in range(self.number)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(result is not None for result in results)
        return results


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize(
    ("kind", "shape"), [(nn.BatchNorm1d, (6, 5)), (nn.BatchNorm2d, (6, 5, 4, 3)), (nn.BatchNorm3d, (6, 5, 2, 3, 2))]
)
def test_shared_normalization_is_that_of_the_whole_batch(
    monkeypatch: pytest.MonkeyPatch, kind: type[Any], shape: tuple[int, ...], momentum: float | None
) -> None:
    def layer() -> nn.Module:
        norm = kind(5, momentum=momentum)
        with torch.no_grad():
            norm.weight.copy_(torch.linspace(0.5, 2, 5))
            norm.bias.copy_(torch.linspace(-1, 1, 5))
        return norm.double()  # type: ignore[no-any-return]

    torch.manual_seed(0)
    x = 3 * torch.randn(shape, dtype=torch.float64) + torch.arange(6.0).view(-1, *[1] * (len(shape) - 1))
    pull = torch.randn(shape, dtype=torch.float64)
    reference, whole = layer(), x.clone().requires_grad_()
    for _ in range(2):
        expected = reference(whole)
    (expected * pull).sum().backward()

    layers = [share_batch_norm(layer(), torch.device("cpu")) for _ in range(3)]
    parts = [part.clone().requires_grad_() for part in x.chunk(3)]

    def work(rank: int) -> torch.Tensor:
        for _ in range(2):
            y = layers[rank](parts[rank])
        (y * pull.chunk(3)[rank]).sum().backward()
        return y.detach()

    got = torch.cat(Processes(3, monkeypatch).run(work))
    torch.testing.assert_close(got, expected.detach())
    assert whole.grad is not None
    torch.testing.assert_close(torch.cat([part.grad for part in parts]), whole.grad)  # type: ignore[misc]
    for (name, ours), theirs in zip(layers[1].named_buffers(), reference.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, msg=name)
    for ours, theirs in zip(
        zip(*(part.parameters() for part in layers), strict=True), reference.parameters(), strict=True
    ):
        torch.testing.assert_close(sum(p.grad for p in ours), theirs.grad)


def test_low_precision_is_normalized_in_float32_and_far_means_lose_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    x = (torch.randn(8, 3, 4, 4) + 100).to(torch.bfloat16)
    layers = [share_batch_norm(nn.BatchNorm2d(3), torch.device("cpu")) for _ in range(2)]
    got = Processes(2, monkeypatch).run(lambda rank: layers[rank](x.chunk(2)[rank]).detach())
    assert got[0].dtype == torch.bfloat16
    torch.testing.assert_close(torch.cat(got).float(), nn.BatchNorm2d(3)(x.float()), atol=0.02, rtol=0.01)


def test_evaluation_exchanges_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    norm = share_batch_norm(nn.BatchNorm2d(3), torch.device("cpu")).eval()
    Processes(2, monkeypatch)
    x = torch.randn(2, 3, 4, 4)
    # Processes validate as many cases as there are for each: waiting for one that has no more would never end.
    torch.testing.assert_close(norm(x), nn.BatchNorm2d(3).eval()(x))


class Activated(nn.BatchNorm2d):
    """A subclass that does more than normalize."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(super().forward(x))


def test_only_plain_layers_are_replaced_and_their_tensors_are_used_on() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.BatchNorm2d(4, eps=1e-3), nn.ReLU()), Activated(4))
    before = model.state_dict(keep_vars=True)
    shared = share_batch_norm(model, torch.device("cpu"))
    assert isinstance(shared[1][0], SharedBatchNorm) and shared[1][0].eps == 1e-3
    assert type(shared[2]) is Activated and unshared(shared) == 1
    after = shared.state_dict(keep_vars=True)
    assert list(after) == list(before) and all(after[name] is before[name] for name in before)


def test_gpus_use_the_layer_that_pytorch_has_for_them() -> None:
    shared = share_batch_norm(nn.Sequential(nn.BatchNorm3d(4, affine=False)), torch.device("cuda"))
    assert type(shared[0]) is nn.SyncBatchNorm and shared[0].weight is None and shared[0].running_var is not None
