"""What `medformer info` counts and times of networks."""

from __future__ import annotations

import pytest
from torch import nn

from medformer.models import measures
from medformer.models.measures import measure_connectome_model, measure_network


def test_a_network_is_counted_on_both_defaults_and_what_would_take_long_is_not_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(measures, "NETWORK_SIDES", {2: (8, 16), 3: (8, 16)})
    monkeypatch.setattr(measures, "PATIENCE", 0.0)
    found = measure_network("plsnet")
    assert found["parameters in 3-D"] == 250_714, "as published, for one channel and two classes"
    assert list(found["milliseconds in 3-D"]) == ["8 x 8 x 8", "16 x 16 x 16"]
    assert isinstance(found["milliseconds in 3-D"]["8 x 8 x 8"], float)
    assert "not measured" in found["milliseconds in 3-D"]["16 x 16 x 16"]
    two = found["multiply-adds in 2-D, billions"]
    assert two["16 x 16"] == pytest.approx(4 * two["8 x 8"], rel=0.01)


def test_multiply_adds_are_those_of_convolutions() -> None:
    layer = nn.Conv2d(3, 4, 3, padding=1, device="meta")
    assert measures._multiply_adds(layer, [(10, 10)], 3) == {"10 x 10": 3 * 4 * 9 * 100 / 1e9}


def test_a_connectome_model_is_counted_on_atlases_of_abide() -> None:
    found = measure_connectome_model("metaformer_paper")
    assert found["parameters"] == {"aal": 2_368_514, "cc200": 5_755_394, "aal, cc200, dos160": 12_082_182}
    assert list(found["milliseconds"]) == list(found["parameters"])
