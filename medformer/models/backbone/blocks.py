"""What every backbone is made of: blocks that mix tokens, the stages they form, and the contract of their maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from medformer.config.shared import MixerSpec
from medformer.errors import counted
from medformer.models.backbone.batch_normed import BatchNormedBlock
from medformer.models.backbone.frequency_filters import FrequencyFilters
from medformer.models.backbone.layers import DropPath, KernelSize, Scale
from medformer.models.backbone.mixers import make_mixer
from medformer.models.backbone.mixers.identity import Identity
from medformer.models.backbone.mlp import Activation, Mlp, Tying
from medformer.models.backbone.norms import NormName, make_norm, reference_grid
from medformer.models.backbone.recompute import run_block

ASYMMETRY = 1e-4
"""Factor of the penalty on asymmetric matrices where a config does not say another."""
InitName = Literal["published", "fan_in"]
StemName = Literal["patch", "convolutions", "none"]
BlockName = Literal["sequential", "parallel", "symmetric", "asymmetric", "depthwise", "gated"]
_TYING: dict[BlockName, Literal["free", "symmetric", "asymmetric"]] = {
    "sequential": "free",
    "parallel": "free",
    "symmetric": "symmetric",
    "asymmetric": "asymmetric",
    "depthwise": "free",
    "gated": "free",
}


@dataclass(frozen=True)
class Architecture:
    """What a MetaFormer is made of; lists have one entry for each stage.

    Attributes:
        mixers: Token mixers, or a single one for all stages: names from `MIXERS`, with parameters if given so.
        norm: Norm inside the blocks; `instance` and `layer` are those of stem and downsampling too, which else norm
            over channels without a bias.
        depths: Blocks.
        channels: Channels.
        drop_path: Stochastic depth of the last block; it grows linearly from 0 at the first.
        layer_scale: Initial factor on the branches, None for none.
        activation: `star_relu` and `plain_gelu` (no biases in the MLP) or `gelu` (biases).
        res_scale_from: First stage whose skips carry a learnable factor; None for none.
        transition: `before`: a norm after the stem and before each downsampling; `bare`: none (PoolFormer v1);
            `patches`: stem and downsampling are patches side by side, with a norm after each (FocalNet);
            `bare_patches`: these without norms; `inverted`: stem and downsampling of SHViT or EfficientViM, a step of
            the stem behind each stage without blocks.
        kernel_sizes: Mixer kernels, per axis if given so, None for the mixer's own.
        stem: `patch` (one convolution, as published), `convolutions` (three small ones, for little data), or `none`
            (the input is tokens already: as many channels as the first stage, and no stride).
        mlp_ratio: Hidden over outer channels of the MLP.
        block: `sequential`: the mixer, then the MLP, each on a norm of its own. `parallel`: both on one norm, added
            together. `symmetric` and `asymmetric`: that, with the second matrix of each MLP tied to its first.
            `depthwise` and `gated`: those of SHViT and EfficientViM (`BatchNormedBlock`).
        asymmetry: Factor of the penalty on what `asymmetric` matrices have of their own.
        strides: Of the stem and of each downsampling; None for 4, then 2.
    """

    mixers: Sequence[MixerSpec]
    norm: NormName = "channel"
    depths: Sequence[int] = ()
    channels: Sequence[int] = ()
    drop_path: float = 0.0
    layer_scale: float | None = None
    activation: Activation = "star_relu"
    res_scale_from: int | None = 2
    transition: Literal["before", "bare", "patches", "bare_patches", "inverted"] = "before"
    kernel_sizes: Sequence[KernelSize | None] | None = None
    stem: StemName = "patch"
    mlp_ratio: float = 4.0
    block: BlockName = "sequential"
    asymmetry: float = 0.0
    strides: Sequence[int] | None = None

    @property
    def tying(self) -> Tying:
        """What the second matrices of all MLPs are."""
        return Tying(_TYING[self.block], self.asymmetry)


class MetaFormerBlock(nn.Module):
    """`x <- rs*x + ls*drop(mixer(norm(x)))`, then the same with the MLP (MetaFormer Baselines, eq. 1-2).

    A parallel block adds both branches of one norm, each dropped by itself (Ota and Taki, 2024).
    """

    def __init__(
        self,
        channels: int,
        token_mixer: nn.Module,
        architecture: Architecture,
        *,
        drop_path: float,
        res_scale: bool,
        grid: Sequence[int] = (),
    ) -> None:
        super().__init__()
        norm, layer_scale = architecture.norm, architecture.layer_scale
        self.norm1 = make_norm(norm, channels, grid)
        self.token_mixer = token_mixer
        self.norm2 = make_norm(norm, channels, grid) if architecture.block == "sequential" else None
        self.mlp = Mlp(channels, architecture.mlp_ratio, architecture.activation, architecture.tying)
        self.drop_path = DropPath(drop_path)
        self.layer_scale1 = None if layer_scale is None else Scale(channels, layer_scale)
        self.layer_scale2 = None if layer_scale is None else Scale(channels, layer_scale)
        self.res_scale1 = Scale(channels, 1.0) if res_scale else None
        self.res_scale2 = Scale(channels, 1.0) if res_scale else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the block's output and its MLP branch alone, both `(B, C, *S)`."""
        normed = self.norm1(x)
        x = _join(x, self.drop_path(self.token_mixer(normed)), self.res_scale1, self.layer_scale1)
        branch = self.mlp(normed if self.norm2 is None else self.norm2(x))
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

    def __init__(self, downsample: nn.Module | None, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.downsample = downsample
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor, recompute: bool) -> tuple[Tensor, Tensor]:
        """Return the stage's output and the MLP branch of its last block."""
        if self.downsample is not None:
            x = self.downsample(x)
        branch = x
        for block in self.blocks:
            x, branch = run_block(block, x, recompute)
        return x, branch


