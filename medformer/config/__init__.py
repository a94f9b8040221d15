"""The configs of runs: typed pydantic models, one for each task, filled from YAML (see `medformer.config_loading`).

A config holds names and typed values only. No import path, expression or class name in it can execute. The sections
that every task has are in `medformer.config.shared`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, field_validator

from medformer.config.shared import (
    AUTO,
    Batch,
    Count,
    CrossvalConfig,
    ExecutionConfig,
    Fraction,
    FrameCache,
    ImagePretrainingConfig,
    LocalPath,
    LossConfig,
    Many,
    MaskValues,
    Mixers,
    ModelConfig,
    NonNegativeFloat,
    NonNegativeInt,
    PredictionPrecision,
    PretrainingConfig,
    ReportConfig,
    Scaling,
    Section,
    Side,
    Threshold,
    TrainingConfig,
    Ungrouped,
    Workers,
)


class DataConfig(Section):
    """Where the cases are and how an image becomes a tensor."""

    manifest: LocalPath = Field("", description="CSV manifest; `medformer polyp prepare` writes one")
    image_size: tuple[Side, Side] = Field((352, 352), description="network input, rows x columns, px")
    ungrouped: Ungrouped = "error"
    foreground: MaskValues = Field(
        (),
        description="mask values that are polyp, such as [1, 2], [128-255] or colors [ff0000]; empty: those of the "
        "manifest, else 1 in masks of 0 and 1, and 255 in masks of 0 and 255",
    )
    cache: FrameCache = Field(20.0, description="GB of decoded frames kept on disk, in the run's folder; 0 for none")
    workers: Workers = "auto"


class AugmentConfig(Section):
    """Training-time augmentation, drawn from a seed per (epoch, case) so that it replays."""

    flip: Fraction = Field(0.5, description="probability of a horizontal, and separately a vertical, flip")
    rotate90: bool = Field(True, description="random quarter turns")
    affine: Fraction = Field(0.7, description="probability of shift, scale, rotation")
    color: Fraction = Field(0.7, description="probability of brightness, contrast, saturation and hue jitter")
    blur: Fraction = Field(0.1, description="probability of a slight blur")
    scales: tuple[Annotated[float, Field(gt=0.0, le=8.0)], ...] = Field(
        (1.0,), min_length=1, description="multi-scale training: factors of image_size"
    )
    scaling: Scaling = Field(
        "drawn",
        description="one of scales is drawn per batch; or as_published by PraNet: every batch is trained on at each of "
        "them in turn, sides are multiples of 32, and masks are interpolated",
    )


class InferenceConfig(Section):
    """How a mask is made from a network."""

    flips: bool = Field(True, description="average over horizontal and vertical flips")
    threshold: Threshold = "fit"
    batch_size: Batch = Field(8, description="images per pass")
    precision: PredictionPrecision = None
    probabilities: Literal["none", "png", "npz"] = Field(
        "none", description="also write probability maps: none, png or npz"
    )


class PolypConfig(Section):
    """A polyp segmentation run."""

    task: Literal["polyp"] = Field("polyp", description="which task the config is for")
    base: Literal["", "polyp/cpu"] = Field(
        "", description="set by a run: the config that it took on a CPU because none was named"
    )
    seed: NonNegativeInt = Field(0, description="every random choice derives from it")
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    model: ModelConfig = ModelConfig(
        name="meta_light",
        backbone="lite0_metaformer",
        init="fan_in",
        drop_path=0.0,
        deep_supervision=True,
        weights=AUTO,
    )
    loss: LossConfig = LossConfig()
    pretraining: ImagePretrainingConfig = ImagePretrainingConfig(block=32)
    training: TrainingConfig = TrainingConfig(lr=1e-3)
    crossval: CrossvalConfig = CrossvalConfig()
    execution: ExecutionConfig = ExecutionConfig()
    report: ReportConfig = ReportConfig()
    inference: InferenceConfig = InferenceConfig()


class ConnectomeDataConfig(Section):
    """Which cohort, and what of it."""

    manifest: LocalPath = Field("", description="cohort manifest; `medformer abide prepare` writes one")
    atlases: tuple[str, ...] = Field((), description="atlases to use; empty for all of the cohort")
    measure: Literal["correlation", "root", "partial", "precision", "covariance", "tangent"] = Field(
        "root", description="what a connection is; tangent space is learned in each fold"
    )


class FeaturesConfig(Section):
    """What is done to the connections; whatever learns from data is fitted on the training part of each fold."""

    fisher: bool = Field(True, description="Fisher's z of correlations")
    confounds: tuple[Literal["age", "sex", "mean_fd", "site"], ...] = Field(
        (), description="covariates whose linear effect is removed"
    )
    harmonize: Literal["none", "combat"] = Field("none", description="site harmonization: none or combat")
    preserve: tuple[Literal["age", "sex", "mean_fd"], ...] = Field(
        ("age", "sex"), description="covariates whose effect ComBat keeps"
    )
    unseen_site: Literal["pooled", "error"] = Field(
        "pooled", description="a test site without training subjects: leave it uncorrected (pooled), or stop"
    )
    scale: Literal["none", "subject", "feature", "deviation"] = Field(
        "deviation",
        description="standardize each connection (feature), each subject's connections (subject), the same and take "
        "off the mean connectome (deviation), or nothing (none)",
    )


class ConnectomeModelConfig(Section):
    """Which network."""

    name: str = Field("wide:roi_metaformer", description="a connectome model (`medformer info connectome_models`)")
    width: Side = Field(64, description="channels of roi_metaformer's tokens")
    depth: Count = Field(1, description="blocks of roi_metaformer")
    mixer: str = Field("identity", description="token mixer of roi_metaformer (`medformer info mixers`)")
    mixers: Mixers = Field(
        None, description="the same with parameters, such as [{name: attention, heads: 4}]; null: what mixer says"
    )
    block: Literal["sequential", "parallel", "symmetric", "asymmetric"] = Field(
        "sequential",
        description="blocks of roi_metaformer and roi:<model>: mixer, then MLP; or both on one norm (see model.block "
        "of images)",
    )
    mlp_ratio: PositiveFloat = Field(
        2.0, description="hidden over outer channels of the MLPs of roi_metaformer and roi:<model>"
    )
    dropout: Fraction = Field(0.3, description="dropout before the classification head")
    drop_path: Fraction = Field(0.0, description="stochastic depth of the last block of roi_metaformer")
    drop_regions: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.2, description="share of regions whose connections roi_metaformer does not see in a training step"
    )
    defects: tuple[str, ...] = Field((), description="defects of the published METAFormer to reproduce, by name")


class ConnectomePretrainingConfig(PretrainingConfig):
    """Masked pretraining on connectomes."""

    mask: Literal["edges", "regions", "atlases"] = Field(
        "regions", description="what is masked: single connections, all of a region, or of an atlas"
    )
    ratio: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(0.2, description="share that is masked")
    noise: NonNegativeFloat = Field(0.0, description="standard deviation of noise on what is not masked (denoising)")
    epochs: Many = Field(8, description="passes over the training subjects")
    batch_size: Batch = Field(32, description="subjects per step")
    lr: PositiveFloat = Field(2e-3, description="peak learning rate of AdamW")
    patience: NonNegativeInt = Field(
        0, description="epochs without better reconstruction before stopping; 0 never stops"
    )


class ConnectomeInferenceConfig(Section):
    """How a network's outputs become a decision."""

    calibrate: bool = Field(
        True, description="make probabilities of the scores by a sigmoid fitted on the inner validation part"
    )
    threshold: Threshold = "fit"
    batch_size: Batch = Field(128, description="subjects per pass")


