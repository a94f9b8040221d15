"""From a connectome model's name in a config to a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal

from torch import nn

from medformer.config import ConnectomeModelConfig
from medformer.config.shared import ModelConfig
from medformer.errors import ConfigError
from medformer.models.backbone.blocks import ASYMMETRY, Architecture
from medformer.models.connectome.classifier import ConnectomeClassifier, LinearPath, edge_counts
from medformer.models.connectome.metaformer_paper import MetaFormerPaper
from medformer.models.connectome.roi_metaformer import RoiMetaFormer, region_backbone
from medformer.models.networks.build import INDEPENDENT, NETWORKS, build_network, building
from medformer.models.networks.grid import Grid
from medformer.registry import Entry, Registry

Place = Literal["model", "inputs", "evaluation"]

_RELEASE = "code released with Mahler et al., MLCN 2023"
DEFECTS: Registry[Place] = Registry(
    "defect",
    [
        Entry(
            "across_subjects",
            "model",
            "attention runs across the subjects of a batch, so that a prediction depends on who else is in it",
            _RELEASE,
        ),
        Entry(
            "swapped_arguments",
            "model",
            "heads and feedforward width change places: 128 heads of 2 channels, 4 hidden channels",
            _RELEASE,
        ),
        Entry(
            "noise_at_test",
            "inputs",
            "the noise of training is also added to validation and test subjects",
            _RELEASE,
        ),
        Entry(
            "hard_label_auc",
            "evaluation",
            "AUC is computed from decisions instead of scores, which makes it the balanced accuracy",
            _RELEASE,
        ),
        Entry(
            "control_positive",
            "evaluation",
            "control is the positive class, so that sensitivity is that of finding controls",
            _RELEASE,
        ),
    ],
)
"""What the released METAFormer code gets wrong, as switches, so that the effect of each can be measured."""
AS_PUBLISHED = ("across_subjects", "swapped_arguments")


WIDE_PREFIX = "wide:"


def deep_name(config: ConnectomeModelConfig) -> str:
    """Return the name of the network, without that of a linear model beside it."""
    return config.name.removeprefix(WIDE_PREFIX)


def active_defects(config: ConnectomeModelConfig) -> frozenset[str]:
    """Return the defects that a config asks for; `metaformer_as_published` implies those of its architecture.

    Raises:
        UnknownNameError: A defect that the table does not list; the nearest name is given.
    """
    implied = AS_PUBLISHED if deep_name(config) == "metaformer_as_published" else ()
    return frozenset(DEFECTS[name].name for name in (*config.defects, *implied))


Builder = Callable[[ConnectomeModelConfig, Mapping[str, int], bool], ConnectomeClassifier]


def _metaformer(config: ConnectomeModelConfig, regions: Mapping[str, int], diagonal: bool) -> ConnectomeClassifier:
    defects = active_defects(config)
    return MetaFormerPaper(
        regions,
        diagonal=diagonal,
        dropout=config.dropout,
        swapped_arguments="swapped_arguments" in defects,
        across_subjects="across_subjects" in defects,
    )


def _roi_metaformer(config: ConnectomeModelConfig, regions: Mapping[str, int], diagonal: bool) -> ConnectomeClassifier:
    foreign = sorted(name for name in active_defects(config) if DEFECTS[name].part == "model")
    if foreign:
        raise ConfigError(
            f"model.defects: got {', '.join(foreign)} with {config.name}, which has no such part. "
            "Use metaformer_paper, or leave it out."
        )
    make: Callable[[], nn.Module]
    if config.name.startswith(ROI_PREFIX):
        usual = ConnectomeModelConfig()
        inner = ModelConfig(
            name=config.name.removeprefix(ROI_PREFIX),
            backbone="convformer_v8",
            mixers=config.mixers,
            # The backbone has the usual ones; a network without it refuses others.
            block=None if config.block == usual.block else config.block,
            mlp_ratio=None if config.mlp_ratio == usual.mlp_ratio else config.mlp_ratio,
            init="fan_in",
            drop_path=config.drop_path,
        )
        NETWORKS.require(inner.name, INDEPENDENT)
        size = max(SMALLEST, *regions.values()) if regions else SMALLEST
        make = partial(build_network, inner, Grid(config.width, config.width, (size,)))
    else:
        architecture = Architecture(
            config.mixers or (config.mixer,),
            depths=[config.depth],
            channels=[config.width],
            drop_path=config.drop_path,
            mlp_ratio=config.mlp_ratio,
            block=config.block,
            asymmetry=ASYMMETRY,
        )
        make = partial(region_backbone, architecture)
    return RoiMetaFormer(
        regions,
        diagonal=diagonal,
        width=config.width,
        backbone=make,
        dropout=config.dropout,
        drop_regions=config.drop_regions,
    )


def _wide(config: ConnectomeModelConfig, regions: Mapping[str, int], diagonal: bool) -> ConnectomeClassifier:
    name = deep_name(config)
    build = CONNECTOME_MODELS.require(name, "independent subjects").part
    model = build(config.model_copy(update={"name": name}), regions, diagonal)
    model.wide = LinearPath(edge_counts(regions, diagonal))
    return model


ROI_PREFIX = "roi:"
SMALLEST = 32
"""Regions for which a segmentation network is at least laid out; it pads the tokens of smaller atlases."""
_MAHLER = "Mahler et al., Pretraining is All You Need, MLCN 2023"
_NO_TOKENS = {
    "model.mixers": "it has no token mixers. Set model.mixers=null.",
    "model.block": "it has no such blocks. Set model.block=sequential.",
}
CONNECTOME_MODELS: Registry[Builder] = Registry(
    "connectome model",
    [
        Entry(
            f"{WIDE_PREFIX}<model>",
            _wide,
            "another connectome model beside a linear one, by whose errors it is trained and to which a gate adds it",
            example=f"{WIDE_PREFIX}roi_metaformer",
        ),
        Entry("roi_metaformer", _roi_metaformer, "regions as tokens of the shared backbone, pooled across atlases"),
        Entry(
            f"{ROI_PREFIX}<model>",
            _roi_metaformer,
            "as roi_metaformer, with a network of `medformer info models` in 1-D in the place of the backbone",
            sizes="a signal with one place per region",
            example=f"{ROI_PREFIX}meta_unet",
        ),
        Entry(
            "metaformer_paper",
            _metaformer,
            "one encoder per atlas over all connections, mean of logits",
            _MAHLER,
            cannot=_NO_TOKENS,
        ),
        Entry(
            "metaformer_as_published",
            _metaformer,
            "the same with the released code's attention across subjects and swapped arguments; to measure, not to use",
            _MAHLER,
            cannot={"independent subjects": "its attention runs across the subjects of a batch."} | _NO_TOKENS,
        ),
    ],
)


def check_connectome_model(config: ConnectomeModelConfig) -> None:
    """Refuse what a model would leave out of account.

    Raises:
        UnknownNameError: No model has that name.
        ConfigError: Token mixers or blocks for a model that has none.
    """
    asked = {"model.mixers": config.mixers is not None, "model.block": config.block != "sequential"}
    CONNECTOME_MODELS[config.name]
    CONNECTOME_MODELS.require(deep_name(config), *(key for key, wanted in asked.items() if wanted))


def build_connectome_model(
    config: ConnectomeModelConfig, regions: Mapping[str, int], *, diagonal: bool = False
) -> ConnectomeClassifier:
    """Return the network that `config` names: `{atlas: (B, connections)} -> (B, 2)` logits, class 1 autism.

    Args:
        config: Its name and sizes.
        regions: Regions of each atlas; any atlases, any numbers of regions.
        diagonal: The connections include the diagonal of the matrix.

    Raises:
        UnknownNameError: The model, mixer or a defect is not known; the nearest name is given.
        ConfigError: The model has no such defect, or its width does not suit its mixer.
        DataError: There is no atlas, or one of fewer than two regions.
    """
    build = CONNECTOME_MODELS[config.name].part
    with building(config.name):
        return build(config, regions, diagonal)
