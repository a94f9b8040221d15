"""PraNet: a coarse map from three deep levels, then attention, coarse to fine, to what that map left out.

Source: Fan et al., PraNet: parallel reverse attention network for polyp segmentation, MICCAI 2020, and the code
released with it. With the backbone `res2net50d` it is the published network; it takes any other backbone too.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medformer.config.shared import ModelConfig
from medformer.models.backbone.blocks import Backbone
from medformer.models.networks.grid import Grid, build_encoder, crop_to, pad_to_multiple

WIDTH = 32
"""Channels of what the partial decoder joins."""


def conv_norm(source: int, target: int, kernel: int | tuple[int, int] = 1, dilation: int = 1) -> nn.Sequential:
    """Return a convolution that keeps the size, without bias, and batch norm; no ReLU, as in the published code."""
    sizes = (kernel, kernel) if isinstance(kernel, int) else kernel
    padding = (dilation * (sizes[0] // 2), dilation * (sizes[1] // 2))
    conv = nn.Conv2d(source, target, sizes, padding=padding, dilation=dilation, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(target))


class ReceptiveFields(nn.Module):
    """Narrows a map `(B, C, H, W)` to `WIDTH` channels that look at it with four receptive fields."""

    def __init__(self, source: int) -> None:
        super().__init__()
        wide = [
            nn.Sequential(
                conv_norm(source, WIDTH),
                conv_norm(WIDTH, WIDTH, (1, reach)),
                conv_norm(WIDTH, WIDTH, (reach, 1)),
                conv_norm(WIDTH, WIDTH, 3, dilation=reach),
            )
            for reach in (3, 5, 7)
        ]
        self.branches = nn.ModuleList([conv_norm(source, WIDTH), *wide])
        self.join = conv_norm(4 * WIDTH, WIDTH, 3)
        self.shortcut = conv_norm(source, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        joined = self.join(torch.cat([branch(x) for branch in self.branches], 1))
        return torch.relu(joined + self.shortcut(x))


class PartialDecoder(nn.Module):
    """Joins maps of three levels, `WIDTH` channels each, to logits on the grid of the finest.

    Finer maps are multiplied with coarser ones. Only here a map is raised with its corners aligned, and by two levels
    in two steps, which is not the same as in one.
    """

    def __init__(self, out_channels: int) -> None:
        super().__init__()
        self.deep_on_middle = conv_norm(WIDTH, WIDTH, 3)
        self.deep_on_fine = conv_norm(WIDTH, WIDTH, 3)
        self.middle_on_fine = conv_norm(WIDTH, WIDTH, 3)
        self.deep_beside_middle = conv_norm(WIDTH, WIDTH, 3)
        self.join_middle = conv_norm(2 * WIDTH, 2 * WIDTH, 3)
        self.middle_beside_fine = conv_norm(2 * WIDTH, 2 * WIDTH, 3)
        self.join_fine = conv_norm(3 * WIDTH, 3 * WIDTH, 3)
        self.last = conv_norm(3 * WIDTH, 3 * WIDTH, 3)
        self.head = nn.Conv2d(3 * WIDTH, out_channels, 1)

    def forward(self, fine: Tensor, middle: Tensor, deep: Tensor) -> Tensor:
        raised = resize(deep, middle, align_corners=True)
        on_middle = self.deep_on_middle(raised) * middle
        on_fine = (
            self.deep_on_fine(resize(raised, fine, align_corners=True))
            * self.middle_on_fine(resize(middle, fine, align_corners=True))
            * fine
        )
        joined = self.join_middle(torch.cat([on_middle, self.deep_beside_middle(raised)], 1))
        carried = self.middle_beside_fine(resize(joined, fine, align_corners=True))
        joined = self.join_fine(torch.cat([on_fine, carried], 1))
        logits: Tensor = self.head(self.last(joined))
        return logits


class ReverseAttention(nn.Module):
    """Corrects coarser logits on the grid of a map of the encoder, by what the map shows where nothing was found yet.

    Args:
        source: Channels of the map.
        width: Channels of the convolutions.
        depth: Convolutions with ReLU; the one that narrows the map has none.
        kernel: Of these.
        last_kernel: Of the one that gives logits, which has batch norm too.
        out_channels: Logits.
    """

    def __init__(self, source: int, width: int, depth: int, kernel: int, last_kernel: int, out_channels: int) -> None:
        super().__init__()
        self.narrow = conv_norm(source, width)
        self.convs = nn.ModuleList(conv_norm(width, width, kernel) for _ in range(depth))
        self.last = conv_norm(width, out_channels, last_kernel)

    def forward(self, feature: Tensor, coarser: Tensor) -> Tensor:
        coarser = resize(coarser, feature)
        x = self.narrow(feature * not_found(coarser))
        for conv in self.convs:
            x = torch.relu(conv(x))
        corrected: Tensor = self.last(x) + coarser
        return corrected


def not_found(logits: Tensor) -> Tensor:
    """Probability that a position is background, `(B, 1, H, W)`: of a single logit, 1 less its sigmoid.

    Of several, which exclude each other, it is the first one's softmax; with two that is the same.
    """
    return torch.sigmoid(-logits) if logits.shape[1] == 1 else torch.softmax(logits, 1)[:, :1]


def resize(x: Tensor, like: Tensor, *, align_corners: bool = False) -> Tensor:
    """Resize `(B, C, H, W)` bilinearly, and without smoothing, to the grid of another map."""
    return F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=align_corners)


class PraNet(nn.Module):
    """Segmentation network for images, `(B, in_channels, H, W) -> (B, out_channels, H, W)` logits for any size.

    Inputs are zero-padded at the end of each axis to a multiple of the coarsest stride and the logits are cropped back,
    so that sizes which the published code takes (multiples of 32) give what it gives. With deep supervision it returns
    a list of logits at full size while training: the result, then those of coarser levels, the partial decoder's last.

    Args:
        backbone: Encoder with four stages; its finest map is not used.
        out_channels: Logit channels.
        deep_supervision: Add logits of coarser levels while training.
    """

    def __init__(self, backbone: Backbone, out_channels: int = 1, deep_supervision: bool = True) -> None:
        super().__init__()
        backbone.leave_out(0)
        self.backbone = backbone
        _, fine, middle, deep = backbone.channels
        self.fields = nn.ModuleList(ReceptiveFields(channels) for channels in (fine, middle, deep))
        self.decoder = PartialDecoder(out_channels)
        self.attend_deep = ReverseAttention(deep, 256, 3, 5, 1, out_channels)
        self.attend_middle = ReverseAttention(middle, 64, 2, 3, 3, out_channels)
        self.attend_fine = ReverseAttention(fine, 64, 2, 3, 3, out_channels)
        self.deep_supervision = deep_supervision

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        size = x.shape[2:]
        x = pad_to_multiple(x, self.backbone.strides[-1])
        _, fine, middle, deep = self.backbone(x)
        narrowed = [field(level) for field, level in zip(self.fields, (fine, middle, deep), strict=True)]
        coarse = self.decoder(*narrowed)
        on_deep = self.attend_deep(deep, coarse)
        on_middle = self.attend_middle(middle, on_deep)
        on_fine = self.attend_fine(fine, on_middle)
        maps = [on_fine, on_middle, on_deep, coarse] if self.deep_supervision and self.training else [on_fine]
        logits = [crop_to(resize(level, x), x.shape[2:], size) for level in maps]
        return logits if len(logits) > 1 else logits[0]


def pranet(config: ModelConfig, grid: Grid) -> PraNet:
    """Return PraNet on the backbone that a config names."""
    return PraNet(build_encoder(config, grid), grid.out_channels, config.deep_supervision)
