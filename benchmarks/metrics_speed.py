"""The measures of PraNet's protocol, ours against PySODMetrics: CPU time of a map, and the same numbers.

    MEDFORMER_DATA=... python benchmarks/metrics_speed.py

Two sides score the same maps in turns in one process, image by image: mean Dice, mean IoU, weighted F, S, MAE and the
E-curve, from which max and mean E come. Three kinds of maps of the Kvasir frames that PraNet was tested on:

- `published`: the 8-bit maps that PraNet's authors published;
- `soft`: the masks, blurred and with noise everywhere, as 8-bit maps;
- `floats`: the published maps, blurred and with noise everywhere, as float32 probabilities. PySODMetrics stretches only
  8-bit maps; it gets these stretched, which is not counted.

CPU time counts all threads of the process. Times are means over maps, ratios medians over them with an interval.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import Any

import cv2
import numpy as np
from machine import machine
from numpy.typing import NDArray
from PIL import Image

from medformer.evaluation.masks.saliency import MapScores, max_and_mean_e, score_map
from medformer.tasks.bench.rounds import Ratio, ratio, turns

try:
    from py_sod_metrics import MAE, DICEHandler, Emeasure, FmeasureV2, IOUHandler, Smeasure, WeightedFmeasure
except ImportError as missing:
    raise SystemExit("PySODMetrics is not installed; it comes with: pip install 'medformer[dev]'") from missing

FOLDER = "polyp/pranet_published_maps/Kvasir"
KINDS = ("published", "soft", "floats")

Array = NDArray[Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = os.environ.get("MEDFORMER_DATA")
    parser.add_argument(
        "--data", type=Path, default=root, required=root is None, help=f"folder with {FOLDER} (default: MEDFORMER_DATA)"
    )
    parser.add_argument("--maps", type=int, default=100, help="how many")
    parser.add_argument("--rounds", type=int, default=3, help="measured turns of each map; the median counts")
    parser.add_argument("--threads", type=int, default=1, help="threads that OpenCV may use, for both sides")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    paths = sorted((arguments.data / FOLDER / "prediction").glob("*.png"))[: arguments.maps]
    if not paths:
        raise SystemExit(f"{arguments.data / FOLDER / 'prediction'} has no PNG files, expected PraNet's published maps")
    cv2.setNumThreads(arguments.threads)
    found = {kind: compare(kind, paths, arguments.rounds) for kind in KINDS}
    about = {**machine(), "opencv": cv2.__version__, "opencv_threads": arguments.threads, "rounds": arguments.rounds}
    print(json.dumps({"machine": about, "results": found}, indent=2) if arguments.json else table(found))


def compare(kind: str, paths: list[Path], rounds: int) -> dict[str, Any]:
    """Score each map of a kind with both sides, once unmeasured and then in turns."""
    rng = np.random.default_rng(0)
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    scores: dict[str, list[MapScores]] = {"ours": [], "theirs": []}
    for path in paths:
        truth = np.asarray(Image.open(path.parent.parent / "mask" / path.name).convert("L")) >= 128
        prediction = make_map(kind, np.asarray(Image.open(path).convert("L")), truth, rng)
        calls: dict[str, Callable[[], MapScores]] = {
            "ours": partial(score_map, prediction, truth),
            "theirs": peer(prediction, truth),
        }
        for side, call in calls.items():
            scores[side].append(call())
        for side, taken in turns(calls, rounds, clock=time.process_time, warm_up=0).items():
            seconds[side].append(median(taken))
    found = ratio(seconds["ours"], seconds["theirs"])
    return {
        "maps": len(paths),
        "ours_ms": 1e3 * fmean(seconds["ours"]),
        "theirs_ms": 1e3 * fmean(seconds["theirs"]),
        "ratio": found._asdict(),
        "greatest_difference": differences(scores["ours"], scores["theirs"]),
    }


def make_map(kind: str, published: Array, truth: Array, rng: np.random.Generator) -> Array:
    if kind == "published":
        return published
    noise = rng.normal(0, 0.02, truth.shape)
    if kind == "soft":
        soft = cv2.GaussianBlur(truth.astype(np.float64), (0, 0), 0.02 * max(truth.shape))
        return np.asarray((soft + noise).clip(0, 1) * 255).astype(np.uint8)
    soft = 0.05 + 0.9 * cv2.GaussianBlur(published / 255, (0, 0), 3)
    return np.asarray(soft + noise / 2).clip(0, 1).astype(np.float32)


def peer(prediction: Array, truth: Array) -> Callable[[], MapScores]:
    """Scoring by PySODMetrics, of a map and a mask in the form that it wants."""
    whole = prediction.dtype == np.uint8
    unit = prediction.astype(np.float64)
    given = prediction if whole else (unit - unit.min()) / (unit.max() - unit.min())
    mask = truth.astype(np.uint8) * 255 if whole else truth

    def score() -> MapScores:
        handlers = {"dice": DICEHandler(True, with_adaptive=False), "iou": IOUHandler(True, with_adaptive=False)}
        overlap = FmeasureV2(metric_handlers=handlers)
        alignment, structure, weighted, error = Emeasure(), Smeasure(), WeightedFmeasure(), MAE()
        for metric in (overlap, alignment, structure, weighted, error):
            metric.step(given, mask, normalize=whole)
        curves = overlap.get_results()
        return MapScores(
            mean_dice=float(curves["dice"]["dynamic"].mean()),
            mean_iou=float(curves["iou"]["dynamic"].mean()),
            weighted_f=float(weighted.get_results()["wfm"]),
            s_measure=float(structure.get_results()["sm"]),
            mae=float(error.get_results()["mae"]),
            e_curve=alignment.get_results()["em"]["curve"][::-1],
        )

    return score


def differences(ours: list[MapScores], theirs: list[MapScores]) -> dict[str, float]:
    """The greatest over maps, of max and mean E that of the two results."""
    names = ("mean_dice", "mean_iou", "weighted_f", "s_measure", "mae")
    pairs = list(zip(ours, theirs, strict=True))
    found = {name: max(abs(getattr(a, name) - getattr(b, name)) for a, b in pairs) for name in names}
    ends = (max_and_mean_e(score.e_curve for score in side) for side in (ours, theirs))
    return found | {name: abs(a - b) for name, a, b in zip(("max_e", "mean_e"), *ends, strict=True)}


def table(found: dict[str, Any]) -> str:
    lines = [
        "| maps | ours, ms | PySODMetrics, ms | ours / PySODMetrics | greatest difference |",
        "|---|---|---|---|---|",
    ]
    for kind, row in found.items():
        name, most = max(row["greatest_difference"].items(), key=lambda item: item[1])
        lines.append(
            f"| {row['maps']} {kind} | {row['ours_ms']:.1f} | {row['theirs_ms']:.1f} "
            f"| {Ratio(**row['ratio'])} | {most:.0e} ({name}) |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
