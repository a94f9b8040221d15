"""Sections that every task has."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, PositiveFloat

from medformer.foreground import parse_foreground

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
NonNegativeFloat = Annotated[float, Field(ge=0.0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
# A number beyond these is a slip, which would show hours later, or in a machine that stands still.
Count = Annotated[int, Field(ge=1, le=1_000)]
Folds = Annotated[int, Field(ge=2, le=2_000)]
Many = Annotated[int, Field(ge=1, le=1_000_000)]
Batch = Annotated[int, Field(ge=1, le=65_536)]
Devices = Annotated[int, Field(ge=1, le=64)]
Side = Annotated[int, Field(ge=1, le=8_192)]
Workers = Annotated[
    Annotated[int, Field(ge=0, le=256)] | Literal["auto"],
    Field(description="loader processes; 0 loads in the main process, auto chooses by timing the first batches"),
]


IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)
"""What red, green and blue in [0, 1] are normalized with for every network of images: those of ImageNet. This is no
setting: pretrained weights that expect another range bring their own (`medformer.models.backbone.renormalize`)."""


AUTO = "auto"
"""As `model.weights`: the best pretrained weights by name that are on the machine, or random ones."""
WEIGHTS_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


def _local(text: str | None) -> str | None:
    if text and re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", text):
        raise ValueError("a file or folder of this machine; nothing is read from a network, so download it first")
    return text


LOCAL = AfterValidator(_local)
"""Marks a path as one that is no URL."""
LocalPath = Annotated[str, LOCAL]
COLUMNS = "columns of a manifest"
"""Marks a key that holds such names, which may be the user's own."""
Columns = Annotated[tuple[str, ...], COLUMNS]
Threshold = Annotated[
    Fraction | Literal["fit"], Field(description="a number in [0, 1], or fit (on the inner validation part)")
]
Scaling = Literal["drawn", "as_published"]
"""How batches are trained on at several sizes; see `medformer.data.network_inputs`."""
Ungrouped = Annotated[
    Literal["error", "each"], Field(description="rows without a group: error, or each (its own group)")
]


def _mask_values(given: Any) -> Any:
    """Take names of mask values as a list or as text; a list may hold plain numbers."""
    texts = [given] if isinstance(given, (str, int)) else given
    return parse_foreground(" ".join(map(str, texts))) if isinstance(texts, (list, tuple)) else given


MaskValues = Annotated[tuple[str, ...], BeforeValidator(_mask_values)]
"""Names of the values of a mask that are foreground (`medformer.foreground`)."""


def _gigabytes(given: Any) -> Any:
    """Whether decoded images are kept was once a yes or no."""
    return 20.0 * given if isinstance(given, bool) else given


FrameCache = Annotated[NonNegativeFloat, BeforeValidator(_gigabytes)]


class Section(BaseModel):
    """Base of every section: unknown keys are errors, values do not change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Precision = Literal["auto", "32-true", "bf16-mixed", "16-mixed"]
"""`auto` is for a run to decide (`medformer.crossval.run.begin.precision`); where none has, it means `32-true`."""
PredictionPrecision = Annotated[
    Literal["32-true", "bf16-mixed", "16-mixed"] | None,
    Field(description="of thresholds, tests and predict; null: as training, or 32-true with training.precision=auto"),
]

MixerSpec = str | dict[str, JsonValue]
"""A token mixer by its name, or its name and parameters: `{name: attention, heads: 4}`."""


def _listed(given: Any) -> Any:
    return (given,) if isinstance(given, (str, dict)) else tuple(given) if isinstance(given, list) else given


def _some(mixers: tuple[MixerSpec, ...] | None) -> tuple[MixerSpec, ...] | None:
    if mixers == ():
        raise ValueError("a mixer for all stages, one for each, or null for the network's own")
    return mixers


Mixers = Annotated[tuple[MixerSpec, ...] | None, BeforeValidator(_listed), AfterValidator(_some)]
"""One for all stages, which needs no brackets, or one for each; null: the network's own."""