class AbideConfig(Section):
    """A classification of connectomes: autism against control."""

    task: Literal["abide"] = Field("abide", description="which task the config is for")
    seed: NonNegativeInt = Field(0, description="every random choice derives from it")
    data: ConnectomeDataConfig = ConnectomeDataConfig()
    features: FeaturesConfig = FeaturesConfig()
    model: ConnectomeModelConfig = ConnectomeModelConfig()
    loss: Literal["cross_entropy", "squared"] = Field(
        "squared", description="cross_entropy, or squared (difference of the logits against +1 and -1)"
    )
    noise: NonNegativeFloat = Field(0.0, description="standard deviation of noise on the inputs while training")
    pretraining: ConnectomePretrainingConfig = ConnectomePretrainingConfig()
    training: TrainingConfig = TrainingConfig(
        epochs=16, batch_size=32, lr=1e-3, warmup=0.1, ema=0.0, keep="last", save_minutes=1.0
    )
    members: Count = Field(1, description="networks per fold, of different seeds, whose probabilities are averaged")
    crossval: CrossvalConfig = CrossvalConfig(folds=10, stratify=("label", "site"))
    execution: ExecutionConfig = ExecutionConfig()
    report: ReportConfig = ReportConfig()
    inference: ConnectomeInferenceConfig = ConnectomeInferenceConfig()


