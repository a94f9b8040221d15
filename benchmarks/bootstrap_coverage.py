"""How often the 95 % interval of a mean Dice holds the true mean: resampling patients against resampling frames.

Simulated cohorts: 20 to 40 patients with 3 to 20 frames each, half of the variance between patients.

python benchmarks/bootstrap_coverage.py --json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Hashable, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, norm

from medformer.evaluation.statistics.bootstrap import Interval, grouped_interval
from medformer.evaluation.statistics.resampling import Bootstrap

PATIENTS = (20, 40)
FRAMES = (3, 20)


class Shape(NamedTuple):
    """A distribution of Dice over frames, and what makes half of its variance lie between patients."""

    meaning: str
    a: float
    b: float
    latent: float


SHAPES = {
    "even": Shape("mean 0.50, symmetric", 5.0, 5.0, 0.50),
    "skewed": Shape("mean 0.80, median 0.84", 4.0, 1.0, 0.52),
    "very skewed": Shape("mean 0.86, median 0.92", 3.0, 0.5, 0.55),
}


class Cohort(NamedTuple):
    """Frames of a cohort: Dice (n,), and the patient of each."""

    dice: NDArray[np.float64]
    patient: list[int]


def simulate(shape: Shape, generator: np.random.Generator) -> Cohort:
    """Draw a cohort whose frames share a patient's level, then shape the values without changing their order."""
    patients = int(generator.integers(PATIENTS[0], PATIENTS[1] + 1))
    patient = np.repeat(np.arange(patients), generator.integers(FRAMES[0], FRAMES[1] + 1, patients))
    level = generator.standard_normal(patients)[patient]
    frame = generator.standard_normal(len(patient))
    normal = np.sqrt(shape.latent) * level + np.sqrt(1 - shape.latent) * frame
    return Cohort(np.interp(norm.cdf(normal), *_quantiles(shape)), patient.tolist())


@cache
def _quantiles(shape: Shape) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    share = (np.arange(20_000) + 0.5) / 20_000
    return share, beta.ppf(share, shape.a, shape.b)


def naive_interval(dice: NDArray[np.float64], groups: Sequence[Hashable], bootstrap: Bootstrap) -> Interval:
    """Resample frames, as if each were a patient."""
    return grouped_interval(dice, range(len(groups)), bootstrap)


def coverage(shape: Shape, cohorts: int, resamples: int, seed: int) -> dict[str, float]:
    """Share of cohorts whose interval holds the true mean, and the intervals' mean width."""
    generator = np.random.default_rng(seed)
    truth = shape.a / (shape.a + shape.b)
    ends: dict[str, list[tuple[float, float]]] = {"grouped": [], "naive": []}
    for index in range(cohorts):
        dice, patient = simulate(shape, generator)
        for name, interval in (("grouped", grouped_interval), ("naive", naive_interval)):
            low, high, *_ = interval(dice, patient, Bootstrap(resamples=resamples, seed=seed + index))
            ends[name].append((low, high))
    result: dict[str, float] = {}
    for name, pairs in ends.items():
        result[name] = float(np.mean([low <= truth <= high for low, high in pairs]))
        result[f"{name}_width"] = float(np.mean([high - low for low, high in pairs]))
    return result


def main() -> None:
    """Simulate every shape and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON only")
    parser.add_argument("--cohorts", type=int, default=500, help="simulated cohorts of each kind")
    parser.add_argument("--resamples", type=int, default=2000, help="bootstrap draws of each interval")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if not arguments.json:
        print(f"Coverage of 95 % intervals over {arguments.cohorts} cohorts\n{'Dice':<14}grouped    naive")
    results = []
    for name, shape in SHAPES.items():
        found = coverage(shape, arguments.cohorts, arguments.resamples, arguments.seed)
        results.append({"shape": name, "meaning": shape.meaning, **found})
        if not arguments.json:
            print(f"{name:<14}{found['grouped']:7.1%}  {found['naive']:7.1%}   {shape.meaning}", flush=True)
    if arguments.json:
        settings = {key: value for key, value in vars(arguments).items() if key != "json"}
        print(json.dumps({"settings": settings, "results": results}, indent=2))


if __name__ == "__main__":
    main()
