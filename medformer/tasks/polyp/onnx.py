"""The networks of a polyp model as one ONNX file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medformer.data.cases import Case
from medformer.data.synthetic.colonoscopy import SyntheticColonoscopy
from medformer.imaging.images import read_image
from medformer.imaging.mask_rule import read_mask
from medformer.inference.frames.segment import Segmenter
from medformer.inference.onnx.frames import NAME, write_frames
from medformer.inference.onnx.quantize import MOST_CASES, write_int8_frames
from medformer.tasks.polyp.predictor import FramePredictor

COMPARED = 3
"""Images that are compared."""


def write_onnx(predictor: FramePredictor, folder: Path, cases: Sequence[Case]) -> list[dict[str, Any]]:
    """Write `polyp.onnx`, and an int8 version where that keeps the Dice of labelled cases; see `write_frames`.

    Args:
        predictor: What is exported.
        folder: Where to.
        cases: Of the inner validation parts; made-up images are compared where there are none.

    Returns:
        What the JSON file beside each ONNX file says.
    """
    segmenter = predictor.mapper
    assert isinstance(segmenter, Segmenter), "networks are exported, and no baseline"
    images = [read_image(case.required_image()) for case in cases[:COMPARED]] or list(_made_up())
    record = write_frames(folder / NAME, segmenter, predictor.threshold, images, real=bool(cases))
    labelled = [case for case in cases if case.mask is not None][:MOST_CASES]
    pairs = ((read_image(case.required_image()), read_mask(case.required_mask(), case.foreground)) for case in labelled)
    return [record, *write_int8_frames(folder / NAME, record, pairs, len(labelled))]


def _made_up() -> Iterator[NDArray[np.uint8]]:
    """Two frames of an invented colon, always the same."""
    for group, size in enumerate(((288, 384), (240, 240))):
        yield SyntheticColonoscopy(size).frame(group, 0).image
