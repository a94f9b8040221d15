"""Losses between the logits of several classes and a map of classes, by name; for volumes, and any other dimension.

Every loss is called with logits (B, K, *S), K >= 2, and integer classes (B, 1, *S) in [0, K), class 0 the background,
and returns a float32 scalar. All of them compute in float32, also under autocast.

The Dice term is soft, over the whole batch as if it were one volume (patches are small, and a label that fills a corner
of one says little alone), and the mean over the labels; the background has no term. For labels that the batch holds it
is MONAI's `DiceLoss(softmax=True, to_onehot_y=True, include_background=False, batch=True)`.

Absent labels. Where a batch holds no voxel of a label, which is common with two patches, the ratio says nothing: it is
1 with no gradient, until the predicted volume is almost 0, where the gradient explodes. As in `losses`, an absent label
therefore scores its **mean predicted probability**: 0 when nothing is predicted, and every false-positive voxel weighs
the same.

No term needs a one-hot copy of the truth: with many labels that copy is as large as the logits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from medformer.registry import Entry, Registry

_SMOOTH = 1e-5

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
        shape = (logits.shape[0], 1, *logits.shape[2:])
        if tuple(classes.shape) != shape or logits.shape[1] < 2:
            raise ValueError(
                f"The loss got logits of shape {tuple(logits.shape)} and classes of shape {tuple(classes.shape)}; "
                f"expected at least two logits per voxel and classes of shape {shape}."
            )
        if classes.is_floating_point():
            raise ValueError(f"The loss got classes as {classes.dtype}; expected integers, one class per voxel.")
        with torch.autocast(logits.device.type, enabled=False):
            logarithms = (logits if logits.dtype == torch.float64 else logits.float()).log_softmax(1)
            return self.compute(logarithms, logarithms.gather(1, classes.long()), classes)


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


def build_volume_loss(name: str) -> VolumeLoss:
    """Return the loss called `name`.

    Raises:
        UnknownNameError: No such loss.
    """
    return VolumeLoss(name, VOLUME_LOSSES[name].part)
