"""The config of a run on connectomes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from medformer.config.shared import (
    CrossvalConfig,
    ExecutionConfig,
    Fraction,
    Mixers,
    NonNegativeFloat,
    NonNegativeInt,
    PretrainingConfig,
    Section,
    TrainingConfig,
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
    mixers: Mixers = Field(
        None, description="the same with parameters, such as [{name: attention, heads: 4}]; null: what mixer says"
    )
    dropout: Fraction = Field(0.3, description="dropout before the classification head")
    drop_path: Fraction = Field(0.0, description="stochastic depth of the last block of roi_metaformer")
    drop_regions: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.2, description="share of regions whose connections roi_metaformer does not see in a training step"
    )
    defects: tuple[str, ...] = Field((), description="defects of the published METAFormer to reproduce, by name")


class ConnectomePretrainingConfig(PretrainingConfig):
    """Masked pretraining on connectomes."""

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
    pretraining: ConnectomePretrainingConfig = ConnectomePretrainingConfig()
    training: TrainingConfig = TrainingConfig(
        epochs=16, batch_size=32, lr=1e-3, warmup=0.1, ema=0.0, keep="last", save_minutes=1.0
    )
    members: PositiveInt = Field(
        1, description="networks per fold, of different seeds, whose probabilities are averaged"
    )
    crossval: CrossvalConfig = CrossvalConfig(folds=10, stratify=("label", "site"))
    execution: ExecutionConfig = ExecutionConfig()
    inference: ConnectomeInferenceConfig = ConnectomeInferenceConfig()