class VolumeDataConfig(Section):
    """Where the volumes are, and how their patches are drawn."""

    manifest: LocalPath = Field("", description="CSV manifest, or a folder in a known layout; --data sets it")
    ungrouped: Ungrouped = "error"
    group_pattern: str | None = Field(
        None, description="of a folder: regular expression whose group is the patient in a case's id"
    )
    patches: Batch = Field(2, description="patches per case and epoch")
    foreground: Fraction = Field(0.33, description="share of patches centered on a voxel of a randomly chosen label")
    cache: NonNegativeFloat = Field(4.0, description="GB of prepared volumes kept in memory; more stay on disk")
    workers: Workers = "auto"


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
    patch: tuple[Side, Side, Side] | None = Field(
        None, description="network input, voxels; null: as large as memory allows"
    )
    batch_size: Batch | None = Field(None, description="patches per step; null: planned")
    voxels: Annotated[int, Field(ge=16**3)] | None = Field(
        None,
        description="voxels of all patches of a step, at most; null: as memory allows, or what training.minutes or "
        "hours leave time for",
    )


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
    batch_size: Batch = Field(2, description="windows per pass")
    precision: PredictionPrecision = None
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


class VolumeModelConfig(ModelConfig):
    """Which network for volumes."""

    wide: bool = Field(
        False,
        description="classification: beside a kernel machine of shape and coarse voxels, by whose errors the network "
        "is trained and to which a gate adds it",
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
    model: VolumeModelConfig = VolumeModelConfig(
        name="meta_unet_fine", backbone="convformer_v8", init="fan_in", drop_path=0.0, deep_supervision=True
    )
    loss: LossConfig = LossConfig(name="dice_ce")
    pretraining: ImagePretrainingConfig = ImagePretrainingConfig()
    training: TrainingConfig = TrainingConfig(epochs=200, lr=6e-3, save_minutes=1.0)
    crossval: CrossvalConfig = CrossvalConfig(stratify=("site", "size"))
    execution: ExecutionConfig = ExecutionConfig()
    report: ReportConfig = ReportConfig()
    inference: VolumeInferenceConfig = VolumeInferenceConfig()

    @field_validator("training")
    @classmethod
    def _batch_is_planned(cls, training: TrainingConfig) -> TrainingConfig:
        if training.batch_size != TrainingConfig.model_fields["batch_size"].default:
            raise ValueError("no batch_size, because that of volumes is planned; give plan.batch_size instead")
        return training


AnyConfig = PolypConfig | AbideConfig | VolumeConfig
"""The config of a run of any task."""

SCHEMAS: dict[str, type[AnyConfig]] = {
    "polyp": PolypConfig,
    "abide": AbideConfig,
    "volume": VolumeConfig,
}
"""The schema of each task; shipped configs lie in a folder of the task's name."""
