"""What a run can be told: typed pydantic models, YAML files with `extends:`, and `key.sub=value` overrides.

A config holds names and typed values only. No import path, expression or class name in it can execute.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, field_validator

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
NonNegativeFloat = Annotated[float, Field(ge=0.0)]
NonNegativeInt = Annotated[int, Field(ge=0)]


class Section(BaseModel):
    """Base of every section: unknown keys are errors, values do not change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


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


class ModelConfig(Section):
    """Which network."""

    name: str = Field("meta_polyp", description="a model table name, or `smp:<architecture>/<encoder>`")
    backbone: str = Field("caformer_s18", description="a variant of the shared backbone (`medformer info`)")
    setting: Literal["paper", "as_published"] = Field(
        "paper", description="which Meta-Polyp: paper, or as_published (what its released code computes)"
    )
    init: Literal["published", "fan_in"] = Field(
        "published", description="first weights of the encoder: published (std 0.02), or fan_in (from scratch)"
    )
    drop_path: Fraction = Field(0.1, description="stochastic depth of the last block")
    deep_supervision: bool = Field(False, description="also judge coarser logits while training (meta_polyp)")
    weights: str | None = Field(
        None, description="local file of ImageNet weights for the encoder (timm or sail-sg keys)"
    )
    checkpointing: bool = Field(False, description="recompute activations to save memory")


class LossConfig(Section):
    """Which loss; see `medformer info` for the table."""

    name: str = Field("structure", description="a loss table name (`medformer info`)")


class TrainingConfig(Section):
    """How the network is trained."""

    epochs: PositiveInt = Field(100, description="passes over the training part; not used when minutes is set")
    minutes: PositiveFloat | None = Field(
        None, description="wall-clock budget per training; the learning-rate schedule then follows the clock"
    )
    batch_size: PositiveInt = Field(16, description="images per step and device")
    lr: PositiveFloat = Field(3e-4, description="peak learning rate of AdamW")
    weight_decay: NonNegativeFloat = Field(0.05, description="of AdamW; norms and biases are not decayed")
    warmup: Fraction = Field(0.05, description="fraction of the run spent on linear warm-up; cosine decay follows")
    ema: Fraction = Field(0.99, description="decay of the weight average that is evaluated and saved; 0 turns it off")
    clip: NonNegativeFloat = Field(1.0, description="gradient norm limit; 0 turns it off")
    patience: NonNegativeInt = Field(
        0, description="epochs without a better inner-validation score before stopping; 0 never stops"
    )
    keep: Literal["best", "last"] = Field(
        "best", description="weights to use: best on the inner validation part, or last, which never stops early"
    )
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="auto, cpu, cuda or mps")
    devices: PositiveInt = Field(1, description="how many; more than one trains data-parallel")
    strategy: Literal["auto", "ddp"] = Field("auto", description="auto, or ddp")
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = Field(
        "32-true", description="32-true, bf16-mixed or 16-mixed"
    )
    lr_schedule: Literal["cosine", "exponential", "constant"] = Field(
        "cosine", description="how the learning rate falls after warm-up"
    )
    lr_decay: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        0.9, description="factor per epoch of the exponential schedule; others do not use it"
    )
    save_minutes: NonNegativeFloat = Field(
        0.0, description="write the state for resuming at most this often; 0 writes it after every epoch"
    )
    tracker: Literal["none", "tensorboard", "mlflow"] = Field(
        "none", description="also log learning curves to tensorboard or mlflow; history.csv is always written"
    )


class CrossvalConfig(Section):
    """The fold plan, and what runs beside the model on the same folds."""

    scheme: Literal[
        "stratified-group-k-fold",
        "stratified-k-fold",
        "leave-one-site-out",
        "leave-one-dataset-out",
        "hold-out",
        "predefined",
    ] = Field("stratified-group-k-fold", description="how test parts are drawn")
    folds: Annotated[int, Field(ge=2)] = Field(5, description="k of the k-fold schemes; other schemes do not use it")
    repeats: PositiveInt = Field(1, description="how often a k-fold or hold-out plan is drawn anew")
    test: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(0.2, description="share of the cases that hold-out tests")
    validation: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        0.15,
        description="share of each training part held out for early stopping and thresholds, grouped like the folds",
    )
    stratify: tuple[str, ...] = Field(
        ("site", "size"), description="columns that folds are balanced by: site, label, size or any manifest column"
    )
    bins: PositiveInt = Field(3, description="quantiles that a continuous column is cut into for balancing")
    baselines: bool = Field(True, description="run the task's baselines on the same folds")
    permute_labels: bool = Field(
        False, description="also run the same plan on permuted labels: a canary that sings when something leaks"
    )


class ExecutionConfig(Section):
    """Where the folds run."""

    executor: Literal["inline", "ray"] = Field("inline", description="one after another here, or as Ray tasks")
    address: str | None = Field(None, description="Ray cluster, such as auto or ray://host:10001; null starts one here")
    workers: PositiveInt | None = Field(None, description="folds at once on a Ray started here; null: what fits")
    cpus_per_fold: PositiveFloat = Field(1.0, description="processors that Ray reserves for a fold")
    gpus_per_fold: NonNegativeFloat = Field(0.0, description="share of a GPU that Ray reserves for a fold, such as 0.5")


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


