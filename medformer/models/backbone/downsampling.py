"""Strided convolutions: the stem and what leads from one stage to the next."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from medformer.models.backbone.layers import CONV, channels_last
from medformer.models.backbone.norms import NormName, make_norm


class Downsample(nn.Module):
    """Strided convolution with a norm before (`pre`), after (`post`) or nowhere, by default over channels.

    Padding is `(kernel - stride + 1) // 2`, which gives the published stem (7, stride 4, padding 2) and
    downsampling (3, stride 2, padding 1). An axis too short for the kernel is zero-padded at its end. Without a kernel
    patches of the stride lie side by side, and each axis is zero-padded to whole ones.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        kernel: tuple[int, ...] | None,
        stride: tuple[int, ...],
        norm: Literal["pre", "post", "none"],
        kind: NormName = "channel",
    ) -> None:
        super().__init__()
        self.stride, self.patches = stride, kernel is None
        self.kernel = kernel or stride
        self.padding = tuple(max(0, (k - s + 1) // 2) for k, s in zip(self.kernel, stride, strict=True))
        self.norm = None if norm == "none" else make_norm(kind, in_channels if norm == "pre" else out_channels)
        self.norm_first = norm == "pre"
        self.conv = CONV[spatial_dims](in_channels, out_channels, self.kernel, stride, self.padding)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        if self.norm is not None and self.norm_first:
            x = self.norm(x)
        if self.patches:
            short = [-n % s for n, s in zip(x.shape[2:], self.stride, strict=True)]
        else:
            short = [max(0, k - 2 * p - n) for k, p, n in zip(self.kernel, self.padding, x.shape[2:], strict=True)]
        if any(short):
            x = F.pad(x, [end for missing in reversed(short) for end in (0, missing)])
        x = channels_last(self.conv(x))
        return x if self.norm is None or self.norm_first else self.norm(x)

    def draw_bias(self) -> None:
        """Draw a first bias, as torch does.

        With a bias of zero a patch that shows nothing, such as padding, is a vector of zeros behind the norm too, and
        each norm after it multiplies gradients by 1 / sqrt(eps): the blocks of FocalNet make that infinite.
        """
        assert self.conv.bias is not None
        bound = self.conv.weight[0].numel() ** -0.5
        nn.init.uniform_(self.conv.bias, -bound, bound)


class ConvStem(nn.Module):
    """Three small convolutions in place of one large patch, `(B, C_in, *S) -> (B, C_out, *S / stride)`.

    It learns quicker from little data (Xiao et al., Early Convolutions Help Transformers See Better, NeurIPS 2021). No
    norm makes a sample depend on another.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        kernel: tuple[int, ...],
        stride: tuple[int, ...],
        kind: NormName = "channel",
    ) -> None:
        super().__init__()
        hidden, still = max(1, out_channels // 2), (1,) * spatial_dims
        halved = tuple(2 if step % 2 == 0 else step for step in stride)
        rest = tuple(step // half for step, half in zip(stride, halved, strict=True))
        self.layers = nn.Sequential(
            Downsample(spatial_dims, in_channels, hidden, kernel, halved, "post", kind),
            nn.ReLU(),
            Downsample(spatial_dims, hidden, hidden, kernel, still, "post", kind),
            nn.ReLU(),
            Downsample(spatial_dims, hidden, out_channels, kernel, rest, "post", kind),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out
