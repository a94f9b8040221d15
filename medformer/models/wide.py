"""A simple model beside a network: fitted in closed form before the network is trained, and joined with it after."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn


class WidePath(nn.Module, ABC):
    """A model that is linear in fixed descriptions of its inputs, to which a gate adds what a network says.

    Its weights are fitted in closed form and never trained by gradient descent, so they are buffers. While the network
    is trained the path adds nothing: a model knows the labels that it was fitted on, so its share of the score of a
    training case has to come from a model without this case, with the batch (its `offset`, see
    `ClassificationObjective`).

    Attributes:
        bias: Log odds where every description is zero.
        gate: What the network's logits are multiplied by; 1 until it is chosen, 0 leaves the simple model alone.
    """

    bias: Tensor
    gate: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("bias", torch.zeros(()))
        self.register_buffer("gate", torch.ones(()))

    @abstractmethod
    def score(self, inputs: Any) -> Tensor:
        """The simple model's log odds of class 1, (B,)."""

    def forward(self, inputs: Any, deep: Tensor) -> Tensor:
        """Return logits `(B, 2)` of a network as they are while it is trained, and joined afterwards."""
        if self.training:
            return deep
        half = self.score(inputs) / 2
        return self.gate * deep + torch.stack([-half, half], dim=1)
