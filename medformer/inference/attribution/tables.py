"""The tables of an explanation: edges, regions and pairs of networks, pooled over the folds, in open formats.

RUN/explain/
  explain.json       what was explained and how, and the checks of it
  edges.csv          one row per edge, the highest contribution first
  regions.csv        one row per region: half of what each of its edges has
  networks.csv       one row per pair of networks, of atlases whose networks are known
  attributions.npz   the vectors of every fold: <atlas>.contribution and <atlas>.strength, float32 (folds, d)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medformer.errors import DataError
from medformer.files import atomic_path, write_csv, write_json
from medformer.inference.attribution.checks import LIMIT, Randomization, leaders, stability
from medformer.inference.attribution.integrated_gradients import TOLERANCE, FoldAttribution

FORMAT = "medformer-explain/1"
TOP = 100
EDGES = ("rank", "atlas", "i", "j", "name_i", "name_j", "network_i", "network_j")
REGIONS = ("atlas", "index", "name", "network", "x", "y", "z")
NETWORKS = ("atlas", "network_a", "network_b", "edges")
SUMS = ("contribution", "strength")

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class AtlasLabels:
    """What the regions of an atlas are called, and where they are.

    Attributes:
        names: One per region.
        networks: One per region; None when not known.
        coordinates: MNI, mm, (x, y, z) per region, None for a region without; None when not known.
        diagonal: Whether the edges include those from a region to itself.
    """

    names: Sequence[str]
    networks: Sequence[str] | None = None
    coordinates: Sequence[Sequence[float] | None] | None = None
    diagonal: bool = False

    @property
    def ends(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """The two regions of each edge, in the order of the vectors."""
        first, second = np.triu_indices(len(self.names), 0 if self.diagonal else 1)
        return first, second


def write_attributions(
    run_path: Path,
    folds: Sequence[FoldAttribution],
    labels: Mapping[str, AtlasLabels],
    *,
    randomization: Randomization | None,
    settings: Mapping[str, Any],
    top: int = TOP,
) -> Path:
    """Pool the folds and write the folder `explain`.

    Args:
        run_path: The run folder.
        folds: Each fold once; of several repeats, the folds of all.
        labels: By atlas, as the folds have them.
        randomization: The check with random weights, if it was made.
        settings: Further facts such as the steps, the model and the seed; JSON-able.
        top: Number of leading edges that count as found by a fold; a tenth of all edges where these are few.

    Returns:
        The path of explain.json.

    Raises:
        DataError: A class has no subject, or labels do not fit the edges.
        ResourceError: The folder cannot be written.
    """
    _check(folds, labels)
    pooled = {name: _pool(folds, labels, name) for name in ("strength", "positive", "negative", "slope")}
    pooled["contribution"] = {atlas: pooled["positive"][atlas] - pooled["negative"][atlas] for atlas in labels}
    judged = [fold for fold in folds if fold.positives and fold.negatives]
    vectors = np.stack(
        [_joined(fold.contribution, labels) for fold in judged] or [_joined(pooled["contribution"], labels)]
    )
    top = min(top, max(1, vectors.shape[1] // 10))
    hits = np.zeros(vectors.shape[1])
    for vector in vectors:
        hits[leaders(vector, top)] += 1
    folder = Path(run_path) / "explain"
    edges = _edges(pooled, labels, hits / len(vectors))
    write_csv(folder / "edges.csv", edges, [*EDGES, *SUMS, "slope", "positive", "negative", "top_folds"])
    write_csv(folder / "regions.csv", _regions(pooled, labels), [*REGIONS, *SUMS])
    write_csv(folder / "networks.csv", _networks(pooled, labels), [*NETWORKS, *SUMS])
    _write_vectors(folder / "attributions.npz", folds, labels)
    content = {
        "format": FORMAT,
        "method": "integrated gradients",
        "explained": "log odds of label 1",
        "reference": "mean of the fold's training subjects",
        **settings,
        "folds": len(folds),
        "subjects": sum(fold.subjects for fold in folds),
        "separation": sum(float(block.sum()) for block in pooled["contribution"].values()),
        "completeness": _completeness(folds),
        "stability": asdict(stability(vectors, top)),
        "randomization": None
        if randomization is None
        else {**asdict(randomization), "limit": LIMIT, "passed": randomization.passed},
        "atlases": {
            atlas: {
                "regions": len(known.names),
                "edges": len(known.ends[0]),
                "diagonal": known.diagonal,
                "networks": known.networks is not None,
                "coordinates": known.coordinates is not None,
            }
            for atlas, known in labels.items()
        },
    }
    write_json(folder / "explain.json", content)
    return folder / "explain.json"


def _check(folds: Sequence[FoldAttribution], labels: Mapping[str, AtlasLabels]) -> None:
    positives, negatives = sum(fold.positives for fold in folds), sum(fold.negatives for fold in folds)
    if not positives or not negatives:
        raise DataError(
            f"The explained subjects are {positives} of class 1 and {negatives} of class 0; expected both, because an "
            "edge is ranked by how it separates them."
        )
    for fold in folds:
        for atlas, block in fold.strength.items():
            expected = len(labels[atlas].ends[0]) if atlas in labels else 0
            if len(block) != expected:
                raise DataError(
                    f"Fold {fold.fold} has {len(block)} edges of atlas '{atlas}', its labels make {expected}. Use the "
                    "cohort that the run was trained on."
                )


def _pool(folds: Sequence[FoldAttribution], labels: Mapping[str, AtlasLabels], name: str) -> dict[str, Vector]:
    """Means over the subjects of all folds; those of one class over its subjects."""
    total = {atlas: np.zeros(len(known.ends[0])) for atlas, known in labels.items()}
    count = 0
    for fold in folds:
        here = {"positive": fold.positives, "negative": fold.negatives}.get(name, fold.subjects)
        count += here
        for atlas, block in getattr(fold, name).items() if here else ():
            total[atlas] += here * block.astype(np.float64)
    return {atlas: block / count for atlas, block in total.items()}


def _joined(vectors: Mapping[str, NDArray[Any]], labels: Mapping[str, AtlasLabels]) -> Vector:
    return np.concatenate([vectors[atlas] for atlas in labels]).astype(np.float64)


def _edges(
    pooled: Mapping[str, Mapping[str, Vector]], labels: Mapping[str, AtlasLabels], top_folds: Vector
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for atlas, known in labels.items():
        names, networks = known.names, known.networks or [""] * len(known.names)
        columns = [pooled[name][atlas].tolist() for name in (*SUMS, "slope", "positive", "negative")]
        for i, j, *numbers in zip(*(end.tolist() for end in known.ends), *columns, strict=True):
            row = dict(zip(EDGES, (0, atlas, i, j, names[i], names[j], networks[i], networks[j]), strict=True))
            row |= zip((*SUMS, "slope", "positive", "negative"), map(_short, numbers), strict=True)
            rows.append({**row, "top_folds": _short(float(top_folds[len(rows)]))})
    rows.sort(key=lambda row: -row["contribution"])
    for rank, row in enumerate(rows, 1):
        row["rank"] = rank
    return rows


def _regions(pooled: Mapping[str, Mapping[str, Vector]], labels: Mapping[str, AtlasLabels]) -> list[dict[str, Any]]:
    """Each end of an edge gets half of it, so that the regions of an atlas add up to what its edges do."""
    rows = []
    for atlas, known in labels.items():
        sums = {}
        for name in SUMS:
            halves = pooled[name][atlas] / 2
            sums[name] = np.sum([np.bincount(end, halves, len(known.names)) for end in known.ends], axis=0)
        for index, region in enumerate(known.names):
            network = known.networks[index] if known.networks else ""
            place = (known.coordinates[index] if known.coordinates else None) or ("", "", "")
            row = dict(zip(REGIONS, (atlas, index, region, network, *place), strict=True))
            rows.append(row | {name: _short(float(sums[name][index])) for name in SUMS})
    return sorted(rows, key=lambda row: -row["contribution"])


def _networks(pooled: Mapping[str, Mapping[str, Vector]], labels: Mapping[str, AtlasLabels]) -> list[dict[str, Any]]:
    rows = []
    for atlas, known in labels.items():
        if known.networks is None:
            continue
        pairs: dict[tuple[str, str], list[int]] = {}
        for edge, (i, j) in enumerate(zip(*known.ends, strict=True)):
            a, b = sorted((known.networks[i], known.networks[j]))
            pairs.setdefault((a, b), []).append(edge)
        for (a, b), edges in pairs.items():
            row = dict(zip(NETWORKS, (atlas, a, b, len(edges)), strict=True))
            rows.append(row | {name: _short(float(pooled[name][atlas][edges].sum())) for name in SUMS})
    return sorted(rows, key=lambda row: -row["contribution"])


def _write_vectors(path: Path, folds: Sequence[FoldAttribution], labels: Mapping[str, AtlasLabels]) -> None:
    content: dict[str, NDArray[Any]] = {"fold": np.array([fold.fold for fold in folds])}
    for atlas in labels:
        content[f"{atlas}.contribution"] = np.stack([fold.contribution[atlas] for fold in folds])
        content[f"{atlas}.strength"] = np.stack([fold.strength[atlas] for fold in folds])
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, allow_pickle=False, **content)


def _completeness(folds: Sequence[FoldAttribution]) -> dict[str, Any]:
    gap = max(fold.gap for fold in folds)
    return {"largest_gap": gap, "tolerance": TOLERANCE, "complete": gap <= TOLERANCE}


def _short(value: float) -> float:
    """Six digits: single precision has no more."""
    return float(f"{value:.6g}")
