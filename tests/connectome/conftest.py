from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from medformer.connectome.columns import Columns, FeatureBlock

SITES = ("north", "south", "east")


@dataclass(frozen=True)
class Cohort:
    columns: Columns
    X: NDArray[np.float64]
    y: NDArray[np.int64]

    def covariate(self, name: str) -> NDArray[np.float64]:
        return self.X[:, self.columns.covariate(name)]


def draw_cohort(measure: str = "correlation", subjects: int = 60, regions: tuple[int, int] = (8, 6)) -> Cohort:
    """Two atlases, three sites whose level and spread differ, an effect of age and one of the diagnosis."""
    generator = np.random.default_rng(3)
    columns = Columns(
        (FeatureBlock("one", measure, regions[0]), FeatureBlock("two", measure, regions[1])),
        ("site", "age", "sex", "mean_fd"),
        SITES,
    )
    site = np.arange(subjects) % len(SITES)
    y = np.arange(subjects) // len(SITES) % 2
    age = generator.uniform(8, 30, subjects) + 3 * site
    sex = generator.integers(0, 2, subjects)
    fd = generator.uniform(0.05, 0.4, subjects)
    blocks = []
    for block in columns.blocks:
        if measure == "tangent":
            signals = generator.normal(size=(subjects, 40, block.regions))
            rows, cols = np.triu_indices(block.regions)
            blocks.append(np.stack([np.cov(signal.T)[rows, cols] for signal in signals]))
            continue
        noise = generator.normal(0, 0.08, (subjects, block.size)) * (1 + 0.5 * site[:, None])
        shift = generator.normal(0, 0.15, (len(SITES), block.size))[site]
        slope = np.where(np.arange(block.size) % 4 == 0, 0.01, 0.0)
        ill = np.where(np.arange(block.size) % 5 == 0, 0.08, 0.0)
        values = noise + shift + (age - 20)[:, None] * slope + y[:, None] * ill
        blocks.append(np.clip(values, -0.95, 0.95))
    X = np.hstack([*blocks, np.column_stack([site, age, sex, fd])])
    return Cohort(columns, X, y.astype(np.int64))


@pytest.fixture
def cohort() -> Cohort:
    return draw_cohort()


@pytest.fixture
def cohort_for() -> Callable[[str], Cohort]:
    """The cohort that a step can be shown: covariances for the tangent space, correlations for all others."""
    return lambda step: draw_cohort("tangent" if step == "tangent" else "correlation")
