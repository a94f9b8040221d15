"""Networks on images as one file: uint8 image in, probability at the image's size out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medformer.data.frames.transforms import resize_image
from medformer.evaluation.masks.overlap import dice
from medformer.inference.frames.segment import Segmenter
from medformer.inference.onnx.export import Difference, Port, Run, write_graph
from medformer.inference.onnx.graphs import FrameGraph

Image = NDArray[np.uint8]

NAME = "polyp.onnx"
TOLERANCE = 0.02
"""Of probabilities. Networks agree to 1e-5; but OpenCV's sums in another order put a few pixels of a resized image one
level of 255 higher or lower, and a network may answer to that."""
SCALES = (0.6, 1.0, 1.4)
"""Of each image that is compared: sizes below, at and above its own."""


def write_frames(
    path: Path, segmenter: Segmenter, threshold: float, images: Iterable[Image] = (), *, real: bool = True
) -> dict[str, Any]:
    """Write the networks of a segmenter with resizing, normalization, flips and their mean (see `write_graph`).

    Args:
        path: A `.onnx` file.
        segmenter: Says all of that.
        threshold: Noted for the reader.
        images: RGB, uint8 (H, W, 3); compared with our own prediction in three sizes each.
        real: Whether these are images of a data set.
    """
    rows, columns = segmenter.image_size
    axes = {0: "batch", 1: "height", 2: "width"}
    image = torch.zeros(2, rows + 3, columns + 5, 3, dtype=torch.uint8)
    graph = FrameGraph([model.cpu() for model in segmenter.models], segmenter.image_size, segmenter.flips)
    return write_graph(
        path,
        graph,
        [Port("image", image, axes, "RGB, 0 to 255, upright; the images of a batch have one size, any")],
        Port("probability", torch.zeros(image.shape[:3]), axes, "of the foreground, at the image's size"),
        lambda run: compare_frames(run, segmenter, threshold, images) | {"cases": "real" if real else "synthetic"},
        {
            "task": "polyp",
            "networks": len(segmenter.models),
            "image_size": [rows, columns],
            "flips": segmenter.flips,
            "threshold": threshold,
        },
    )


def compare_frames(run: Run, segmenter: Segmenter, threshold: float, images: Iterable[Image]) -> dict[str, Any]:
    """How far a graph is from the segmenter in single precision: of probabilities the most, of masks the lowest Dice.

    Raises:
        DataError: Too far.
    """
    difference = Difference(TOLERANCE)
    # Mixed precision is further off than any fault of an export.
    segmenter = replace(segmenter, precision="32-true")
    sizes: list[dict[str, Any]] = []
    for image in _scaled(images):
        expected = segmenter.predict([image])[0]
        found = run({"image": image[None]})[0]
        largest = difference.add(found, expected)
        sizes.append(
            {
                "size": list(image.shape[:2]),
                "max_difference": largest,
                "dice_difference": 1.0 - dice(found >= threshold, expected >= threshold),
            }
        )
    return {
        "tolerance": TOLERANCE,
        "max_difference": difference.most,
        "dice_difference": max((row["dice_difference"] for row in sizes), default=0.0),
        "compared": sizes,
    }


def _scaled(images: Iterable[Image]) -> Iterator[Image]:
    for image in images:
        for scale in SCALES:
            yield resize_image(image, _times(image.shape[:2], scale))


def _times(size: Sequence[int], scale: float) -> tuple[int, int]:
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
