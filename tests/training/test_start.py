"""What a network takes from another: of connectomes, from one that was built for other atlases."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from medformer.config import AbideConfig, PolypConfig
from medformer.connectome.columns import Columns, FeatureBlock
from medformer.crossval.run.start.source import Start, StartRecord
from medformer.errors import CheckpointError, ConfigError
from medformer.files import write_json
from medformer.models.connectome.classifier import ConnectomeClassifier
from medformer.models.transfer import Transfer
from medformer.tasks.abide.learner import new_network, take_connectomes
from medformer.tasks.start import take
from medformer.tensor_file import write_tensors

CONFIG = AbideConfig.model_validate({"model": {"name": "roi_metaformer", "width": 8}})


def columns(**regions: int) -> Columns:
    return Columns(tuple(FeatureBlock(name, "root", count) for name, count in regions.items()), (), ())


def trained(
    folder: Path, built_for: Columns, numbers: dict[str, list[str] | None]
) -> tuple[Start, ConnectomeClassifier]:
    """A network as a fold leaves it, with votes that are not all 0."""
    model = new_network(CONFIG, built_for, 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    write_tensors(folder / "model.safetensors", model.state_dict(), {})
    write_json(folder / "columns.json", asdict(built_for))
    write_json(folder / "trained_on.json", {"numbers": numbers, "label_names": {"0": "control", "1": "autism"}})
    return Start(folder, StartRecord("fold 0 of run", "abide", {}, 0, "")), model


def taken(
    start: Start, built_for: Columns, numbers: dict[str, list[str] | None]
) -> tuple[Transfer, ConnectomeClassifier]:
    model = new_network(CONFIG, built_for, 2)
    return take_connectomes(start, model, CONFIG, built_for, numbers), model


def test_atlases_in_another_order_change_their_places_and_give_the_same_output(tmp_path: Path) -> None:
    there, here = columns(a=6, b=7), columns(b=7, a=6)
    start, old = trained(tmp_path, there, {"a": None, "b": None})
    found, new = taken(start, here, {"a": None, "b": None})
    assert not found.left and found.adapted.keys() == {"fusion.fuse.weight"}
    edges = {"a": torch.randn(3, 15), "b": torch.randn(3, 21)}
    torch.testing.assert_close(new.eval()(edges), old.eval()(edges))


def test_an_atlas_that_is_new_or_has_other_regions_keeps_its_first_values(tmp_path: Path) -> None:
    start, old = trained(tmp_path, columns(a=6, b=7), {"a": list("123456"), "b": None})
    # The same name and number of regions, which are others; and an atlas of another size.
    for here, numbers in (
        (columns(a=6, b=7), {"a": list("123457"), "b": None}),
        (columns(a=5, b=7), {"a": None, "b": None}),
    ):
        found, new = taken(start, here, numbers)
        assert set(found.left) == {
            "encoder.tokens.atlas_a.embedding",
            "encoder.tokens.atlas_a.projection.weight",
            "fusion.votes.atlas_a",
        }
        assert torch.equal(new.state_dict()["fusion.votes.atlas_b"], old.state_dict()["fusion.votes.atlas_b"])
    found, _ = taken(start, columns(a=6, b=7), {"a": list("123456"), "b": ["x"] * 7})
    assert not found.left and not found.adapted
    found, _ = taken(start, columns(c=6, b=7), {"c": None, "b": None})
    assert {name for name in found.left if "atlas_b" in name} == set() and "fusion.votes.atlas_c" in found.left


def test_a_network_that_is_shown_another_range_needs_one_that_is_too(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 2)
    write_tensors(tmp_path / "model.safetensors", {**model.state_dict(), "before.scale": torch.ones(3)}, {})
    start = Start(tmp_path, StartRecord("fold 0 of run", "polyp", {}, 0, ""))
    with pytest.raises(ConfigError, match=r"another range.*Name the same model.weights"):
        take(start, model, PolypConfig())


def test_levels_that_stay_as_they_are_must_all_be_there(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    write_tensors(tmp_path / "model.safetensors", {"1.weight": torch.ones(2, 2), "1.bias": torch.ones(2)}, {})
    start = Start(tmp_path, StartRecord("fold 0 of run", "polyp", {}, 0, ""))
    model[1].requires_grad_(False)
    assert take(start, model, PolypConfig()).left.keys() == {"0.weight", "0.bias"}
    model[0].weight.requires_grad_(False)
    with pytest.raises(ConfigError, match=r"model\.frozen keeps .*fold 0 of run .*0\.weight: not there.*frozen=0"):
        take(start, model, PolypConfig())


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 2)
    torch.nn.init.constant_(model.bias, float("nan"))
    write_tensors(tmp_path / "model.safetensors", model.state_dict(), {})
    with pytest.raises(CheckpointError, match="NaN or infinity in 'bias'"):
        take(Start(tmp_path, StartRecord("fold 0 of run", "polyp", {}, 0, "")), model, PolypConfig())
