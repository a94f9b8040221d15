"""How far a run on frames is from single precision when its networks predict in bfloat16, on cases they never saw.

The test cases of a fold are predicted twice by its network with one threshold: in single precision and in bfloat16.

python benchmarks/precision_gap.py RUN --fold 0 --cases 100
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine

from medformer.crossval.run.directory import RunDirectory
from medformer.evaluation.masks.segmentation import case_row
from medformer.files import read_csv
from medformer.imaging.images import read_image
from medformer.imaging.mask_rule import read_mask
from medformer.inference.frames.segment import Segmenter
from medformer.tasks.polyp.predictor import load_predictor
from medformer.tasks.trained import open_trained


def main() -> None:
    """Predict both ways and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a finished run on frames, whose data are where they were")
    parser.add_argument("--fold", type=int, default=0, help="whose network and test cases")
    parser.add_argument("--cases", type=int, default=100, help="at most")
    arguments = parser.parse_args()
    run = RunDirectory.open(arguments.run)
    predictor = load_predictor(open_trained(run.path).config, [run.fold(arguments.fold)])
    assert isinstance(predictor.mapper, Segmenter)
    sides = {name: replace(predictor.mapper, precision=name) for name in ("32-true", "bf16-mixed")}
    root, rows = Path(run.record()["data_root"]), read_csv(run.oof_csv)
    tested = [row for row in rows if int(row["fold"]) == arguments.fold][: arguments.cases]
    found = [compare(sides, root, row, predictor.threshold) for row in tested]
    gaps = np.array([one["dice_bf16"] - one["dice_fp32"] for one in found])
    content = {
        "machine": machine(),
        "cases": len(found),
        "dice_fp32": float(np.mean([one["dice_fp32"] for one in found])),
        "dice_bf16": float(np.mean([one["dice_bf16"] for one in found])),
        "largest_difference_of_dice": float(np.abs(gaps).max()),
        "mean_difference_of_dice": float(gaps.mean()),
        "lowest_dice_between_both_masks": float(min(one["agreement"] for one in found)),
        "mean_share_of_pixels_that_change_sides": float(np.mean([one["changed"] for one in found])),
        "largest_difference_of_probability": float(max(one["probability"] for one in found)),
    }
    print(json.dumps(content, indent=2))


def compare(sides: dict[str, Segmenter], root: Path, row: dict[str, str], threshold: float) -> dict[str, Any]:
    """Predict a case both ways and score both masks."""
    image, truth = read_image(root / row["image"]), read_mask(root / row["truth"])
    full, low = (side.predict([image], [row["id"]])[0] for side in sides.values())
    masks = [probability >= threshold for probability in (full, low)]
    pixels = masks[0].sum() + masks[1].sum()
    return {
        "dice_fp32": case_row(row["id"], full, truth, threshold=threshold)["dice"],
        "dice_bf16": case_row(row["id"], low, truth, threshold=threshold)["dice"],
        "agreement": 2 * (masks[0] & masks[1]).sum() / pixels if pixels else 1.0,
        "changed": float((masks[0] != masks[1]).mean()),
        "probability": float(np.abs(full - low).max()),
    }


if __name__ == "__main__":
    main()
