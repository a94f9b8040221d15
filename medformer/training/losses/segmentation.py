"""Segmentation losses, by name, for 1-D, 2-D and 3-D maps: of a binary map (`LOSSES`), or of classes (`VOLUME_LOSSES`).

All of them return a float32 scalar and compute in float32, also under autocast: sums over a 352 x 352 map overflow
float16 and lose their low digits in bfloat16. A loss of a binary map is called with logits and a target of one shape
(B, 1, *S), the target in [0, 1]. A loss of classes, for volumes and any other dimension, is called with logits
(B, K, *S), K >= 2, and integer classes (B, 1, *S) in [0, K), class 0 the background.

Empty masks. An overlap ratio says nothing about an image without foreground: `(0 + s) / (sum p + s)` is nearly flat
as soon as `sum p` is more than a few pixels, so the network gets no gradient that removes its false positives. Here the
Dice losses therefore use another value where the truth is empty: the **mean predicted probability**, that is the
predicted share of the image. It is 0 for an empty prediction, 1 for an all-foreground one, and every false-positive
pixel weighs the same. BCE and the structure losses need no rule, their cross-entropy handles empty masks. The same rule
holds for a label that a batch of volumes does not have, which is common with two patches.

The Dice term of classes is soft, over the whole batch as if it were one volume (patches are small, and a label that
fills a corner of one says little alone), and the mean over the labels; the background has no term. For labels that the
batch holds it is MONAI's `DiceLoss(softmax=True, to_onehot_y=True, include_background=False, batch=True)`. No term
needs a one-hot copy of the truth: with many labels that copy is as large as the logits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from medformer.errors import ConfigError
from medformer.models.backbone.layers import full_precision
from medformer.registry import Entry, Registry

_SMOOTH = 1e-5

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
        with full_precision(logits.device):
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


VolumeFormula = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Log probabilities (B, K, *S), that of each voxel's true class (B, 1, *S), and classes (B, 1, *S) to a scalar."""


@dataclass(frozen=True)
class VolumeLoss:
    """A formula of log probabilities in float32, computed on arguments whose shapes were checked.

    Attributes:
        name: In the table.
        compute: The formula.
    """

    name: str
    compute: VolumeFormula

    def __call__(self, logits: Tensor, classes: Tensor) -> Tensor:
        """Return the scalar loss.

        Args:
            logits: (B, K, *S), before the softmax.
            classes: (B, 1, *S), integers in [0, K).

        Raises:
            ValueError: The shapes do not belong together, or the classes are not integers.
        """
        _require_classes(logits, classes)
        with full_precision(logits.device):
            logarithms = (logits if logits.dtype == torch.float64 else logits.float()).log_softmax(1)
            return self.compute(logarithms, logarithms.gather(1, classes.long()), classes)


def _require_classes(logits: Tensor, classes: Tensor, outputs: int | None = None) -> None:
    """Refuse classes that are not one integer for each voxel of the logits.

    Args:
        logits: (B, K, *S).
        classes: (B, 1, *S).
        outputs: K; two or more unless given.

    Raises:
        ValueError: The shapes do not belong together, or the classes are not integers.
    """
    shape = (logits.shape[0], 1, *logits.shape[2:])
    fits = logits.shape[1] >= 2 if outputs is None else logits.shape[1] == outputs
    if tuple(classes.shape) != shape or not fits:
        raise ValueError(
            f"The loss got logits of shape {tuple(logits.shape)} and classes of shape {tuple(classes.shape)}; "
            f"expected {outputs or 'at least two'} logits per voxel and classes of shape {shape}."
        )
    if classes.is_floating_point():
        raise ValueError(f"The loss got classes as {classes.dtype}; expected integers, one class per voxel.")


def label_dice(logarithms: Tensor, of_truth: Tensor, classes: Tensor) -> Tensor:
    """Mean over the labels of `1 - (2 sum(p t) + s) / (sum p + sum t + s)`, `s` = 1e-5; see the module's text."""
    probabilities, right = logarithms.exp(), of_truth.exp()
    space = [0, *range(2, logarithms.ndim)]
    predicted = probabilities.sum(space)[1:]
    hits = [classes == label for label in range(1, logarithms.shape[1])]
    overlap = torch.stack([(right * hit).sum() for hit in hits])
    area = torch.stack([hit.sum() for hit in hits]).to(predicted.dtype)
    ratio = 1 - (2 * overlap + _SMOOTH) / (predicted + area + _SMOOTH)
    return torch.where(area > 0, ratio, predicted / of_truth.numel()).mean()


