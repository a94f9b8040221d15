from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import nn

from medformer.training.optimizer import WeightAverage, live_tensors


def _set(model: nn.Module, value: float) -> None:
    with torch.no_grad():
        for tensor in model.state_dict(keep_vars=True).values():
            tensor.fill_(value)


def test_the_decay_warms_up_to_its_limit() -> None:
    model = nn.Linear(2, 1)
    _set(model, 0.0)
    average = WeightAverage(model, 0.3)
    expected = 0.0
    for update in range(1, 9):
        _set(model, float(update))
        average.update(update)
        decay = min(0.3, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * update
    assert average.state()["weight"].tolist() == [[pytest.approx(expected, rel=1e-6)] * 2]


def test_decay_zero_is_the_latest_weights() -> None:
    model = nn.Linear(2, 1)
    average = WeightAverage(model, 0.0)
    _set(model, 3.0)
    average.update(1)
    with average.applied():
        assert model.bias.item() == 3.0
    assert average.state() == {}, "a copy of what the model holds"


def test_statistics_are_averaged_and_counters_copied() -> None:
    model = nn.BatchNorm1d(2)
    average = WeightAverage(model, 0.9)
    _set(model, 11.0)
    average.update(1)
    # (1 + 1) / (10 + 1) of the former mean 0 and the rest of 11.
    assert average.state()["running_mean"].tolist() == pytest.approx([9.0, 9.0])
    assert average.state()["num_batches_tracked"].item() == 11


def test_the_model_gets_its_own_weights_back_even_after_an_error(tiny: ModuleType) -> None:
    model = tiny.seeded_net()
    average = WeightAverage(model, 0.9)
    own = {name: tensor.clone() for name, tensor in average.state().items()}
    _set(model, 2.0)
    with pytest.raises(ValueError, match="inside"), average.applied():
        assert all(torch.equal(tensor, own[name]) for name, tensor in model.state_dict().items())
        raise ValueError("inside")
    assert all((tensor == 2).all() for tensor in model.state_dict().values())
    assert all(torch.equal(tensor, own[name]) for name, tensor in average.state().items())


def test_the_average_is_a_copy_and_loads_back(tiny: ModuleType) -> None:
    model = tiny.seeded_net()
    first = WeightAverage(model, 0.5)
    kept = {name: tensor.clone() for name, tensor in first.state().items()}
    _set(model, 1.0)
    second = WeightAverage(model, 0.5)
    second.load(first.state())
    assert all(torch.equal(tensor, kept[name]) for name, tensor in second.state().items())


def test_shared_tensors_are_averaged_once() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    assert sorted(live_tensors(model)) == ["0.bias", "0.weight", "1.bias"]
