"""A convolution whose gradient oneDNN gets wrong in bfloat16."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from medformer.models.backbone.layers import full_precision

CPU = torch.device("cpu")


class ExactSmallConvolutions(TorchFunctionMode):
    """Inside of it, 3-D convolutions of maps that are shorter than the kernel along an axis are computed in float32.

    In bfloat16 on a CPU the gradient of their weights is wrong, without a word: its memory is not written (torch 2.12
    with oneDNN, a dense kernel of 3 and two positions along the first axis, for example). Such maps are small, so that
    this costs next to nothing.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        if func is not torch.conv3d or not _concerned(*args[:2]):
            return func(*args, **given)
        image, *others = args
        with full_precision(CPU):
            out: Tensor = func(image.float(), *others, **given)
        return out.to(torch.bfloat16)


def _concerned(image: Tensor, weight: Tensor) -> bool:
    return (
        image.device == CPU
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") is torch.bfloat16
        and any(n < k for n, k in zip(image.shape[2:], weight.shape[2:], strict=True))
    )
