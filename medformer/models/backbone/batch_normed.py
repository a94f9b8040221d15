"""Blocks and downsampling of the efficient networks: batch norms behind convolutions, and depthwise residuals.

SHViT (Yun and Ro, CVPR 2024) and EfficientViM (Lee et al., CVPR 2025) are built of the same parts, in any number of
dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medformer.models.backbone.layers import CONV, DropPath, Pointwise, channels_last
from medformer.models.backbone.norms import LayerNorm

_BATCH_NORM: dict[int, type[nn.BatchNorm1d] | type[nn.BatchNorm2d] | type[nn.BatchNorm3d]] = {
    1: nn.BatchNorm1d,
    2: nn.BatchNorm2d,
    3: nn.BatchNorm3d,
}
_FIRST_GATE = 1e-4
_EXPANSION = 4


class ConvNorm(nn.Module):
    """A convolution without bias and its batch norm, `(B, C_in, *S) -> (B, C_out, *S / stride)`.

    Args:
        spatial_dims: 1, 2 or 3.
        in_channels: Of the input.
        out_channels: Of the output.
        kernel: Odd, the same along each axis, or one per axis.
        stride: Per axis; None for 1.
        depthwise: Whether each channel is convolved by itself.
        silent: Whether the norm begins with a scale of 0, for the end of a residual branch.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        kernel: int | Sequence[int] = 1,
        stride: Sequence[int] | None = None,
        *,
        depthwise: bool = False,
        silent: bool = False,
    ) -> None:
        super().__init__()
        sizes = (kernel,) * spatial_dims if isinstance(kernel, int) else tuple(kernel)
        self.conv = CONV[spatial_dims](
            in_channels,
            out_channels,
            sizes,  # type: ignore[arg-type]
            tuple(stride or (1,) * spatial_dims),  # type: ignore[arg-type]
            tuple(size // 2 for size in sizes),  # type: ignore[arg-type]
            groups=in_channels if depthwise else 1,
            bias=False,
        )
        self.norm = _BATCH_NORM[spatial_dims](out_channels)
        if silent:
            nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        return channels_last(self.norm(self.conv(x)))


def near(spatial_dims: int, channels: int, *, silent: bool = False) -> ConvNorm:
    """Return a depthwise convolution of the nearest neighbors with its norm."""
    return ConvNorm(spatial_dims, channels, channels, 3, depthwise=True, silent=silent)


class NormedMlp(nn.Module):
    """Two pointwise convolutions with batch norms, ReLU between them, `(B, C, *S) -> (B, C, *S)`."""

    def __init__(self, spatial_dims: int, channels: int, ratio: float) -> None:
        super().__init__()
        hidden = int(channels * ratio)
        self.fc1 = ConvNorm(spatial_dims, channels, hidden)
        self.fc2 = ConvNorm(spatial_dims, hidden, channels, silent=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.relu(self.fc1(x)))
        return out


class BatchNormedBlock(nn.Module):
    """Depthwise convolution, token mixer, and MLP, each a residual branch.

    Without gates it is SHViT's block, whose mixer norms for itself; a block whose mixer is the identity has no such
    branch. With gates it is EfficientViM's: the mixer works on a norm over channels, a second depthwise convolution
    stands before the MLP, and each branch `f` is joined as `x + sigmoid(a) (f(x) - x)`.

    Args:
        spatial_dims: 1, 2 or 3.
        channels: Channels of the map.
        token_mixer: None for a block without this branch.
        mlp_ratio: Hidden over outer channels of the MLP.
        gated: See above.
        drop_path: Rate at which a branch is dropped.
    """

    def __init__(
        self,
        spatial_dims: int,
        channels: int,
        token_mixer: nn.Module | None,
        *,
        mlp_ratio: float,
        gated: bool,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.gates = nn.Parameter(torch.full((4, channels), _FIRST_GATE)) if gated else None
        self.near1 = near(spatial_dims, channels, silent=True)
        self.norm1 = LayerNorm(channels) if gated else None
        self.token_mixer = token_mixer
        self.near2 = near(spatial_dims, channels, silent=True) if gated else None
        self.mlp = NormedMlp(spatial_dims, channels, mlp_ratio)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the block's output and its MLP branch alone, both `(B, C, *S)`."""
        x = self._join(x, self.near1(x), 0)
        if self.token_mixer is not None:
            x = self._join(x, self.token_mixer(x if self.norm1 is None else self.norm1(x)), 1)
        if self.near2 is not None:
            x = self._join(x, self.near2(x), 2)
        branch = self.mlp(x)
        return self._join(x, branch, 3), branch

    def _join(self, x: Tensor, branch: Tensor, number: int) -> Tensor:
        if self.gates is None:
            return x + self.drop_path(branch)
        gate = torch.sigmoid(self.gates[number]).view(-1, *[1] * (x.dim() - 2))
        joined: Tensor = x + self.drop_path(gate * (branch - x))
        return joined


class StepStem(nn.Module):
    """Convolutions of stride 2, each of twice the channels of the last, `(B, C_in, *S) -> (B, C, *S / stride)`."""

    def __init__(self, spatial_dims: int, in_channels: int, out_channels: int, stride: Sequence[int]) -> None:
        super().__init__()
        steps = _halvings(stride)
        widths = [max(1, out_channels // 2 ** (len(steps) - 1 - at)) for at in range(len(steps))]
        self.steps = nn.ModuleList(
            ConvNorm(spatial_dims, before, width, _kernel(step), step)
            for before, width, step in zip((in_channels, *widths), widths, steps, strict=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        for at, step in enumerate(self.steps):
            x = step(F.relu(x) if at else x)
        return x


class Step(ConvNorm):
    """One more step of such a stem, from one map to the next."""

    def __init__(self, spatial_dims: int, in_channels: int, out_channels: int, stride: Sequence[int]) -> None:
        super().__init__(spatial_dims, in_channels, out_channels, _kernel(stride), stride)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.relu(x))


class InvertedDownsample(nn.Module):
    """Widen, a strided depthwise convolution, weigh the channels, narrow; depthwise residuals before and after.

    Args:
        spatial_dims: 1, 2 or 3.
        in_channels: Of the finer map.
        out_channels: Of the coarser map.
        stride: Per axis.
        gated: Whether it is EfficientViM's, four times as wide as the coarser map. SHViT's is four times as wide as the
            finer one, and has an MLP after each of the depthwise residuals.
    """

    def __init__(
        self, spatial_dims: int, in_channels: int, out_channels: int, stride: Sequence[int], *, gated: bool
    ) -> None:
        super().__init__()
        hidden = _EXPANSION * (out_channels if gated else in_channels)
        self.near1 = near(spatial_dims, in_channels)
        self.mlp1 = None if gated else NormedMlp(spatial_dims, in_channels, 2.0)
        self.expand = ConvNorm(spatial_dims, in_channels, hidden)
        self.step = ConvNorm(spatial_dims, hidden, hidden, _kernel(stride), stride, depthwise=True)
        self.weigh = _ChannelWeights(hidden)
        self.reduce = ConvNorm(spatial_dims, hidden, out_channels)
        self.near2 = near(spatial_dims, out_channels)
        self.mlp2 = None if gated else NormedMlp(spatial_dims, out_channels, 2.0)

    def forward(self, x: Tensor) -> Tensor:
        x = self._beside(x, self.near1, self.mlp1)
        x = F.relu(self.step(F.relu(self.expand(x))))
        return self._beside(self.reduce(self.weigh(x)), self.near2, self.mlp2)

    @staticmethod
    def _beside(x: Tensor, convolution: nn.Module, mlp: nn.Module | None) -> Tensor:
        x = x + convolution(x)
        return x if mlp is None else x + mlp(x)


class _ChannelWeights(nn.Module):
    """Squeeze and excitation to a quarter of the channels, in multiples of 8 (Hu et al., CVPR 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = max(8, int(channels / 4 + 4) // 8 * 8)
        self.fc1 = Pointwise(channels, squeezed)
        self.fc2 = Pointwise(squeezed, channels)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(tuple(range(2, x.dim())), keepdim=True)
        return x * torch.sigmoid(self.fc2(F.relu(self.fc1(mean))))


def _kernel(stride: Sequence[int]) -> tuple[int, ...]:
    """3 along axes that are strided over, else 1."""
    return tuple(3 if step > 1 else 1 for step in stride)


def _halvings(stride: Sequence[int]) -> list[tuple[int, ...]]:
    """Split a stride into steps of 2 per axis as far as it is even; what is left is a step of its own."""
    left, steps = list(stride), list[tuple[int, ...]]()
    while any(n > 1 for n in left) or not steps:
        step = tuple(2 if n % 2 == 0 else 1 for n in left)
        if set(step) == {1}:
            step = tuple(left)
        left = [n // part for n, part in zip(left, step, strict=True)]
        steps.append(step)
    return steps
