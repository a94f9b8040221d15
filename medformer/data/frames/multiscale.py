"""Multi-scale training: every batch is seen at one of a few sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from medformer.seeds import derive_seed


def draw_scale(scales: Sequence[float], seed: int, epoch: int, step: int) -> float:
    """Draw the scale of one batch, uniformly; it depends on (seed, epoch, step) alone and therefore replays.

    All processes of a distributed run draw the same scale, so none waits for one with a bigger batch.
    """
    if len(scales) == 1:
        return float(scales[0])
    generator = np.random.default_rng(derive_seed(seed, "scale", epoch, step))
    return float(scales[int(generator.integers(len(scales)))])


def resize_batch(batch: dict[str, Any], scale: float) -> dict[str, Any]:
    """Resize "image" (B, C, H, W) and "mask" (B, 1, H, W) of a batch by `scale`; other entries pass unchanged.

    Sizes are rounded to the nearest pixel: the networks take any size, so nothing is snapped to multiples of 32.
    Images are interpolated bilinearly with antialiasing. Masks take the nearest value and stay 0 or 1, unlike the soft
    masks that PraNet's bilinear upsampling trains on, because our losses and their empty-mask rule are defined on
    binary truth.
    """
    image, mask = batch["image"], batch["mask"]
    size = tuple(max(1, round(length * scale)) for length in image.shape[-2:])
    if size == tuple(image.shape[-2:]):
        return batch
    resized_image: Tensor = F.interpolate(image, size=size, mode="bilinear", align_corners=False, antialias=True)
    resized_mask: Tensor = F.interpolate(mask, size=size, mode="nearest-exact")
    return {**batch, "image": resized_image, "mask": resized_mask}
