"""How time grows with pixels, voxels, cases and folds: what surrounds training, which nothing here does.

    python benchmarks/growth.py --out growth.json

Each part does the work of a command at several sizes, on data drawn for it: frames of noise with an ellipse, volumes of
noise with a ball. The runs over cases and folds are whole cross-validations of frames, with their audit, tables and
intervals, in the place of whose network stands the mean of the training masks, which learns in no time; the report is
that of the run. Seconds are the processor's, of this process, the least of the rounds. The exponent is the slope of
log seconds over log size, by least squares over all sizes and between the last two: 1 where work grows with the size, 2
where it grows with its square. A fixed cost makes it smaller for small sizes, so the last two say more.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import process_time
from typing import Any

import nibabel
import numpy as np
from machine import machine

from medformer.config import PolypConfig
from medformer.config_loading import load_config
from medformer.crossval.run import runner
from medformer.data.cases import Case
from medformer.data.frames.describe import inspect_frames
from medformer.data.inventory import Inventory
from medformer.data.manifest import read_manifest, write_manifest
from medformer.data.volumes.inspect.describe import inspect_volumes
from medformer.evaluation.masks.segmentation import case_row
from medformer.evaluation.masks.volumes import volume_row
from medformer.files import write_json
from medformer.imaging.images import write_image
from medformer.imaging.masks import write_mask
from medformer.inference.export_table import Exports
from medformer.inference.frames.export import export_case
from medformer.progress import Reporter, SilentReporter
from medformer.reporting.report import build_report
from medformer.tasks.polyp.learner import FrameBaselineLearner
from medformer.tasks.polyp.study import PolypStudy
from medformer.tasks.polyp.task import PolypTask
from pipelines.console import say

SIDES = (256, 512, 1024, 2048)
"""Of frames, px."""
EDGES = (32, 64, 96, 128)
"""Of volumes, voxels."""
CASES = (20, 40, 80, 160)
FOLDS = (2, 4, 8, 16)
_FEW = 32
"""Cases of the runs over folds."""
_SIZE = (48, 64)
"""Rows and columns of the frames of runs."""


@dataclass(frozen=True, kw_only=True)
class _Untrained(PolypStudy):
    """Frames whose network is the mean of the training masks."""

    def check(self) -> None:
        """No network is built."""

    def learner(self, inventory: Inventory, cache: Path) -> Any:
        return FrameBaselineLearner(self, "prior_mask")


class _UntrainedTask(PolypTask):
    def open(
        self, config: PolypConfig, reporter: Reporter, *, out: Path | None = None, labelled: bool = True
    ) -> PolypStudy:
        return _Untrained(config=config, data=read_manifest(config.data.manifest))


def main() -> None:
    """Measure, print a table, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--rounds", type=int, default=1, help="how often each size is measured")
    parser.add_argument("--only", nargs="*", choices=list(PARTS), default=list(PARTS), help="what is measured")
    arguments = parser.parse_args()
    found: dict[str, Any] = {"machine": machine(), "rounds": arguments.rounds, "parts": {}}
    for what in arguments.only:
        sizes, unit, part = PARTS[what]
        with tempfile.TemporaryDirectory() as folder:
            # The first call imports what it needs.
            part(Path(folder) / "first", sizes[0])
            seconds = [
                least(part(Path(folder) / f"{size}-{turn}", size) for turn in range(arguments.rounds)) for size in sizes
            ]
        for name in seconds[0]:
            row = grown([unit(size) for size in sizes], [one[name] for one in seconds])
            found["parts"][f"{what}: {name}"] = row
            times = "".join(f"{value:>9.3f}" for value in row["seconds"])
            say(f"{what + ': ' + name:<40}{times} s   exponent {row['exponent']:.2f}, last {row['last']:.2f}")
    if arguments.out is not None:
        write_json(arguments.out, found)


def grown(sizes: Sequence[int], seconds: Sequence[float]) -> dict[str, Any]:
    """Sizes, seconds, and the exponents of their growth."""
    x, y = np.log(sizes), np.log(np.maximum(seconds, 1e-6))
    return {
        "sizes": list(sizes),
        "seconds": list(seconds),
        "exponent": float(np.polyfit(x, y, 1)[0]),
        "last": float((y[-1] - y[-2]) / (x[-1] - x[-2])),
    }


