"""From a model's name in a config to a network, for images and volumes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import nn

from medformer.config.shared import AUTO, IMAGE_MEAN, IMAGE_STD, ModelConfig
from medformer.errors import ConfigError
from medformer.models.backbone.blocks import Backbone
from medformer.models.backbone.metaformer import MetaFormer
from medformer.models.backbone.renormalize import Renormalize
from medformer.models.backbone.variants import VARIANTS, Classifier, encoder_name, with_head
from medformer.models.networks.grid import Grid, PaddedNetwork, build_encoder
from medformer.models.networks.meta_unet import meta_light, meta_polyp, meta_unet
from medformer.models.networks.peers import dynunet, smp_network, swinunetr, timm_part, unet
from medformer.models.weights.loading import load_features, load_pretrained
from medformer.models.weights.store import choose_weights, find_weights
from medformer.models.weights.table import names_for
from medformer.registry import Entry, Registry

CLASSIFIER = "convformer_c8"
"""The backbone that suits classes; `configs/volume/classification.yaml` sets it."""
Builder = Callable[[ModelConfig, Grid], nn.Module]

NO_BACKBONE = {
    "model.mixers": "it has no stages with token mixers. Set model.mixers=null.",
    "model.frozen": "it keeps levels of a backbone on a network of timm. Set model.frozen=0.",
    "model.weights": "they fill a MetaFormer encoder, and it has none. Set model.weights=null.",
    "classification": "it segments only; classification needs model.name=meta_unet, whose encoder it uses.",
}
"""What a network without the shared backbone does not support."""
_KERFOOT = "Kerfoot et al., STACOM 2018"
_DIVISOR = "padded to its divisor"

INDEPENDENT = "independent samples in training"
"""That an output depends on its own sample only, while training too."""
_BATCH_NORM = {INDEPENDENT: "its batch norm takes statistics from all samples of a batch."}

NETWORKS: Registry[Builder] = Registry(
    "model",
    [
        Entry(
            "meta_polyp",
            meta_polyp,
            "MetaFormer encoder, multi-scale upsampling decoder",
            "Trinh et al., CBMS 2023",
            cannot=_BATCH_NORM,
        ),
        Entry(
            "meta_light",
            meta_light,
            "the shared backbone, a light multi-scale decoder whose two fine levels mix tokens too",
            cannot=_BATCH_NORM,
        ),
        Entry("meta_unet", meta_unet, "the shared backbone, multi-scale decoder, detail at full resolution"),
        Entry(
            "smp:<architecture>/<encoder>",
            smp_network,
            "any segmentation-models-pytorch network, as a peer",
            sizes="2-D; padded to its divisor",
            cannot=dict.fromkeys(("1-D", "3-D"), "segmentation-models-pytorch is two-dimensional.")
            | _BATCH_NORM
            | {key: reason for key, reason in NO_BACKBONE.items() if key != "model.weights"},
            example="smp:unet/resnet18",
        ),
        Entry(
            "monai:dynunet",
            dynunet,
            "nnU-Net's network, 32 to 320 filters, as a peer",
            "Isensee et al., Nature Methods 2021",
            _DIVISOR,
            NO_BACKBONE,
        ),
        Entry(
            "monai:swinunetr",
            swinunetr,
            "SwinUNETR with 48 features, as a peer",
            "Hatamizadeh et al., BrainLes 2021",
            "padded to multiples of 32",
            {"1-D": "MONAI has it in 2-D and 3-D."} | NO_BACKBONE,
        ),
        Entry("monai:unet", unet, "residual U-Net, 32 to 320 filters, as a peer", _KERFOOT, _DIVISOR, NO_BACKBONE),
    ],
)


def build_network(
    config: ModelConfig, grid: Grid, *, target: Literal["segmentation", "classification"] = "segmentation"
) -> nn.Module:
    """Return the network that `config` names, its first weights drawn from torch's generator; no file is read.

    Args:
        config: Its name and settings.
        grid: What goes in and what comes out.
        target: `segmentation` gives `(B, in_channels, *S) -> (B, out_channels, *S)` logits for any size, and with deep
            supervision while training a list: logits at full size, then coarser ones. `classification` gives the
            encoder of the network with a head: `(B, in_channels, *S) -> (B, out_channels)`.

    Raises:
        UnknownNameError: The model, backbone or mixer is not known; the nearest name is given.
        ConfigError: The model does not support what is asked of it, or the numbers of the grid do not suit it.
    """
    config = with_weights_named(config)
    wanted = {
        f"{grid.spatial_dims}-D": True,
        **{f"model.{key}": getattr(config, key) for key in ("mixers", "weights", "frozen")},
    }
    entry = NETWORKS.require(config.name, target, *(ability for ability, asked in wanted.items() if asked))
    try:
        return _classifier(config, grid) if target == "classification" else entry.part(config, grid)
    except ValueError as error:
        raise ConfigError(f"model {config.name} cannot be built: {error}") from error


def _classifier(config: ModelConfig, grid: Grid) -> Classifier:
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


def with_weights_named(config: ModelConfig) -> ModelConfig:
    """Return the config with the name of the weights that `auto` stands for here; where there are none, none is frozen.

    Raises:
        UnknownNameError: The model is not known.
    """
    if config.weights != AUTO:
        return config
    fillable = "model.weights" not in NETWORKS[config.name].cannot
    found = choose_weights(pretrained_part(config)) if fillable else None
    return config.model_copy(update={"weights": found, **({} if found else {"frozen": 0})})


def load_encoder(network: nn.Module, config: ModelConfig) -> None:
    """Fill the encoder of a network that `build_network` returned with the weights that the config names, if any.

    Raises:
        ConfigError: The network has no encoder that weights could fill, or the weights are not on this machine.
        CheckpointError: They cannot be read, do not fit, or are not what they were.
    """
    config = with_weights_named(config)
    if not config.weights:
        return
    encoder = network_encoder(network)
    if encoder is None:
        raise ConfigError(f"model.weights fills an encoder, and {config.name} has none that it could fill.")
    weights, wanted = find_weights(config.weights), pretrained_part(config)
    if weights.source.network not in ("", wanted):
        raise ConfigError(
            f"The weights {weights.name} are those of {weights.source.network}, and the encoder of {config.name} is "
            f"{wanted}. Choose others: {', '.join(names_for(wanted)) or 'null'}."
        )
    if isinstance(encoder, MetaFormer):
        load_pretrained(encoder, weights.path)
    else:
        load_features(encoder, weights.path)
    given = [module for module in network.modules() if isinstance(module, Renormalize)]
    if not given and (weights.source.mean, weights.source.std) != (IMAGE_MEAN, IMAGE_STD):
        raise ConfigError(
            f"The weights {weights.name} were trained on images of another normalization than {config.name} is given. "
            f"Choose others: {', '.join(names_for(wanted)) or 'null'}."
        )
    for module in given:
        module.follow(weights.source.mean, weights.source.std)


def pretrained_part(config: ModelConfig) -> str:
    """Name of the network whose weights fill the encoder of a config, as timm and the table of weights call it."""
    if config.name.startswith("smp:"):
        return config.name.partition("/")[2].removeprefix("tu-").removeprefix("timm-")
    return encoder_name(config.backbone) or config.backbone


def network_encoder(network: nn.Module) -> nn.Module | None:
    """The part of a network that pretrained weights fill; None where it has no such part."""
    if isinstance(network, PaddedNetwork):
        network = network.network
    backbone = getattr(network, "backbone", None)
    return backbone.pretrained_part if isinstance(backbone, Backbone) else timm_part(network)
