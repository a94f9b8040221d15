"""Classification of whole images and volumes with the shared backbone."""

from __future__ import annotations

from medformer.config import ModelConfig
from medformer.errors import ConfigError
from medformer.models.backbone.variants import VARIANTS, Classifier, with_head
from medformer.models.networks.grid import Grid, build_encoder

CLASSIFIER = "convformer_c8"
"""The backbone that suits classes; `configs/volume/classification.yaml` sets it."""


def classifier(config: ModelConfig, grid: Grid) -> Classifier:
    """Return the backbone with its variant's head: `(B, in_channels, *S) -> (B, out_channels)` logits, any size.

    Raises:
        UnknownNameError: The backbone is not known; the nearest name is given.
        ConfigError: The backbone normalizes each image's channels by themselves, which takes away what the average over
            positions could tell, or the plan's numbers do not suit it.
    """
    if VARIANTS[config.backbone].part.norm == "instance":
        raise ConfigError(
            f"model.backbone={config.backbone} has instance norm, which hides from a classifier what it averages over "
            f"an image. Set model.backbone={CLASSIFIER}, or start from --config volume/classification."
        )
    return with_head(build_encoder(config, grid), config.backbone, grid.out_channels)
