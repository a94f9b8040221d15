"""`medformer weights`: what there is, where it lies, and fetching it from a hub."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
from fake_hub import COMMIT, serve_hub
from safetensors.torch import save

from medformer.models.weights.table import WEIGHTS

Medformer = Callable[..., Any]

NAME = "test_efficientnet.r160_in1k"


def test_weights_are_listed_fetched_and_found(
    medformer: Medformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDFORMER_WEIGHTS", str(tmp_path))
    path = tmp_path / NAME / "model.safetensors"
    assert medformer("weights", "where").out.strip() == str(tmp_path)
    assert medformer("weights", "where", NAME).out.strip() == str(path)
    with serve_hub() as hub:
        hub.files[f"timm/{NAME}/model.safetensors"] = save(timm.create_model("test_efficientnet").state_dict())
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        got = json.loads(medformer("weights", "get", NAME, "--json").out)
    assert got["path"] == str(path) and got["revision"] == COMMIT and path.is_file()
    rows = {row["name"]: row for row in json.loads(medformer("weights", "list", "--json").out)}
    assert rows[NAME]["here"] and rows.keys() == {*WEIGHTS, NAME}
    assert rows["tf_efficientnet_lite0.in1k"]["backbones"] == ["lite0_metaformer", "timm:tf_efficientnet_lite0"]
    line = next(line for line in medformer("weights", "list").out.splitlines() if line.startswith(NAME))
    assert " timm:test_efficientnet " in line and " yes " in line and "apache-2.0" in line
    # The hub is gone.
    medformer("weights", "get", "test_resnet.r160_in1k").refused(5, "could not be fetched", hub.url, "another machine")
    medformer("weights", "get", "caformer_s18.sail").refused(2, "Did you mean 'caformer_s18.sail_in")
    medformer("weights", "get").refused(2, "needs a NAME")
    medformer("weights", "list", NAME).refused(2, "expected no name")
