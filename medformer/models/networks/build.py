"""From a model's name in a config to a network."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from medformer.config import ModelConfig
from medformer.errors import ConfigError, UnknownNameError
from medformer.models.networks.meta_polyp import meta_polyp
from medformer.registry import Entry, Registry

Builder = Callable[[ModelConfig, int, int, int], nn.Module]


def _meta_polyp(config: ModelConfig, spatial_dims: int, in_channels: int, out_channels: int) -> nn.Module:
    return meta_polyp(
        config.backbone,
        spatial_dims=spatial_dims,
        in_channels=in_channels,
        out_channels=out_channels,
        setting=config.setting,
        deep_supervision=config.deep_supervision,
        drop_path=config.drop_path,
        init=config.init,
        checkpointing=config.checkpointing,
    )


def _smp(config: ModelConfig, spatial_dims: int, in_channels: int, out_channels: int) -> nn.Module:
    from medformer.models.networks.smp_peer import smp_network

    if spatial_dims != 2:
        raise ConfigError(f"{config.name} is two-dimensional; this task needs {spatial_dims} spatial dimensions.")
    return smp_network(config.name.removeprefix(SMP_PREFIX), in_channels=in_channels, out_channels=out_channels)


SMP_PREFIX = "smp:"
SEGMENTERS: Registry[Builder] = Registry(
    "model",
    [
        Entry(
            "meta_polyp", _meta_polyp, "MetaFormer encoder, multi-scale upsampling decoder", "Trinh et al., CBMS 2023"
        ),
        Entry(
            "smp:<architecture>/<encoder>",
            _smp,
            "any segmentation-models-pytorch network, as a peer",
            "",
            "2-D; padded to its divisor",
        ),
    ],
)


def build_model(
    config: ModelConfig, *, spatial_dims: int = 2, in_channels: int = 3, out_channels: int = 1
) -> nn.Module:
    """Return the network that `config` names: `(B, in_channels, *S) -> (B, out_channels, *S)` logits, any size.

    Raises:
        UnknownNameError: The model, backbone, architecture or encoder is not known; the nearest name is given.
        ConfigError: The model does not exist in `spatial_dims` dimensions.
    """
    if config.name.startswith(SMP_PREFIX):
        return _smp(config, spatial_dims, in_channels, out_channels)
    if config.name not in SEGMENTERS:
        raise UnknownNameError("model", config.name, SEGMENTERS)
    return SEGMENTERS[config.name].part(config, spatial_dims, in_channels, out_channels)
