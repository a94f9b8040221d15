"""Frames per second from a uint8 frame to its probability map: PyTorch, ONNX and ONNX int8, beside a U-Net.

All sides take the same frames and do everything: resizing, normalization, network, and the way back to the size of the
frame. They run in turns in one process, one frame at a time, as a video comes. Weights are random.

python benchmarks/onnx_speed.py --json
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from machine import machine
from numpy.typing import NDArray

from medformer.config import PolypConfig
from medformer.config_loading import load_config
from medformer.inference.frames.segment import Segmenter
from medformer.inference.onnx.export import runner
from medformer.inference.onnx.frames import write_frames
from medformer.inference.onnx.quantize import quantize
from medformer.tasks.bench.rounds import turns
from medformer.tasks.polyp.predictor import make_segmenter, new_network

PEER = "smp:unet/resnet34"

Image = NDArray[np.uint8]


def frames(count: int, size: tuple[int, int]) -> list[Image]:
    """Blurred noise (H, W, 3); what a frame shows takes no time."""
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for _ in range(count)]
    return [np.asarray(cv2.GaussianBlur(one, (0, 0), 6.0), np.uint8) for one in noise]


def segmenter(name: str, size: int, overrides: list[str]) -> Segmenter:
    """The segmenter of a config, one view, at a network size, on the CPU."""
    settings = [f"data.image_size=[{size}, {size}]", "inference.flips=false", "training.accelerator=cpu", *overrides]
    config = load_config(name, settings, model=PolypConfig)
    model = new_network(config, 0, pretrained=False).eval()
    return make_segmenter([model], config, torch.device("cpu"))


def sides(
    label: str, made: Segmenter, folder: Path, images: list[Image], threads: list[int]
) -> dict[int, dict[str, Any]]:
    """For each number of threads, what to call for a frame, by the name of the side."""
    stem = label.replace("/", "-").replace(":", "-")
    single, eight = folder / f"{stem}.onnx", folder / f"{stem}.int8.onnx"
    write_frames(single, made, 0.5, images[:1], real=False)
    quantize(single, eight, [{"image": image[None]} for image in images])
    calls: dict[int, dict[str, Any]] = {}
    for count in threads:
        calls[count] = {f"{label} PyTorch": lambda image: made.predict([image])}
        for what, path in (("ONNX", single), ("ONNX int8", eight)):
            run = runner(path, "probability", count)
            calls[count][f"{label} {what}"] = lambda image, run=run: run({"image": image[None]})
    return calls


def every(call: Callable[[Image], object], images: list[Image]) -> None:
    """Call once for each frame."""
    for image in images:
        call(image)


def main() -> None:
    """Measure every config at every size and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON only")
    parser.add_argument("--configs", nargs="+", default=["polyp/default", "polyp/quick"], metavar="NAME")
    parser.add_argument("--sizes", nargs="+", type=int, default=[256, 352], help="sides of the network's input, px")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2], help="CPU threads")
    parser.add_argument("--frame", nargs=2, type=int, default=[576, 720], help="rows and columns of a frame, px")
    parser.add_argument("--frames", type=int, default=4, help="frames in a round")
    parser.add_argument("--rounds", type=int, default=9, help="measured rounds; the median counts")
    arguments = parser.parse_args()
    images = frames(arguments.frames, tuple(arguments.frame))
    results = []
    with tempfile.TemporaryDirectory() as scratch:
        for size in arguments.sizes:
            calls: dict[int, dict[str, Any]] = {count: {} for count in arguments.threads}
            named: list[tuple[str, str, list[str]]] = [(name, name, []) for name in arguments.configs]
            for label, config, overrides in [*named, (PEER, "polyp/quick", [f"model.name={PEER}"])]:
                made = segmenter(config, size, overrides)
                for count, more in sides(label, made, Path(scratch), images, arguments.threads).items():
                    calls[count] |= more
            for count, each in calls.items():
                torch.set_num_threads(count)
                timed = turns({name: partial(every, call, images) for name, call in each.items()}, arguments.rounds)
                for name, seconds in timed.items():
                    fps = len(images) / statistics.median(seconds)
                    label, _, side = name.partition(" ")
                    results.append({"network": label, "side": side, "size": size, "threads": count, "fps": fps})
                    if not arguments.json:
                        print(f"{size} px  {count} thread(s)  {name:<40}{fps:8.1f} frames/s", flush=True)
    if arguments.json:
        settings = {key: value for key, value in vars(arguments).items() if key != "json"}
        found = {**machine(), "onnxruntime": version("onnxruntime")}
        print(json.dumps({"machine": found, "settings": settings, "results": results}, indent=2))


if __name__ == "__main__":
    main()
