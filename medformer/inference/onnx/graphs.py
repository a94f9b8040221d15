"""What is exported: networks with what comes before and after them, as modules that an exporter can follow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from medformer.data.frames.transforms import MEAN, STD
from medformer.inference.classification import LEAST, Decision
from medformer.inference.onnx.resizing import from_network, to_network


class Views(nn.Module):
    """The mean probability of networks over the flips of a batch, as `mean_probability`, in one pass for each network.

    Args:
        models: Map (B, C, *S) to logits (B, K, *S).
        activation: From logits to probabilities.
        flips: Axes to flip along; empty for a single view.
    """

    def __init__(
        self, models: Sequence[nn.Module], activation: Callable[[Tensor], Tensor], flips: Sequence[int]
    ) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)
        self.activation = activation
        self.views = [axes for count in range(len(flips) + 1) for axes in combinations(flips, count)]

    def forward(self, x: Tensor) -> Tensor:
        seen = torch.cat([x.flip(axes) if axes else x for axes in self.views]) if len(self.views) > 1 else x
        total = torch.stack([self.activation(model(seen)) for model in self.models]).mean(0)
        if len(self.views) == 1:
            return total
        each = total.unflatten(0, (len(self.views), -1))
        return torch.stack([one.flip(axes) if axes else one for one, axes in zip(each, self.views, strict=True)]).mean(
            0
        )


class FrameGraph(nn.Module):
    """RGB images, uint8 (B, H, W, 3), to the probability of a lesion, float32 (B, H, W), as `Segmenter` computes it.

    Args:
        models: Map (B, 3, *image_size) to logits (B, 1, *image_size).
        image_size: Of the networks, rows x columns.
        flips: Average over both flips.
    """

    scale: Tensor
    offset: Tensor

    def __init__(self, models: Sequence[nn.Module], image_size: tuple[int, int], flips: bool) -> None:
        super().__init__()
        self.views = Views(models, torch.sigmoid, (-1, -2) if flips else ())
        self.image_size = image_size
        mean, std = (torch.tensor(numbers, dtype=torch.float64).reshape(3, 1, 1) for numbers in (MEAN, STD))
        self.register_buffer("scale", (1.0 / (255.0 * std)).float())
        self.register_buffer("offset", (mean / std).float())

    def forward(self, images: Tensor) -> Tensor:
        x = to_network(images, self.image_size) * self.scale - self.offset
        return from_network(self.views(x)[:, 0], images.shape[1], images.shape[2])


class MeanScore(nn.Module):
    """Whatever networks see to the probability of class 1, float64 (B,): their mean, calibrated, as a `Scorer` has it.

    Args:
        models: Give logits (B, 2).
        decision: Holds the calibration, if there is one.
    """

    def __init__(self, models: Sequence[nn.Module], decision: Decision) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)
        self.scaling = decision.scaling

    def forward(self, inputs: Any) -> Tensor:
        score = torch.stack([torch.softmax(model(inputs).double(), 1)[:, 1] for model in self.models]).mean(0)
        if self.scaling is None:
            return score
        inside = score.clamp(LEAST, 1.0 - LEAST)
        return torch.sigmoid(self.scaling.slope_ * torch.log(inside / (1.0 - inside)) + self.scaling.intercept_)


class ScanGraph(nn.Module):
    """Whole images, float32 (B, C, *patch), to the probability of class 1, float32 (B,), the mean over members."""

    def __init__(self, members: Sequence[tuple[nn.Module, Decision]]) -> None:
        super().__init__()
        self.members = nn.ModuleList(MeanScore([model], decision) for model, decision in members)

    def forward(self, image: Tensor) -> Tensor:
        return torch.stack([member(image) for member in self.members]).mean(0).float()
