"""Token mixers: one file each, one row each in the table below.

The contract: `Mixer(channels, *, ...)` maps `(B, C, *S)` to the same shape for 1, 2 and 3 spatial dimensions; the
result for one sample never depends on another; forward keeps no state. What follows the `*` has a type and a default,
and is a parameter that a config can set: `{name: attention, heads: 4}`. Five names have a fixed meaning, and the
backbone passes them to a mixer whose constructor has them:

- `spatial_dims`: 1, 2 or 3. A config cannot set it, and it has no default.
- `stage`: 0 for the finest. A config cannot set it, and it has no default.
- `made_for`, `tying`: the positions per axis that weights of positions are made for, and how the second matrix of an
  MLP depends on its first (`Tying`). A config cannot set them; their default is None.
- `kernel_size`: the kernel that a variant or a plan wants in this stage (one odd number, or one per axis), unless the
  config sets it.

A class attribute `optional_weights` names the weights whose shape depends on the size or dimension of the map, so that
a file of published weights need not fit them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from inspect import Parameter, signature
from typing import Any

from pydantic import BaseModel, create_model
from torch import nn

from medformer.config.shared import MixerSpec
from medformer.config_problems import unknown_keys, validate, value_problems
from medformer.errors import ConfigError
from medformer.models.backbone.layers import KernelSize
from medformer.models.backbone.mixers.additive_attention import AdditiveAttention
from medformer.models.backbone.mixers.attention import Attention
from medformer.models.backbone.mixers.convolution import Convolution
from medformer.models.backbone.mixers.focal_modulation import FocalModulation
from medformer.models.backbone.mixers.frequency.adaptive_filter import FrequencyFilter
from medformer.models.backbone.mixers.frequency.learned_filters import DynamicFilter, GlobalFilter
from medformer.models.backbone.mixers.hidden_state import HiddenStateMixing
from medformer.models.backbone.mixers.hopfield_memory import HopfieldMemory
from medformer.models.backbone.mixers.identity import Identity
from medformer.models.backbone.mixers.inception import Inception
from medformer.models.backbone.mixers.pooling import Pooling
from medformer.models.backbone.mixers.random import RandomMixing
from medformer.models.backbone.mixers.scan.causal import DecisionConvFormer, DecisionMetaMamba
from medformer.models.backbone.mixers.scan.selective_scan import SelectiveScan
from medformer.models.backbone.mixers.separable_conv import SeparableConv
from medformer.models.backbone.mixers.single_head_attention import SingleHeadAttention
from medformer.models.backbone.mixers.token_mlp import TokenMlp
from medformer.models.backbone.mixers.window_attention import GridAttention, WindowAttention
from medformer.models.backbone.mlp import Tying
from medformer.registry import Entry, Registry

_V1 = "Yu et al., MetaFormer Is Actually What You Need, CVPR 2022"
_V2 = "Yu et al., MetaFormer Baselines for Vision, TPAMI 2024"
_DFFORMER = "Tatsunami and Taki, FFT-Based Dynamic Token Mixer for Vision, AAAI 2024"
_GFNET = "Rao et al., Global Filter Networks for Image Classification, NeurIPS 2021"
_FILTERS = "made for 56 positions of the finest map (3-D: 24), resampled for others; cost n log n"
_SWIN = "Liu et al., Swin Transformer, ICCV 2021"
_GRID = "Tu et al., MaxViT, ECCV 2022; Wu et al., D-Former, 2023"
_FOCAL = "Yang et al., Focal Modulation Networks, NeurIPS 2022"
_HIDDEN = "Lee et al., EfficientViM, CVPR 2025"
_INCEPTION = "Si et al., Inception Transformer, NeurIPS 2022"
_ADDITIVE = "Zhang et al., CAS-ViT, 2024"
_FREQUENCY = "Huang et al., Adaptive Frequency Filters, ICCV 2023"
_NO_FFT = {"ONNX": "onnxruntime has no transform to frequencies of more than one axis."}
_HYDRA = "Hwang et al., Hydra, NeurIPS 2024"
_HOPFIELD = "after V-HMN, arXiv 2603.25157, of which no code is published"
_PARA = "Tolstikhin et al., MLP-Mixer, NeurIPS 2021; Ota and Taki, ParaMixer, 2024"
_DC = "Kim et al., Decision ConvFormer, ICLR 2024"
_DMM = "Kim, Decision MetaMamba, 2024"
_ORDERED = dict.fromkeys(
    ("2-D", "3-D"), "it follows the order of a sequence, which images and volumes have not. Take selective_scan."
)

SEVERAL_DEVICES = "training.devices > 1"
"""An ability: data-parallel training."""

MIXERS: Registry[type[nn.Module]] = Registry(
    "token mixer",
    [
        Entry("pooling", Pooling, "average pooling minus input", _V1, cost="N C k"),
        Entry("identity", Identity, "no mixing", _V2, cost="0"),
        Entry(
            "random",
            RandomMixing,
            "frozen random averages of all tokens",
            _V2,
            "resized off the reference size",
            cost="N^2 C; N^2 frozen numbers",
        ),
        Entry(
            "separable_conv", SeparableConv, "inverted separable convolution, kernel 7", _V2, cost="N (4 C^2 + 2 C k)"
        ),
        Entry("convolution", Convolution, "plain convolution over all channels, kernel 3", cost="N C^2 k"),
        Entry(
            "attention",
            Attention,
            "global self-attention",
            _V2,
            "cost grows with the square of the positions",
            cost="4 N C^2 + 2 N^2 C",
        ),
        Entry(
            "window_attention",
            WindowAttention,
            "self-attention inside blocks of neighbors",
            _SWIN,
            cost="4 N C^2 + 2 N w C, w positions in a window",
        ),
        Entry(
            "grid_attention",
            GridAttention,
            "self-attention of positions at equal distances",
            _GRID,
            cost="4 N C^2 + 2 N w C, w positions in a window",
        ),
        Entry(
            "single_head_attention",
            SingleHeadAttention,
            "one attention head on a part of the channels",
            "Yun and Ro, SHViT, CVPR 2024",
            "cost grows with the square of the positions",
            cost="N C^2 + N^2 (q + p), p attending channels, q of a key",
        ),
        Entry(
            "focal_modulation",
            FocalModulation,
            "product with gated contexts of growing reach",
            _FOCAL,
            cost="N (4 C^2 + C (k_1 + k_2 + ...))",
        ),
        Entry(
            "hidden_state",
            HiddenStateMixing,
            "positions gathered in a few states, mixed there",
            _HIDDEN,
            cost="N S (5 C + 3 k) + 3 S C^2, S states",
        ),
        Entry(
            "inception",
            Inception,
            "convolution, maximum and attention on channels of their own",
            _INCEPTION,
            cost="N (3 to 4 C^2 + 4 C k) + M^2 C, M positions of the attended map",
        ),
        Entry(
            "additive_attention",
            AdditiveAttention,
            "gated queries and keys, added, times values",
            _ADDITIVE,
            cost="N (3 C^2 + 4 C k) + 2 C^2",
        ),
        Entry(
            "hopfield_memory",
            HopfieldMemory,
            "neighborhoods refined by stored latents of training cases",
            _HOPFIELD,
            cannot={
                SEVERAL_DEVICES: "One process fills the memory; several would each remember other cases. Set "
                "training.devices=1."
            },
            cost="N (C k + C^2 + 2 t M C), M slots, t steps; 2 M C stored numbers",
        ),
        Entry(
            "dynamic_filter",
            DynamicFilter,
            "frequency filters, mixed for each sample",
            _DFFORMER,
            _FILTERS,
            cost="N (6 C^2 + C log N), K basis filters of the spectrum's size",
        ),
        Entry(
            "global_filter",
            GlobalFilter,
            "a frequency filter for each channel",
            _GFNET,
            _FILTERS,
            cost="N (4 C^2 + C log N), C filters of the spectrum's size",
        ),
        Entry(
            "frequency_filter",
            FrequencyFilter,
            "spectrum masked by a network of itself",
            _FREQUENCY,
            cannot=_NO_FFT,
            cost="N C (C / g + log N), g groups",
        ),
        Entry(
            "selective_scan",
            SelectiveScan,
            "states that run along every axis, both ways",
            _HYDRA,
            cost="d N (6 C^2 + 4 C S + C k), d axes, S states",
        ),
        Entry(
            "token_mlp",
            TokenMlp,
            "an MLP over positions",
            _PARA,
            "resized off the reference size",
            cost="N h C, h hidden positions (half of C)",
        ),
        Entry(
            "decision_convformer",
            DecisionConvFormer,
            "causal filters of tokens that take turns",
            _DC,
            cannot=_ORDERED,
            cost="N C w, w positions of the window",
        ),
        Entry(
            "decision_metamamba",
            DecisionMetaMamba,
            "causal windows, then a causal scan",
            _DMM,
            cannot=_ORDERED,
            cost="N (w C^2 + 3 C^2 + C S), w of the window, S states",
        ),
    ],
)
_FROM_BACKBONE = ("spatial_dims", "stage", "made_for", "tying")


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


def mixer_name(spec: MixerSpec) -> str:
    """Return the name of a mixer that a config names, perhaps with parameters.

    Raises:
        ConfigError: No name.
    """
    return _read(spec)[0]


def mixer_kernel(spec: MixerSpec) -> KernelSize | None:
    """Return the kernel that a mixer has where none is asked for, or None for a mixer without a kernel.

    Raises:
        UnknownNameError: No mixer has that name.
        ConfigError: No name, or a parameter that the mixer does not have or of a wrong type.
    """
    name, given = _read(spec)
    field = mixer_parameters(name).model_fields.get("kernel_size")
    kernel: KernelSize | None = None if field is None else given.get("kernel_size", field.default)
    return kernel


def make_mixer(
    spec: MixerSpec,
    channels: int,
    *,
    spatial_dims: int,
    stage: int,
    kernel_size: KernelSize | None = None,
    made_for: Sequence[int] | None = None,
    tying: Tying | None = None,
) -> nn.Module:
    """Return a mixer for a stage.

    Args:
        spec: Its name, or its name and parameters as in a config.
        channels: Channels of the stage.
        spatial_dims: 1, 2 or 3.
        stage: 0 for the finest.
        kernel_size: Kernel that the stage wants; a mixer without a kernel ignores it, a kernel in `spec` goes first.
        made_for: Positions per axis that weights of positions are made for; None for those of the stage.
        tying: How the second matrix of a mixer that is an MLP depends on its first.

    Raises:
        UnknownNameError: No mixer has that name; the nearest is given.
        ConfigError: A parameter that the mixer does not have or of a wrong type, or a mixer that does not exist in this
            number of dimensions.
        ValueError: A value that does not suit the channels or the dimension.
    """
    name, parameters = _read(spec)
    entry = MIXERS.require(name, f"{spatial_dims}-D")
    wanted: dict[str, Any] = {"spatial_dims": spatial_dims, "stage": stage, "made_for": made_for, "tying": tying}
    if kernel_size:
        wanted["kernel_size"] = kernel_size
    known = signature(entry.part).parameters
    try:
        return entry.part(channels, **{key: value for key, value in wanted.items() if key in known} | parameters)
    except ValueError as error:
        raise ValueError(f"the token mixer {name} of stage {stage}: {error}") from error


def _read(spec: MixerSpec) -> tuple[str, dict[str, Any]]:
    """Return a mixer's name and the parameters that it is given, checked."""
    given = {"name": spec} if isinstance(spec, str) else dict(spec)
    name = given.pop("name", None)
    if not isinstance(name, str):
        raise ConfigError(f"model.mixers: got {json.dumps(given)}, expected a name, or {{name: ..., ...}}.")
    model = mixer_parameters(name)
    problems = unknown_keys(given, model) or [f"{key}: {text}." for key, text in value_problems(given, model)]
    if problems:
        takes = ", ".join(f"{key} (default {json.dumps(field.default)})" for key, field in model.model_fields.items())
        raise ConfigError(f"The token mixer {name} takes {takes or 'no parameters'}. {' '.join(problems)}")
    read = validate(given, model)
    return name, {key: getattr(read, key) for key in given}
