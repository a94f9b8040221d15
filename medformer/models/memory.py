"""How much memory training a network takes, computed before anything is allocated.

One training step runs on the meta device: every operation happens, with shapes and without numbers, so that it takes a
fraction of a second for any input. All tensors that are alive are counted, with the activations kept for the backward
pass and the gradients, and the largest sum is the peak. Added to it are the weights, their average, the two moments of
the optimizer, and the memory of a process that has only loaded its libraries. In low precision layers give half as many
bytes (`LowPrecision`), and on a GPU a convolution needs room to work (`LiveTensors`).

`benchmarks/volume_memory.py` holds the result against processes that really train.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from copy import deepcopy
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from medformer.config.shared import Precision

Axes = tuple[int, int, int]
Builder = Callable[[Axes, tuple[Axes, ...], tuple[Axes, ...]], nn.Module]
Cost = Callable[[Axes, tuple[Axes, ...], tuple[Axes, ...], int], int]

PROCESS = {"cpu": 920e6, "mps": 920e6, "cuda": 600e6}
"""Bytes before the first tensor, by device: the interpreter with torch and MONAI (measured), or a GPU's context."""

FRAGMENTS = {"cpu": 1.65, "mps": 1.08, "cuda": 1.08}
"""Memory held over memory used, by device: freed blocks that the next tensor does not fit into, and workspaces of
kernels. A program on a CPU keeps what it frees (`medformer.freed_memory`), and holds 1.4 to 1.9 times what is used."""

COPIES = 4
"""Tensors that are held for each weight, without its gradient: itself, its average, AdamW's two moments."""


def training_cost(build: Builder, in_channels: int, device: str = "cpu", precision: Precision = "32-true") -> Cost:
    """Return what computes the peak bytes of training the networks that `build` makes, each answer once.

    Memory lies on a straight line over the batch size, so that more than four samples need no step of their own, which
    would take long where samples are normalized one by one.

    Args:
        build: From patch, strides and kernel sizes to a network.
        in_channels: Of its input.
        device: `cpu`, `mps` or `cuda`.
        precision: See `training_memory`.
    """

    @lru_cache(maxsize=1)
    def network(patch: Axes, strides: tuple[Axes, ...], kernel_sizes: tuple[Axes, ...]) -> nn.Module:
        return build(patch, strides, kernel_sizes).to("meta")

    @cache
    def peak(patch: Axes, strides: tuple[Axes, ...], kernel_sizes: tuple[Axes, ...], batch_size: int) -> int:
        if batch_size > 4:
            two, four = (peak(patch, strides, kernel_sizes, few) for few in (2, 4))
            return two + (batch_size - 2) * (four - two) // 2
        model = network(patch, strides, kernel_sizes)
        return training_memory(model, patch, batch_size, in_channels=in_channels, device=device, precision=precision)

    return peak


def training_memory(
    model: nn.Module,
    patch: Sequence[int],
    batch_size: int,
    *,
    in_channels: int,
    device: str = "cpu",
    precision: Precision = "32-true",
) -> int:
    """Expected peak bytes of a process that trains a network with AdamW and a weight average.

    Args:
        model: Segmentation network or classifier `(B, in_channels, *patch) -> logits`; copied to the meta
            device unless it is there.
        patch: Voxels per axis.
        batch_size: Patches per step.
        in_channels: Of the input.
        device: `cpu` or `mps`, where it is the memory of the process, or `cuda`, where it is the device's.
        precision: Of the step; `auto`, which nobody has decided, counts as float32.
    """
    if any(parameter.device.type != "meta" for parameter in model.parameters()):
        model = deepcopy(model).to("meta")
    mode = model.training
    model.train()
    low = LowPrecision(device, precision) if precision in LOW else nullcontext()
    with torch.random.fork_rng(devices=[]), LiveTensors(workspaces=device == "cuda") as live:
        image = torch.zeros(batch_size, in_channels, *patch, device="meta")
        with low:
            output = model(image)
        stand_in_loss(output).backward()
    model.train(mode)
    model.zero_grad(set_to_none=True)
    weights = sum(_bytes(tensor) for tensor in [*model.parameters(), *model.buffers()])
    return int(PROCESS[device] + FRAGMENTS[device] * live.peak + COPIES * weights)


LOW = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}

_LAYERS = (
    F.linear,
    *(torch.conv1d, torch.conv2d, torch.conv3d),
    *(torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d),
    *(torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, torch.baddbmm, torch.einsum),
    *(F.scaled_dot_product_attention, F.multi_head_attention_forward),
)
"""What autocast computes in low precision."""

_WIDE = (
    *(F.layer_norm, F.group_norm, torch.group_norm, F.rms_norm),
    # In the place of the group norm that a GPU takes (`medformer.models.backbone.norms.InstanceNorm`).
    torch.native_batch_norm,
    *(F.softmax, torch.softmax, Tensor.softmax, F.log_softmax, F.softplus),
)
"""What it computes in float32 on a GPU, and on a CPU in the precision of what comes in."""


class LowPrecision(TorchFunctionMode):
    """Gives tensors the types that autocast gives them, also on the meta device, which has none.

    Args:
        device: Whose autocast it is.
        precision: `bf16-mixed` or `16-mixed`.
    """

    def __init__(self, device: str, precision: Precision) -> None:
        super().__init__()
        self._low, self._gpu = LOW[precision], device != "cpu"

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = (args, kwargs or {})
        kind = self._low if func in _LAYERS else torch.float32 if self._gpu and func in _WIDE else None
        if kind is not None:
            given = tree_map(lambda value: value.to(kind) if _is_float(value) else value, given)
        return func(*given[0], **given[1])


def _is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


_CONVOLUTIONS = (torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default)


class LiveTensors(TorchDispatchMode):
    """Counts the bytes of the tensors that were made inside it and are alive, each storage once.

    Args:
        workspaces: Also count, while a convolution runs, room for a copy of what goes in and comes out. cuDNN turns
            tensors into the order of its kernels there; what a kernel takes beyond that is not known before it runs.

    Attributes:
        now: Bytes alive.
        peak: The most bytes that were alive at one time.
    """

    def __init__(self, *, workspaces: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.workspaces = workspaces
        self.now = self.peak = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._count(tensor)
        if self.workspaces and func in _CONVOLUTIONS:
            copies = sum(_bytes(tensor) for tensor in tree_leaves((args, result)) if isinstance(tensor, Tensor))
            self.peak = max(self.peak, self.now + copies)
        return result

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes()
            self.now += self._sizes[key]
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.now -= self._sizes.pop(key)


def stand_in_loss(output: Any) -> Tensor:
    """A stand-in that keeps what cross-entropy with Dice keeps: log probabilities, and probabilities."""
    levels: list[Tensor] = list(output) if isinstance(output, (list, tuple)) else [output]
    logarithms = [logits.float().log_softmax(1) for logits in levels]
    return torch.stack([level.exp().mean() - level[:, :1].mean() for level in logarithms]).sum()


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
