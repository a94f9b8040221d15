"""The config of a run on volumes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator

from medformer.config.shared import (
    CrossvalConfig,
    ExecutionConfig,
    Fraction,
    ImagePretrainingConfig,
    LossConfig,
    ModelConfig,
    NonNegativeFloat,
    NonNegativeInt,
    Section,
    TrainingConfig,
)


class VolumeDataConfig(Section):
    """Where the volumes are, and how their patches are drawn."""

    manifest: str = Field("", description="CSV manifest, or a folder in a known layout; --data sets it")
    ungrouped: Literal["error", "each"] = Field(
        "error", description="rows without a group: error, or each (its own group)"
    )
    patches: PositiveInt = Field(2, description="patches per case and epoch")
    foreground: Fraction = Field(0.33, description="share of patches centered on a voxel of a randomly chosen label")
    cache: NonNegativeFloat = Field(4.0, description="GB of prepared volumes kept in memory; more stay on disk")
    workers: NonNegativeInt = Field(2, description="loader processes; 0 loads in the main process")


class VolumePlanConfig(Section):
    """What is not planned from the training cases but given."""

    memory: PositiveFloat = Field(8.0, description="GB that training may take: decides patch and batch size")
    orientation: Annotated[str, Field(pattern="^[RL][AP][SI]$")] = Field(
        "RAS", description="axis codes of what the network sees"
    )
    spacing: tuple[PositiveFloat, PositiveFloat, PositiveFloat] | None = Field(
        None, description="voxel size of what the network sees, mm; null: median of the training cases"
    )
    intensity: Literal["auto", "zscore", "ct"] = Field(
        "auto", description="zscore (per image), ct (clipping by foreground percentiles), or auto"
    )
    patch: tuple[PositiveInt, PositiveInt, PositiveInt] | None = Field(
        None, description="network input, voxels; null: as large as memory allows"
    )
    batch_size: PositiveInt | None = Field(None, description="patches per step; null: planned")


class VolumeAugmentConfig(Section):
    """Training-time augmentation, drawn from a seed per (epoch, patch) so that it replays."""

    flip: Fraction = Field(0.5, description="probability of a flip, separately for each axis")
    affine: Fraction = Field(0.3, description="probability of rotation and scaling")
    elastic: Fraction = Field(0.1, description="probability of an elastic deformation")
    bias_field: Fraction = Field(0.1, description="probability of a smooth field of brightness")
    gamma: Fraction = Field(0.2, description="probability of a changed contrast curve")
    brightness: Fraction = Field(0.2, description="probability of scaled and shifted intensities")
    noise: Fraction = Field(0.1, description="probability of Gaussian noise")
    blur: Fraction = Field(0.1, description="probability of a slight blur")
    low_resolution: Fraction = Field(0.1, description="probability of a simulated coarser scan")


class VolumeInferenceConfig(Section):
    """How a label map is made from a network."""

    overlap: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(0.5, description="overlap of neighboring windows")
    flips: bool = Field(False, description="average over the flips of all axes, eight passes instead of one")
    batch_size: PositiveInt = Field(2, description="windows per pass")
    components: Literal["all", "largest", "fit"] = Field(
        "all",
        description="keep all connected components of a label, the largest, or fit: for each label whichever has the "
        "higher Dice on the inner validation part",
    )
    tolerance: PositiveFloat = Field(2.0, description="of the normalized surface Dice, mm")
    calibrate: bool = Field(
        True, description="classification: make probabilities by a sigmoid fitted on the inner validation part"
    )
    threshold: Fraction | Literal["fit"] = Field(
        "fit", description="classification: a number in [0, 1], or fit (on the inner validation part)"
    )


class VolumeConfig(Section):
    """Segmentation or classification of volumes."""

    task: Literal["volume"] = Field("volume", description="which task the config is for")
    target: Literal["segmentation", "classification"] = Field(
        "segmentation", description="a label for each voxel, or one for each volume; --task sets it"
    )
    seed: NonNegativeInt = Field(0, description="every random choice derives from it")
    data: VolumeDataConfig = VolumeDataConfig()
    plan: VolumePlanConfig = VolumePlanConfig()
    augment: VolumeAugmentConfig = VolumeAugmentConfig()
    model: ModelConfig = ModelConfig(
        name="meta_unet", backbone="convformer_v8", init="fan_in", drop_path=0.0, deep_supervision=True
    )
    loss: LossConfig = LossConfig(name="dice_ce")
    pretraining: ImagePretrainingConfig = ImagePretrainingConfig()
    training: TrainingConfig = TrainingConfig(epochs=200, lr=3e-3, save_minutes=1.0)
    crossval: CrossvalConfig = CrossvalConfig(stratify=("site", "size"))
    execution: ExecutionConfig = ExecutionConfig()
    inference: VolumeInferenceConfig = VolumeInferenceConfig()

    @field_validator("training")
    @classmethod
    def _batch_is_planned(cls, training: TrainingConfig) -> TrainingConfig:
        if training.batch_size != TrainingConfig.model_fields["batch_size"].default:
            raise ValueError("no batch_size, because that of volumes is planned; give plan.batch_size instead")
        return training
