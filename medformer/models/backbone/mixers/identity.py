"""Identity: no token mixing at all (IdentityFormer)."""

from __future__ import annotations

from torch import Tensor, nn


class Identity(nn.Module):
    """`(B, C, *S) -> (B, C, *S)` unchanged."""

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x
