"""Token mixers: one file each, one row each in the table below.

The contract: `Mixer(channels, *, spatial_dims, stage, kernel_size=None)` maps `(B, C, *S)` to the same shape
for 1, 2 and 3 spatial dimensions; the result for one sample never depends on another; forward keeps no state.
`stage` (0 finest) and `kernel_size` (one odd number, or one per axis; None: the mixer's own) may be ignored.
"""

from __future__ import annotations

from torch import nn

from medformer.models.backbone.mixers.attention import Attention
from medformer.models.backbone.mixers.convolution import Convolution
from medformer.models.backbone.mixers.identity import Identity
from medformer.models.backbone.mixers.pooling import Pooling
from medformer.models.backbone.mixers.random import RandomMixing
from medformer.models.backbone.mixers.separable_conv import SeparableConv
from medformer.registry import Entry, Registry

_METAFORMER = "Yu et al., MetaFormer Baselines for Vision, TPAMI 2024"

MIXERS: Registry[type[nn.Module]] = Registry(
    "token mixer",
    [
        Entry(
            "pooling",
            Pooling,
            "average pooling minus input",
            "Yu et al., MetaFormer Is Actually What You Need, CVPR 2022",
        ),
        Entry("identity", Identity, "no mixing", _METAFORMER),
        Entry(
            "random",
            RandomMixing,
            "frozen random averages of all tokens",
            _METAFORMER,
            "resized off the reference size",
        ),
        Entry("separable_conv", SeparableConv, "inverted separable convolution, kernel 7", _METAFORMER),
        Entry("convolution", Convolution, "plain convolution over all channels, kernel 3"),
        Entry(
            "attention", Attention, "global self-attention", _METAFORMER, "cost grows with the square of the positions"
        ),
    ],
)
