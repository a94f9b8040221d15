"""Identity: no token mixing at all (IdentityFormer)."""

from __future__ import annotations

from torch import Tensor, nn

from medformer.models.backbone.layers import KernelSize


class Identity(nn.Module):
    """`(B, C, *S) -> (B, C, *S)` unchanged."""

    def __init__(self, channels: int, *, spatial_dims: int, stage: int, kernel_size: KernelSize | None = None) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x
