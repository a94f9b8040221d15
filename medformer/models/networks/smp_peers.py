"""Any network of segmentation-models-pytorch as a peer, at any input size and never with a download."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

from torch import nn

from medformer.config.shared import ModelConfig
from medformer.errors import ConfigError, UnknownNameError
from medformer.models.backbone.renormalize import Renormalize
from medformer.models.networks.grid import Grid, PaddedNetwork

_TIMM_NAME = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)?")


def _require_encoder(name: str, own: Iterable[str]) -> None:
    """Allow the names that the installed packages list: others, such as `tu-hf-hub:...`, make timm ask the network.

    Args:
        name: An encoder of segmentation-models-pytorch, or `tu-<name>`, one of timm.
        own: What segmentation-models-pytorch lists.

    Raises:
        ConfigError: Neither lists it.
    """
    import timm

    listed = name.removeprefix("tu-")
    if name in own or (listed != name and _TIMM_NAME.fullmatch(listed) and timm.is_model(listed)):
        return
    near = get_close_matches(name, [*own, *(f"tu-{model}" for model in timm.list_models())], n=1, cutoff=0.5)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    raise ConfigError(
        f"Unknown encoder '{name}' of segmentation-models-pytorch.{hint} Known: {', '.join(sorted(own))}, and "
        "tu-<name> for the models of the installed timm. Nothing is looked up in a network."
    )


def smp_network(config: ModelConfig, grid: Grid) -> nn.Module:
    """Return `smp:<architecture>/<encoder>` (for example `smp:unet/resnet34`) with random weights.

    With `model.weights`, which `load_encoder` reads, it shows its encoder the images that these were trained on.

    Raises:
        ConfigError: The name lacks its encoder, no installed package lists it, or the two cannot be combined.
        UnknownNameError: The library has no such architecture.
    """
    import segmentation_models_pytorch as smp

    architecture, _, encoder = config.name.removeprefix("smp:").partition("/")
    if not encoder:
        raise ConfigError(
            f"Model '{config.name}': expected smp:<architecture>/<encoder>, for example smp:unet/resnet34."
        )
    architectures = list(smp.MODEL_ARCHITECTURES_MAPPING)
    if architecture.lower() not in architectures:
        raise UnknownNameError("segmentation-models-pytorch architecture", architecture, architectures)
    _require_encoder(encoder, smp.encoders.encoders)
    try:
        network = smp.create_model(
            architecture,
            encoder_name=encoder,
            encoder_weights=None,
            in_channels=grid.in_channels,
            classes=grid.out_channels,
        )
    except (ValueError, KeyError, NotImplementedError, RuntimeError) as error:
        raise ConfigError(f"Model '{config.name}' could not be built: {error}") from error
    divisor = max(32, int(getattr(network.encoder, "output_stride", 32)))
    return PaddedNetwork(network, (divisor, divisor), before=Renormalize() if config.weights else None)
