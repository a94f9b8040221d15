"""The shared backbone: a MetaFormer in 1-D, 2-D and 3-D from one code path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from medformer.models.backbone.batch_normed import InvertedDownsample, Step, StepStem
from medformer.models.backbone.blocks import (
    Architecture,
    Backbone,
    InitName,
    MetaFormerStage,
    by_stage,
    initialize,
)
from medformer.models.backbone.downsampling import ConvStem, Downsample
from medformer.models.backbone.layers import KernelSize, channels_last, per_axis
from medformer.models.backbone.norms import NormName

_Where = Literal["pre", "post", "none"]
_NORMS: dict[str, tuple[_Where, _Where]] = {
    "before": ("post", "pre"),
    "bare": ("none", "none"),
    "patches": ("post", "post"),
    "bare_patches": ("none", "none"),
    "inverted": ("none", "none"),
}
"""Where stem and downsampling have their norm."""


class MetaFormer(Backbone):
    """A hierarchical MetaFormer (see `Backbone`) in any number of dimensions.

    Features are taken after the last residual addition of a stage. The output of a sample depends on that sample only.

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
        channels, stem = architecture.channels, architecture.stem
        stages = by_stage(
            architecture, strides=strides or architecture.strides or (4, *[2] * (len(architecture.depths) - 1))
        )
        steps = [per_axis(stride, spatial_dims, "strides") for stride in stages["strides"]]
        self.spatial_dims = spatial_dims
        self.in_channels = in_channels
        self.channels = tuple(channels)
        self.strides = tuple(_cumulative(steps))
        self.architecture = architecture
        self.mixers, self.kernel_sizes = tuple(stages["mixers"]), tuple(stages["kernel_sizes"])
        self.checkpointing = checkpointing

        kernel = per_axis(stem_kernel or (7 if stem == "patch" else 3), spatial_dims, "stem_kernel")
        patches = architecture.transition in ("patches", "bare_patches")
        inverted = architecture.transition == "inverted"
        stem_norm, down_norm = _NORMS[architecture.transition]
        kind: NormName = architecture.norm if architecture.norm in ("instance", "layer") else "channel"
        self.stem: nn.Module
        if stem == "none":
            if in_channels != channels[0] or set(steps[0]) != {1}:
                raise ValueError("without a stem, in_channels must be the first stage's channels and its stride 1")
            self.stem = nn.Identity()
        elif inverted:
            self.stem = StepStem(spatial_dims, in_channels, channels[0], steps[0])
        elif stem == "patch":
            size = None if patches and stem_kernel is None else kernel
            self.stem = Downsample(spatial_dims, in_channels, channels[0], size, steps[0], stem_norm, kind)
        else:
            self.stem = ConvStem(spatial_dims, in_channels, channels[0], kernel, steps[0], kind)
        rates = iter(torch.linspace(0.0, architecture.drop_path, sum(architecture.depths), device="cpu").tolist())
        first_scaled = len(channels) if architecture.res_scale_from is None else architecture.res_scale_from
        self.stages = nn.ModuleList()
        for index, (depth, width) in enumerate(zip(architecture.depths, channels, strict=True)):
            down: nn.Module | None = None
            if index and inverted:
                down = _inverted(spatial_dims, channels[index - 1], width, steps[index], architecture, index)
            elif index:
                step = steps[index]
                down_kernel = None if patches else tuple(3 if n > 1 else 1 for n in step)
                down = Downsample(spatial_dims, channels[index - 1], width, down_kernel, step, down_norm, kind)
            scaled = index >= first_scaled
            blocks = [self.block(index, drop_path=next(rates), res_scale=scaled) for _ in range(depth)]
            self.stages.append(MetaFormerStage(down, blocks))
        initialize(self, init)
        if architecture.transition == "patches" and isinstance(self.stem, Downsample):
            self.stem.draw_bias()

    def forward(self, x: Tensor) -> list[Tensor]:
        self.check_input(x)
        x = self.stem(channels_last(x))
        features = []
        for stage in self.stages:
            x, branch = stage(x, self.checkpointing and self.training)
            features.append(branch if self.branch_features else x)
        return features


def _inverted(
    spatial_dims: int, finer: int, coarser: int, stride: tuple[int, ...], architecture: Architecture, level: int
) -> nn.Module:
    if architecture.depths[level - 1] == 0:
        return Step(spatial_dims, finer, coarser, stride)
    return InvertedDownsample(spatial_dims, finer, coarser, stride, gated=architecture.block == "gated")


def _cumulative(steps: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    total = [tuple(1 for _ in steps[0])]
    for step in steps:
        total.append(tuple(a * b for a, b in zip(total[-1], step, strict=True)))
    return total[1:]
