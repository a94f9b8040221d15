"""Baselines that segment images without a network: the average training mask, and a classifier of pixels by color."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from medformer.data.cases import Case
from medformer.errors import DataError
from medformer.imaging.images import read_image
from medformer.imaging.mask_rule import read_mask
from medformer.inference.single_thread import single_thread
from medformer.registry import Entry, Registry
from medformer.seeds import derive_seed

_GRID = (96, 96)


class PriorMask:
    """Averages the training masks on a common grid and stretches the average to each image.

    Attributes:
        mean_: Share of the training masks that cover a place, float32 (96, 96).
    """

    mean_: NDArray[np.float32]

    def __init__(self, *, image_size: tuple[int, int], seed: int) -> None:
        """Take what every baseline is given; neither matters here."""

    def fit(self, cases: Sequence[Case]) -> Self:
        """Average the masks of the training cases; the images are not read.

        Raises:
            DataError: No cases, or a case without a readable mask.
        """
        total = np.zeros(_GRID)
        for case in cases:
            total += on_grid(read_mask(case.required_mask(), case.foreground).astype(np.float32), _GRID)
        if not cases:
            raise DataError("There are no training cases to average; expected at least one.")
        self.mean_ = (total / len(cases)).astype(np.float32)
        return self

    def predict(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the average at the size of an image (H, W, 3): float32 (H, W) in [0, 1]."""
        return at_size(self.mean_, image.shape[:2])


def on_grid(array: NDArray[np.float32], grid: tuple[int, int]) -> NDArray[np.float32]:
    """Average (H, W) or (H, W, C) over the cells of a grid of rows and columns."""
    return np.asarray(cv2.resize(array, grid[::-1], interpolation=cv2.INTER_AREA), np.float32)


