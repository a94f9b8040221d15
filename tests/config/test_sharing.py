"""A config that is passed on names no file, folder or machine, whatever keys there are."""

from __future__ import annotations

from typing import Any

import pytest

from medformer.config import SCHEMAS
from medformer.config.sharing import LOCAL_FILE, without_places
from medformer.config_loading import load_config
from medformer.config_problems import describe_keys, takes_text
from medformer.models.weights.table import find_source

NAMES = {"model.name", "model.backbone", "model.mixer", "loss.name", "plan.orientation"}
"""Text that names a row of a table, or has a form of its own."""


def flat(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = getattr(config, part)
    return config


@pytest.mark.parametrize("task", sorted(SCHEMAS))
def test_no_key_that_can_hold_a_path_keeps_one(task: str) -> None:
    schema = SCHEMAS[task]
    texts = [row["key"] for row in describe_keys(schema) if takes_text(schema, row["key"])]
    places = [key for key in texts if key not in NAMES]
    assert {"data.manifest", "pretraining.weights", "execution.address"} < set(places)
    config = load_config(None, [f"{key}=/home/ana/st_mary/{key}.csv" for key in places], model=schema)
    shared = without_places(config, find_source)
    assert "st_mary" not in shared.model_dump_json()
    for key in places:
        expected = LOCAL_FILE if key == "model.weights" else flat(schema(), key)
        assert flat(shared, key) == expected, key
    # All else is as it was, and it still is a config.
    assert shared.training.lr == config.training.lr
    assert schema.model_validate_json(shared.model_dump_json()) == shared


def test_names_of_weights_stay() -> None:
    config = load_config(None, ["model.weights=caformer_s18.sail_in1k", "crossval.folds=3"])
    assert without_places(config, find_source) == config


def test_names_of_columns_of_the_user_are_left_out() -> None:
    columns = ["crossval.stratify=[site, ward_of_dr_miller, age]", "report.subgroups=[dr_miller, sex]"]
    shared = without_places(load_config(None, columns), find_source)
    assert shared.crossval.stratify == ("site", "age") and shared.report.subgroups == ("sex",)
    assert "miller" not in shared.model_dump_json()
