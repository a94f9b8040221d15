"""The pretrained weights of a config: which ones, and into which part of its network they go."""

from __future__ import annotations

from torch import nn

from medformer.config.shared import AUTO, IMAGE_MEAN, IMAGE_STD, ModelConfig
from medformer.errors import ConfigError
from medformer.models.backbone.blocks import Backbone
from medformer.models.backbone.metaformer import MetaFormer
from medformer.models.backbone.renormalize import Renormalize
from medformer.models.backbone.variants import encoder_name
from medformer.models.networks.grid import PaddedNetwork
from medformer.models.weights.loading import load_features, load_pretrained
from medformer.models.weights.store import OWN, choose_weights, find_weights
from medformer.models.weights.table import names_for


def resolve_weights(config: ModelConfig) -> tuple[ModelConfig, str]:
    """Decide what `weights: auto` is on this machine: the best weights by name that are here, or none.

    Returns:
        The config without `auto`, and a sentence about it where another machine may decide otherwise.
    """
    if config.weights != AUTO:
        return config, ""
    part = pretrained_part(config)
    known, found = names_for(part), choose_weights(part)
    if found is not None:
        name, source = found
        note = f"The encoder starts from the weights {name}, trained on {source.data} (license: {source.license})."
        return with_weights(config, name), note
    note = ""
    if known:
        note = (
            "The encoder starts from random weights, which costs accuracy: no pretrained weights of "
            f"{part} were on the machine. `medformer weights get {known[0]}` brings some, or says how to install them."
        )
    return with_weights(config, None), note


def with_weights(config: ModelConfig, name: str | None) -> ModelConfig:
    """Return a config with these weights; without any, none of the encoder's levels is kept as it is."""
    return config.model_copy(update={"weights": name, **({} if name else {"frozen": 0})})


def load_encoder(network: nn.Module, config: ModelConfig) -> None:
    """Fill the encoder of a network that `build_network` returned with the weights that the config names, if any.

    Raises:
        ConfigError: The network has no encoder that weights could fill, or the weights are not on this machine.
        CheckpointError: They cannot be read, do not fit, or are not what they were.
    """
    config, _ = resolve_weights(config)
    if not config.weights:
        return
    encoder, backbone = network_encoder(network), getattr(network, "backbone", None)
    if encoder is None:
        raise ConfigError(f"model.weights fills an encoder, and {config.name} has none that it could fill.")
    weights, wanted = find_weights(config.weights), pretrained_part(config)
    if weights.source is OWN:
        if not isinstance(backbone, Backbone):
            raise ConfigError(
                f"{weights.path} holds a network that medformer trained; model.weights takes the shared backbone of "
                f"one, and {config.name} has none. Start from the whole network with --init-from RUN."
            )
        # With what it adapted to its first weights, such as the normalization.
        load_pretrained(backbone, weights.path)
        return
    if weights.source.network not in ("", wanted):
        raise ConfigError(
            f"The weights {weights.name} are those of {weights.source.network}, and the encoder of {config.name} is "
            f"{wanted}. {_others(wanted)}"
        )
    if isinstance(encoder, MetaFormer):
        load_pretrained(encoder, weights.path)
    else:
        load_features(encoder, weights.path)
    given = [module for module in network.modules() if isinstance(module, Renormalize)]
    if not given and (weights.source.mean, weights.source.std) != (IMAGE_MEAN, IMAGE_STD):
        raise ConfigError(
            f"The weights {weights.name} were trained on images of another normalization than {config.name} is given. "
            f"{_others(wanted)}"
        )
    for module in given:
        module.follow(weights.source.mean, weights.source.std)


def _others(wanted: str) -> str:
    """What to do where weights do not fit a network."""
    names = names_for(wanted)
    if not names:
        return f"We know of no weights for {wanted} by name: set model.weights=null, or give a file of yours."
    return f"Choose others: {', '.join(names)}."


def pretrained_part(config: ModelConfig) -> str:
    """Name of the network whose weights fill the encoder of a config, as timm and the table of weights call it."""
    if config.name.startswith("smp:"):
        return config.name.partition("/")[2].removeprefix("tu-").removeprefix("timm-")
    if ":" in config.name:
        return config.name
    return encoder_name(config.backbone) or config.backbone


def network_encoder(network: nn.Module) -> nn.Module | None:
    """The part of a network that pretrained weights fill; None where it has no such part."""
    if isinstance(network, PaddedNetwork):
        network = network.network
    backbone = getattr(network, "backbone", None)
    if isinstance(backbone, Backbone):
        return backbone.pretrained_part
    # In an encoder of segmentation-models-pytorch, parts have timm's names.
    encoder = getattr(network, "encoder", None)
    return getattr(encoder, "model", encoder)