def at_size(probability: NDArray[np.float32], size: tuple[int, ...]) -> NDArray[np.float32]:
    """Stretch a map to `size` (rows, columns), linearly; it stays in [0, 1]."""
    stretched = cv2.resize(probability, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    return np.asarray(np.clip(stretched, 0.0, 1.0), np.float32)


FEATURES = (
    *(f"{channel}{scale}" for scale in ("", ", near mean", ", wide mean") for channel in ("L", "a", "b")),
    "L, near deviation",
    "L, wide deviation",
    *(f"{channel}, against the image" for channel in ("L", "a", "b")),
    "row",
    "column",
    "distance from the center",
)

# Neighborhoods, as shares of the longer side.
_NEAR, _WIDE = 1 / 32, 1 / 8

_LONGEST = 96
_PIXELS = 120_000
_PIXELS_PER_CASE = 600


class PixelColor:
    """Gradient boosting over pixels of small images: Lab color, its means and deviations around, and position.

    The image is reduced to the shape of the network's input with a longest side of 96 pixels, and the map is stretched
    back. Training draws at most 600 pixels per case, half of them inside the mask where it has enough, and at most
    120,000 in all, so that time and memory are bounded whatever the number of cases; each drawn pixel counts for those
    it stands for, which keeps the probabilities honest.

    Args:
        image_size: The network's input, rows and columns.
        seed: Of the drawn pixels.

    Attributes:
        classifier_: The fitted classifier.
    """

    classifier_: Any

    def __init__(self, *, image_size: tuple[int, int], seed: int) -> None:
        scale = min(1.0, _LONGEST / max(image_size))
        self.grid = (max(1, round(image_size[0] * scale)), max(1, round(image_size[1] * scale)))
        self.seed = seed

    def fit(self, cases: Sequence[Case]) -> Self:
        """Learn from the images and masks of the training cases.

        Raises:
            DataError: No cases, an unreadable one, or masks that are all empty or all full.
        """
        from sklearn.ensemble import HistGradientBoostingClassifier

        drawn = [self._draw(case, min(_PIXELS_PER_CASE, max(2, _PIXELS // len(cases)))) for case in cases]
        labels = np.concatenate([label for _, label, _ in drawn]) if drawn else np.empty(0, np.bool_)
        if labels.all() or not labels.any():
            raise DataError(
                f"The masks of the {len(cases)} training cases hold no pixel of one of the two classes; expected "
                "lesions and background. Check the masks."
            )
        with single_thread():
            self.classifier_ = HistGradientBoostingClassifier(
                max_iter=120,
                learning_rate=0.1,
                max_leaf_nodes=31,
                l2_regularization=1.0,
                early_stopping=False,
                random_state=derive_seed(self.seed, "pixel color") % 2**32,
            ).fit(
                np.concatenate([features for features, _, _ in drawn]),
                labels,
                sample_weight=np.concatenate([weight for _, _, weight in drawn]),
            )
        return self

    def predict(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the probability of a lesion for an image (H, W, 3): float32 (H, W) in [0, 1]."""
        with single_thread():
            values = self.classifier_.predict_proba(pixel_features(image, self.grid))[:, 1]
        return at_size(values.reshape(self.grid).astype(np.float32), image.shape[:2])

    def _draw(self, case: Case, count: int) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float64]]:
        """Features, labels and weights of `count` pixels of a case."""
        inside = on_grid(read_mask(case.required_mask(), case.foreground).astype(np.float32), self.grid).ravel() >= 0.5
        generator = np.random.default_rng(derive_seed(self.seed, "pixels", case.id))
        chosen, weights = [], []
        for part in (np.flatnonzero(inside), np.flatnonzero(~inside)):
            taken = generator.permutation(part)[: count // 2]
            chosen.append(taken)
            weights.append(np.full(len(taken), len(part) / max(1, len(taken)) / inside.size))
        rows = np.concatenate(chosen)
        features = pixel_features(read_image(case.required_image()), self.grid)[rows]
        return features, inside[rows], np.concatenate(weights)


def pixel_features(image: NDArray[np.uint8], grid: tuple[int, int]) -> NDArray[np.float32]:
    """Describe each pixel of an RGB image (H, W, 3) reduced to `grid`: float32 (rows * columns, len(FEATURES)).

    Colors are CIE Lab divided by 100, positions run from -1 to 1 along each axis.
    """
    small = on_grid(image.astype(np.float32) / 255.0, grid)
    lab = cv2.cvtColor(small, cv2.COLOR_RGB2LAB) / np.float32(100.0)
    near, wide = (max(1.0, share * max(grid)) for share in (_NEAR, _WIDE))
    means = [_blur(lab, sigma) for sigma in (near, wide)]
    spread = [
        np.sqrt(np.maximum(_blur(lab[..., :1] ** 2, sigma) - mean[..., :1] ** 2, 0.0))
        for sigma, mean in zip((near, wide), means, strict=True)
    ]
    against = lab - np.median(lab.reshape(-1, 3), axis=0)
    rows, columns = np.meshgrid(*(np.linspace(-1.0, 1.0, length) for length in grid), indexing="ij")
    places = np.stack([rows, columns, np.hypot(rows, columns)], axis=-1)
    stacked = np.concatenate([lab, *means, *spread, against, places], axis=-1)
    return stacked.reshape(-1, len(FEATURES)).astype(np.float32)


def _blur(array: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    blurred = cv2.GaussianBlur(array, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)
    return np.asarray(blurred, np.float32).reshape(array.shape)


class MaskBaseline(Protocol):
    """What a baseline is: fitted on training cases, it maps an image to probabilities."""

    def __init__(self, *, image_size: tuple[int, int], seed: int) -> None:
        """Store the network's input size (rows, columns) and a seed."""

    def fit(self, cases: Sequence[Case]) -> Self:
        """Learn from training cases; it reads what it needs of them."""

    def predict(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Map an RGB image (H, W, 3) to probabilities, float32 (H, W) in [0, 1]."""


BASELINES: Registry[type[MaskBaseline]] = Registry(
    "baseline",
    [
        Entry("prior_mask", PriorMask, "the average training mask for every image; it does not look at the image"),
        Entry("pixel_color", PixelColor, "gradient boosting over pixels by color, neighborhood and position"),
    ],
)