def cross_entropy(logarithms: Tensor, of_truth: Tensor, classes: Tensor) -> Tensor:
    """Mean over the voxels of the negative log probability of the truth."""
    return -of_truth.mean()


def dice_cross_entropy(logarithms: Tensor, of_truth: Tensor, classes: Tensor) -> Tensor:
    """Dice of the batch plus cross-entropy."""
    return label_dice(logarithms, of_truth, classes) + cross_entropy(logarithms, of_truth, classes)


def dice_focal(logarithms: Tensor, of_truth: Tensor, classes: Tensor) -> Tensor:
    """Dice of the batch plus the mean over the voxels of `-(1 - p)^2 log p`: what is right already counts little."""
    return label_dice(logarithms, of_truth, classes) - ((1 - of_truth.exp()).square() * of_truth).mean()


_NNUNET = "Isensee et al., nnU-Net, Nature Methods 2021"
_VNET = "Milletari et al., V-Net, 3DV 2016"

VOLUME_LOSSES: Registry[VolumeFormula] = Registry(
    "loss",
    [
        Entry("dice_ce", dice_cross_entropy, "soft Dice of the batch, mean over labels, plus cross-entropy", _NNUNET),
        Entry("dice", label_dice, "soft Dice of the batch; an absent label scores its mean probability", _VNET),
        Entry("ce", cross_entropy, "mean cross-entropy"),
        Entry("dice_focal", dice_focal, "soft Dice of the batch plus focal loss", "Lin et al., ICCV 2017"),
    ],
)


@dataclass(frozen=True)
class RegionLoss:
    """A loss of regions that overlap: a sigmoid for each, and a truth that follows from the classes.

    The Dice term is `batch_dice`'s of each region, averaged over regions, with the rule for absent ones; the
    cross-entropies are binary, averaged over regions and voxels.

    Attributes:
        name: In the table `VOLUME_LOSSES`.
        membership: bool (R, K): which class is part of which region.
    """

    name: str
    membership: Tensor

    def __call__(self, logits: Tensor, classes: Tensor) -> Tensor:
        """Return the scalar loss.

        Args:
            logits: (B, R, *S), before the sigmoid.
            classes: (B, 1, *S), integers in [0, K).

        Raises:
            ValueError: The shapes do not belong together, or the classes are not integers.
        """
        _require_classes(logits, classes, len(self.membership))
        with full_precision(logits.device):
            logits = logits if logits.dtype == torch.float64 else logits.float()
            table = self.membership.to(logits.device, logits.dtype)
            truth = table.T[classes[:, 0].long()].movedim(-1, 1)
            return _REGION_TERMS[self.name](logits, truth)


def region_dice(logits: Tensor, truth: Tensor) -> Tensor:
    """Mean over the regions of the soft Dice of the batch."""
    probability, target = (maps.movedim(1, 0).flatten(1) for maps in (logits.sigmoid(), truth))
    return _dice_loss(probability, target, _SMOOTH).mean()


def region_focal(logits: Tensor, truth: Tensor) -> Tensor:
    """Mean of `-(1 - p)^2 log p`, p the probability of what is true."""
    right = F.logsigmoid(torch.where(truth > 0, logits, -logits))
    return -((1 - right.exp()).square() * right).mean()


_REGION_TERMS: dict[str, Formula] = {
    "dice_ce": lambda logits, truth: region_dice(logits, truth) + bce(logits, truth),
    "dice": region_dice,
    "ce": bce,
    "dice_focal": lambda logits, truth: region_dice(logits, truth) + region_focal(logits, truth),
}


def build_volume_loss(name: str, membership: NDArray[np.bool_] | None = None) -> VolumeLoss | RegionLoss:
    """Return the loss called `name`.

    Args:
        name: In the table.
        membership: Of regions that overlap (`RegionLoss`); None where each voxel has one class.

    Raises:
        UnknownNameError: No such loss.
    """
    loss = VolumeLoss(name, VOLUME_LOSSES[name].part)
    if membership is None:
        return loss
    if name not in _REGION_TERMS:
        raise ConfigError(f"loss.name={name} is not made for regions that overlap; use {', '.join(_REGION_TERMS)}.")
    return RegionLoss(name, torch.from_numpy(membership))
