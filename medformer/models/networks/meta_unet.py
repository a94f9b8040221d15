"""The shared backbone with the multi-scale upsampling decoder: MetaUNet, ours, and Meta-Polyp.

Source of Meta-Polyp: Trinh et al., Meta-Polyp: a baseline for efficient polyp segmentation, CBMS 2023. The paper and
the code released with it differ; `PAPER` and `AS_PUBLISHED` name every point where they do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medformer.config.shared import ModelConfig
from medformer.models.backbone.blocks import Backbone
from medformer.models.backbone.layers import (
    BATCH_NORM,
    LINEAR,
    KernelSize,
    Pointwise,
    attend,
    channels_last,
    head_count,
    same_convolution,
)
from medformer.models.backbone.norms import InstanceNorm
from medformer.models.networks.grid import Grid, build_encoder, crop_to, pad_to_multiple

# Attention cost grows with queries x keys; above this many positions the keys are averaged down to about it.
MAX_KEYS = 256


@dataclass(frozen=True)
class DecoderSetting:
    """Where the paper and its released code part ways, or the paper leaves a choice.

    Attributes:
        learned_attention: Multi-head self-attention over all positions; otherwise parameter-free, unscaled dot
            attention along the last axis only, which is what Keras' `Attention` does to a 4-D tensor.
        convformers: Whether each feature map, fine to coarse, meets a ConvFormer block. The paper's figure has one on
            the deepest, the released code has none there.
        branch_features: Take the last MLP branch of each stage before its residual addition, as the released
            code taps its encoder; otherwise the stage's output.
        smooth: Linear upsampling; otherwise nearest, as in the released code, which leaves logits in blocks of the
            finest stride because nothing after it looks at neighbors. The paper does not say.
        momentum: Of the BatchNorm statistics (PyTorch's convention); Keras' default is 0.01.
        eps: Of the norms; Keras' default is 1e-3.
        norm: `batch` as published, or `instance`, for batches of few volumes.
        detail: Join convolutions of the image at full resolution before the head when the finest feature map is
            coarser, so that borders are drawn at full resolution and not between its positions.
        fine: From the finest feature map on, the decoder has as many channels as that map rather than half; at full
            resolution the second convolution of the image is separable and the last layer pointwise, so that they
            cost no more. First thresholds of instance norms before a ReLU are drawn rather than all the mean, so that
            some features answer to the brightest or darkest values alone: small structures that are brighter than
            what is bright itself are then told apart after fewer updates.
        auxiliary: Feature maps, counted from the finest, whose logits deep supervision adds.
        auxiliary_raised: These logits are raised to stride 1; otherwise they stay on the grid of their map.
        mixing: Levels, counted from the finest, whose joined maps meet a block with the backbone's token mixer of that
            level.
    """

    learned_attention: bool = True
    convformers: tuple[bool, ...] = (True,) * 4
    branch_features: bool = False
    smooth: bool = True
    momentum: float = 0.1
    eps: float = 1e-5
    norm: Literal["batch", "instance"] = "batch"
    detail: bool = False
    fine: bool = False
    auxiliary: tuple[int, ...] = (1, 2)
    auxiliary_raised: bool = True
    mixing: tuple[int, ...] = ()


PAPER = DecoderSetting()
AS_PUBLISHED = DecoderSetting(
    learned_attention=False,
    convformers=(True, True, True, False),
    branch_features=True,
    smooth=False,
    momentum=0.01,
    eps=1e-3,
)
VOLUME = DecoderSetting(
    convformers=(False,) * 4, norm="instance", detail=True, auxiliary=(0, 1), auxiliary_raised=False
)
FINE = replace(VOLUME, fine=True)
LIGHT = DecoderSetting(convformers=(False,) * 4, mixing=(0, 1))
SETTINGS = {"paper": PAPER, "as_published": AS_PUBLISHED}


class NormReLU(nn.Module):
    """BatchNorm or instance norm, and ReLU."""

    def __init__(self, spatial_dims: int, channels: int, setting: DecoderSetting) -> None:
        super().__init__()
        self.norm: nn.Module
        if setting.norm == "batch":
            self.norm = BATCH_NORM[spatial_dims](channels, eps=setting.eps, momentum=setting.momentum)
        else:
            self.norm = InstanceNorm(channels, setting.eps)
            if setting.fine:
                nn.init.normal_(self.norm.bias)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu_(self.norm(x))


class Mix(nn.Module):
    """The up block before its upsampling: `relu(conv1(x)) + relu(conv3(x))`, norm, ReLU.

    The released code upsamples before the BatchNorm. Nearest upsampling repeats every value equally often, so norm,
    ReLU and the pointwise layers after them may come first: the same function at a fraction of the cost.
    """

    def __init__(
        self, spatial_dims: int, in_channels: int, out_channels: int, setting: DecoderSetting, kernel: KernelSize = 3
    ) -> None:
        super().__init__()
        self.conv1 = Pointwise(in_channels, out_channels, bias=False)
        self.conv3 = same_convolution(spatial_dims, in_channels, out_channels, kernel)
        self.norm = NormReLU(spatial_dims, out_channels, setting)

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.norm(torch.relu_(self.conv1(x)) + torch.relu_(self.conv3(x)))
        return mixed


class Detail(nn.Module):
    """Joins a raised map with convolutions of the image, `(B, C, *S)` both, at full resolution."""

    def __init__(
        self, spatial_dims: int, in_channels: int, channels: int, setting: DecoderSetting, kernel: KernelSize
    ) -> None:
        super().__init__()
        self.first = same_convolution(spatial_dims, in_channels, channels, kernel)
        self.norm1 = NormReLU(spatial_dims, channels, setting)
        self.second: nn.Module
        self.last: nn.Module
        if setting.fine:
            depthwise = same_convolution(spatial_dims, channels, channels, kernel, groups=channels)
            self.second = nn.Sequential(depthwise, Pointwise(channels, channels, bias=False))
            self.last = Pointwise(channels, channels, bias=False)
        else:
            self.second = same_convolution(spatial_dims, channels, channels, kernel)
            self.last = same_convolution(spatial_dims, channels, channels, kernel)
        self.norm2 = NormReLU(spatial_dims, channels, setting)
        self.norm3 = NormReLU(spatial_dims, channels, setting)

    def forward(self, raised: Tensor, image: Tensor) -> Tensor:
        x = self.norm1(self.first(channels_last(image)))
        x = self.norm2(self.second(x)) + raised
        out: Tensor = self.norm3(self.last(x))
        return out


class AxisAttention(nn.Module):
    """Parameter-free, unscaled dot attention of each position over its own line along the last axis."""

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.movedim(1, -1)
        return F.scaled_dot_product_attention(tokens, tokens, tokens, scale=1.0).movedim(-1, 1)


class PooledAttention(nn.Module):
    """Multi-head self-attention whose keys and values are averaged down to about `MAX_KEYS` positions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = head_count(channels, None)
        self.query = Pointwise(channels, channels, bias=False)
        self.key_value = Pointwise(channels, 2 * channels, bias=False)
        self.proj = Pointwise(channels, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        positions = int(x[0, 0].numel())
        shrink = (positions / MAX_KEYS) ** (1 / (x.dim() - 2))
        size = [max(1, round(int(n) / shrink)) for n in x.shape[2:]]
        small = x if shrink <= 1 else _average(x, size)
        key, value = self.key_value(small).chunk(2, 1)
        out: Tensor = self.proj(attend(self.query(x), key, value, self.heads))
        return out


def _average(x: Tensor, size: Sequence[int]) -> Tensor:
    """Average `(B, C, *S)` over areas to `(B, C, *size)`: adaptive average pooling, in any number of dimensions.

    An exported graph gets a matrix for each axis, because no runtime has this pooling.
    """
    if not torch.compiler.is_exporting():
        return F.interpolate(x, size, mode="area")
    for axis, new in enumerate(size, start=2):
        old = int(x.shape[axis])
        matrix = torch.zeros(new, old, dtype=x.dtype, device=x.device)
        for row in range(new):
            first, end = row * old // new, -(-(row + 1) * old // new)
            matrix[row, first:end] = 1.0 / (end - first)
        x = (x.movedim(axis, -1) @ matrix.T).movedim(-1, axis)
    return x


class ConvFormerBlock(nn.Module):
    """LayerNorm, separable 3-convolution and attention with a skip; two pointwise layers with GELU and a skip."""

    def __init__(self, spatial_dims: int, channels: int, learned_attention: bool, kernel: KernelSize = 3) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-3)
        self.depthwise = same_convolution(spatial_dims, channels, channels, kernel, groups=channels)
        self.pointwise = Pointwise(channels, channels)
        self.attention = PooledAttention(channels) if learned_attention else AxisAttention()
        self.fc1 = Pointwise(channels, channels)
        self.fc2 = Pointwise(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x.movedim(1, -1)).movedim(-1, 1)
        x = x + self.attention(self.pointwise(self.depthwise(normed)))
        mixed: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return x + mixed


class MetaPolypDecoder(nn.Module):
    """Four feature maps (fine to coarse) and their image to a list of logits, the result at stride 1 first.

    Level-up connections join the deepest map to the second level and the second level to the output. The released
    code works at stride 1 from there on, with pointwise layers only; these come before the upsampling here (see `Mix`).

    Args:
        spatial_dims: 1, 2 or 3.
        channels: Channels of the four maps, fine to coarse.
        strides: Cumulative strides of the four maps, per axis; each must divide the next.
        out_channels: Logit channels.
        setting: `PAPER` or `AS_PUBLISHED`.
        deep_supervision: While training, also return logits of the setting's auxiliary levels.
        in_channels: Channels of the image; only a setting with detail needs it.
        kernel_sizes: Convolution kernel of each level, per axis if given so.
        blocks: Blocks of the joined maps, by level.

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
        in_channels: int = 3,
        kernel_sizes: Sequence[KernelSize] = (3, 3, 3, 3),
        blocks: Mapping[int, nn.Module] | None = None,
    ) -> None:
        super().__init__()
        if len(channels) != 4:
            raise ValueError(f"the Meta-Polyp decoder joins 4 feature maps, got {len(channels)}")
        c1, c2, c3, c4 = channels
        width = c1 if setting.fine else c1 // 2
        self.strides = tuple(strides)
        self.mode = LINEAR[spatial_dims] if setting.smooth else "nearest"

        def mix(source: int, target: int, level: int) -> Mix:
            return Mix(spatial_dims, source, target, setting, kernel_sizes[level])

        def fuse(source: int, target: int) -> nn.Sequential:
            return nn.Sequential(Pointwise(source, target), NormReLU(spatial_dims, target, setting))

        def convformer(level: int) -> nn.Module:
            if not setting.convformers[level]:
                return nn.Identity()
            return ConvFormerBlock(spatial_dims, channels[level], setting.learned_attention, kernel_sizes[level])

        self.convformer4, self.convformer3 = convformer(3), convformer(2)
        self.convformer2, self.convformer1 = convformer(1), convformer(0)
        self.up4, self.up3, self.up2, self.up1 = mix(c4, c3, 3), mix(c3, c2, 2), mix(c2, c1, 1), mix(c1, width, 0)
        self.fuse3, self.fuse2, self.fuse1, self.fuse0 = fuse(c3, c3), fuse(c2, c2), fuse(c1, c1), fuse(width, width)
        self.level_up4, self.narrow4, self.join2 = mix(c4, c4, 3), Pointwise(c4, c2), Pointwise(c2, c2)
        self.level_up2, self.narrow2 = mix(c2, c2, 1), fuse(c2, width)
        self.blocks = nn.ModuleDict({str(level): block for level, block in (blocks or {}).items()})
        detailed = setting.detail and max(self.strides[0]) > 1
        self.detail = Detail(spatial_dims, in_channels, width, setting, kernel_sizes[0]) if detailed else None
        self.head = Pointwise(width, out_channels)
        self.auxiliary_levels = setting.auxiliary
        self.auxiliary_raised = setting.auxiliary_raised
        self.auxiliary = (
            nn.ModuleList(Pointwise(channels[level], out_channels) for level in setting.auxiliary)
            if deep_supervision
            else None
        )

    def forward(self, features: Sequence[Tensor], image: Tensor) -> list[Tensor]:
        f1, f2, f3, f4 = features
        x = self.convformer4(f4)
        deep = torch.relu(self.narrow4(self.level_up4(x)))
        level3 = x = self._mixed(self.fuse3(self._raise(self.up4(x), 3, 2) + self.convformer3(f3)), 2)
        x = torch.relu(self.join2(self._raise(self.up3(x), 2, 1) + self._raise(deep, 3, 1)))
        level2 = x = self._mixed(self.fuse2(x + self.convformer2(f2)), 1)
        middle = self.narrow2(self.level_up2(x))
        level1 = x = self._mixed(self.fuse1(self._raise(self.up2(x), 1, 0) + self.convformer1(f1)), 0)
        x = self.fuse0(self.up1(x) + self._raise(middle, 1, 0))
        if self.detail is None:
            logits = [self._raise(self.head(x), 0)]
        else:
            logits = [self.head(self.detail(self._raise(x, 0), image))]
        if self.auxiliary is not None and self.training:
            for level, head in zip(self.auxiliary_levels, self.auxiliary, strict=True):
                coarse = head((level1, level2, level3)[level])
                logits.append(self._raise(coarse, level) if self.auxiliary_raised else coarse)
        return logits

    def _mixed(self, x: Tensor, level: int) -> Tensor:
        """Let the tokens of a joined map mix, where its level has a block for that."""
        return self.blocks[str(level)](x)[0] if str(level) in self.blocks else x

    def _raise(self, x: Tensor, level: int, target: int | None = None) -> Tensor:
        """Upsample from the stride of `level` to that of `target`, or to stride 1."""
        fine = self.strides[target] if target is not None else (1,) * len(self.strides[level])
        factors = tuple(float(a // b) for a, b in zip(self.strides[level], fine, strict=True))
        return F.interpolate(x, scale_factor=factors, mode=self.mode)


class MetaUNet(nn.Module):
    """Segmentation network, `(B, in_channels, *S) -> (B, out_channels, *S)` logits for any size `S`.

    Inputs are zero-padded at the end of each axis to a multiple of the coarsest stride and the logits are cropped
    back, so that every upsampling lines up with its skip. With deep supervision it returns a list of logits while
    training, the result first, then those of coarser levels at stride 1 or on their own grid, as the setting says.

    Args:
        backbone: Encoder with four stages.
        out_channels: Logit channels.
        setting: What the decoder is made of; `VOLUME` and `FINE` are ours for volumes.
        deep_supervision: Add logits of coarser levels while training.
        kernel_sizes: Convolution kernel of each level of the decoder, per axis if given so.
    """

    def __init__(
        self,
        backbone: Backbone,
        out_channels: int = 1,
        setting: DecoderSetting = VOLUME,
        deep_supervision: bool = False,
        kernel_sizes: Sequence[KernelSize] = (3, 3, 3, 3),
    ) -> None:
        super().__init__()
        self.backbone = backbone
        backbone.branch_features = setting.branch_features
        self.decoder = MetaPolypDecoder(
            backbone.spatial_dims,
            backbone.channels,
            backbone.strides,
            out_channels,
            setting,
            deep_supervision,
            backbone.in_channels,
            kernel_sizes,
            {level: backbone.block(level) for level in setting.mixing},
        )

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        size = x.shape[2:]
        x = pad_to_multiple(x, self.backbone.strides[-1])
        logits = [crop_to(level, x.shape[2:], size) for level in self.decoder(self.backbone(x), x)]
        return logits if len(logits) > 1 else logits[0]


def meta_unet(config: ModelConfig, grid: Grid) -> MetaUNet:
    """Return our network, whose decoder has the kernels of the plan."""
    return _ours(config, grid, VOLUME)


def meta_unet_fine(config: ModelConfig, grid: Grid) -> MetaUNet:
    """Return `meta_unet` with twice the channels at full resolution and drawn thresholds, the default for volumes."""
    return _ours(config, grid, FINE)


def meta_light(config: ModelConfig, grid: Grid) -> MetaUNet:
    """Return our network for images: the decoder is light, so that a CPU trains it, and mixes tokens on fine maps."""
    return _ours(config, grid, LIGHT)


def _ours(config: ModelConfig, grid: Grid, setting: DecoderSetting) -> MetaUNet:
    return MetaUNet(
        build_encoder(config, grid),
        grid.out_channels,
        setting,
        config.deep_supervision,
        grid.kernel_sizes or (3, 3, 3, 3),
    )


def meta_polyp(config: ModelConfig, grid: Grid) -> MetaUNet:
    """Return the network of the Meta-Polyp paper or of its released code; with strides of a plan if there is one."""
    return MetaUNet(build_encoder(config, grid), grid.out_channels, SETTINGS[config.setting], config.deep_supervision)
