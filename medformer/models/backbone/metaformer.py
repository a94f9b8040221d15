"""The shared backbone: a MetaFormer in 1-D, 2-D and 3-D from one code path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from medformer.config.shared import MixerSpec
from medformer.models.backbone.layers import (
    ConvStem,
    Downsample,
    DropPath,
    KernelSize,
    Mlp,
    NormName,
    Scale,
    channels_last,
    make_norm,
    per_axis,
)
from medformer.models.backbone.mixers import make_mixer

InitName = Literal["published", "fan_in"]
StemName = Literal["patch", "convolutions", "none"]


@dataclass(frozen=True)
class Architecture:
    """What a MetaFormer is made of; lists have one entry for each stage.

    Attributes:
        mixers: Token mixers, or a single one for all stages: names from `MIXERS`, with parameters if given so.
        norm: Norm inside the blocks; `instance` is that of stem and downsampling too, which else norm over channels.
        depths: Blocks.
        channels: Channels.
        drop_path: Stochastic depth of the last block; it grows linearly from 0 at the first.
        layer_scale: Initial factor on the branches, None for none.
        activation: `star_relu` (no biases in the MLP) or `gelu` (biases).
        res_scale_from: First stage whose skips carry a learnable factor; None for none.
        transition_norm: Norm after the stem and before each downsampling (absent in PoolFormer v1).
        kernel_sizes: Mixer kernels, per axis if given so, None for the mixer's own.
        stem: `patch` (one convolution, as published), `convolutions` (three small ones, for little data), or `none`
            (the input is tokens already: as many channels as the first stage, and no stride).
        mlp_ratio: Hidden over outer channels of the MLP.
    """

    mixers: Sequence[MixerSpec]
    norm: NormName = "channel"
    depths: Sequence[int] = ()
    channels: Sequence[int] = ()
    drop_path: float = 0.0
    layer_scale: float | None = None
    activation: Literal["star_relu", "gelu"] = "star_relu"
    res_scale_from: int | None = 2
    transition_norm: bool = True
    kernel_sizes: Sequence[KernelSize | None] | None = None
    stem: StemName = "patch"
    mlp_ratio: float = 4.0


class MetaFormerBlock(nn.Module):
    """`x <- rs*x + ls*drop(mixer(norm(x)))`, then the same with the MLP (MetaFormer Baselines, eq. 1-2)."""

    def __init__(
        self,
        channels: int,
        token_mixer: nn.Module,
        architecture: Architecture,
        *,
        drop_path: float,
        res_scale: bool,
    ) -> None:
        super().__init__()
        norm, layer_scale = architecture.norm, architecture.layer_scale
        self.norm1 = make_norm(norm, channels)
        self.token_mixer = token_mixer
        self.norm2 = make_norm(norm, channels)
        self.mlp = Mlp(channels, architecture.mlp_ratio, architecture.activation)
        self.drop_path = DropPath(drop_path)
        self.layer_scale1 = None if layer_scale is None else Scale(channels, layer_scale)
        self.layer_scale2 = None if layer_scale is None else Scale(channels, layer_scale)
        self.res_scale1 = Scale(channels, 1.0) if res_scale else None
        self.res_scale2 = Scale(channels, 1.0) if res_scale else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the block's output and its MLP branch alone, both `(B, C, *S)`."""
        x = _join(x, self.drop_path(self.token_mixer(self.norm1(x))), self.res_scale1, self.layer_scale1)
        branch = self.mlp(self.norm2(x))
        return _join(x, self.drop_path(branch), self.res_scale2, self.layer_scale2), branch


def _join(skip: Tensor, branch: Tensor, res_scale: Scale | None, layer_scale: Scale | None) -> Tensor:
    if res_scale is not None and layer_scale is not None:
        return skip * res_scale.over(skip) + branch * layer_scale.over(branch)
    if res_scale is not None:
        return torch.addcmul(branch, skip, res_scale.over(skip))
    if layer_scale is not None:
        return torch.addcmul(skip, branch, layer_scale.over(branch))
    return skip + branch


class MetaFormerStage(nn.Module):
    """An optional downsampling followed by blocks."""

    def __init__(self, downsample: Downsample | None, blocks: Sequence[MetaFormerBlock]) -> None:
        super().__init__()
        self.downsample = downsample
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor, recompute: bool) -> tuple[Tensor, Tensor]:
        """Return the stage's output and the MLP branch of its last block."""
        if self.downsample is not None:
            x = self.downsample(x)
        branch = x
        for block in self.blocks:
            x, branch = checkpoint(block, x, use_reentrant=False) if recompute else block(x)
        return x, branch


