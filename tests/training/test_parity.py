"""Whether bfloat16 computes the same but for rounding."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medformer.training.parity import Parity, bfloat16_parity, noise

CPU = torch.device("cpu")


class Faulty(nn.Module):
    """A convolution that is wrong in bfloat16 only: by a share, or without bounds, in the output or in the gradient."""

    def __init__(self, fault: float, *, backward: bool = False) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layer = nn.Conv2d(3, 4, 3)
        self.fault, self.backward = fault, backward

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layer(x)
        if out.dtype is not torch.bfloat16:
            return out
        factor = 1.0 + self.fault
        return out + (out - out.detach()) * self.fault if self.backward else out * factor


def found(fault: float = 0.0, *, backward: bool = False) -> Parity:
    return bfloat16_parity(lambda: Faulty(fault, backward=backward), noise(3, (16, 16)), CPU)


def test_rounding_is_no_difference() -> None:
    parity = found()
    assert parity.close and 0 < parity.output < 0.01 and 0 < parity.gradient < 0.01
    # Every map rounded is at least as far off as weights and input alone.
    assert parity.output > parity.rounded_output > 0


@pytest.mark.parametrize("backward", [False, True])
def test_a_kernel_that_is_wrong_in_bfloat16_shows(backward: bool) -> None:
    parity = found(0.25, backward=backward)
    assert not parity.close and parity.finite
    assert parity.gradient > 0.2 and (parity.output > 0.2) is not backward


def test_what_is_not_finite_is_never_close() -> None:
    parity = found(float("inf"))
    assert not parity.finite and not parity.close


def test_random_streams_and_sizes_stay_as_they_are() -> None:
    before = torch.get_rng_state()
    assert noise(1, (96, 20, 96)).shape == (2, 1, 48, 20, 48)
    found()
    assert torch.equal(before, torch.get_rng_state())
