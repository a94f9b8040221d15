from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medformer.errors import DataError
from medformer.files import read_csv, read_json
from medformer.inference.attribution.checks import randomization_check
from medformer.inference.attribution.integrated_gradients import FoldAttribution, explain_fold
from medformer.inference.attribution.tables import AtlasLabels, write_attributions

REGIONS = {"aal": 6, "cc200": 8}
LABELS = {
    "aal": AtlasLabels([f"A{index}" for index in range(6)], ["visual"] * 3 + ["default"] * 3, [[1.0, 2.0, 3.0]] * 6),
    "cc200": AtlasLabels([f"C{index}" for index in range(8)]),
}


class Linear(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.ModuleDict({atlas: nn.Linear(n * (n - 1) // 2, 2) for atlas, n in REGIONS.items()})

    def forward(self, edges: dict[str, Tensor]) -> Tensor:
        return torch.stack([layer(edges[atlas]) for atlas, layer in self.layers.items()]).sum(0)


def cohort(seed: int, subjects: int = 20) -> tuple[dict[str, np.ndarray], np.ndarray]:
    draw = np.random.default_rng(seed)
    edges = {atlas: draw.normal(size=(subjects, n * (n - 1) // 2)).astype(np.float32) for atlas, n in REGIONS.items()}
    return edges, np.arange(subjects) % 2


def fold(index: int, **changes: Any) -> FoldAttribution:
    edges, labels = cohort(index)
    reference = {atlas: np.zeros(block.shape[1], np.float32) for atlas, block in edges.items()}
    given = {"labels": labels, "reference": reference, "fold": index} | changes
    return explain_fold([Linear(0), Linear(1)], edges, **given)


def write(path: Path, folds: list[FoldAttribution], **changes: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"randomization": None, "settings": {"steps": 32}} | changes
    content = read_json(write_attributions(path, folds, LABELS, **given))
    assert isinstance(content, dict)
    return content


def test_members_are_averaged_and_contributions_add_up() -> None:
    edges, labels = cohort(3)
    found = fold(3)
    log_odds = np.zeros(len(labels))
    for seed in (0, 1):
        logits = Linear(seed)({atlas: torch.from_numpy(block) for atlas, block in edges.items()}).detach().numpy()
        log_odds += (logits[:, 1] - logits[:, 0]) / 2
    separation = log_odds[labels == 1].mean() - log_odds[labels == 0].mean()
    assert sum(block.sum() for block in found.contribution.values()) == pytest.approx(separation, abs=1e-5)
    assert (found.positives, found.negatives, found.subjects) == (10, 10, 20)
    assert found.gap < 1e-4


def test_fold_without_a_class_has_no_contribution_but_a_strength() -> None:
    found = fold(0, labels=np.zeros(20, np.int64))
    assert np.isnan(found.contribution["aal"]).all() and np.isfinite(found.strength["aal"]).all()
    with pytest.raises(DataError, match="no network"):
        explain_fold([], *cohort(0), reference={}, fold=2)


def test_tables_hold_every_edge_region_and_network_pair(tmp_path: Path) -> None:
    content = write(tmp_path, [fold(0), fold(1), fold(2)])
    edges = read_csv(tmp_path / "explain" / "edges.csv")
    assert len(edges) == 15 + 28
    assert [row["rank"] for row in edges] == [str(rank) for rank in range(1, 44)]
    values = [float(row["contribution"]) for row in edges]
    assert values == sorted(values, reverse=True)
    assert sum(values) == pytest.approx(content["separation"], abs=1e-4)
    row = next(row for row in edges if (row["atlas"], row["i"], row["j"]) == ("aal", "2", "3"))
    assert (row["name_i"], row["name_j"], row["network_i"], row["network_j"]) == ("A2", "A3", "visual", "default")
    assert float(row["positive"]) - float(row["negative"]) == pytest.approx(float(row["contribution"]), abs=1e-5)

    regions = read_csv(tmp_path / "explain" / "regions.csv")
    assert len(regions) == 14
    for name in ("contribution", "strength"):
        total = sum(float(row[name]) for row in edges)
        assert sum(float(row[name]) for row in regions) == pytest.approx(total, abs=1e-4)
    mine = [float(row["strength"]) for row in edges if row["atlas"] == "aal" and "2" in (row["i"], row["j"])]
    region = next(row for row in regions if row["name"] == "A2")
    assert float(region["strength"]) == pytest.approx(sum(mine) / 2, abs=1e-5)
    assert (region["network"], region["z"]) == ("visual", "3.0")

    networks = read_csv(tmp_path / "explain" / "networks.csv")
    counted = {(row["network_a"], row["network_b"]): int(row["edges"]) for row in networks}
    assert counted == {("default", "visual"): 9, ("visual", "visual"): 3, ("default", "default"): 3}
    assert {row["atlas"] for row in networks} == {"aal"}

    with np.load(tmp_path / "explain" / "attributions.npz") as file:
        assert file["cc200.contribution"].shape == (3, 28)
    assert content["atlases"]["cc200"] == {
        "regions": 8, "edges": 28, "diagonal": False, "networks": False, "coordinates": False
    }  # fmt: skip
    assert (content["folds"], content["subjects"], content["steps"]) == (3, 60, 32)
    assert content["completeness"]["complete"] is True


def test_same_folds_give_the_same_bytes(tmp_path: Path) -> None:
    edges, _ = cohort(0)
    reference = {atlas: np.zeros(block.shape[1], np.float32) for atlas, block in edges.items()}
    for name in ("one", "two"):
        check = randomization_check(Linear(0), edges, reference=reference, seed=0)
        content = write(tmp_path / name, [fold(0), fold(1)], randomization=check)
        assert content["randomization"]["passed"] is check.passed
        assert len(content["randomization"]["stages"]) == 2
    for file in (tmp_path / "one" / "explain").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / "explain" / file.name).read_bytes()


def test_diagonal_edges_count_whole_for_their_region(tmp_path: Path) -> None:
    ones = {"own": np.ones(3, np.float32)}
    zeros = {"own": np.zeros(3, np.float32)}
    one = FoldAttribution(0, ones, ones, zeros, ones, 1, 1, 0.0)
    write_attributions(
        tmp_path, [one], {"own": AtlasLabels(["a", "b"], diagonal=True)}, randomization=None, settings={}
    )
    edges = read_csv(tmp_path / "explain" / "edges.csv")
    assert [(row["i"], row["j"]) for row in edges] == [("0", "0"), ("0", "1"), ("1", "1")]
    assert [row["contribution"] for row in read_csv(tmp_path / "explain" / "regions.csv")] == ["1.5", "1.5"]


def test_one_class_or_foreign_labels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="20 of class 1 and 0 of class 0; expected both"):
        write(tmp_path, [fold(0, labels=np.ones(20, np.int64))])
    with pytest.raises(DataError, match="Fold 0 has 15 edges of atlas 'aal', its labels make 3"):
        write_attributions(
            tmp_path, [fold(0)], {**LABELS, "aal": AtlasLabels(["a", "b", "c"])}, randomization=None, settings={}
        )


def test_fold_of_one_class_is_pooled_but_not_compared(tmp_path: Path) -> None:
    content = write(tmp_path, [fold(0), fold(1), fold(2, labels=np.zeros(20, np.int64))])
    assert content["stability"]["folds"] == 2
    assert all(np.isfinite(float(row["contribution"])) for row in read_csv(tmp_path / "explain" / "edges.csv"))


def test_planted_edges_come_first(tmp_path: Path, precision_at_k: Callable[..., float]) -> None:
    """A network that weighs all edges nearly alike, in a cohort whose classes differ on a few."""
    planted = np.zeros(28, bool)
    planted[[1, 5, 9, 20]] = True
    folds = []
    for index in range(5):
        edges, labels = cohort(index, subjects=200)
        edges["cc200"] += np.outer(labels, planted).astype(np.float32)
        model = Linear(index)
        with torch.no_grad():
            for layer in model.layers.values():
                layer.weight[:] = torch.tensor([[-1.0], [1.0]]) + 0.3 * torch.randn_like(layer.weight)
        reference = {atlas: block.mean(axis=0) for atlas, block in edges.items()}
        folds.append(explain_fold([model], edges, labels, reference=reference, fold=index))
    write(tmp_path, folds)
    rows = [row for row in read_csv(tmp_path / "explain" / "edges.csv") if row["atlas"] == "cc200"]
    rows.sort(key=lambda row: (int(row["i"]), int(row["j"])))
    assert precision_at_k(np.array([float(row["contribution"]) for row in rows]), planted) == 1
    assert precision_at_k(np.array([float(row["strength"]) for row in rows]), planted) < 1
