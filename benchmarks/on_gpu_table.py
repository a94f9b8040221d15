"""The table that `on_gpu.sh` ends with, from what its parts left in a folder.

python benchmarks/on_gpu_table.py FOLDER DEVICE
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from machine import machine


def main() -> None:
    """Print Markdown: the machine, then one row for each part with its headline."""
    folder, device = Path(sys.argv[1]), sys.argv[2]
    about = machine()
    name = about.get("gpu", about["processor"]) if device != "cpu" else about["processor"]
    print(f"\n{name}, torch {about['torch']}\n\n| part | exit code | s | result |\n|---|---|---|---|")
    for line in (folder / "parts.csv").read_text("utf-8").splitlines():
        part, code, seconds = line.split(",")
        print(f"| {part} | {code} | {seconds} | {'<br>'.join(headlines(folder, part))} |")


def headlines(folder: Path, part: str) -> Iterator[str]:
    """What a part found, in a few words each; its last words where it left no numbers."""
    files = {
        "backbone": "backbone/backbone_speed.json",
        "compiled": "compiled/backbone_speed.json",
        "volume": "volume/volume_speed.json",
        "polyp": "polyp_accuracy.json",
        "hippocampus": "volume_accuracy.json",
        "abide": "abide_accuracy.json",
    }
    path = folder / files.get(part, "none")
    if not path.is_file():
        words = (folder / f"{part}.txt").read_text("utf-8", errors="replace").strip().splitlines()
        yield words[-1].replace("|", "/")[:120] if words else "no output"
        return
    found = json.loads(path.read_text("utf-8"))
    yield from (_speed(found) if "ceilings" in found else _accuracy(part, found))


def _speed(found: dict[str, Any]) -> Iterator[str]:
    for row in found["results"]:
        if row["side"] == "ours":
            what = " ".join(str(row[key]) for key in ("network", "px", "voxels") if key in row)
            how = f"{row['numbers']}{', compiled' if row['compiled'] else ''}"
            ratios = ", ".join(f"{each['median']:.2f} of {name}" for name, each in row["ratios"].items())
            memory = "" if row["memory_bytes"] is None else f", {row['memory_bytes'] / 1e9:.2f} GB"
            yield f"{what} {row['work']} {how}: {1000 * row['seconds']:.1f} ms, {ratios}{memory}"


def _accuracy(part: str, found: dict[str, Any]) -> Iterator[str]:
    if part == "abide":
        for row in found["folds"]:
            spent = "" if row["minutes"] is None else f", {row['minutes']} min"
            yield f"{row['model']}: AUC {row['auc']['value']:.3f}{spent}"
    elif part == "polyp":
        for side, sites in found["results"].items():
            scores = ", ".join(f"{site} {score['dice']:.3f}" for site, score in sites.items())
            yield f"{side}: {scores} ({found['networks'][side]['updates']} updates)"
    else:
        for side in ("ours", "peer"):
            dice = found["results"][side]["pooled"]["metrics"]["dice"]["mean"]
            yield f"{side}: Dice {dice:.4f} ({found['networks'][side][0]['updates']} updates)"


if __name__ == "__main__":
    main()
