"""A backbone on a network of timm: its stages give the maps, and MetaFormer blocks work on the coarse ones."""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from medformer.errors import ConfigError
from medformer.models.backbone.blocks import Architecture, Backbone, InitName, MetaFormerStage, by_stage, initialize
from medformer.models.backbone.efficientnet_lite import LITE0, EfficientNetLite0, with_known_padding
from medformer.models.backbone.layers import Pointwise, channels_last
from medformer.models.backbone.renormalize import Renormalize

STRIDES = (4, 8, 16, 32)
_ADVICE = "Choose a network with such stages, such as timm:tf_efficientnet_lite0 or timm:resnet18."
_NAME = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)?")


def is_listed(name: str) -> bool:
    """Whether the installed timm lists a model: other names, such as `hf-hub:...`, make it ask a network."""
    import timm

    return bool(_NAME.fullmatch(name) and timm.is_model(name))


class TimmMetaFormer(Backbone):
    """The stages of a network of timm, narrowed, with MetaFormer blocks behind them (see `Backbone`).

    Each map of the network is narrowed to the width of its level by a pointwise layer with batch norm, unless it is to
    stay as it is; levels that have blocks refine it. Nothing is downloaded; the network's first weights are timm's
    random ones.

    Attributes:
        encoder: The network of timm.
        frozen: Levels, from the finest, up to which the network keeps its weights and its statistics.

    Args:
        name: A model of timm that gives maps at the strides 4, 8, 16 and 32, in two dimensions.
        in_channels: Channels of the input.
        architecture: Widths and blocks of the four levels.
        init: First weights of what stands behind the network.
        checkpointing: Recompute blocks in the backward pass to save memory.
        frozen: See the attribute.
        narrowed: Whether maps are narrowed to the widths of the architecture; otherwise it has these widths itself.

    Raises:
        ConfigError: The installed timm does not list the name, the network gives no such maps, or it does not say where
            a level ends that is to be frozen.
        ValueError: Lists of an architecture that do not belong together, or widths that the network does not have.
    """

    def __init__(
        self,
        name: str,
        in_channels: int,
        architecture: Architecture,
        *,
        init: InitName = "published",
        checkpointing: bool = False,
        frozen: int = 0,
        narrowed: bool = True,
    ) -> None:
        super().__init__()
        stages = by_stage(architecture, strides=STRIDES)
        self.spatial_dims, self.in_channels = 2, in_channels
        self.channels, self.strides = tuple(architecture.channels), tuple((step, step) for step in STRIDES)
        self.architecture = architecture
        self.mixers, self.kernel_sizes = tuple(stages["mixers"]), tuple(stages["kernel_sizes"])
        self.checkpointing = checkpointing
        # Its weights may expect another range of colors than a network of ours is given.
        self.renormalize = Renormalize() if in_channels == 3 else nn.Identity()
        self.encoder = _features(name, in_channels)
        info = self.encoder.feature_info
        self._levels = _levels(name, info.reduction())
        self._channels_last = getattr(self.encoder, "output_fmt", "NCHW") == "NHWC"
        self.frozen = frozen
        for parameter in self._kept_parameters():
            parameter.requires_grad_(False)
        widths = [info.channels()[level] for level in self._levels]
        if not narrowed and tuple(widths) != self.channels:
            raise ValueError(f"timm's {name} gives maps of {widths} channels, and its row says {self.channels}")
        self.narrow = nn.ModuleList(
            nn.Sequential(Pointwise(source, width, bias=False), nn.BatchNorm2d(width)) if narrowed else nn.Identity()
            for source, width in zip(widths, self.channels, strict=True)
        )
        rates = iter(torch.linspace(0.0, architecture.drop_path, sum(architecture.depths), device="cpu").tolist())
        self.stages = nn.ModuleList(
            MetaFormerStage(None, [self.block(level, drop_path=next(rates)) for _ in range(depth)])
            for level, depth in enumerate(architecture.depths)
        )
        initialize(self.narrow, init)
        initialize(self.stages, init)

    @property
    def pretrained_part(self) -> nn.Module:
        """The network of timm, which some of its encoders wrap."""
        whole = getattr(self.encoder, "model", self.encoder)
        assert isinstance(whole, nn.Module)
        return whole

    def leave_out(self, level: int) -> None:
        """See `Backbone`; the level's map is then that of the network of timm, with its channels."""
        width = self.encoder.feature_info.channels()[self._levels[level]]
        self.narrow[level], self.stages[level] = nn.Identity(), MetaFormerStage(None, [])
        self.channels = (*self.channels[:level], width, *self.channels[level + 1 :])

    def train(self, mode: bool = True) -> TimmMetaFormer:
        """Set the mode of all but the norms that are kept as they are."""
        super().train(mode)
        for module in self._kept_norms():
            module.eval()
        return self

    def forward(self, x: Tensor) -> list[Tensor]:
        self.check_input(x)
        maps = self.encoder(channels_last(self.renormalize(x)))
        features = []
        for level, narrow, stage in zip(self._levels, self.narrow, self.stages, strict=True):
            found = maps[level].movedim(-1, 1) if self._channels_last else maps[level]
            refined, branch = stage(channels_last(narrow(found)), self.checkpointing and self.training)
            features.append(branch if self.branch_features else refined)
        return features

    def _kept_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters up to the last frozen level; timm's modules stand in the order in which they run.

        Raises:
            ConfigError: The network does not say by a module of its own where the level ends.
        """
        if not self.frozen:
            return
        names: list[str] = self.encoder.feature_info.module_name()
        # timm writes the same name with dots and with underscores.
        last = names[self._levels[self.frozen - 1]].replace(".", "_")
        found = [(f"{key}_".replace(".", "_"), module) for key, module in self.encoder.named_modules()]
        end = max((at for at, (key, _) in enumerate(found) if key.startswith(f"{last}_")), default=None)
        if end is None:
            raise ConfigError(
                f"model.frozen={self.frozen}: this network of timm does not say where its levels end. Set "
                "model.frozen=0, or choose another model.backbone, such as lite0_metaformer."
            )
        for _, module in found[: end + 1]:
            yield from module.parameters(recurse=False)

    def _kept_norms(self) -> Iterator[nn.Module]:
        kept = {id(parameter) for parameter in self._kept_parameters()}
        for module in self.encoder.modules():
            if isinstance(module, nn.BatchNorm2d) and id(module.weight) in kept:
                yield module


def _features(name: str, in_channels: int) -> Any:
    if name == LITE0:
        return EfficientNetLite0(in_channels)
    import timm
    from timm.layers import Conv2dSame

    if not is_listed(name):
        near = get_close_matches(name, timm.list_models(), n=1, cutoff=0.5)
        hint = f" Did you mean 'timm:{near[0]}'?" if near else ""
        raise ConfigError(
            f"The installed timm {timm.__version__} lists no model '{name}'.{hint} Nothing is looked up in a network."
        )
    try:
        network = timm.create_model(name, pretrained=False, features_only=True, in_chans=in_channels)
    except (AssertionError, AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ConfigError(f"timm's {name} gives no feature maps ({error}). {_ADVICE}") from error
    return with_known_padding(network, lambda convolution: isinstance(convolution, Conv2dSame))


def _levels(name: str, reductions: list[int]) -> list[int]:
    """Return the number of the last map of each stride."""
    missing = [step for step in STRIDES if step not in reductions]
    if missing:
        raise ConfigError(
            f"timm's {name} gives maps at the strides {', '.join(map(str, reductions))}; expected 4, 8, 16 and 32. "
            f"{_ADVICE}"
        )
    return [max(at for at, reduction in enumerate(reductions) if reduction == step) for step in STRIDES]
