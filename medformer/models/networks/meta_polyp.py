"""Meta-Polyp: a MetaFormer encoder with the multi-scale upsampling decoder."""

from __future__ import annotations

from typing import Literal

from medformer.models.backbone.metaformer import InitName, MetaFormer
from medformer.models.backbone.variants import build_backbone
from medformer.models.networks.decoder import SETTINGS
from medformer.models.networks.meta_unet import MetaUNet


class MetaPolyp(MetaUNet):
    """The network with Meta-Polyp's decoder, as in its paper or as in its released code.

    With deep supervision it returns a list of logits at input size while training, the result first.
    """

    def __init__(
        self,
        backbone: MetaFormer,
        out_channels: int = 1,
        setting: Literal["paper", "as_published"] = "paper",
        deep_supervision: bool = False,
    ) -> None:
        super().__init__(backbone, out_channels, SETTINGS[setting], deep_supervision)


def meta_polyp(
    backbone: str = "caformer_s18",
    *,
    spatial_dims: int = 2,
    in_channels: int = 3,
    out_channels: int = 1,
    setting: Literal["paper", "as_published"] = "paper",
    deep_supervision: bool = False,
    drop_path: float = 0.1,
    init: InitName = "published",
    checkpointing: bool = False,
) -> MetaPolyp:
    """Return a Meta-Polyp network on a named backbone variant."""
    encoder = build_backbone(
        backbone,
        spatial_dims=spatial_dims,
        in_channels=in_channels,
        drop_path=drop_path,
        init=init,
        checkpointing=checkpointing,
    )
    return MetaPolyp(encoder, out_channels, setting, deep_supervision)
