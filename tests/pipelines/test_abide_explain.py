"""What `explain` finds: the connections that a synthetic diagnosis acts on, and chance where labels are permuted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from planted import read_planted

from medformer.data.synthetic.abide import write_synthetic_abide
from medformer.files import read_csv, read_json, write_csv

Medformer = Callable[..., Any]

REGIONS = {"coarse": 20, "fine": 30}
QUICK = (
    "--config",
    "abide/roi",
    "--no-baselines",
    "model.name=roi_metaformer",
    "crossval.folds=3",
    "pretraining.enabled=false",
    "training.epochs=12",
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planted")
    write_synthetic_abide(folder, subjects=150, regions=REGIONS, effect=2.0, volumes=120)
    return folder


def precision(run: Path, source: Path, precision_at_k: Callable[..., float], *atlases: str) -> float:
    """Share of the leading k edges of all atlases, or of some, that were planted, with k the number planted."""
    planted = {name: found for name, found in read_planted(source).edges.items() if name in (atlases or REGIONS)}
    position = {
        (atlas, i, j): place
        for atlas, size in REGIONS.items()
        for place, (i, j) in enumerate(zip(*np.triu_indices(size, 1), strict=True))
    }
    scores = {atlas: np.zeros(len(edges)) for atlas, edges in planted.items()}
    rows = read_csv(run / "explain" / "edges.csv")
    first = min(int(row["i"]) for row in rows)
    for row in rows:
        if row["atlas"] not in scores:
            continue
        place = position[row["atlas"], int(row["i"]) - first, int(row["j"]) - first]
        scores[row["atlas"]][place] = float(row["contribution"])
    return float(precision_at_k(np.concatenate([*scores.values()]), np.concatenate([planted[a] for a in scores])))


@pytest.mark.slow
def test_planted_connections_lead_and_permuted_labels_lead_nowhere(
    source: Path, tmp_path: Path, medformer: Medformer, precision_at_k: Callable[..., float]
) -> None:
    cohort = tmp_path / "cohort"
    assert medformer("abide", "prepare", source, "--out", cohort).code == 0

    def explained(name: str, *more: str, report: bool = False) -> Path:
        run = tmp_path / name
        assert medformer("abide", "crossval", "--data", cohort, "--out", run, *QUICK, *more, report=False).code == 0
        result = medformer("abide", "explain", run, "--steps", "8", report=report)
        assert result.code == 0, result.err
        return run

    run = explained("true", report=True)
    content = read_json(run / "explain" / "explain.json")
    assert content["completeness"]["complete"] and content["randomization"]["passed"]
    assert "What the scores rest on" in (run / "report.html").read_text("utf-8")
    regions = read_csv(run / "explain" / "regions.csv")
    assert len(regions) == 50 and all(row["name"] and row["network"] for row in regions)
    assert precision(run, source, precision_at_k) >= 0.8

    # The linear model beside a network looks at one atlas alone; the edges of the other would make any two maps alike.
    run = explained("wide", "model.name=wide:roi_metaformer")
    content = read_json(run / "explain" / "explain.json")
    assert content["completeness"]["complete"] and content["randomization"]["passed"]
    assert precision(run, source, precision_at_k, "fine") >= 0.8

    manifest = cohort / "manifest.csv"
    rows, chance = read_csv(manifest), np.mean(np.concatenate([*read_planted(source).edges.values()]))
    found = []
    for seed in range(3):
        labels = np.random.default_rng(seed).permutation([row["label"] for row in rows])
        permuted = [{**row, "label": label} for row, label in zip(rows, labels, strict=True)]
        write_csv(manifest, permuted, list(rows[0]))
        found.append(precision(explained(f"permuted{seed}"), source, precision_at_k))
    assert abs(np.mean(found) - chance) < 0.1, f"precision {found} on permuted labels, chance is {chance:.2f}"


def test_only_runs_of_this_task_are_explained(finished: Path, medformer: Medformer) -> None:
    medformer("abide", "explain", finished).refused(2, "polyp", "medformer abide")