def least(rounds: Any) -> dict[str, float]:
    """The least seconds of each piece of work over the rounds."""
    found = list(rounds)
    return {name: min(one[name] for one in found) for name in found[0]}


def timed(work: Callable[[], Any], spent: dict[str, float], name: str) -> Any:
    """Do some work and note its processor time."""
    began = process_time()
    made = work()
    spent[name] = process_time() - began
    return made


def frame(folder: Path, side: int) -> dict[str, float]:
    """Check, score and export one frame."""
    case = draw_frames(folder, 1, (side, side))[0]
    spent: dict[str, float] = {}
    timed(partial(inspect_frames, [case], image_size=(352, 352)), spent, "check")
    generator = np.random.default_rng(0)
    probability = generator.random((side, side), np.float32)
    probability[ellipse((side, side))] = 0.9
    image = generator.integers(0, 255, (side, side, 3), np.uint8)
    timed(partial(case_row, case.id, probability, ellipse((side, side)), threshold=0.5), spent, "score")
    timed(partial(export_case, Exports(folder), case.id, image, probability, 0.6), spent, "export")
    return spent


def volume(folder: Path, edge: int) -> dict[str, float]:
    """Check and score one volume."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    grid = np.indices((edge,) * 3) - edge / 2
    labels = (np.sqrt((grid**2).sum(0)) < edge / 4).astype(np.uint8)
    image = generator.normal(size=labels.shape).astype(np.float32) + 3 * labels
    paths = {"image": folder / "image.nii.gz", "labels": folder / "labels.nii.gz"}
    nibabel.save(nibabel.Nifti1Image(image, np.eye(4)), paths["image"])
    nibabel.save(nibabel.Nifti1Image(labels, np.eye(4)), paths["labels"])
    case = Case("one", paths["image"], mask=paths["labels"])
    spent: dict[str, float] = {}
    timed(partial(inspect_volumes, [case]), spent, "check")
    found = np.roll(labels, 2, axis=0)
    timed(partial(volume_row, "one", found, labels, labels={1: "ball"}, spacing=(1.0,) * 3), spent, "score")
    return spent


def whole(folder: Path, cases: int, folds: int = 5) -> dict[str, float]:
    """A whole cross-validation without training, and its report."""
    manifest = folder / "data" / "manifest.csv"
    write_manifest(manifest, draw_frames(folder / "data", cases, _SIZE))
    changes = [f"data.manifest={manifest}", f"crossval.folds={folds}", "crossval.baselines=false", "model.weights=null"]
    # A time that is given is not measured.
    changes += ["model.frozen=0", "training.minutes=1", "training.precision=32-true"]
    config = load_config("polyp/quick", changes, model=PolypConfig)
    spent: dict[str, float] = {}
    run = timed(partial(runner.run, _UntrainedTask(), config, folder / "run", SilentReporter()), spent, "run")
    timed(partial(build_report, run.path), spent, "report")
    return spent


def draw_frames(folder: Path, cases: int, size: tuple[int, int]) -> list[Case]:
    """Frames of noise with an ellipse, each of its own patient."""
    generator = np.random.default_rng(0)
    found = []
    for number in range(cases):
        image, mask = folder / "images" / f"{number}.png", folder / "masks" / f"{number}.png"
        coarse = generator.integers(0, 255, (8, 8, 3), np.uint8)
        write_image(image, np.kron(coarse, np.ones((size[0] // 8, size[1] // 8, 1), np.uint8)))
        write_mask(mask, ellipse(size, 0.15 + 0.2 * generator.random()))
        found.append(Case(str(number), image, mask=mask, group=str(number), site=f"site {number % 2}"))
    return found


def ellipse(size: tuple[int, int], share: float = 0.25) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """A mask with an ellipse in its middle."""
    rows, columns = (np.linspace(-0.5, 0.5, side) for side in size)
    return np.asarray(rows[:, None] ** 2 + columns[None, :] ** 2 < share**2)


PARTS: Mapping[str, tuple[Sequence[int], Callable[[int], int], Callable[[Path, int], dict[str, float]]]] = {
    "pixels": (SIDES, lambda side: side**2, frame),
    "voxels": (EDGES, lambda edge: edge**3, volume),
    "cases": (CASES, lambda cases: cases, whole),
    "folds": (FOLDS, lambda folds: folds, lambda folder, folds: whole(folder, _FEW, folds)),
}
"""Sizes of each part, what they count, and the work."""


if __name__ == "__main__":
    main()
