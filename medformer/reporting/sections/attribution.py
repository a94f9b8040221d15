"""What the scores of a connectome run rest on: edges, regions and networks, and whether that can be believed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medformer.reporting.explanation import Explanation
from medformer.reporting.figures.brain import CLIP, edge_matrix, glass_brain
from medformer.reporting.figures.charts import Line, curves
from medformer.reporting.finished_run import FinishedRun
from medformer.reporting.scores import summary_of
from medformer.reporting.wording import MISSING, percent, signed

EDGES, REGIONS, PAIRS, DRAWN = 25, 15, 15, 30
"""Rows of the tables of edges, regions and pairs of networks, and edges drawn on a brain."""


def attribution(run: FinishedRun) -> dict[str, Any]:
    """Collect the leading edges, regions and networks, after what speaks for and against believing them."""
    found = run.explanation
    assert found is not None
    auc = summary_of(run.pooled, "auc")
    low = auc.get("low")
    random = found.about["randomization"]
    return {
        "about": found.about,
        "auc": auc,
        "near_chance": isinstance(low, (int, float)) and low <= 0.5,
        "random": random,
        "random_svg": _randomization(random) if random else "",
        "brains": [_brain(found, atlas, f"brain-{number}") for number, atlas in enumerate(found.atlases)],
        "edges": _edges(found),
        "regions": [
            {**row, "contribution": signed(row["contribution"], 4), "strength": f"{row['strength']:.4f}"}
            for row in found.regions[:REGIONS]
        ],
        "networks": [
            {
                "pair": f"{row['network_a']} – {row['network_b']}",
                "atlas": row["atlas"],
                "edges": row["edges"],
                "contribution": signed(row["contribution"], 4),
                "per_thousand": signed(1000 * row["contribution"] / row["edges"]),
            }
            for row in found.networks[:PAIRS]
        ],
        "counts": {name: len(getattr(found, name)) for name in ("edges", "regions", "networks")},
        "matrix": _matrix(found),
    }


def _randomization(random: Mapping[str, Any]) -> str:
    stages = random["stages"]
    steps = [float(index) for index in range(len(stages) + 1)]
    lines: dict[str, Line] = {
        "mean map": (steps, [1.0, *(stage["maps"] for stage in stages)]),
        "single subjects": (steps, [1.0, *(stage["subjects"] for stage in stages)]),
        "inputs alone": (steps, [random["inputs"]] * len(steps)),
    }
    xlabel = "stages of random weights, from the output to the input"
    return curves("randomization", {"Similarity to the trained network's map": lines}, xlabel=xlabel)


def _brain(found: Explanation, atlas: str, key: str) -> dict[str, Any]:
    """The leading edges between regions whose place is known."""
    places = found.coordinates(atlas)
    known = np.isfinite(places.sum(axis=1))
    every = [row for row in found.edges if row["atlas"] == atlas and row["i"] != row["j"] and row["contribution"] > 0]
    rows = [row for row in every if known[row["i"]] and known[row["j"]]][:DRAWN]
    edges = [(row["i"], row["j"], row["contribution"], row["slope"]) for row in rows]
    return {
        "atlas": atlas,
        "svg": glass_brain(key, edges, places) if rows else "",
        "places_known": bool(known.any()),
        "drawn": len(rows),
        "raising": sum(row["slope"] > 0 for row in rows),
        "first": [f"{row['name_i']} with {row['name_j']}" for row in rows[:5]],
        "without_place": int((~known).sum()),
    }


def _edges(found: Explanation) -> Sequence[dict[str, Any]]:
    whole = found.about["separation"]
    return [
        {
            "rank": str(row["rank"]),
            "atlas": row["atlas"],
            "region_i": _region(row["name_i"], row["network_i"]),
            "region_j": _region(row["name_j"], row["network_j"]),
            "raises": row["slope"] > 0,
            "contribution": signed(row["contribution"], 4),
            "share": percent(row["contribution"] / whole, 1) if whole > 0 else MISSING,
            "folds": percent(row["top_folds"]),
        }
        for row in found.edges[:EDGES]
    ]


def _region(name: str, network: str) -> str:
    return f"{name} ({network})" if network else name


def _matrix(found: Explanation) -> dict[str, Any]:
    matrices = {atlas: found.matrix(atlas, "contribution") for atlas in found.atlases}
    networks = {
        atlas: [row["network"] or "none" for row in found.regions_of(atlas)]
        for atlas, known in found.atlases.items()
        if known["networks"]
    }
    atlases = []
    for atlas in matrices:
        contributions = [row["contribution"] for row in found.edges if row["atlas"] == atlas]
        helping = sum(contribution > 0 for contribution in contributions) / len(contributions)
        atlases.append({"atlas": atlas, "total": signed(sum(contributions)), "helping": percent(helping)})
    return {
        "svg": edge_matrix("edges", matrices, networks, label="contribution (log odds)"),
        "atlases": atlases,
        "networks_known": bool(networks),
        "largest": f"{100 - CLIP:.1f}%",
    }
