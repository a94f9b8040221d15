"""Everything that is wrong with volumes, before hours are spent on training: each by itself, and all together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

import numpy as np

from medformer.data.cases import LABEL, Case
from medformer.data.inventory import Record, duplicates
from medformer.data.problems import Problem
from medformer.data.volumes.read.dataset_file import DatasetInfo
from medformer.errors import DataError
from medformer.imaging.geometry import Geometry
from medformer.imaging.seg_frames import segment_conflicts

SPACING_RATIO = 3.0
"""How many times finer or coarser than the median along an axis a voxel may be."""

INTENSITY_RATIO = 1000.0
"""How many times larger the largest value of one image may be than that of another."""

ALL_CASES = "all cases"
"""Stands for the id in problems of the whole data set."""

_AXES = (("R", "L"), ("A", "P"), ("S", "I"))


def volume_problems(
    cases: Sequence[Case],
    records: Mapping[str, Record],
    info: DatasetInfo,
    *,
    target: Literal["segmentation", "classification"] | None = "segmentation",
) -> list[Problem]:
    """List every problem of every case.

    Args:
        cases: What to check.
        records: Of these cases (see `describe_volume`).
        info: What the data set declares.
        target: Segmentation needs label maps; classification needs classes; None needs neither, as pretraining does.

    Returns:
        Problems in the order of the cases; those that only all cases together show follow. See `problems.REASONS` for
        the codes.
    """
    labels = target == "segmentation"
    problems: list[Problem] = []
    nothing = _nothing_given(cases, target)
    problems += nothing
    for case in cases:
        problems += _channel_count(case, records[case.id], info)
        problems += records[case.id].problems
        if labels and not nothing:
            problems += _label_faults(case, records[case.id], info)
        elif target == "classification" and not nothing:
            problems += _class_faults(case)
    readable = [case for case in cases if "channels" in records[case.id].facts]
    problems += _odd_spacing(readable, records)
    problems += _intensity_scale(readable, records, info)
    if labels:
        problems += [*_rare_labels(cases, records, info), *_segment_names(cases, records)]
    problems += _nothing_to_learn(cases, records, target)
    return [*problems, *duplicates(cases, records, ("file", "voxels"))]


def _nothing_given(cases: Sequence[Case], target: str | None) -> list[Problem]:
    """One problem where no case at all has what it needs, in place of one for each case."""
    if target == "segmentation" and all(case.mask is None for case in cases):
        detail = (
            f"none of the {len(cases)} volumes has a label map. Name them in the column `mask` or put them into "
            "labels/; to learn classes from the column `label`, give --task classification; `predict` needs neither"
        )
        return [Problem(ALL_CASES, "", "missing-mask", detail)]
    if target == "classification" and not any(case.covariates.get(LABEL) or case.label is not None for case in cases):
        detail = (
            f"none of the {len(cases)} volumes has a class: give the manifest a column `{LABEL}` with 1 (positive) or "
            "0 (`medformer volume prepare` makes a manifest of a folder)"
        )
        return [Problem(ALL_CASES, "", "no-class", detail)]
    return []


def _channel_count(case: Case, record: Record, info: DatasetInfo) -> Iterator[Problem]:
    count = channels_of(case, record)
    if count != len(info.channels):
        names = ", ".join(info.channels)
        yield Problem(
            case.id, str(case.image), "wrong-channels", f"it has {count}; expected {len(info.channels)} ({names})"
        )


def channels_of(case: Case, record: Record) -> int:
    """How many channels the files of a case hold, one or several each; where one cannot be read, how many they are."""
    return len(record.facts.get("channels", case.images))


def _label_faults(case: Case, record: Record, info: DatasetInfo) -> Iterator[Problem]:
    if case.mask is None:
        yield Problem(case.id, str(case.image), "missing-mask", "the manifest gives none")
    counts = record.facts.get("labels", {})
    declared = {0, *(value for value, _ in info.labels)}
    undeclared = [int(value) for value in counts if int(value) not in declared]
    if undeclared:
        shown = ", ".join(map(str, undeclared[:10])) + (", ..." if len(undeclared) > 10 else "")
        detail = f"it holds {shown}; expected 0 and {info.shown_labels}"
        yield Problem(case.id, str(case.mask), "undeclared-label", detail)
    elif list(counts) == ["0"]:
        yield Problem(case.id, str(case.mask), "empty-mask", "every voxel is background")


def _class_faults(case: Case) -> Iterator[Problem]:
    try:
        case.required_label()
    except DataError as error:
        yield Problem(case.id, str(case.image), "no-class", str(error))


def _odd_spacing(cases: Sequence[Case], records: Mapping[str, Record]) -> Iterator[Problem]:
    if not cases:
        return
    grids = [records[case.id].facts for case in cases]
    spacings = [_anatomical_spacing(Geometry(tuple(grid["shape"]), np.array(grid["affine"]))) for grid in grids]
    typical = np.median(spacings, axis=0)
    for case, spacing in zip(cases, spacings, strict=True):
        ratios = np.array(spacing) / typical
        if ratios.max() > SPACING_RATIO or ratios.min() < 1 / SPACING_RATIO:
            detail = f"its voxels are {_numbers(spacing)} mm; the median of all cases is {_numbers(typical)} mm"
            yield Problem(case.id, str(case.image), "odd-spacing", detail)


def _anatomical_spacing(geometry: Geometry) -> list[float]:
    """Voxel size from left to right, from back to front and from foot to head, mm."""
    sizes = list(zip(geometry.axcodes, geometry.spacing, strict=True))
    return [next(size for code, size in sizes if code in pair) for pair in _AXES]


def _intensity_scale(cases: Sequence[Case], records: Mapping[str, Record], info: DatasetInfo) -> Iterator[Problem]:
    for channel, name in enumerate(info.channels):
        every = [(records[case.id].facts["channels"], case) for case in cases]
        some = [(channels[channel], case) for channels, case in every if channel < len(channels)]
        largest = [(max(abs(facts["minimum"]), abs(facts["maximum"])), case.id) for facts, case in some]
        largest = [entry for entry in largest if entry[0] > 0]
        if not largest:
            continue
        low, high = (pick(largest, key=lambda entry: entry[0]) for pick in (min, max))
        if high[0] > INTENSITY_RATIO * low[0]:
            detail = (
                f"the largest value of {name} runs from {low[0]:g} ({low[1]}) to {high[0]:g} ({high[1]}). "
                "Normalizing each image by itself (zscore) is safe, a common scale is not"
            )
            yield Problem(ALL_CASES, "", "intensity-scale", detail)


def _rare_labels(cases: Sequence[Case], records: Mapping[str, Record], info: DatasetInfo) -> Iterator[Problem]:
    """Labels that no case has, and those that one case alone has, so that it cannot be learned and tested as well."""
    counted = [(case, records[case.id].facts["labels"]) for case in cases if "labels" in records[case.id].facts]
    for value, name in info.labels:
        having = [case for case, counts in counted if str(value) in counts]
        if counted and not having:
            detail = f"label {value} ({name}) occurs in none of the {len(counted)} label maps"
            yield Problem(ALL_CASES, "", "label-never-seen", detail)
        elif len(having) == 1 and len(counted) > 2:
            detail = f"of {len(counted)} label maps, only this one has label {value} ({name})"
            yield Problem(having[0].id, str(having[0].mask), "label-seen-once", detail)


def _segment_names(cases: Sequence[Case], records: Mapping[str, Record]) -> Iterator[Problem]:
    """Numbers of DICOM segments that mean something else than in other cases."""
    named = {case.id: named_values(records[case.id]) for case in cases}
    conflicts = segment_conflicts(list(named.values()))
    by_value: dict[int, dict[str, str]] = {}
    for case in cases:
        for value, name in named[case.id].items():
            by_value.setdefault(value, {}).setdefault(name.casefold(), name)
            usual = conflicts.get(name.casefold(), value)
            if usual != value:
                detail = f"'{name}' is its segment {value}, and segment {usual} of other cases; renumber its segments"
                yield Problem(case.id, str(case.mask), "segment-numbers", detail)
    for value, names in sorted(by_value.items()):
        if len(names) > 1 and not conflicts.keys() & names.keys():
            shown = ", ".join(f"'{name}'" for name in list(names.values())[:5])
            detail = f"segment {value} is named {shown}, and is taken for one label"
            yield Problem(ALL_CASES, "", "segment-names", detail)


def named_values(record: Record) -> dict[int, str]:
    """Name of each value that a label map names, as DICOM segmentations do."""
    return {int(value): str(name) for value, name in record.facts.get("names", {}).items()}


def _nothing_to_learn(
    cases: Sequence[Case], records: Mapping[str, Record], target: Literal["segmentation", "classification"] | None
) -> Iterator[Problem]:
    if target == "segmentation":
        counted = [counts for case in cases if (counts := records[case.id].facts.get("labels")) is not None]
        if len(counted) > 1 and all(list(counts) == ["0"] for counts in counted):
            detail = f"all {len(counted)} label maps are empty: every voxel is 0. Check that these are the label maps"
            yield Problem(ALL_CASES, "", "no-labels-at-all", detail)
    elif target == "classification":
        classes = {case.label for case in cases if case.label is not None}
        if len(classes) == 1 and len(cases) > 1:
            detail = f"all {len(cases)} cases are of the class {classes.pop()}; expected some of 0 and some of 1"
            yield Problem(ALL_CASES, "", "no-labels-at-all", detail)


def _numbers(values: Iterable[float]) -> str:
    return " x ".join(f"{value:.3g}" for value in values)