class FeatureInfo(NamedTuple):
    """One feature map of a backbone.

    Attributes:
        level: 0 for the finest.
        channels: Of the map.
        strides: Positions of the input for one of the map, per axis.
    """

    level: int
    channels: int
    strides: tuple[int, ...]


class Backbone(nn.Module):
    """What networks take as their encoder: it returns a feature map of each level, fine to coarse.

    `forward` maps `(B, in_channels, *S)` to one `(B, channels[i], *S_i)` per level, where `S_i` is about
    `S / strides[i]` per axis. Any size of at least one pixel works.

    Attributes:
        spatial_dims: 1, 2 or 3.
        in_channels: Channels of the input.
        channels: Channels of each feature map.
        strides: Cumulative stride of each feature map, one number per axis.
        branch_features: Return the last MLP branch of each stage before its residual addition instead of the stage's
            output, which is where the released Meta-Polyp code taps its encoder.
        architecture: What the blocks are made of.
        mixers: Token mixer of each level.
        kernel_sizes: Kernel of each level's mixers; None for the mixer's own.
    """

    spatial_dims: int
    in_channels: int
    channels: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    branch_features: bool = False
    architecture: Architecture
    mixers: tuple[MixerSpec, ...]
    kernel_sizes: tuple[KernelSize | None, ...]

    @property
    def feature_info(self) -> list[FeatureInfo]:
        """What each feature map is, fine to coarse."""
        return [FeatureInfo(at, *each) for at, each in enumerate(zip(self.channels, self.strides, strict=True))]

    @property
    def pretrained_part(self) -> nn.Module:
        """What a file of published weights fills."""
        return self

    def leave_out(self, level: int) -> None:
        """Let go of what serves the map of a level alone, for a network that does not look at this map."""

    def block(
        self, level: int, *, drop_path: float = 0.0, res_scale: bool = False
    ) -> MetaFormerBlock | BatchNormedBlock:
        """Return a new block for maps of a level, with the level's token mixer."""
        width, grid = self.channels[level], reference_grid(self.spatial_dims, self.strides[level])
        mixer = make_mixer(
            self.mixers[level],
            width,
            spatial_dims=self.spatial_dims,
            stage=level,
            kernel_size=self.kernel_sizes[level],
            made_for=grid if self.architecture.strides else None,
            tying=self.architecture.tying,
        )
        kind = self.architecture.block
        if kind in ("depthwise", "gated"):
            return BatchNormedBlock(
                self.spatial_dims,
                width,
                None if isinstance(mixer, Identity) else mixer,
                mlp_ratio=self.architecture.mlp_ratio,
                gated=kind == "gated",
                drop_path=drop_path,
            )
        return MetaFormerBlock(width, mixer, self.architecture, drop_path=drop_path, res_scale=res_scale, grid=grid)

    def check_input(self, x: Tensor) -> None:
        """Refuse what is no batch of images.

        Raises:
            ValueError: Another number of axes or channels, or an empty axis.
        """
        if x.dim() != self.spatial_dims + 2 or x.shape[1] != self.in_channels or 0 in x.shape:
            axes = "DHW"[-self.spatial_dims :] if self.spatial_dims > 1 else "L"
            raise ValueError(
                f"input: got shape {tuple(x.shape)}, expected (batch, {self.in_channels}, {', '.join(axes)}) "
                "with no empty axis"
            )


def by_stage(architecture: Architecture, **others: Sequence[Any]) -> dict[str, Sequence[Any]]:
    """Return the lists of an architecture, and others, each with one entry for each stage.

    Raises:
        ValueError: Lists of different lengths.
    """
    depths, mixers = architecture.depths, architecture.mixers
    stages: dict[str, Sequence[Any]] = {
        "depths": depths,
        "channels": architecture.channels,
        "mixers": list(mixers) * (len(depths) if len(mixers) == 1 else 1),
        "kernel_sizes": architecture.kernel_sizes or [None] * len(depths),
        **others,
    }
    if depths and len(mixers) not in (1, len(depths)):
        each = f", or {len(depths)}, one for each" if len(depths) > 1 else ", because there is one stage only"
        raise ValueError(f"model.mixers: got {counted(len(mixers), 'mixer')}, expected 1 for all stages{each}")
    if not depths or len({len(entries) for entries in stages.values()}) != 1:
        counts = ", ".join(f"{len(entries)} {name}" for name, entries in stages.items())
        raise ValueError(f"got {counts}, expected one entry for each stage (a single mixer serves all stages)")
    return stages


def initialize(module: nn.Module, init: InitName) -> None:
    """Draw the first weights of all layers of a module."""
    module.apply(init_published if init == "published" else init_fan_in)


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
    elif isinstance(module, FrequencyFilters):
        module.init_fan_in()
