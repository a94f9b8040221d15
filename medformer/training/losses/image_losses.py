"""Segmentation losses, by name, for 1-D, 2-D and 3-D maps.

Every loss is called with logits and a target of one shape (B, 1, *S), the target in [0, 1], and returns a
float32 scalar. All of them compute in float32, also under autocast: sums over a 352 x 352 map overflow float16
and lose their low digits in bfloat16.

Empty masks. An overlap ratio says nothing about an image without foreground: `(0 + s) / (sum p + s)` is nearly flat
as soon as `sum p` is more than a few pixels, so the network gets no gradient that removes its false positives. Here the
Dice losses therefore use another value where the truth is empty: the **mean predicted probability**, that is the
predicted share of the image. It is 0 for an empty prediction, 1 for an all-foreground one, and every false-positive
pixel weighs the same. BCE and the structure losses need no rule, their cross-entropy handles empty masks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from medformer.registry import Entry, Registry

Formula = Callable[[Tensor, Tensor], Tensor]
"""Float32 logits and target of one shape to a scalar."""


@dataclass(frozen=True)
class SegmentationLoss:
    """A formula that is computed in float32, on arguments whose shapes were checked.

    Attributes:
        name: In the table.
        compute: The formula.
    """

    name: str
    compute: Formula

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the scalar loss.

        Args:
            logits: (B, 1, *S), before the sigmoid.
            target: (B, 1, *S), values in [0, 1]; soft borders are allowed.

        Raises:
            ValueError: The two shapes differ.
        """
        if logits.shape != target.shape:
            raise ValueError(
                f"The loss got logits of shape {tuple(logits.shape)} and a target of shape {tuple(target.shape)}; "
                "they must be equal. Return logits at the resolution of the input."
            )
        with torch.autocast(logits.device.type, enabled=False):
            return self.compute(logits.float(), target.float())


def bce(logits: Tensor, target: Tensor) -> Tensor:
    """Mean binary cross-entropy over all pixels of the batch."""
    return F.binary_cross_entropy_with_logits(logits, target)


def dice(logits: Tensor, target: Tensor) -> Tensor:
    """Soft Dice per image, averaged over the batch: `1 - (2 sum(p t) + 1) / (sum(p + t) + 1)`.

    An image whose truth is empty scores its mean probability instead (see the module's text).
    """
    return _dice_loss(logits.sigmoid().flatten(1), target.flatten(1), 1.0).mean()


def batch_dice(logits: Tensor, target: Tensor) -> Tensor:
    """Soft Dice of the whole batch taken as one large image, with 1e-7 in place of the ones.

    A batch without any foreground scores its mean probability: the published formula is constant there to seven
    digits, and its gradient vanishes.
    """
    return _dice_loss(logits.sigmoid().reshape(1, -1), target.reshape(1, -1), 1e-7).mean()


def bce_dice(logits: Tensor, target: Tensor) -> Tensor:
    """BCE plus per-image Dice, equally weighted."""
    return bce(logits, target) + dice(logits, target)


def structure(logits: Tensor, target: Tensor) -> Tensor:
    """Weighted cross-entropy plus weighted IoU, as the PraNet paper describes it.

    Weights `w = 1 + 5 |avgpool31(t) - t|` stress borders; per image the cross-entropy is `sum(w bce) / sum(w)` and the
    IoU term `1 - (sum(w p t) + 1) / (sum(w (p + t - p t)) + 1)`. The sum of both is averaged over images.
    """
    weight = border_weight(target).flatten(1)
    cross_entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none").flatten(1)
    weighted = (weight * cross_entropy).sum(1) / weight.sum(1)
    return (weighted + _weighted_iou_loss(logits, target, weight)).mean()


def structure_legacy(logits: Tensor, target: Tensor) -> Tensor:
    """What PraNet's released code, and most code derived from it, computes.

    It passes `reduce='none'`, which is the old boolean argument and counts as true, so its cross-entropy is already
    the plain mean over the batch and the border weights cancel. Only the IoU term is weighted.
    """
    weight = border_weight(target).flatten(1)
    return bce(logits, target) + _weighted_iou_loss(logits, target, weight).mean()


@torch.no_grad()
def border_weight(target: Tensor, window: int = 31, gain: float = 5.0) -> Tensor:
    """Return `1 + gain |box_mean(target) - target|`, of the target's shape: about 1 inside, up to 6 at borders."""
    return 1 + gain * (box_mean(target, window) - target).abs()


def box_mean(maps: Tensor, window: int) -> Tensor:
    """Average over a `window`-wide box around each position; same shape, zeros outside the map.

    Equals `avg_pool(maps, window, stride=1, padding=window // 2)` with padding counted, so a box always divides by
    `window ** dims`, also at the rim and on maps smaller than the window. One banded matrix product per axis:
    thirty times faster than pooling on a CPU, and the same code in 1-D, 2-D and 3-D.

    Args:
        maps: (B, C, *S).
        window: Odd width of the box in pixels.
    """
    for axis in range(2, maps.ndim):
        position = torch.arange(maps.shape[axis], device=maps.device)
        band = ((position[:, None] - position).abs() <= window // 2).to(maps.dtype) / window
        maps = (maps.movedim(axis, -1) @ band).movedim(-1, axis)
    return maps


def _dice_loss(probability: Tensor, target: Tensor, smooth: float) -> Tensor:
    """Soft Dice loss per row of (R, N) arguments, with the rule for empty rows."""
    area = target.sum(1)
    overlap = (probability * target).sum(1)
    dice = 1 - (2 * overlap + smooth) / (probability.sum(1) + area + smooth)
    return torch.where(area > 0, dice, probability.mean(1))


def _weighted_iou_loss(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """IoU loss per image; `weight` is (B, N)."""
    probability, truth = logits.sigmoid().flatten(1), target.flatten(1)
    overlap = (weight * probability * truth).sum(1)
    total = (weight * (probability + truth)).sum(1)
    return 1 - (overlap + 1) / (total - overlap + 1)


_PRANET = "Fan et al., PraNet, MICCAI 2020"
_META_POLYP = "Trinh, Meta-Polyp, CBMS 2023"

LOSSES: Registry[Formula] = Registry(
    "loss",
    [
        Entry("dice", dice, "soft Dice per image; an empty mask scores the mean probability"),
        Entry("batch_dice", batch_dice, "soft Dice over the whole batch, as Meta-Polyp trains", _META_POLYP),
        Entry("bce", bce, "mean binary cross-entropy"),
        Entry("bce_dice", bce_dice, "BCE plus soft Dice per image"),
        Entry("structure", structure, "border-weighted BCE plus border-weighted IoU, as intended", _PRANET),
        Entry(
            "structure_legacy",
            structure_legacy,
            "plain BCE plus border-weighted IoU, as PraNet's code computes it",
            _PRANET,
        ),
    ],
)


def build_loss(name: str) -> SegmentationLoss:
    """Return the loss called `name`.

    Raises:
        UnknownNameError: No such loss.
    """
    return SegmentationLoss(name, LOSSES[name].part)
