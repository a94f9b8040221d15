"""Backbones and token mixers by name."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

from medformer.errors import ConfigError
from medformer.models.backbone.blocks import Backbone
from medformer.models.backbone.mixers import MIXERS
from medformer.models.backbone.variants import VARIANTS, build_backbone


def list_backbones(pattern: str = "*") -> list[str]:
    """The names of backbones, all or those that a pattern of `*` and `?` fits.

    >>> import medformer as mf
    >>> mf.list_backbones("caformer_*")
    ['caformer_s18', 'caformer_s36', 'caformer_m36', 'caformer_b36']
    """
    return _matching(VARIANTS, pattern)


def list_mixers(pattern: str = "*") -> list[str]:
    """The names of token mixers, all or those that a pattern of `*` and `?` fits.

    >>> import medformer as mf
    >>> mf.list_mixers("*conv*")
    ['separable_conv', 'convolution', 'decision_convformer']
    """
    return _matching(MIXERS, pattern)


def create_backbone(name: str, *, spatial_dims: int = 2, in_channels: int = 3, **settings: Any) -> Backbone:
    """Build a backbone with random first weights; nothing is read or downloaded.

    It maps (B, in_channels, *S) of any size to one map per stage, fine to coarse; `feature_info` says how many channels
    each has and what its strides are.

    >>> import medformer as mf, torch
    >>> backbone = mf.create_backbone("convformer_v8", spatial_dims=3, in_channels=1)
    >>> [level.channels for level in backbone.feature_info]
    [32, 64, 128, 256]
    >>> backbone.feature_info[1].strides
    (8, 8, 8)
    >>> [tuple(level.shape) for level in backbone(torch.zeros(1, 1, 32, 32, 16))]
    [(1, 32, 8, 8, 4), (1, 64, 4, 4, 2), (1, 128, 2, 2, 1), (1, 256, 1, 1, 1)]

    Args:
        name: See `list_backbones`.
        spatial_dims: 1, 2 or 3.
        in_channels: Channels of the input.
        settings: `mixers`, `drop_path`, `kernel_sizes`, `stem_kernel`, `strides`, `init`, `checkpointing`; see
            `medformer.models.backbone.variants.build_backbone`.

    Raises:
        UnknownNameError: No backbone or mixer has that name; the nearest is suggested.
        ConfigError: The backbone does not exist in this number of dimensions, or a mixer has no such parameter.
    """
    for key, value, least, most in (("spatial_dims", spatial_dims, 1, 3), ("in_channels", in_channels, 1, None)):
        if not isinstance(value, int) or value < least or (most is not None and value > most):
            expected = f"a whole number from {least}" + ("" if most is None else f" to {most}")
            raise ConfigError(f"{key}={value!r}; expected {expected}.")
    return build_backbone(name, spatial_dims=spatial_dims, in_channels=in_channels, **settings)


def _matching(names: Iterable[str], pattern: str) -> list[str]:
    """Names that can be built; `<` stands in those of rows that stand for many."""
    return [name for name in names if "<" not in name and fnmatchcase(name, pattern)]
