"""Networks of segmentation-models-pytorch as peers, at any input size and never with a download."""

from __future__ import annotations

from torch import nn

from medformer.errors import ConfigError, UnknownNameError
from medformer.models.networks.padded import PaddedNetwork


def smp_network(name: str, *, in_channels: int = 3, out_channels: int = 1) -> nn.Module:
    """Return `architecture/encoder` (for example `unet/resnet34`) with random weights.

    Raises:
        ConfigError: The name lacks its encoder, or the two cannot be combined.
        UnknownNameError: The library has no such architecture or encoder.
    """
    import segmentation_models_pytorch as smp

    architecture, _, encoder = name.partition("/")
    if not encoder:
        raise ConfigError(f"Model 'smp:{name}': expected smp:<architecture>/<encoder>, for example smp:unet/resnet34.")
    architectures = list(smp.MODEL_ARCHITECTURES_MAPPING)
    if architecture.lower() not in architectures:
        raise UnknownNameError("segmentation-models-pytorch architecture", architecture, architectures)
    if encoder not in smp.encoders.encoders and not encoder.startswith(("tu-", "timm-")):
        raise UnknownNameError("segmentation-models-pytorch encoder", encoder, smp.encoders.encoders)
    try:
        network = smp.create_model(
            architecture, encoder_name=encoder, encoder_weights=None, in_channels=in_channels, classes=out_channels
        )
    except (ValueError, KeyError, NotImplementedError, RuntimeError) as error:
        raise ConfigError(f"Model 'smp:{name}' could not be built: {error}") from error
    divisor = max(32, int(getattr(network.encoder, "output_stride", 32)))
    return PaddedNetwork(network, (divisor, divisor))