class ConnectomeDataConfig(Section):
    """Which cohort, and what of it."""

    manifest: str = Field("", description="cohort manifest; `medformer abide prepare` writes one")
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

    name: str = Field("roi_metaformer", description="a connectome model (`medformer info`)")
    width: PositiveInt = Field(64, description="channels of roi_metaformer's tokens")
    depth: PositiveInt = Field(1, description="blocks of roi_metaformer")
    mixer: str = Field("identity", description="token mixer of roi_metaformer (`medformer info`)")
    dropout: Fraction = Field(0.3, description="dropout before the classification head")
    drop_path: Fraction = Field(0.0, description="stochastic depth of the last block of roi_metaformer")
    drop_regions: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.2, description="share of regions whose connections roi_metaformer does not see in a training step"
    )
    defects: tuple[str, ...] = Field((), description="defects of the published METAFormer to reproduce, by name")


class PretrainingConfig(Section):
    """Masked pretraining on the fold's own training subjects."""

    enabled: bool = Field(False, description="pretrain before training")
    extra: str = Field(
        "", description="manifest of unlabeled subjects that pretraining may see too; none of them may be tested"
    )
    weights: str = Field(
        "",
        description="folder of `medformer abide pretrain` whose encoder to start from; its subjects may not be tested",
    )
    mask: Literal["edges", "regions"] = Field(
        "regions", description="what is masked: single connections or all of a region"
    )
    ratio: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(0.2, description="share that is masked")
    noise: NonNegativeFloat = Field(0.0, description="standard deviation of noise on what is not masked (denoising)")
    epochs: PositiveInt = Field(8, description="passes over the training subjects")
    batch_size: PositiveInt = Field(32, description="subjects per step")
    lr: PositiveFloat = Field(2e-3, description="peak learning rate of AdamW")
    patience: NonNegativeInt = Field(
        0, description="epochs without better reconstruction before stopping; 0 never stops"
    )


class ConnectomeInferenceConfig(Section):
    """How a network's outputs become a decision."""

    calibrate: bool = Field(
        True, description="make probabilities of the scores by a sigmoid fitted on the inner validation part"
    )
    threshold: Fraction | Literal["fit"] = Field(
        "fit", description="a number in [0, 1], or fit (on the inner validation part)"
    )
    batch_size: PositiveInt = Field(128, description="subjects per pass")


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
    pretraining: PretrainingConfig = PretrainingConfig()
    training: TrainingConfig = TrainingConfig(
        epochs=16, batch_size=32, lr=1e-3, warmup=0.1, ema=0.0, keep="last", save_minutes=1.0
    )
    members: PositiveInt = Field(
        1, description="networks per fold, of different seeds, whose probabilities are averaged"
    )
    crossval: CrossvalConfig = CrossvalConfig(folds=10, stratify=("label", "site"))
    execution: ExecutionConfig = ExecutionConfig()
    inference: ConnectomeInferenceConfig = ConnectomeInferenceConfig()


class PolypConfig(Section):
    """A polyp segmentation run."""

    task: Literal["polyp"] = Field("polyp", description="which task the config is for")
    seed: NonNegativeInt = Field(0, description="every random choice derives from it")
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    training: TrainingConfig = TrainingConfig()
    crossval: CrossvalConfig = CrossvalConfig()
    execution: ExecutionConfig = ExecutionConfig()
    inference: InferenceConfig = InferenceConfig()


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


class VolumeModelConfig(Section):
    """Which network."""

    name: str = Field("meta_unet", description="a volume model (`medformer info`), such as monai:dynunet")
    backbone: str = Field("convformer_v8", description="a variant of the shared backbone (`medformer info`)")
    drop_path: Fraction = Field(0.0, description="stochastic depth of the last block")
    deep_supervision: bool = Field(True, description="also judge coarser logits while training")
    init: Literal["published", "fan_in"] = Field(
        "fan_in", description="first weights of the encoder: published (std 0.02), or fan_in (from scratch)"
    )
    weights: str | None = Field(
        None, description="local file of ImageNet weights for the encoder (timm or sail-sg keys), inflated to 3-D"
    )
    checkpointing: bool = Field(False, description="recompute activations to save memory")


class VolumePretrainingConfig(Section):
    """Masked pretraining on the fold's own training volumes."""

    enabled: bool = Field(False, description="pretrain before training")
    extra: str = Field(
        "", description="manifest of unlabeled volumes that pretraining may see too; none of them may be tested"
    )
    weights: str = Field(
        "",
        description="folder of `medformer volume pretrain` whose encoder to start from; its cases may not be tested",
    )
    block: PositiveInt = Field(8, description="side of a masked block, voxels")
    ratio: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(0.6, description="share of blocks that is masked")
    epochs: PositiveInt = Field(50, description="passes over the training cases")
    lr: PositiveFloat = Field(1e-3, description="peak learning rate of AdamW")


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
    model: VolumeModelConfig = VolumeModelConfig()
    loss: LossConfig = LossConfig(name="dice_ce")
    pretraining: VolumePretrainingConfig = VolumePretrainingConfig()
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


SCHEMAS: dict[str, type[PolypConfig] | type[AbideConfig] | type[VolumeConfig]] = {
    "polyp": PolypConfig,
    "abide": AbideConfig,
    "volume": VolumeConfig,
}
"""The schema of each task; shipped configs lie in a folder of the task's name."""
