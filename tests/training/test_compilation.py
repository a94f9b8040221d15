"""A network that is compiled while it trains, and only then."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from medformer.errors import ConfigError
from medformer.training import compilation
from medformer.training.compilation import compiled


def test_it_learns_the_same_and_is_resumed_either_way(
    tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs = []

    def trace(graph: Any, inputs: Any) -> Any:
        """Run what was traced; compiling it takes minutes."""
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(compilation, "_BACKEND", trace)
    model = tiny.seeded_net()
    names = list(model.state_dict())
    found = tiny.train(tmp_path / "compiled", model=model, config={"compile": True, "epochs": 2})
    assert graphs and list(model.state_dict()) == names and model._compiled_call_impl is None
    plain = tiny.train(tmp_path / "plain", config={"epochs": 2})
    assert [row["train_loss"] for row in found.history] == pytest.approx([row["train_loss"] for row in plain.history])
    assert tiny.train(tmp_path / "compiled", config={"epochs": 2}, resume=True).updates == found.updates


def test_what_cannot_be_compiled_is_refused_with_advice(tiny: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._dynamo.exc import BackendCompilerFailed

    def fail(*_: Any) -> Any:
        raise OSError("no C++ compiler found")

    monkeypatch.setattr(compilation, "_BACKEND", fail)
    model = tiny.seeded_net()
    advice = r"no C\+\+ compiler found.*training\.compile=false"
    with pytest.raises(ConfigError, match=advice) as caught, compiled(model, True):
        model(torch.zeros(1, 3, 12, 12))
    assert isinstance(caught.value.__cause__, BackendCompilerFailed) and model._compiled_call_impl is None
    assert model(torch.zeros(1, 3, 12, 12)).shape[0] == 1
    # What is no fault of the compiler goes through.
    with pytest.raises(ValueError, match="of another kind"), compiled(model, True):
        raise ValueError("of another kind")
