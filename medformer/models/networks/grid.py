"""What a network is built for, the shared backbone built for it, and padding for networks that want multiples.

Padding gives them any input size: the end of each axis is zero-padded, and the logits are cropped back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medformer.config.shared import ModelConfig
from medformer.errors import ConfigError, counted
from medformer.models.backbone.blocks import Backbone, by_stage
from medformer.models.backbone.heads import Classifier
from medformer.models.backbone.layers import KernelSize, per_axis
from medformer.models.backbone.mixers import mixer_kernel
from medformer.models.backbone.variants import VARIANTS, build_backbone

PUBLISHED_STEM, SMALL_STEM = 7, 3
MAPS = 4
"""Maps of a backbone that networks are built on."""


@dataclass(frozen=True)
class Grid:
    """What a task says of its images to the network that it builds.

    Attributes:
        in_channels: Channels of an image.
        out_channels: Logits of each position (the background among them, where classes exclude each other), or of each
            image.
        size: Positions per axis of the usual input; a network may be given any other.
        spacing: Size of a position per axis, mm; None where all axes are alike.
        strides: Planned strides of the stem and of each downsampling, per axis; None for the network's own.
        kernel_sizes: Planned kernel of each stage, per axis, for networks that state none (see `build_encoder`); None
            for the network's own.
    """

    in_channels: int
    out_channels: int
    size: Sequence[int]
    spacing: Sequence[float] | None = None
    strides: Sequence[Sequence[int]] | None = None
    kernel_sizes: Sequence[Sequence[int]] | None = None

    @property
    def spatial_dims(self) -> int:
        """1, 2 or 3."""
        return len(self.size)


def build_encoder(config: ModelConfig, grid: Grid) -> Backbone:
    """Return the backbone that a config names, with the strides of a plan if there is one.

    Its kernels are its own: a plan makes them 1 along axes on which it looks at single positions, and changes no other.

    Raises:
        UnknownNameError: No variant or mixer has that name.
        ConfigError: The backbone does not give the four maps that networks join and plans are made for, or a mixer has
            no such parameter.
    """
    maps = len(VARIANTS[config.backbone].part.depths)
    if maps != MAPS:
        raise ConfigError(
            f"model.backbone={config.backbone} gives {counted(maps, 'map')}, and networks are built on {MAPS}, fine to "
            "coarse. Choose another backbone (`medformer info backbones`)."
        )
    stem, kernels = encoder_kernels(config, grid)
    return build_backbone(
        config.backbone,
        spatial_dims=grid.spatial_dims,
        in_channels=grid.in_channels,
        mixers=config.mixers,
        drop_path=config.drop_path,
        kernel_sizes=kernels,
        stem_kernel=stem,
        strides=grid.strides,
        init=config.init,
        checkpointing=config.checkpointing,
        frozen=config.frozen,
        block=config.block,
        mlp_ratio=config.mlp_ratio,
        asymmetry=config.asymmetry,
    )


def encoder_kernels(config: ModelConfig, grid: Grid) -> tuple[list[int] | None, list[tuple[int, ...]] | None]:
    """Kernels of the stem and of the mixers of each stage, per axis; None without a plan.

    A mixer without a kernel of its own gets the planned one, and so does one that takes the place of the variant's.

    Raises:
        UnknownNameError: No variant or mixer has that name.
        ValueError: Another number of mixers than of stages.
    """
    if grid.strides is None or grid.kernel_sizes is None:
        return None, None
    variant = VARIANTS[config.backbone].part
    mixers = by_stage(replace(variant, mixers=config.mixers or variant.mixers))["mixers"]
    own = variant.kernel_sizes or [mixer_kernel(mixer) for mixer in mixers]
    kernels = [_resized(planned, stated) for planned, stated in zip(grid.kernel_sizes, own, strict=True)]
    # A stem sees what it steps over and as much around it, as the published 7 does with its stride of 4.
    stem = [max(k, 2 * step - 1) for k, step in zip(grid.kernel_sizes[0], grid.strides[0], strict=True)]
    if variant.stem == "convolutions":
        return [min(k, SMALL_STEM) for k in stem], kernels
    return list(_resized(stem, PUBLISHED_STEM)), kernels


def kernel_note(config: ModelConfig, grid: Grid) -> str:
    """Say which kernels a backbone has where they are not those of the plan; empty where they are."""
    stem, kernels = encoder_kernels(config, grid)
    if kernels is None or grid.kernel_sizes is None or kernels == [tuple(size) for size in grid.kernel_sizes]:
        return ""
    shown = ", ".join(" x ".join(map(str, size)) for size in (stem or (), *kernels))
    return f"{config.backbone} keeps its own kernels, made 1 along far coarser axes only; stem and stages have {shown}"


def _resized(planned: Sequence[int], stated: KernelSize | None) -> tuple[int, ...]:
    sizes = planned if stated is None else per_axis(stated, len(planned), "kernel_size")
    return tuple(1 if plan == 1 else size for plan, size in zip(planned, sizes, strict=True))


def pad_to_multiple(x: Tensor, multiples: Sequence[int], minimum: int = 1) -> Tensor:
    """Zero-pad the end of each spatial axis of `(B, C, *S)` to a multiple of its own number.

    Args:
        x: Images or maps.
        multiples: One number per axis.
        minimum: Steps of its multiple that the first axis gets at least when all axes have one only: instance norm
            needs more than one position on the deepest map.
    """
    size = x.shape[2:]
    steps = [max(1, -(-n // multiple)) for n, multiple in zip(size, multiples, strict=True)]
    if set(steps) == {1}:
        steps[0] = minimum
    missing = [step * multiple - n for n, step, multiple in zip(size, steps, multiples, strict=True)]
    return F.pad(x, [end for gap in reversed(missing) for end in (0, gap)]) if any(missing) else x


def padded_size(network: nn.Module, size: Sequence[int]) -> tuple[int, ...]:
    """Return what a network pads an input of a size to, inside of it."""
    backbone = getattr(network, "backbone", None)
    multiples, minimum = (1,) * len(size), 1
    if isinstance(network, PaddedNetwork):
        multiples, minimum = network.divisors, network.minimum
    elif isinstance(backbone, Backbone) and not isinstance(network, Classifier):
        multiples = backbone.strides[-1]
    return tuple(pad_to_multiple(torch.empty(1, 1, *size, device="meta"), multiples, minimum).shape[2:])


def crop_to(logits: Tensor, padded: Sequence[int], size: Sequence[int]) -> Tensor:
    """Crop logits of an input padded from `size` to `padded`; coarser ones to the cells that overlap the input."""
    for axis, (whole, n) in enumerate(zip(padded, size, strict=True), start=2):
        stride = whole // logits.shape[axis]
        logits = logits.narrow(axis, 0, -(-n // stride))
    return logits


class PaddedNetwork(nn.Module):
    """Pads for a network and crops its logits, or each of the list that it returns while training.

    Args:
        network: The network.
        divisors: What each axis is padded to a multiple of.
        minimum: See `pad_to_multiple`.
        before: Applied to the images first.
    """

    def __init__(
        self, network: nn.Module, divisors: Sequence[int], minimum: int = 1, before: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.before = before
        self.network = network
        self.divisors = tuple(divisors)
        self.minimum = minimum

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        size = x.shape[2:]
        x = pad_to_multiple(x if self.before is None else self.before(x), self.divisors, self.minimum)
        output = self.network(x)
        if isinstance(output, Tensor):
            return crop_to(output, x.shape[2:], size)
        return [crop_to(level, x.shape[2:], size) for level in output]
