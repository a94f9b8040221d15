"""Who is scanned: age, sex and head motion as they hang together in cohorts of children and young adults."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Person:
    """Age in years, sex `"F"` or `"M"`, mean framewise displacement in mm."""

    age: float
    sex: str
    mean_fd: float


def draw_person(rng: np.random.Generator, mean_age: float, label: int) -> Person:
    """Draw a person from a site whose people are `mean_age` years old on average; `label` 1 is the diagnosis."""
    age = float(np.clip(rng.normal(mean_age, 4.0), 6.0, 60.0))
    sex = "M" if rng.random() < 0.75 else "F"
    # Children move more than adults, and diagnosed subjects a little more than others.
    mean_fd = float(np.exp(rng.normal(-2.2 - 0.03 * (age - 18.0) + 0.1 * label, 0.4)))
    return Person(age, sex, mean_fd)
