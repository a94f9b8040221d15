"""From uint8 images of any size to probability maps at that size, and the number that chooses a network's weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import default_collate

from medformer.config.shared import Precision
from medformer.data.frames.dataset import SegmentationDataset
from medformer.data.frames.transforms import normalize, resize_image
from medformer.data.network_inputs import loaded_ahead, nonfinite_cases, to_device
from medformer.errors import DataError, enough_memory
from medformer.inference.forward_passes import device_of, evaluating, mean_probability
from medformer.models.judge import PartwiseScore


@dataclass(eq=False)
class Segmenter:
    """Predicts the foreground probability of every pixel with one network or an ensemble.

    Each image is resized to `image_size`, normalized as in training, and passed through every model in every
    view. Probabilities (after the sigmoid, not logits) are averaged over models and views with equal weight, then
    resized back to the original size: bilinear, with antialiasing along an axis that shrinks. Resizing
    probabilities keeps them within [0, 1], and a pixel on a confident edge ends near 0.5.

    Args:
        models: Networks that map (B, 3, H, W) to logits (B, 1, H, W). They are moved to `device` and stay there;
            their training flags are put back after every call.
        image_size: Network input, rows x columns.
        flips: Average the image, its horizontal flip, its vertical flip and both: four forward passes instead of one.
        device: Where to compute; by default where the first model is.
        batch_size: Images per forward pass. Memory beyond the results grows with it, not with the number of images.
        precision: Autocast type of the forward passes; averages are always float32.
    """

    models: Sequence[nn.Module]
    _: KW_ONLY
    image_size: tuple[int, int]
    flips: bool = True
    device: torch.device | str | None = None
    batch_size: int = 8
    precision: Precision = "32-true"

    def __post_init__(self) -> None:
        if not self.models:
            raise ValueError("a Segmenter needs at least one model, got none")
        if self.batch_size < 1 or min(self.image_size) < 1:
            raise ValueError(f"batch_size and image_size must be positive, got {self.batch_size} and {self.image_size}")
        self._device = device_of(self.models[0]) if self.device is None else torch.device(self.device)

    def predict(
        self, images: Sequence[NDArray[np.uint8]], names: Sequence[str] | None = None
    ) -> list[NDArray[np.float32]]:
        """Predict one probability map per image.

        Args:
            images: RGB uint8 arrays of shape (H, W, 3); sizes may differ.
            names: One per image, for errors; positions are named where absent.

        Returns:
            float32 arrays of shape (H, W) in [0, 1], one per image, at its own size.

        Raises:
            DataError: An image is not uint8 RGB, or a network answered NaN or infinity for it.
            ResourceError: The device has not enough memory.
        """
        labels = list(names) if names is not None else [f"image {index}" for index in range(len(images))]
        if len(labels) != len(images):
            raise ValueError(f"{len(images)} images but {len(labels)} names")
        for label, image in zip(labels, images, strict=True):
            _check_image(image, label)
        results: list[NDArray[np.float32]] = []
        with torch.inference_mode(), evaluating(*self.models, device=self._device):
            for start in range(0, len(images), self.batch_size):
                part = slice(start, start + self.batch_size)
                results.extend(self._predict_batch(images[part], labels[part]))
        return results

    def _predict_batch(
        self, images: Sequence[NDArray[np.uint8]], labels: Sequence[str]
    ) -> Iterator[NDArray[np.float32]]:
        with enough_memory(lambda: self._out_of_memory(len(images))):
            small = np.stack([normalize(resize_image(image, self.image_size)) for image in images])
            probabilities = mean_probability(
                self.models,
                to_device(torch.from_numpy(small), self._device),
                torch.sigmoid,
                classes=1,
                flips=(-1, -2) if self.flips else (),
                precision=self.precision,
            )[:, 0]
            bad = nonfinite_cases(labels, {"probability": probabilities})
            if bad:
                raise DataError(
                    f"The network's output is NaN or infinite for {', '.join(bad)}. "
                    "Its weights are damaged or its precision overflows: try precision 32-true, or train it again."
                )
            for image, probability in zip(images, probabilities, strict=True):
                yield _resize_back(probability, image.shape[:2])

    def _out_of_memory(self, count: int) -> str:
        rows, columns = self.image_size
        return (
            f"Out of memory on {self._device} while predicting {count} image(s) at {rows} x {columns} px "
            f"with {len(self.models)} model(s). "
            f"Use a smaller inference.batch_size (now {self.batch_size}) or image size."
        )


@dataclass(frozen=True)
class ValidationDice(PartwiseScore):
    """Mean Dice at 0.5 over cases, at the network's size; two empty masks count 1.

    Cheap enough for every epoch. Reported numbers are computed elsewhere, at the original size of the images.

    Attributes:
        data: Cases of the inner validation part, without augmentation.
        batch_size: Cases per forward pass.
        workers: Threads that load the next batches while the network looks at one.
    """

    data: SegmentationDataset
    batch_size: int
    workers: int = 0
    measure: ClassVar[str] = "dice"

    def __len__(self) -> int:
        return -(-len(self.data) // self.batch_size)

    def parts(self, model: nn.Module, numbers: Sequence[int]) -> Iterator[Tensor]:
        """Yield the Dice of the cases of batches."""
        device = device_of(model)

        def load(number: int) -> tuple[Tensor, Tensor]:
            rows = range(number * self.batch_size, min((number + 1) * self.batch_size, len(self.data)))
            batch = default_collate([self.data[row] for row in rows])
            return to_device(batch["image"], device), to_device(batch["mask"], device)

        for images, masks in loaded_ahead(load, numbers, self.workers):
            predicted = model(images).flatten(1) >= 0
            truth = masks.flatten(1) >= 0.5
            both = (predicted & truth).sum(1)
            total = predicted.sum(1) + truth.sum(1)
            yield torch.where(total > 0, 2 * both / total.clamp(min=1), 1.0)

    def score(self, parts: Sequence[Tensor]) -> float:
        """Return the mean Dice."""
        return float(torch.cat([part.cpu() for part in parts]).mean())


def _resize_back(probability: Tensor, size: tuple[int, ...]) -> NDArray[np.float32]:
    if tuple(probability.shape) != size:
        probability = F.interpolate(probability[None, None], size, mode="bilinear", antialias=True)[0, 0]
    # Interpolation weights add up to one only to within rounding.
    return probability.clamp_(0.0, 1.0).cpu().numpy()


def _check_image(image: NDArray[np.uint8], label: str) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise DataError(
            f"{label}: the image has shape {image.shape} and type {image.dtype}; expected RGB uint8 (H, W, 3)."
        )
