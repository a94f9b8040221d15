"""The shared backbone with the multi-scale upsampling decoder: MetaUNet, ours, and Meta-Polyp.

Source of Meta-Polyp: Trinh et al., Meta-Polyp: a baseline for efficient polyp segmentation, CBMS 2023.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from medformer.config.shared import ModelConfig
from medformer.models.backbone.layers import KernelSize
from medformer.models.backbone.metaformer import MetaFormer
from medformer.models.networks.decoder import SETTINGS, VOLUME, DecoderSetting, MetaPolypDecoder
from medformer.models.networks.grid import Grid, build_encoder, crop_to, pad_to_multiple


class MetaUNet(nn.Module):
    """Segmentation network, `(B, in_channels, *S) -> (B, out_channels, *S)` logits for any size `S`.

    Inputs are zero-padded at the end of each axis to a multiple of the coarsest stride and the logits are cropped
    back, so that every upsampling lines up with its skip. With deep supervision it returns a list of logits while
    training, the result first, then those of coarser levels at stride 1 or on their own grid, as the setting says.

    Args:
        backbone: Encoder with four stages.
        out_channels: Logit channels.
        setting: What the decoder is made of; `VOLUME` is ours for volumes.
        deep_supervision: Add logits of coarser levels while training.
        kernel_sizes: Convolution kernel of each level of the decoder, per axis if given so.
    """

    def __init__(
        self,
        backbone: MetaFormer,
        out_channels: int = 1,
        setting: DecoderSetting = VOLUME,
        deep_supervision: bool = False,
        kernel_sizes: Sequence[KernelSize] = (3, 3, 3, 3),
    ) -> None:
        super().__init__()
        self.backbone = backbone
        backbone.branch_features = setting.branch_features
        self.decoder = MetaPolypDecoder(
            backbone.spatial_dims,
            backbone.channels,
            backbone.strides,
            out_channels,
            setting,
            deep_supervision,
            backbone.in_channels,
            kernel_sizes,
        )

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        size = x.shape[2:]
        x = pad_to_multiple(x, self.backbone.strides[-1])
        logits = [crop_to(level, x.shape[2:], size) for level in self.decoder(self.backbone(x), x)]
        return logits if len(logits) > 1 else logits[0]


def meta_unet(config: ModelConfig, grid: Grid) -> MetaUNet:
    """Return our network, whose decoder has the kernels of the plan."""
    return MetaUNet(
        build_encoder(config, grid),
        grid.out_channels,
        deep_supervision=config.deep_supervision,
        kernel_sizes=grid.kernel_sizes or (3, 3, 3, 3),
    )


def meta_polyp(config: ModelConfig, grid: Grid) -> MetaUNet:
    """Return the network of the Meta-Polyp paper or of its released code; with strides of a plan if there is one."""
    return MetaUNet(build_encoder(config, grid), grid.out_channels, SETTINGS[config.setting], config.deep_supervision)