class MetaFormer(nn.Module):
    """A hierarchical MetaFormer that returns the feature map of every stage, fine to coarse.

    `forward` maps `(B, in_channels, *S)` to one `(B, channels[i], *S_i)` per stage, where `S_i` is about
    `S / strides[i]` per axis. Any size of at least one pixel works; features are taken after the last residual
    addition of a stage. The output of a sample depends on that sample only.

    Attributes:
        branch_features: Return the last MLP branch of each stage before its residual addition instead, which is
            where the released Meta-Polyp code taps its encoder.
        channels: Channels of each feature map.
        strides: Cumulative stride of each feature map, one number per axis.

    Args:
        spatial_dims: 1, 2 or 3.
        in_channels: Channels of the input.
        architecture: Its stages and what their blocks are made of.
        stem_kernel: Kernel of the stem, per axis if given so; None for 7 of a patch and 3 of convolutions.
        strides: Stride of the stem and of each downsampling, per axis if given so (anisotropic voxels).
        init: First weights; `published` suits long training and loaded weights, `fan_in` training from scratch.
        checkpointing: Recompute blocks in the backward pass to save memory.

    Raises:
        ValueError: Stage lists of different lengths, or a number out of range.
        UnknownNameError: A mixer that the table does not list.
        ConfigError: A parameter that a mixer does not take.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        architecture: Architecture,
        *,
        stem_kernel: KernelSize | None = None,
        strides: Sequence[int | Sequence[int]] | None = None,
        init: InitName = "published",
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if spatial_dims not in (1, 2, 3):
            raise ValueError(f"spatial_dims: got {spatial_dims}, expected 1, 2 or 3")
        depths, channels, stem = architecture.depths, architecture.channels, architecture.stem
        stages: dict[str, Sequence[Any]] = {
            "depths": depths,
            "channels": channels,
            "mixers": list(architecture.mixers) * (len(depths) if len(architecture.mixers) == 1 else 1),
            "kernel_sizes": architecture.kernel_sizes or [None] * len(depths),
            "strides": strides or (4, *[2] * (len(depths) - 1)),
        }
        if not depths or len({len(entries) for entries in stages.values()}) != 1:
            counts = ", ".join(f"{len(entries)} {name}" for name, entries in stages.items())
            raise ValueError(f"got {counts}, expected one entry for each stage (a single mixer serves all stages)")
        steps = [per_axis(stride, spatial_dims, "strides") for stride in stages["strides"]]
        self.spatial_dims = spatial_dims
        self.in_channels = in_channels
        self.channels = tuple(channels)
        self.strides = tuple(_cumulative(steps))
        self.checkpointing = checkpointing
        self.branch_features = False

        kernel = per_axis(stem_kernel or (7 if stem == "patch" else 3), spatial_dims, "stem_kernel")
        stem_norm: Literal["post", "none"] = "post" if architecture.transition_norm else "none"
        kind: NormName = "instance" if architecture.norm == "instance" else "channel"
        self.stem: nn.Module
        if stem == "none":
            if in_channels != channels[0] or set(steps[0]) != {1}:
                raise ValueError("without a stem, in_channels must be the first stage's channels and its stride 1")
            self.stem = nn.Identity()
        elif stem == "patch":
            self.stem = Downsample(spatial_dims, in_channels, channels[0], kernel, steps[0], stem_norm, kind)
        else:
            self.stem = ConvStem(spatial_dims, in_channels, channels[0], kernel, steps[0], kind)
        rates = iter(torch.linspace(0.0, architecture.drop_path, sum(depths), device="cpu").tolist())
        first_scaled = len(depths) if architecture.res_scale_from is None else architecture.res_scale_from
        self.stages = nn.ModuleList()
        for index, (depth, width, mixer, size, _) in enumerate(zip(*stages.values(), strict=True)):
            down = None
            if index:
                step = steps[index]
                down_kernel = tuple(3 if n > 1 else 1 for n in step)
                down_norm: Literal["pre", "none"] = "pre" if architecture.transition_norm else "none"
                down = Downsample(spatial_dims, channels[index - 1], width, down_kernel, step, down_norm, kind)
            blocks = [
                MetaFormerBlock(
                    width,
                    make_mixer(mixer, width, spatial_dims=spatial_dims, stage=index, kernel_size=size),
                    architecture,
                    drop_path=next(rates),
                    res_scale=index >= first_scaled,
                )
                for _ in range(depth)
            ]
            self.stages.append(MetaFormerStage(down, blocks))
        self.apply(init_published if init == "published" else init_fan_in)

    def forward(self, x: Tensor) -> list[Tensor]:
        if x.dim() != self.spatial_dims + 2 or x.shape[1] != self.in_channels or 0 in x.shape:
            axes = "DHW"[-self.spatial_dims :] if self.spatial_dims > 1 else "L"
            raise ValueError(
                f"input: got shape {tuple(x.shape)}, expected (batch, {self.in_channels}, {', '.join(axes)}) "
                "with no empty axis"
            )
        x = self.stem(channels_last(x))
        features = []
        for stage in self.stages:
            x, branch = stage(x, self.checkpointing and self.training)
            features.append(branch if self.branch_features else x)
        return features


def init_published(module: nn.Module) -> None:
    """Truncated normal (std 0.02) for convolution and linear weights, zero biases (MetaFormer's initialization)."""
    if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def init_fan_in(module: nn.Module) -> None:
    """Truncated normal with variance 1 / fan-in, zero biases.

    A standard deviation of 0.02 leaves StarReLU, which squares, with branches about a hundred times smaller than their
    skips; a short training spends much of its time growing them. This keeps both near unit variance from the start.
    """
    if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        std = module.weight[0].numel() ** -0.5
        nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _cumulative(steps: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    total = [tuple(1 for _ in steps[0])]
    for step in steps:
        total.append(tuple(a * b for a, b in zip(total[-1], step, strict=True)))
    return total[1:]
