"""Batch normalization over the batches of all processes, so that they train as one process would."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from medformer.errors import ConfigError, counted

_PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_Norm = nn.modules.batchnorm._BatchNorm


def share_batch_norm(module: nn.Module, device: torch.device) -> nn.Module:
    """Replace the batch normalizations of a network by ones whose statistics span all processes.

    Otherwise every process would normalize with the statistics of its own part of the batch: a batch of 8 split over
    4 GPUs would train like one of 2. Parameters and buffers stay the same objects under the same names. Exactly the
    three plain classes are replaced, since a subclass may compute something else; `unshared` counts what remains.

    PyTorch's own `SyncBatchNorm` does it on GPUs and refuses a CPU; `SharedBatchNorm` does it anywhere.

    Args:
        module: Changed in place, unless it is a batch normalization itself.
        device: Where it will train.
    """
    if type(module) in _PLAIN:
        return _replace(module, nn.SyncBatchNorm if device.type == "cuda" else SharedBatchNorm)
    for name, child in module.named_children():
        setattr(module, name, share_batch_norm(child, device))
    return module


def unshared(module: nn.Module) -> int:
    """How many batch normalizations of a network still normalize with the statistics of one process alone."""
    return sum(
        isinstance(part, _Norm) and not isinstance(part, (nn.SyncBatchNorm, SharedBatchNorm))
        for part in module.modules()
    )


@contextmanager
def several_values(cases: int) -> Iterator[None]:
    """Turn PyTorch's refusal to normalize one value by itself into an error with advice.

    Args:
        cases: Of the batch that is trained on inside the block.

    Raises:
        ConfigError: A batch normalization got one value of each channel.
    """
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise ConfigError(
            f"A batch of {counted(cases, 'training case')} gives a batch normalization of the network one value for "
            "each channel, which it cannot normalize; expected two or more. Add cases or change the folds, raise the "
            "batch size, or choose a model without batch normalization, such as meta_unet."
        ) from error


class SharedBatchNorm(_Norm):
    """Batch normalization over the batches of all processes of the default group, in any dimension.

    With means m_r and variances v_r of W processes with equally many values each, the statistics of them all are
    `m = mean(m_r)` and `v = mean(v_r + (m_r - m)^2)`, which loses no digits where the mean is far from zero. They are
    exchanged in one small sum, and their gradients in another.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalize `x`, (B, C, *S) of the same shape in every process; in evaluation mode nothing is exchanged."""
        if not self.training or not dist.is_initialized() or dist.get_world_size() == 1:
            return super().forward(x)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        variance, mean = torch.var_mean(wide, [0, *range(2, x.dim())], correction=0)
        rows: Tensor = _Gather.apply(torch.stack((mean, variance)))  # type: ignore[no-untyped-call]
        means, variances = rows.unbind(1)
        mean = means.mean(0)
        variance = (variances + (means - mean).square()).mean(0)
        self._follow(mean.detach(), variance.detach(), x.numel() // x.shape[1] * dist.get_world_size())

        scale = torch.rsqrt(variance + self.eps)
        if self.weight is not None:
            scale = scale * self.weight
        result = (wide - _along(mean, x)) * _along(scale, x)
        if self.bias is not None:
            result = result + _along(self.bias, x)
        return result.to(x.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Take the batch into the running statistics, as PyTorch's own layers do."""
        if not self.track_running_stats:
            return
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance * (count / max(1, count - 1)), share)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"Batch normalization got {input.dim()} dimensions, expected (B, C) or (B, C, *S).")


class _Gather(torch.autograd.Function):
    """(2, C) of every process -> (W, 2, C) in every process; gradients go back to where a row came from."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        table = own.new_zeros(dist.get_world_size(), *own.shape)
        table[dist.get_rank()] = own
        dist.all_reduce(table)
        return table

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total[dist.get_rank()]


def _along(values: Tensor, like: Tensor) -> Tensor:
    return values.view(1, -1, *[1] * (like.dim() - 2))


def _replace(norm: nn.Module, kind: type[nn.SyncBatchNorm] | type[SharedBatchNorm]) -> nn.Module:
    assert isinstance(norm, _Norm)
    # Without tensors of its own: the old ones are used on, since an optimizer or an average may know them.
    new = kind(norm.num_features, norm.eps, norm.momentum, affine=False, track_running_stats=False)
    new.affine, new.track_running_stats = norm.affine, norm.track_running_stats
    new.weight, new.bias = norm.weight, norm.bias
    new.running_mean, new.running_var = norm.running_mean, norm.running_var
    new.num_batches_tracked = norm.num_batches_tracked
    return new.train(norm.training)
