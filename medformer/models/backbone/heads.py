"""The classification heads of the published networks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

from torch import Tensor, nn

from medformer.models.backbone.mlp import squared_relu
from medformer.models.backbone.norms import LayerNorm
from medformer.models.wide import WidePath

HeadName = Literal["linear", "mlp", "batch_norm", "pool_after_norm", "pool_after_layer_norm", "pool_after_batch_norm"]


class LinearHead(nn.Module):
    """Average pool, LayerNorm or another norm, linear; or a norm of maps `(B, C, N)`, average pool, linear."""

    def __init__(
        self,
        channels: int,
        num_classes: int,
        *,
        map_norm: nn.Module | None = None,
        pooled_norm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.norm_first = map_norm is not None
        self.norm = map_norm or pooled_norm or nn.LayerNorm(channels, eps=1e-6)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2)
        pooled = self.norm(x).mean(-1) if self.norm_first else self.norm(x.mean(-1))
        logits: Tensor = self.fc(pooled)
        return logits


class MlpHead(nn.Module):
    """Average pool, LayerNorm, Linear C->4C, squared ReLU, LayerNorm, linear (ConvFormer, CAFormer)."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.fc = nn.ModuleDict(
            {
                "fc1": nn.Linear(channels, 4 * channels),
                "norm": nn.LayerNorm(4 * channels),
                "fc2": nn.Linear(4 * channels, num_classes),
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.fc["norm"](squared_relu(self.fc["fc1"](self.norm(x.flatten(2).mean(-1)))))
        logits: Tensor = self.fc["fc2"](hidden)
        return logits


_MAP_NORMS: dict[HeadName, Callable[[int], nn.Module]] = {
    "pool_after_norm": partial(nn.GroupNorm, 1, eps=1e-5),
    "pool_after_layer_norm": LayerNorm,
    "pool_after_batch_norm": nn.BatchNorm1d,
}


class Classifier(nn.Module):
    """A backbone with its published classification head: `(B, C, *S) -> (B, num_classes)` logits.

    Args:
        backbone: Gives a list, of which the head takes the last: a `Backbone` its maps, another network what it has.
        head: Gives the logits.

    Attributes:
        wide: A simple model that logits of two classes are added to; None without.
    """

    wide: WidePath | None

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.wide = None

    def classify(self, x: Tensor) -> Tensor:
        """The logits without the simple model."""
        logits: Tensor = self.head(self.backbone(x)[-1])
        return logits

    def forward(self, x: Tensor) -> Tensor:
        logits = self.classify(x)
        return logits if self.wide is None else self.wide(x, logits)


def make_head(kind: HeadName, channels: int, num_classes: int) -> nn.Module:
    """Return a head of maps `(B, channels, *S) -> (B, num_classes)`."""
    if kind == "mlp":
        return MlpHead(channels, num_classes)
    map_norm = _MAP_NORMS[kind](channels) if kind in _MAP_NORMS else None
    pooled_norm = nn.BatchNorm1d(channels) if kind == "batch_norm" else None
    return LinearHead(channels, num_classes, map_norm=map_norm, pooled_norm=pooled_norm)
