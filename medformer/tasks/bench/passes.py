"""Passes of a network to be timed: predicting and a training step, in a precision, compiled or not."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from medformer.models.precision import autocast
from medformer.training.small_convolutions import ExactSmallConvolutions

Work = Literal["predict", "train"]
Numbers = Literal["fp32", "tf32", "bf16", "bf16 weights"]


@dataclass(frozen=True)
class Mode:
    """How a network is computed.

    Attributes:
        numbers: `fp32`; `tf32` (matrix products and convolutions of a GPU); `bf16` (autocast); or `bf16 weights`, the
            whole network in bfloat16, for predicting alone.
        compiled: By torch.compile.
    """

    numbers: Numbers = "fp32"
    compiled: bool = False

    def __str__(self) -> str:
        return f"{self.numbers}, compiled" if self.compiled else self.numbers


def make_pass(
    model: nn.Module, inputs: Any, work: Work, mode: Mode, device: torch.device, after: Callable[[Any], Tensor]
) -> Callable[[], None]:
    """Return what computes a pass and waits for the device.

    Args:
        model: Is copied.
        inputs: What it takes: a tensor, or tensors by name.
        work: `predict` without gradients, or `train`: forward and backward pass.
        mode: How.
        device: Where.
        after: From the outputs of a training step to its loss.
    """
    own = deepcopy(model).to(device).train(work == "train")
    given = tree_map_only(Tensor, lambda tensor: tensor.to(device), inputs)
    if mode.numbers == "bf16 weights":
        own, given = own.bfloat16(), tree_map_only(Tensor, lambda tensor: tensor.bfloat16(), given)
    if mode.compiled:
        own.compile(dynamic=False)
    low = mode.numbers == "bf16"

    def predict() -> None:
        with torch.inference_mode(), autocast(device, "bf16-mixed" if low else "32-true"):
            own(given)

    def train() -> None:
        own.zero_grad(set_to_none=True)
        # As in a training.
        with ExactSmallConvolutions() if low and device.type == "cpu" else nullcontext():
            with autocast(device, "bf16-mixed" if low else "32-true"):
                outputs = own(given)
            after(outputs).backward()

    call = train if work == "train" else predict

    def run() -> None:
        with _tf32(mode.numbers == "tf32") if device.type == "cuda" else nullcontext():
            call()
        finish(device)

    return run


def mean_square(outputs: Any) -> Tensor:
    """A loss that costs next to nothing: the mean square of every map of logits."""
    return torch.stack([out.float().square().mean() for out in tree_leaves(outputs)]).sum()


def finish(device: torch.device) -> None:
    """Wait for a device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def peak_memory(call: Callable[[], object], device: torch.device) -> int | None:
    """Bytes that a call takes at most beyond what is held before it; None where the system does not tell.

    On a CPU it is the resident memory of this process, on Linux; what another thread takes meanwhile is in it.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    with suppress(OSError, AttributeError):
        # Freed memory that the process keeps would hide what the call takes.
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        before = resident("VmRSS")
        call()
        return max(0, resident("VmHWM") - before)
    return None


def resident(name: str) -> int:
    """A size of this process in bytes, such as `VmHWM` (its peak of resident memory) or `VmPeak` (of addresses); Linux.

    Unlike the resource module's, it does not include the process that started this one.
    """
    status = Path("/proc/self/status").read_text("ascii").splitlines()
    return int(next(line for line in status if line.startswith(name)).split()[1]) * 1024


@contextmanager
def _tf32(wanted: bool) -> Iterator[None]:
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if wanted else "highest")
    torch.backends.cudnn.allow_tf32 = wanted
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
