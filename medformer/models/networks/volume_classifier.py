"""Classification of whole volumes with the shared backbone."""

from __future__ import annotations

from collections.abc import Sequence

from medformer.config import VolumeModelConfig
from medformer.errors import ConfigError
from medformer.models.backbone.variants import VARIANTS, Classifier, with_head
from medformer.models.networks.volume_build import VOLUME_MODELS, volume_backbone

CLASSIFIER = "convformer_c8"
"""The backbone that suits classes; `configs/volume/classification.yaml` sets it."""


def build_volume_classifier(
    config: VolumeModelConfig,
    *,
    in_channels: int,
    classes: int = 2,
    patch: Sequence[int],
    strides: Sequence[Sequence[int]],
    kernel_sizes: Sequence[Sequence[int]],
    dropout: float = 0.0,
) -> Classifier:
    """Return `meta_unet`'s encoder with its variant's head: `(B, in_channels, *S) -> (B, classes)` logits, any size.

    Args:
        config: Its name and sizes; the decoder's settings do not matter.
        in_channels: Channels of an image.
        classes: Logits.
        patch: Voxels per axis that it will see.
        strides: Of the stem and of each downsampling, per axis.
        kernel_sizes: Of each stage, per axis.
        dropout: Before the last layer.

    Raises:
        UnknownNameError: The model or backbone is not known; the nearest name is given.
        ConfigError: The model is a segmentation peer, its backbone normalizes each image's channels by themselves
            (which takes away what the average over positions could tell), or the plan's numbers do not suit it.
    """
    if VOLUME_MODELS[config.name].name != "meta_unet":
        raise ConfigError(
            f"model.name={config.name} segments only; classification needs model.name=meta_unet, whose encoder it uses."
        )
    if len(patch) != len(kernel_sizes[0]):
        raise ConfigError(f"The patch has {len(patch)} axes and the kernels {len(kernel_sizes[0])}. Plan again.")
    backbone = volume_backbone(config, in_channels, strides, kernel_sizes)
    if VARIANTS[config.backbone].family.norm == "instance":
        raise ConfigError(
            f"model.backbone={config.backbone} has instance norm, which hides from a classifier what it averages over "
            f"an image. Set model.backbone={CLASSIFIER}, or start from --config volume/classification."
        )
    return with_head(backbone, config.backbone, classes, dropout)
