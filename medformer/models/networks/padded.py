"""Any input size for networks that want multiples: zero-pad the end of each axis, crop the logits back."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F


def pad_to_multiple(x: Tensor, multiples: Sequence[int], minimum: int = 1) -> Tensor:
    """Zero-pad the end of each spatial axis of `(B, C, *S)` to a multiple of its own number.

    Args:
        x: Images or maps.
        multiples: One number per axis.
        minimum: Steps of its multiple that the first axis gets at least when all axes have one only: instance norm
            needs more than one position on the deepest map.
    """
    size = x.shape[2:]
    steps = [max(1, -(-n // multiple)) for n, multiple in zip(size, multiples, strict=True)]
    if set(steps) == {1}:
        steps[0] = minimum
    missing = [step * multiple - n for n, step, multiple in zip(size, steps, multiples, strict=True)]
    return F.pad(x, [end for gap in reversed(missing) for end in (0, gap)]) if any(missing) else x


def crop_to(logits: Tensor, padded: Sequence[int], size: Sequence[int]) -> Tensor:
    """Crop logits of an input padded from `size` to `padded`; coarser ones to the cells that overlap the input."""
    for axis, (whole, n) in enumerate(zip(padded, size, strict=True), start=2):
        stride = whole // logits.shape[axis]
        logits = logits.narrow(axis, 0, -(-n // stride))
    return logits


class PaddedNetwork(nn.Module):
    """Pads for a network and crops its logits, or each of the list that it returns while training."""

    def __init__(self, network: nn.Module, divisors: Sequence[int], minimum: int = 1) -> None:
        super().__init__()
        self.network = network
        self.divisors = tuple(divisors)
        self.minimum = minimum

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        size = x.shape[2:]
        x = pad_to_multiple(x, self.divisors, self.minimum)
        output = self.network(x)
        if isinstance(output, Tensor):
            return crop_to(output, x.shape[2:], size)
        return [crop_to(level, x.shape[2:], size) for level in output]
