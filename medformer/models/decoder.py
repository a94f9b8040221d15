"""Meta-Polyp's multi-scale upsampling decoder, for 1, 2 and 3 spatial dimensions.

Source: Trinh et al., Meta-Polyp: a baseline for efficient polyp segmentation, CBMS 2023. The paper and the code
released with it differ; `PAPER` and `AS_PUBLISHED` name every point where they do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medformer.models.backbone.layers import CONV, Pointwise
from medformer.models.backbone.mixers.attention import HEAD_CHANNELS

_NORM: dict[int, type[nn.BatchNorm1d] | type[nn.BatchNorm2d] | type[nn.BatchNorm3d]] = {
    1: nn.BatchNorm1d,
    2: nn.BatchNorm2d,
    3: nn.BatchNorm3d,
}
_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}
_ADAPTIVE_POOL: dict[int, Callable[..., Tensor]] = {
    1: F.adaptive_avg_pool1d,
    2: F.adaptive_avg_pool2d,
    3: F.adaptive_avg_pool3d,
}
# Attention cost grows with queries x keys; above this many positions the keys are averaged down to about it.
MAX_KEYS = 256


@dataclass(frozen=True)
class DecoderSetting:
    """Where the paper and its released code part ways, or the paper leaves a choice.

    Attributes:
        learned_attention: Multi-head self-attention over all positions; otherwise parameter-free, unscaled dot
            attention along the last axis only, which is what Keras' `Attention` does to a 4-D tensor.
        convformer_on_deepest: A ConvFormer block on the deepest feature map, as in the paper's figure.
        branch_features: Take the last MLP branch of each stage before its residual addition, as the released
            code taps its encoder; otherwise the stage's output.
        smooth: Linear upsampling; otherwise nearest, as in the released code, which leaves logits in blocks of the
            finest stride because nothing after it looks at neighbors. The paper does not say.
        momentum: Of the BatchNorm statistics (PyTorch's convention); Keras' default is 0.01.
        eps: Of the BatchNorms; Keras' default is 1e-3.
    """

    learned_attention: bool
    convformer_on_deepest: bool
    branch_features: bool
    smooth: bool
    momentum: float
    eps: float


PAPER = DecoderSetting(
    learned_attention=True,
    convformer_on_deepest=True,
    branch_features=False,
    smooth=True,
    momentum=0.1,
    eps=1e-5,
)
AS_PUBLISHED = DecoderSetting(
    learned_attention=False,
    convformer_on_deepest=False,
    branch_features=True,
    smooth=False,
    momentum=0.01,
    eps=1e-3,
)
SETTINGS = {"paper": PAPER, "as_published": AS_PUBLISHED}


class NormReLU(nn.Module):
    """BatchNorm and ReLU."""

    def __init__(self, spatial_dims: int, channels: int, setting: DecoderSetting) -> None:
        super().__init__()
        self.norm = _NORM[spatial_dims](channels, eps=setting.eps, momentum=setting.momentum)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu_(self.norm(x))


class Mix(nn.Module):
    """The up block before its upsampling: `relu(conv1(x)) + relu(conv3(x))`, BatchNorm, ReLU.

    The released code upsamples before the BatchNorm. Nearest upsampling repeats every value equally often, so norm,
    ReLU and whatever pointwise layers follow may come first: the same function at a fraction of the cost.
    """

    def __init__(self, spatial_dims: int, in_channels: int, out_channels: int, setting: DecoderSetting) -> None:
        super().__init__()
        self.conv1 = Pointwise(in_channels, out_channels, bias=False)
        self.conv3 = CONV[spatial_dims](in_channels, out_channels, 3, padding=1, bias=False)
        self.norm = NormReLU(spatial_dims, out_channels, setting)

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.norm(torch.relu_(self.conv1(x)) + torch.relu_(self.conv3(x)))
        return mixed


class AxisAttention(nn.Module):
    """Parameter-free, unscaled dot attention of each position over its own line along the last axis."""

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.movedim(1, -1)
        return F.scaled_dot_product_attention(tokens, tokens, tokens, scale=1.0).movedim(-1, 1)


class PooledAttention(nn.Module):
    """Multi-head self-attention whose keys and values are averaged down to about `MAX_KEYS` positions."""

    def __init__(self, spatial_dims: int, channels: int) -> None:
        super().__init__()
        if channels % HEAD_CHANNELS:
            raise ValueError(f"decoder attention: got {channels} channels, expected a multiple of {HEAD_CHANNELS}")
        self.pool = _ADAPTIVE_POOL[spatial_dims]
        self.query = Pointwise(channels, channels, bias=False)
        self.key_value = Pointwise(channels, 2 * channels, bias=False)
        self.proj = Pointwise(channels, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        positions = int(x[0, 0].numel())
        shrink = (positions / MAX_KEYS) ** (1 / (x.dim() - 2))
        small = x if shrink <= 1 else self.pool(x, [max(1, round(int(n) / shrink)) for n in x.shape[2:]])
        query = self.query(x).flatten(2).unflatten(1, (-1, HEAD_CHANNELS)).transpose(-1, -2)
        key, value = self.key_value(small).flatten(2).unflatten(1, (2, -1, HEAD_CHANNELS)).transpose(-1, -2).unbind(1)
        tokens = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        out: Tensor = self.proj(tokens.unflatten(1, x.shape[2:]).movedim(-1, 1))
        return out


class ConvFormerBlock(nn.Module):
    """LayerNorm, separable 3-convolution and attention with a skip; two pointwise layers with GELU and a skip."""

    def __init__(self, spatial_dims: int, channels: int, learned_attention: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-3)
        self.depthwise = CONV[spatial_dims](channels, channels, 3, padding=1, groups=channels, bias=False)
        self.pointwise = Pointwise(channels, channels)
        self.attention = PooledAttention(spatial_dims, channels) if learned_attention else AxisAttention()
        self.fc1 = Pointwise(channels, channels)
        self.fc2 = Pointwise(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x.movedim(1, -1)).movedim(-1, 1)
        x = x + self.attention(self.pointwise(self.depthwise(normed)))
        mixed: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return x + mixed


class MetaPolypDecoder(nn.Module):
    """Four feature maps (fine to coarse) to a list of logits at stride 1, the result first.

    Level-up connections join the deepest map to the second level and the second level to the output. The released
    code works at stride 1 from there on, with pointwise layers only; these come before the upsampling here (see `Mix`).

    Args:
        spatial_dims: 1, 2 or 3.
        channels: Channels of the four maps, fine to coarse.
        strides: Cumulative strides of the four maps, per axis; each must divide the next.
        out_channels: Logit channels.
        setting: `PAPER` or `AS_PUBLISHED`.
        deep_supervision: While training, also return logits of the second and third level, raised to stride 1.

    Raises:
        ValueError: There are not four maps.
    """

    def __init__(
        self,
        spatial_dims: int,
        channels: Sequence[int],
        strides: Sequence[tuple[int, ...]],
        out_channels: int,
        setting: DecoderSetting,
        deep_supervision: bool = False,
    ) -> None:
        super().__init__()
        if len(channels) != 4:
            raise ValueError(f"the Meta-Polyp decoder joins 4 feature maps, got {len(channels)}")
        c1, c2, c3, c4 = channels
        width = c1 // 2
        self.strides = tuple(strides)
        self.mode = _LINEAR[spatial_dims] if setting.smooth else "nearest"

        def mix(source: int, target: int) -> Mix:
            return Mix(spatial_dims, source, target, setting)

        def fuse(source: int, target: int) -> nn.Sequential:
            return nn.Sequential(Pointwise(source, target), NormReLU(spatial_dims, target, setting))

        def convformer(size: int) -> ConvFormerBlock:
            return ConvFormerBlock(spatial_dims, size, setting.learned_attention)

        self.convformer4 = convformer(c4) if setting.convformer_on_deepest else nn.Identity()
        self.convformer3, self.convformer2, self.convformer1 = convformer(c3), convformer(c2), convformer(c1)
        self.up4, self.up3, self.up2, self.up1 = mix(c4, c3), mix(c3, c2), mix(c2, c1), mix(c1, width)
        self.fuse3, self.fuse2, self.fuse1, self.fuse0 = fuse(c3, c3), fuse(c2, c2), fuse(c1, c1), fuse(width, width)
        self.level_up4, self.narrow4, self.join2 = mix(c4, c4), Pointwise(c4, c2), Pointwise(c2, c2)
        self.level_up2, self.narrow2 = mix(c2, c2), fuse(c2, width)
        self.head = Pointwise(width, out_channels)
        self.auxiliary = nn.ModuleList(Pointwise(size, out_channels) for size in (c2, c3)) if deep_supervision else None

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        f1, f2, f3, f4 = features
        x = self.convformer4(f4)
        deep = torch.relu(self.narrow4(self.level_up4(x)))
        level3 = x = self.fuse3(self._raise(self.up4(x), 3, 2) + self.convformer3(f3))
        x = torch.relu(self.join2(self._raise(self.up3(x), 2, 1) + self._raise(deep, 3, 1)))
        level2 = x = self.fuse2(x + self.convformer2(f2))
        middle = self.narrow2(self.level_up2(x))
        x = self.fuse1(self._raise(self.up2(x), 1, 0) + self.convformer1(f1))
        x = self.fuse0(self.up1(x) + self._raise(middle, 1, 0))
        logits = [self._raise(self.head(x), 0)]
        if self.auxiliary is not None and self.training:
            logits += [self._raise(self.auxiliary[0](level2), 1), self._raise(self.auxiliary[1](level3), 2)]
        return logits

    def _raise(self, x: Tensor, level: int, target: int | None = None) -> Tensor:
        """Upsample from the stride of `level` to that of `target`, or to stride 1."""
        fine = self.strides[target] if target is not None else (1,) * len(self.strides[level])
        factors = tuple(float(a // b) for a, b in zip(self.strides[level], fine, strict=True))
        return F.interpolate(x, scale_factor=factors, mode=self.mode)
