"""Trained models that segment images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, overload

import numpy as np
from numpy.typing import NDArray

from medformer.data.cases import Case
from medformer.errors import DataError
from medformer.evaluation.masks.segmentation import binarize
from medformer.inference.frames.export import confidence
from medformer.interface.model import Model, Paths, paths_of, threshold_of
from medformer.progress import SilentReporter
from medformer.tasks.new_cases import manifest_cases
from medformer.tasks.polyp.new_images import list_images, unlike_training
from medformer.tasks.polyp.predictor import FramePredictor

_ARRAY = "the array"


@dataclass(frozen=True)
class FrameResult:
    """Where an image has a polyp.

    Attributes:
        id: Name of the image; empty for one that was given as an array.
        probability: float32 (H, W) in [0, 1], at the image's own size.
        mask: Boolean (H, W): where the probability is at least the threshold.
        threshold: The mean of those that the folds learned, or the one that was given.
        confidence: Mean probability inside the mask, or 1 minus the highest probability where the mask is empty. It
            ranks images for review, and is no probability that the mask is right.
        warnings: What is unlike the images of the training.
    """

    id: str
    probability: NDArray[np.float32]
    mask: NDArray[np.bool_]
    threshold: float
    confidence: float
    warnings: tuple[str, ...] = ()


class FrameModel(Model):
    """A model that segments images (see `Model`).

    >>> import medformer as mf
    >>> model = mf.load(run)
    >>> result = model.predict(image)
    >>> result.probability.shape == result.mask.shape == image.shape[:2]
    True
    >>> result.threshold == model.threshold
    True
    """

    @property
    def predictor(self) -> FramePredictor:
        """Its networks and threshold."""
        return cast(FramePredictor, self._predictor)

    @property
    def threshold(self) -> float:
        """A pixel is polyp where its probability is at least this."""
        return self.predictor.threshold

    @overload
    def predict(self, what: NDArray[Any] | str | Path, /, *, threshold: float | None = None) -> FrameResult: ...
    @overload
    def predict(self, what: Paths, /, *, threshold: float | None = None) -> list[FrameResult]: ...
    def predict(
        self, what: NDArray[Any] | str | Path | Paths, /, *, threshold: float | None = None
    ) -> FrameResult | list[FrameResult]:
        """Segment an image, or the images of several paths.

        Args:
            what: An RGB image, uint8 (H, W, 3), or the path of one, for one result; a list of images, folders and CSV
                manifests for a list.
            threshold: A pixel is polyp where its probability is at least this; the model's own without it.

        Raises:
            ConfigError: The threshold is no number from 0 to 1.
            DataError: An image is not of this form or cannot be read, or a path holds none.
            ResourceError: The device has not enough memory.
        """
        cut = threshold_of(self.threshold, threshold)
        if isinstance(what, np.ndarray):
            (found,) = self.predictor.mapper.predict([what], [_ARRAY])
            return self._result(None, what, found, cut)
        one = isinstance(what, (str, Path))
        paths = paths_of(what)
        cases = manifest_cases(paths) or list_images(paths)
        if one and len(cases) != 1:
            raise DataError(f"{what} holds {len(cases)} images; expected one. Give a list, [path], for all of them.")
        maps = self.predictor.maps(cases, "images", SilentReporter())
        results = [self._result(case, image, found, cut) for case, image, found in maps]
        return results[0] if one else results

    def _result(
        self, case: Case | None, image: NDArray[np.uint8], probability: NDArray[np.float32], threshold: float
    ) -> FrameResult:
        name, path = (_ARRAY, "") if case is None else (case.id, str(case.image))
        mask = binarize(probability, threshold, case=name)
        size = self.config.data.image_size
        unlike = unlike_training(name, path, image, size=size, trained_on=self._range)
        return FrameResult(
            "" if case is None else case.id,
            probability,
            mask,
            threshold,
            confidence(probability, mask),
            tuple(map(str, unlike)),
        )