class ModelConfig(Section):
    """Which network, for images and volumes; each task has defaults of its own."""

    name: str = Field(
        "meta_polyp", description="a model (`medformer info models`), such as smp:<architecture>/<encoder>"
    )
    backbone: str = Field("caformer_s18", description="a variant of the shared backbone (`medformer info backbones`)")
    mixers: Mixers = Field(
        None,
        description="token mixers of the backbone, one for all stages or one for each, such as "
        "[separable_conv, {name: attention, heads: 4}]; null: the variant's own",
    )
    block: Literal["sequential", "parallel", "symmetric", "asymmetric"] | None = Field(
        None,
        description="blocks of the backbone: sequential (mixer, then MLP), parallel (both on one norm), or parallel "
        "with symmetric or asymmetric matrices in the MLPs; null: the variant's own",
    )
    mlp_ratio: PositiveFloat | None = Field(
        None, description="hidden over outer channels of the backbone's MLPs; null: the variant's own"
    )
    asymmetry: NonNegativeFloat = Field(
        1e-4, description="factor of the penalty on what asymmetric matrices have beyond symmetric ones"
    )
    setting: Literal["paper", "as_published"] = Field(
        "paper", description="which Meta-Polyp: paper, or as_published (what its released code computes)"
    )
    init: Literal["published", "fan_in"] = Field(
        "published", description="first weights of the encoder: published (std 0.02), or fan_in (from scratch)"
    )
    drop_path: Fraction = Field(0.1, description="stochastic depth of the last block")
    deep_supervision: bool = Field(False, description="also judge coarser logits while training")
    weights: Annotated[str | None, LOCAL] = Field(
        None,
        description="pretrained weights of the encoder: a name of `medformer weights list`, a local file (timm or "
        "sail-sg keys), a run of yours, or auto (the best of the list that are on this machine, or none); kernels are "
        "inflated to 3-D",
    )
    frozen: Annotated[int, Field(ge=0, le=4)] = Field(
        0, description="of a backbone on a network of timm: levels, from the finest, whose pretrained weights stay"
    )
    checkpointing: bool = Field(False, description="recompute activations to save memory")


class LossConfig(Section):
    """Which loss; see `medformer info` for the table."""

    name: str = Field("structure", description="name of a loss (`medformer info losses volume_losses`)")
    side_weight: Fraction = Field(
        0.5, description="weight of each coarser map of deep supervision, as a share of the one before"
    )


