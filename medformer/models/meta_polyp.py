"""Meta-Polyp: a MetaFormer encoder with the multi-scale upsampling decoder."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from medformer.models.backbone.metaformer import InitName, MetaFormer
from medformer.models.backbone.variants import build_backbone
from medformer.models.decoder import SETTINGS, MetaPolypDecoder


class MetaPolyp(nn.Module):
    """Segmentation network, `(B, in_channels, *S) -> (B, out_channels, *S)` logits for any size `S`.

    Inputs are zero-padded at the end of each axis to a multiple of the coarsest stride and the logits are cropped
    back, so that every upsampling lines up with its skip. With deep supervision it returns a list of such logits while
    training, the result first.
    """

    def __init__(
        self,
        backbone: MetaFormer,
        out_channels: int = 1,
        setting: Literal["paper", "as_published"] = "paper",
        deep_supervision: bool = False,
    ) -> None:
        super().__init__()
        chosen = SETTINGS[setting]
        self.backbone = backbone
        backbone.branch_features = chosen.branch_features
        self.decoder = MetaPolypDecoder(
            backbone.spatial_dims, backbone.channels, backbone.strides, out_channels, chosen, deep_supervision
        )

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        size = x.shape[2:]
        missing = [-n % stride for n, stride in zip(size, self.backbone.strides[-1], strict=False)]
        if any(missing):
            x = F.pad(x, [end for gap in reversed(missing) for end in (0, gap)])
        logits: list[Tensor] = self.decoder(self.backbone(x))
        for axis, n in enumerate(size, start=2):
            logits = [level.narrow(axis, 0, n) for level in logits]
        return logits if len(logits) > 1 else logits[0]


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
