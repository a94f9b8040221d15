"""The config of a run on images of polyps."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt

from medformer.config.shared import (
    CrossvalConfig,
    ExecutionConfig,
    Fraction,
    ImagePretrainingConfig,
    LossConfig,
    ModelConfig,
    NonNegativeInt,
    Section,
    TrainingConfig,
)


class DataConfig(Section):
    """Where the cases are and how an image becomes a tensor."""

    manifest: str = Field("", description="CSV manifest; `medformer polyp prepare` writes one")
    image_size: tuple[PositiveInt, PositiveInt] = Field((352, 352), description="network input, rows x columns, px")
    ungrouped: Literal["error", "each"] = Field(
        "error", description="rows without a group: error, or each (its own group)"
    )
    cache: bool = Field(False, description="keep decoded images in memory")
    workers: NonNegativeInt = Field(2, description="loader processes; 0 loads in the main process")


class AugmentConfig(Section):
    """Training-time augmentation, drawn from a seed per (epoch, case) so that it replays."""

    flip: Fraction = Field(0.5, description="probability of a horizontal, and separately a vertical, flip")
    rotate90: bool = Field(True, description="random quarter turns")
    affine: Fraction = Field(0.7, description="probability of shift, scale, rotation")
    color: Fraction = Field(0.7, description="probability of brightness, contrast, saturation and hue jitter")
    blur: Fraction = Field(0.1, description="probability of a slight blur")
    scales: tuple[PositiveFloat, ...] = Field(
        (1.0,), min_length=1, description="multi-scale training: one factor is drawn per batch"
    )


class InferenceConfig(Section):
    """How a mask is made from a network."""

    flips: bool = Field(True, description="average over horizontal and vertical flips")
    threshold: Fraction | Literal["fit"] = Field(
        "fit", description="a number in [0, 1], or fit (on the inner validation part)"
    )
    batch_size: PositiveInt = Field(8, description="images per pass")
    probabilities: Literal["none", "png", "npz"] = Field(
        "none", description="also write probability maps: none, png or npz"
    )


class PolypConfig(Section):
    """A polyp segmentation run."""

    task: Literal["polyp"] = Field("polyp", description="which task the config is for")
    seed: NonNegativeInt = Field(0, description="every random choice derives from it")
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    pretraining: ImagePretrainingConfig = ImagePretrainingConfig(block=32)
    training: TrainingConfig = TrainingConfig()
    crossval: CrossvalConfig = CrossvalConfig()
    execution: ExecutionConfig = ExecutionConfig()
    inference: InferenceConfig = InferenceConfig()
