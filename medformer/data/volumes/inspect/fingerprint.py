"""Reading every case once for what planning needs of it (see `facts`), and remembering it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medformer.data.manifest import Case
from medformer.data.volumes.inspect.facts import (
    FORMAT,
    QUANTILES,
    CaseFacts,
    ChannelFacts,
    Fingerprint,
    facts_from_json,
)
from medformer.data.volumes.plan.volume_plan import Axes
from medformer.data.volumes.read.dataset_file import DatasetInfo
from medformer.errors import DataError
from medformer.files import digest, read_json, write_json
from medformer.imaging.geometry import Geometry, reorient
from medformer.imaging.volume import Volume
from medformer.imaging.volumes import read_labels, read_volume
from medformer.progress import Reporter, SilentReporter

SAMPLE = 200_000
"""Foreground voxels of a case that its quantiles are taken from, evenly spread; more would not change them."""

_PART = 1 << 20


def fingerprint(
    cases: Sequence[Case],
    info: DatasetInfo,
    *,
    orientation: str = "RAS",
    cache: Path | None = None,
    reporter: Reporter | None = None,
) -> Fingerprint:
    """Gather the facts of every case, one case in memory at a time.

    Args:
        cases: Whose files to read.
        info: What the labels are; without any, masks are not read.
        orientation: Axis codes of planning.
        cache: JSON file of facts by case; a case whose files did not change since is not read again.
        reporter: Told about every case.

    Raises:
        DataError: A file cannot be read, or the files of a case have different shapes.
    """
    reporter = reporter or SilentReporter()
    known = _read_cache(cache)
    entries: dict[str, Any] = {}
    found: list[CaseFacts] = []
    reporter.start("reading volumes", len(cases))
    try:
        for case in cases:
            key = _key(case, info, orientation)
            facts = _cached(known.get(key), case.id)
            found.append(facts or case_facts(case, info, orientation))
            entries[key] = asdict(found[-1])
            reporter.advance()
    finally:
        reporter.finish()
        if cache is not None and not entries.keys() <= known.keys():
            write_json(cache, {"format": FORMAT, "cases": {**known, **entries}})
    return Fingerprint(orientation, tuple(found))


def case_facts(case: Case, info: DatasetInfo, orientation: str = "RAS") -> CaseFacts:
    """Read the files of one case once and describe them.

    Raises:
        DataError: A file cannot be read, holds NaN or infinity, or has another shape than the first channel.
    """
    mask = case.mask if info.labels else None
    labels = None if mask is None else read_labels(mask)
    channels: list[ChannelFacts] = []
    first: Geometry | None = None
    for path in case.images:
        volume = read_volume(path)
        first = first or volume.geometry
        _require_shape(case, volume, first)
        if labels is not None and not channels:
            _require_shape(case, labels, first)
        channels.append(_channel_facts(volume.array, None if labels is None else labels.array > 0))
    assert first is not None
    shape, spacing = _seen_from(first, orientation)
    return CaseFacts(
        id=case.id,
        shape=shape,
        spacing=spacing,
        channels=tuple(channels),
        labels={} if labels is None else _count(labels.array, [value for value, _ in info.labels]),
    )


def _channel_facts(image: NDArray[Any], labeled: NDArray[np.bool_] | None) -> ChannelFacts:
    low = float(image.min())
    values = image[labeled if labeled is not None else image > low]
    mean, std = _moments(image.ravel(order="K"))
    foreground_mean, foreground_std = _moments(values)
    sample = values[:: max(1, -(-values.size // SAMPLE))]
    ranks = (np.arange(QUANTILES) + 0.5) / QUANTILES
    return ChannelFacts(
        minimum=low,
        maximum=float(image.max()),
        mean=mean,
        std=std,
        foreground=tuple(float(value) for value in np.quantile(sample, ranks)) if values.size else (),
        foreground_mean=foreground_mean,
        foreground_std=foreground_std,
    )


def _moments(values: NDArray[Any]) -> tuple[float, float]:
    """Mean and standard deviation in double precision, part by part: NumPy's would copy a scan at twice its size."""
    if not values.size:
        return 0.0, 0.0
    mean = float(values.mean(dtype=np.float64))
    parts = (values[start : start + _PART].astype(np.float64) - mean for start in range(0, values.size, _PART))
    return mean, float(np.sqrt(sum(float(part @ part) for part in parts) / values.size))


def _count(labels: NDArray[Any], declared: Iterable[int]) -> dict[int, int]:
    """Voxels of each declared label, part by part: counting takes eight bytes for each voxel it looks at."""
    low, high = int(labels.min()), int(labels.max())
    counts = np.zeros(high - low + 1, dtype=np.int64)
    flat = labels.ravel(order="K")
    for start in range(0, flat.size, _PART):
        counts += np.bincount(flat[start : start + _PART].astype(np.int64) - low, minlength=len(counts))
    return {label: int(counts[label - low]) if low <= label <= high else 0 for label in declared}


def _seen_from(geometry: Geometry, orientation: str) -> tuple[Axes, tuple[float, float, float]]:
    empty = np.broadcast_to(np.uint8(0), geometry.shape)
    turned, affine = reorient(empty, geometry.affine, orientation)
    x, y, z = (int(n) for n in turned.shape)
    a, b, c = (float(mm) for mm in np.linalg.norm(np.asarray(affine)[:3, :3], axis=0))
    return (x, y, z), (a, b, c)


def _require_shape(case: Case, volume: Volume, first: Geometry) -> None:
    if tuple(volume.array.shape) != tuple(first.shape):
        raise DataError(
            f"Case '{case.id}': {volume.path} has {volume.array.shape} voxels; expected {first.shape} as "
            f"{case.image} has. Resample one onto the other's grid, or leave the case out."
        )


def _key(case: Case, info: DatasetInfo, orientation: str) -> str:
    files = [*case.images, *([case.mask] if case.mask is not None and info.labels else [])]
    return digest([orientation, info.labels, [_stamp(file) for file in files]])


def _stamp(path: Path) -> Any:
    """What changes when a file does: name, size and time. Of a folder (a DICOM series): of all its files."""
    if path.is_dir():
        return [_stamp(file) for file in sorted(path.iterdir()) if file.is_file()]
    if not path.exists():
        return str(path)
    status = path.stat()
    return [str(path), status.st_size, status.st_mtime_ns]


def _read_cache(cache: Path | None) -> dict[str, Any]:
    """What an earlier run found; a file that is damaged or of another format counts as empty."""
    if cache is not None:
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            content = read_json(cache)
            if content["format"] == FORMAT:
                return dict(content["cases"])
    return {}


def _cached(entry: Any, identifier: str) -> CaseFacts | None:
    if entry is not None:
        with suppress(ValueError, KeyError, TypeError):
            return replace(facts_from_json(entry), id=identifier)
    return None
