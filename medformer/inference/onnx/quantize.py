"""An int8 version of a file, kept only where it finds the same lesions on labelled validation images."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medformer.evaluation.masks.overlap import dice
from medformer.files import sha256, write_bytes, write_json
from medformer.inference.onnx.export import Arrays, runner

LIMIT = 0.005
"""Mean Dice of labelled images that the int8 version may lose."""
LEAST_CASES = 5
"""Labelled images below which nothing can be said of it."""
MOST_CASES = 40
"""Labelled images that are looked at."""
_CALIBRATION = 16
"""Images that the ranges of values are taken from."""

Pair = tuple[NDArray[np.uint8], NDArray[np.bool_]]
"""An RGB image (H, W, 3) and its true mask (H, W)."""


def write_int8_frames(path: Path, record: dict[str, Any], pairs: Iterable[Pair], count: int) -> list[dict[str, Any]]:
    """Write `NAME.int8.onnx` beside an image network, with convolutions in 8 bits, if it loses at most `LIMIT` of Dice.

    What became of it is added to the JSON file of `path`, whether it was kept or not.

    Only the difference is noted: a validation image of one fold may have trained the network of another, so that the
    Dice of their mean would look better than it is on new images.

    Args:
        path: The file in single precision.
        record: What its JSON file says.
        pairs: Images and masks of inner validation cases.
        count: How many there are.

    Returns:
        What the JSON file of the int8 version says; nothing where it was not kept.
    """
    note: dict[str, Any] = {"kept": False, "cases": count, "limit": LIMIT}
    written: list[dict[str, Any]] = []
    if count < LEAST_CASES:
        note["reason"] = f"{count} labelled validation images are there; at least {LEAST_CASES} are needed to judge it"
    else:
        images = list(pairs)
        with tempfile.TemporaryDirectory() as scratch:
            made = Path(scratch) / "int8.onnx"
            quantize(path, made, [{"image": image[None]} for image, _ in images[:_CALIBRATION]])
            before, after = (_mean_dice(one, images, record["threshold"]) for one in (path, made))
            note["dice_difference"] = after - before
            note["kept"] = abs(after - before) <= LIMIT
            if note["kept"]:
                target = path.with_suffix(".int8.onnx")
                write_bytes(target, made.read_bytes())
                about = {key: value for key, value in record.items() if key != "parity"}
                about |= {"file": target.name, "sha256": sha256(target), "int8": note}
                write_json(target.with_suffix(".json"), about)
                written.append(about)
            else:
                note["reason"] = f"its mean Dice differs by {after - before:+.4f}; at most {LIMIT} is accepted"
    record["int8"] = note
    write_json(path.with_suffix(".json"), record)
    return written


def quantize(source: Path, target: Path, feeds: Sequence[Arrays]) -> None:
    """Write a file whose convolutions work on 8-bit numbers.

    Weights get one scale for each output channel and use 7 of their 8 bits, so that sums cannot overflow on processors
    without instructions for them. Only convolutions are changed: the rest takes little time and more precision.

    Args:
        source: A file in single precision.
        target: Where to.
        feeds: Inputs of the whole graph, from which the ranges of values are taken.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Feeds(CalibrationDataReader):
        def __init__(self) -> None:
            self._each: Iterator[Arrays] = iter(feeds)

        def get_next(self) -> Arrays | None:
            return next(self._each, None)

    with tempfile.TemporaryDirectory() as scratch:
        prepared = Path(scratch) / "prepared.onnx"
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            target,
            Feeds(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )


def _mean_dice(path: Path, pairs: Sequence[Pair], threshold: float) -> float:
    run = runner(path, "probability")
    return float(np.mean([dice(run({"image": image[None]})[0] >= threshold, truth) for image, truth in pairs]))
