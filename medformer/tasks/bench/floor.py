"""The least time that this machine needs for a pass: its operations at the rate of its matrix products, and its maps.

No network reaches either limit, and both together say whether a pass could be quicker: one that takes twice the time of
its matrix products has at most the factor 2 left in them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from medformer.tasks.bench.passes import Work, finish, mean_square
from medformer.tasks.bench.rounds import turns

_SIDE = {"cpu": 2048, "cuda": 8192, "mps": 4096}
"""Of the square matrices, large enough for the full rate."""

Kernel = Callable[[Tensor, Tensor], Tensor]

_COPIED = {"cpu": 2**28, "cuda": 2**31, "mps": 2**30}
"""Bytes of the copy, more than caches hold."""


@dataclass(frozen=True)
class Ceilings:
    """What a device does at most.

    Attributes:
        fp32: Operations per second of a product of large matrices in single precision, by the quickest kernel.
        bf16: The same in bfloat16.
        copy: Bytes per second that are copied.
    """

    fp32: float
    bf16: float
    copy: float


@dataclass(frozen=True)
class Cost:
    """What a pass consists of.

    Attributes:
        operations: Of matrix products, convolutions and attention; a multiplication and an addition count as two, and a
            training step as three forward passes: each product is followed by one for either of its gradients.
        written: Bytes of all tensors that it makes, in single precision.
    """

    operations: int
    written: int

    def floors(self, ceilings: Ceilings, numbers: str) -> tuple[float, float]:
        """Seconds of its operations alone, and of copying each of its tensors once, as if it were read and written."""
        low = numbers.startswith("bf16")
        size = self.written / (2 if low else 1)
        return self.operations / (ceilings.bf16 if low else ceilings.fp32), size / ceilings.copy


def measure_ceilings(
    device: torch.device, rounds: int = 5, clock: Callable[[], float] = time.perf_counter, *, tiny: bool = False
) -> Ceilings:
    """Measure what a device does with the threads that torch has now.

    Args:
        device: Which.
        rounds: Of which the quickest counts: nothing is quicker than the machine.
        clock: Gives seconds.
        tiny: Use an eighth of the side and size, to try the code.
    """
    side, size = (value // (8 if tiny else 1) for value in (_SIDE[device.type], _COPIED[device.type]))

    def rate(kernel: Kernel, dtype: torch.dtype, side: int) -> float:
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        return 2 * side**3 / _quickest(partial(kernel, a, b), device, rounds, clock)

    rates = {}
    for dtype in (torch.float32, torch.bfloat16):
        small = {kernel: rate(kernel, dtype, side // 4) for kernel in (torch.mm, _as_convolution)}
        # A processor without instructions for bfloat16 has kernels that would take minutes for the large product.
        quick = [kernel for kernel in small if small[kernel] > max(small.values()) / 4]
        rates[dtype] = max(rate(kernel, dtype, side) for kernel in quick)
    source = torch.zeros(size // 4, device=device)
    target = torch.ones_like(source)
    copied = size / _quickest(lambda: target.copy_(source), device, rounds, clock)
    return Ceilings(rates[torch.float32], rates[torch.bfloat16], copied)


def _as_convolution(a: Tensor, b: Tensor) -> Tensor:
    """The same product; on a CPU it is another library's, and at times twice as quick."""
    return F.conv2d(a.view(16, -1, 1, a.shape[1]).movedim(-1, 1), b[:, :, None, None])


def _quickest(call: Callable[[], object], device: torch.device, rounds: int, clock: Callable[[], float]) -> float:
    def once() -> None:
        call()
        finish(device)

    return min(turns({"call": once}, rounds, clock=clock)["call"])


def cost_of(model: nn.Module, inputs: Any, work: Work) -> Cost:
    """Count what a pass consists of, on the meta device: nothing is computed, and the network stays as it is.

    Raises:
        NotImplementedError: The network does something that only real tensors can.
    """
    ghost = deepcopy(model).to("meta").train(work == "train")
    given = tree_map_only(Tensor, lambda tensor: torch.empty_like(tensor, device="meta"), inputs)
    counter = FlopCounterMode(display=False)
    with torch.set_grad_enabled(work == "train"), _Written() as written:
        with counter:
            outputs = ghost(given)
        if work == "train":
            mean_square(outputs).backward()
    # Torch counts the gradient of a grouped convolution as that of a dense one.
    return Cost(counter.get_total_flops() * (3 if work == "train" else 1), written.bytes)


class _Written(TorchDispatchMode):
    """Adds up the bytes of every tensor that is made; views are none."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in given:
                self.bytes += tensor.untyped_storage().nbytes()
        return result
