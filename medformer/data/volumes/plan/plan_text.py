"""A plan in words: what was decided, its value, and why."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medformer.data.volumes.inspect.facts import CaseFacts
from medformer.data.volumes.plan.volume_plan import Intensity, VolumePlan
from medformer.imaging.geometry import times
from medformer.progress import duration


def describe_plan(plan: VolumePlan, facts: Sequence[CaseFacts], *, seconds_per_epoch: float | None = None) -> str:
    """Describe a plan and the cases that it was made from, as a table in plain text.

    Args:
        plan: What was decided.
        facts: Of the cases that it was made from, in the plan's orientation.
        seconds_per_epoch: Expected; None leaves the line out.
    """
    shapes = np.array([case.shape for case in facts])
    spacings = np.array([case.spacing for case in facts])
    rows = [
        ("cases", str(len(facts)), f"median {_median(shapes)} voxels of {_median(spacings)} mm"),
        ("orientation", plan.orientation, "axes of what the network sees"),
        ("spacing", f"{times([f'{mm:g}' for mm in plan.spacing])} mm", "median of the cases, unless given"),
    ]
    for channel, entry in enumerate(plan.intensity):
        what = "intensity" if len(plan.intensity) == 1 else f"intensity of channel {channel + 1}"
        rows.append((what, *_intensity(entry)))
    deepest = [n // int(np.prod(steps)) for n, steps in zip(plan.patch, zip(*plan.strides, strict=True), strict=True)]
    rows += [
        ("patch", f"{times(plan.patch)} voxels", f"{times(deepest)} positions at the coarsest stage"),
        ("strides", "  ".join(times(step) for step in plan.strides), "stem, downsamplings; none on far coarser axes"),
        ("kernels", "  ".join(times(size) for size in plan.kernel_sizes), "of each stage; 1 along far coarser axes"),
        ("batch size", str(plan.batch_size), "patches per step"),
    ]
    if plan.labels:
        rows.append(("labels", ", ".join(f"{value} {name}" for value, name in plan.labels), _smallest(plan, facts)))
    if plan.memory_bytes:
        rows.append(("memory", f"{plan.memory_bytes / 1e9:.1f} GB", "expected peak of training"))
    if seconds_per_epoch is not None:
        rows.append(("time", f"{duration(seconds_per_epoch)} per epoch", "expected, from a step measured here"))
    # A note has no third column, and may be as long as it needs.
    first = max(len(what) for what, _, _ in rows)
    second = max(len(value) for _, value, _ in rows)
    rows += [("note", note, "") for note in plan.notes]
    return "\n".join(f"{what:<{first}}  {value:<{second}}  {why}".rstrip() for what, value, why in rows)


def _intensity(entry: Intensity) -> tuple[str, str]:
    if entry.scheme == "zscore":
        return "z-score", "each image by its own mean and standard deviation"
    return (
        f"CT, clipped to [{entry.low:g}, {entry.high:g}]",
        f"0.5th and 99.5th percentile of the foreground; then mean {entry.mean:g}, SD {entry.std:g}",
    )


def _smallest(plan: VolumePlan, facts: Sequence[CaseFacts]) -> str:
    """Which label is the smallest where it occurs, in ml; what a patch and a spacing must not lose."""
    sizes: dict[str, float] = {}
    for value, name in plan.labels:
        volumes = [case.labels[value] * float(np.prod(case.spacing)) / 1000 for case in facts if case.labels.get(value)]
        if volumes:
            sizes[name] = float(np.median(volumes))
    if not sizes:
        return "none occurs in these cases"
    name = min(sizes, key=sizes.__getitem__)
    return f"smallest: {name}, median {sizes[name]:.3g} ml"


def _median(values: np.ndarray) -> str:
    return times([f"{value:g}" for value in np.median(values, axis=0)])
