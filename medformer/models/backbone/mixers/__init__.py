"""Token mixers: one file each, one row each in the table below.

The contract: `Mixer(channels, *, ...)` maps `(B, C, *S)` to the same shape for 1, 2 and 3 spatial dimensions; the
result for one sample never depends on another; forward keeps no state. What follows the `*` has a type and a default,
and is a parameter that a config can set: `{name: attention, heads: 4}`. Three names have a fixed meaning, and the
backbone passes them to a mixer whose constructor has them:

- `spatial_dims`: 1, 2 or 3. A config cannot set it, and it has no default.
- `stage`: 0 for the finest. A config cannot set it, and it has no default.
- `kernel_size`: the kernel that a variant or a plan wants in this stage (one odd number, or one per axis), unless the
  config sets it.

A class attribute `optional_weights` names the weights whose shape depends on the size or dimension of the map, so that
a file of published weights need not fit them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from inspect import Parameter, signature
from typing import Any

from pydantic import BaseModel, create_model
from torch import nn

from medformer.config.shared import MixerSpec
from medformer.config_problems import unknown_keys, validate, value_problems
from medformer.errors import ConfigError
from medformer.models.backbone.layers import KernelSize
from medformer.models.backbone.mixers.attention import Attention
from medformer.models.backbone.mixers.convolution import Convolution
from medformer.models.backbone.mixers.dynamic_filter import DynamicFilter
from medformer.models.backbone.mixers.global_filter import GlobalFilter
from medformer.models.backbone.mixers.identity import Identity
from medformer.models.backbone.mixers.pooling import Pooling
from medformer.models.backbone.mixers.random import RandomMixing
from medformer.models.backbone.mixers.separable_conv import SeparableConv
from medformer.registry import Entry, Registry

_V1 = "Yu et al., MetaFormer Is Actually What You Need, CVPR 2022"
_V2 = "Yu et al., MetaFormer Baselines for Vision, TPAMI 2024"
_DFFORMER = "Tatsunami and Taki, FFT-Based Dynamic Token Mixer for Vision, AAAI 2024"
_GFNET = "Rao et al., Global Filter Networks for Image Classification, NeurIPS 2021"
_FILTERS = "made for 56 positions of the finest map (3-D: 24), resampled for others; cost n log n"

MIXERS: Registry[type[nn.Module]] = Registry(
    "token mixer",
    [
        Entry("pooling", Pooling, "average pooling minus input", _V1),
        Entry("identity", Identity, "no mixing", _V2),
        Entry("random", RandomMixing, "frozen random averages of all tokens", _V2, "resized off the reference size"),
        Entry("separable_conv", SeparableConv, "inverted separable convolution, kernel 7", _V2),
        Entry("convolution", Convolution, "plain convolution over all channels, kernel 3"),
        Entry("attention", Attention, "global self-attention", _V2, "cost grows with the square of the positions"),
        Entry("dynamic_filter", DynamicFilter, "frequency filters, mixed for each sample", _DFFORMER, _FILTERS),
        Entry("global_filter", GlobalFilter, "a frequency filter for each channel", _GFNET, _FILTERS),
    ],
)
_FROM_BACKBONE = ("spatial_dims", "stage")


@cache
def mixer_parameters(name: str) -> type[BaseModel]:
    """Return a model whose fields are what a config may say of a mixer, read from its signature.

    Raises:
        UnknownNameError: No mixer has that name.
    """
    fields: dict[str, Any] = {
        parameter.name: (parameter.annotation, parameter.default)
        for parameter in signature(MIXERS[name].part, eval_str=True).parameters.values()
        if parameter.kind is Parameter.KEYWORD_ONLY and parameter.name not in _FROM_BACKBONE
    }
    return create_model(name, **fields)


def mixer_kernel(spec: MixerSpec) -> KernelSize | None:
    """Return the kernel that a mixer has where none is asked for, or None for a mixer without a kernel."""
    name, given = (spec, {}) if isinstance(spec, str) else (str(spec["name"]), spec)
    field = mixer_parameters(name).model_fields.get("kernel_size")
    kernel: KernelSize | None = None if field is None else given.get("kernel_size", field.default)
    return kernel


def make_mixer(
    spec: MixerSpec, channels: int, *, spatial_dims: int, stage: int, kernel_size: KernelSize | None = None
) -> nn.Module:
    """Return a mixer for a stage.

    Args:
        spec: Its name, or its name and parameters as in a config.
        channels: Channels of the stage.
        spatial_dims: 1, 2 or 3.
        stage: 0 for the finest.
        kernel_size: Kernel that the stage wants; a mixer without a kernel ignores it, a kernel in `spec` goes first.

    Raises:
        UnknownNameError: No mixer has that name; the nearest is given.
        ConfigError: A parameter that the mixer does not have or of a wrong type, or a mixer that does not exist in this
            number of dimensions.
        ValueError: A value that does not suit the channels or the dimension.
    """
    given = {"name": spec} if isinstance(spec, str) else dict(spec)
    name = given.pop("name", None)
    if not isinstance(name, str):
        raise ConfigError(f"Got a token mixer {given} without a name, expected a text, or {{name: ..., ...}}.")
    entry = MIXERS.require(name, f"{spatial_dims}-D")
    parameters = _checked(name, given)
    wanted = {"spatial_dims": spatial_dims, "stage": stage, **({"kernel_size": kernel_size} if kernel_size else {})}
    known = signature(entry.part).parameters
    return entry.part(channels, **{key: value for key, value in wanted.items() if key in known} | parameters)


def _checked(name: str, given: Mapping[str, object]) -> dict[str, Any]:
    model = mixer_parameters(name)
    problems = unknown_keys(given, model) or [f"{key}: {text}." for key, text in value_problems(given, model)]
    if problems:
        takes = ", ".join(f"{key} (default {json.dumps(field.default)})" for key, field in model.model_fields.items())
        raise ConfigError(f"The token mixer {name} takes {takes or 'no parameters'}. {' '.join(problems)}")
    read = validate(given, model)
    return {key: getattr(read, key) for key in given}
