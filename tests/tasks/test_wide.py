"""The linear model beside a network of connectomes, in a fold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from medformer.config import ConnectomeModelConfig
from medformer.data.connectomes.dataset import ConnectomeData
from medformer.inference.ridge import fit_ridge
from medformer.models.connectome.build import build_connectome_model
from medformer.models.connectome.classifier import ConnectomeClassifier, LinearPath, edge_count
from medformer.tasks.abide.wide import fit_wide, join
from medformer.tensor_file import write_tensors
from medformer.training.losses.objectives import ClassificationObjective, Moment

REGIONS = {"one": 8, "two": 6}
SUBJECTS = 80


def sample() -> tuple[dict[str, NDArray[np.float32]], NDArray[np.int64]]:
    """Connections of two atlases, of which some of the first differ between the classes."""
    generator = np.random.default_rng(0)
    labels = np.arange(SUBJECTS) % 2
    blocks = {
        atlas: generator.normal(size=(SUBJECTS, edge_count(n, False))).astype(np.float32)
        for atlas, n in REGIONS.items()
    }
    blocks["one"][:, :6] += 0.6 * labels[:, None].astype(np.float32)
    return blocks, labels


def build(regions: dict[str, int] = REGIONS) -> tuple[ConnectomeClassifier, LinearPath]:
    torch.manual_seed(0)
    model = build_connectome_model(ConnectomeModelConfig(name="wide:roi_metaformer", width=8), regions)
    assert model.wide is not None
    return model, model.wide


def scores(wide: LinearPath, blocks: dict[str, NDArray[np.float32]]) -> NDArray[np.float64]:
    return wide.score({atlas: torch.from_numpy(block) for atlas, block in blocks.items()}).double().numpy()


def test_scores_of_training_subjects_are_those_of_models_that_do_not_know_them() -> None:
    blocks, labels = sample()
    one = {"one": blocks["one"]}
    found = {}
    for flipped in (False, True):
        told = labels.copy()
        told[3] = 1 - labels[3] if flipped else labels[3]
        _, wide = build({"one": REGIONS["one"]})
        found[flipped] = fit_wide(wide, one, told)[3], scores(wide, one)[3]
    assert found[True][0] == pytest.approx(found[False][0], abs=1e-9)
    assert abs(found[True][1] - found[False][1]) > 0.1


def test_what_is_known_before_is_kept_and_only_the_rest_is_learned() -> None:
    blocks, labels = sample()
    _, wide = build()
    with torch.no_grad():
        wide.weights("two").fill_(0.1)
        wide.gate.zero_()
    before = scores(wide, blocks)
    offsets = fit_wide(wide, blocks, labels)
    # The first one has the most connections.
    assert wide.weights("two").unique().tolist() == pytest.approx([0.1])
    rest = fit_ridge(blocks["one"], 2.0 * labels - 1.0 - before)
    assert np.allclose(offsets, before + rest.left_out, atol=1e-5)
    assert np.allclose(scores(wide, blocks), before + blocks["one"] @ rest.weights + rest.intercept, atol=1e-5)
    assert float(wide.gate) == 1


@pytest.mark.parametrize("helps", [True, False])
def test_the_gate_is_chosen_by_held_out_subjects_and_written_into_the_weights(tmp_path: Path, helps: bool) -> None:
    blocks, labels = sample()
    model, wide = build()
    fit_wide(wide, blocks, labels[::-1].copy())
    if helps:
        # The network tells what the linear model, which learned wrong labels, does not know.
        planted = torch.from_numpy(np.stack([1.0 - 2.0 * labels, 2.0 * labels - 1.0], 1))
        model.classify = lambda features: planted  # type: ignore[method-assign]
    write_tensors(tmp_path / "model.safetensors", model.state_dict(), {"kept": "yes"})
    record = join(model, wide, blocks, labels, folder=tmp_path, batch_size=SUBJECTS)
    assert (record["value"] > 0) == helps and record["sees"] == "one"
    saved = load_file(tmp_path / "model.safetensors")
    assert saved.keys() == model.state_dict().keys()
    assert float(saved["wide.gate"]) == float(wide.gate) == record["value"]


def test_a_batch_with_offsets_trains_what_they_leave_unexplained() -> None:
    blocks, labels = sample()
    model, _ = build()
    offsets = np.linspace(-1, 1, SUBJECTS)
    data = ConnectomeData(blocks, labels, [str(row) for row in range(SUBJECTS)], offsets=offsets)
    assert float(data[(0, 7)]["offset"]) == pytest.approx(offsets[7])
    batch = data.batch([(0, row) for row in (3, 5)])
    # The read-outs of the network start at zero.
    for loss, expected in (
        ("squared", np.mean((offsets[[3, 5]] - (2.0 * labels[[3, 5]] - 1.0)) ** 2)),
        ("cross_entropy", np.mean(np.log1p(np.exp(-offsets[[3, 5]] * (2.0 * labels[[3, 5]] - 1.0))))),
    ):
        objective = ClassificationObjective(loss)  # type: ignore[arg-type]
        found = objective(model.train(), objective.tensors(batch), Moment(0, 0, 0))
        assert found.item() == pytest.approx(expected, rel=1e-5)