class TrainingConfig(Section):
    """How the network is trained."""

    epochs: Many = Field(100, description="passes over the training part; not used when minutes is set")
    minutes: PositiveFloat | None = Field(
        None, description="wall-clock budget per training; the learning-rate schedule then follows the clock"
    )
    hours: PositiveFloat | None = Field(
        None,
        description="wall-clock budget of the whole run, in the place of minutes: a run that takes longer trains by "
        "the clock, and gives up what give_up says; --hours sets it",
    )
    give_up: tuple[Literal["size", "folds"], ...] = Field(
        ("size", "folds"),
        description="what too few hours may cost, in this order: size of images or patches, folds (never fewer than "
        "3); what the user sets is left out",
    )
    batch_size: Batch = Field(16, description="images per step and device")
    lr: PositiveFloat = Field(3e-4, description="peak learning rate of AdamW")
    encoder_lr: Fraction = Field(
        1.0, description="learning rate of the encoder as a share of lr; less than 1 is for one that is pretrained"
    )
    weight_decay: NonNegativeFloat = Field(0.05, description="of AdamW; norms and biases are not decayed")
    warmup: Fraction = Field(0.05, description="fraction of the run spent on linear warm-up; cosine decay follows")
    ema: Fraction = Field(0.99, description="decay of the weight average that is evaluated and saved; 0 turns it off")
    clip: NonNegativeFloat = Field(1.0, description="gradient limit; 0 turns it off")
    clip_by: Literal["norm", "value"] = Field(
        "norm", description="what clip limits: the norm of the whole gradient, or each of its values"
    )
    patience: NonNegativeInt = Field(
        0, description="epochs without a better inner-validation score before stopping; 0 never stops"
    )
    keep: Literal["best", "last"] = Field(
        "best", description="weights to use: best on the inner validation part, or last, which never stops early"
    )
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="auto, cpu, cuda or mps")
    devices: Devices = Field(1, description="how many; more than one trains data-parallel")
    strategy: Literal["auto", "ddp"] = Field("auto", description="auto, or ddp")
    precision: Precision = Field(
        "32-true",
        description="32-true, bf16-mixed, 16-mixed, or auto: bf16-mixed where the device computes it quickly and the "
        "network computes the same in it but for rounding, else 32-true; a run keeps what it began with",
    )
    compile: bool = Field(
        False, description="train through torch.compile, which takes minutes to begin; results differ by rounding alone"
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
    init_from: LocalPath = Field(
        "",
        description="fine-tuning: the run (RUN, or a fold of it, RUN/folds/K) or bundle whose network training starts "
        "from; what that was trained on may not be tested",
    )
    tracker: Literal["none", "tensorboard", "mlflow"] = Field(
        "none", description="also log learning curves to tensorboard or mlflow; history.csv is always written"
    )


class PretrainingConfig(Section):
    """Masked pretraining on the fold's own training cases; labels are not read."""

    enabled: bool = Field(False, description="pretrain before training")
    extra: LocalPath = Field(
        "", description="manifest of unlabeled cases that pretraining may see too; none of them may be tested"
    )
    weights: LocalPath = Field(
        "",
        description="folder of the verb `pretrain` whose encoder to start from; its cases may not be tested",
    )
    ratio: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(0.6, description="share that is masked")
    epochs: Many = Field(50, description="passes over the training cases")
    lr: PositiveFloat = Field(1e-3, description="peak learning rate of AdamW")


class ImagePretrainingConfig(PretrainingConfig):
    """Masked pretraining on frames or volumes."""

    block: Side = Field(8, description="side of a masked block, pixels or voxels")


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
    folds: Folds = Field(5, description="k of the k-fold schemes; other schemes do not use it")
    repeats: Count = Field(1, description="how often a k-fold or hold-out plan is drawn anew")
    test: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(0.2, description="share of the cases that hold-out tests")
    validation: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        0.15,
        description="share of each training part held out for early stopping and thresholds, grouped like the folds",
    )
    stratify: Columns = Field(
        ("site", "size"), description="columns that folds are balanced by: site, label, size or any manifest column"
    )
    bins: Count = Field(3, description="quantiles that a continuous column is cut into for balancing")
    baselines: bool = Field(True, description="run the task's baselines on the same folds")
    permute_labels: bool = Field(
        False, description="also run the same plan on permuted labels: a canary that sings when something leaks"
    )


class ReportConfig(Section):
    """What the report compares."""

    subgroups: Columns = Field(
        (),
        description="manifest columns whose subgroups are compared, such as [scanner, center]; sites, sexes, ages and "
        "lesion sizes are compared without being named",
    )


class ExecutionConfig(Section):
    """Where the folds run."""

    executor: Literal["inline", "processes", "ray"] = Field(
        "inline", description="one after another here, in several processes of this machine, or as Ray tasks"
    )
    address: str | None = Field(None, description="Ray cluster, such as auto or ray://host:10001; null starts one here")
    workers: Count | None = Field(None, description="folds at once on this machine; null: what fits")
    cpus_per_fold: PositiveFloat = Field(
        1.0, description="threads of a fold in processes; processors that Ray reserves for one"
    )
    gpus_per_fold: NonNegativeFloat = Field(0.0, description="share of a GPU for a fold, such as 0.5")
