"""Networks of segmentation-models-pytorch as peers, at any input size and never with a download."""

from __future__ import annotations

from torch import nn

from medformer.config.shared import ModelConfig
from medformer.errors import ConfigError, UnknownNameError
from medformer.models.networks.grid import Grid
from medformer.models.networks.padded import PaddedNetwork


def smp_network(config: ModelConfig, grid: Grid) -> nn.Module:
    """Return `smp:<architecture>/<encoder>` (for example `smp:unet/resnet34`) with random weights.

    Raises:
        ConfigError: The name lacks its encoder, or the two cannot be combined.
        UnknownNameError: The library has no such architecture or encoder.
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
    if encoder not in smp.encoders.encoders and not encoder.startswith(("tu-", "timm-")):
        raise UnknownNameError("segmentation-models-pytorch encoder", encoder, smp.encoders.encoders)
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
    return PaddedNetwork(network, (divisor, divisor))
