"""The loop that trains segmenters trains networks on connectomes, with the same promises."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from medformer.data.connectomes.dataset import ConnectomeData
from medformer.errors import CheckpointError, DivergenceError, InterruptedRun, ResourceError
from medformer.inference.classification import predict_scores
from medformer.tensor_file import read_metadata
from medformer.training.losses.objectives import ClassificationObjective, Moment
from medformer.training.pretraining.masks import ConnectionMask
from medformer.training.pretraining.pretrain import MaskedReconstruction, ReconstructionLoss, TrainingMean
from tests.helpers.stopping import StopAfter

SCRIPT = Path(__file__).with_name("tiny_connectomes.py")


@pytest.fixture(scope="module")
def small() -> ModuleType:
    spec = importlib.util.spec_from_file_location("medformer_tests_tiny_connectomes", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def masked(small: ModuleType, **change: Any) -> tuple[MaskedReconstruction, ReconstructionLoss]:
    mask = ConnectionMask(0.2, small.REGIONS, **change)
    train, held_out, _ = small.parts()
    judge = ReconstructionLoss(mask, held_out, TrainingMean(train), unit="subjects", batch_size=7, seed=3)
    return MaskedReconstruction(mask), judge


def test_a_classifier_is_trained_and_chosen_by_the_lowest_loss(small: ModuleType, tmp_path: Path) -> None:
    model = small.seeded(small.Classifier)
    result = small.train(tmp_path, model, config={"epochs": 20})
    losses = [row["validation_loss"] for row in result.history]
    assert result.best == min(losses) < 0.5 and result.best_epoch == 1 + losses.index(min(losses))
    assert "validation_dice" not in result.history[0]
    _, held_out, labels = small.parts()
    scores = predict_scores([model], held_out, ids=[str(number) for number in range(len(labels) - small.TRAIN)])
    assert roc_auc_score(labels[small.TRAIN :], scores) > 0.9
    assert all(
        row["best"] == (score == min(losses[: number + 1]))
        for number, (row, score) in enumerate(zip(result.history, losses, strict=True))
    )


@pytest.mark.parametrize("kind", ["edges", "regions"])
def test_a_reconstruction_beats_the_mean_edge(small: ModuleType, tmp_path: Path, kind: Any) -> None:
    objective, validation = masked(small, kind=kind, noise=0.1)
    model = small.seeded(small.Reconstructor)
    result = small.train(tmp_path, model, objective, validate=validation, config={"epochs": 60})
    assert result.history[-1]["validation_loss"] < result.history[0]["validation_loss"]
    quality = validation.against_mean(model)
    assert quality["masked_mse"] < 0.8 * quality["mean_edge_mse"]
    assert set(quality["atlases"]) == set(small.REGIONS) and quality["subjects"] == small.HELD_OUT
    summed = sum(row["masked_mse"] for row in quality["atlases"].values())
    assert result.best == pytest.approx(summed, rel=1e-5)


@pytest.mark.parametrize("what", ["classification", "reconstruction"])
@pytest.mark.parametrize("steps", [2, 5, 8])
def test_a_stopped_training_goes_on_bit_for_bit(small: ModuleType, tmp_path: Path, what: str, steps: int) -> None:
    def train(folder: str, **change: Any) -> None:
        if what == "classification":
            small.train(tmp_path / folder, small.seeded(small.Classifier), **change)
            return
        objective, validation = masked(small, noise=0.1)
        model = small.seeded(small.Reconstructor)
        small.train(tmp_path / folder, model, objective, validate=validation, **change)

    train("whole")
    with pytest.raises(InterruptedRun):
        train("stopped", reporter=StopAfter(steps))
    train("stopped", resume=True)
    whole, stopped = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "stopped"))
    assert whole == stopped


def test_another_ratio_is_another_training(small: ModuleType, tmp_path: Path) -> None:
    objective, validation = masked(small)
    small.train(tmp_path, small.seeded(small.Reconstructor), objective, validate=validation)
    other = MaskedReconstruction(ConnectionMask(0.5, small.REGIONS))
    with pytest.raises(CheckpointError, match=r"ratio was 0\.2, now 0\.5"):
        small.train(tmp_path, small.seeded(small.Reconstructor), other, validate=validation, resume=True)


def test_loader_processes_give_the_same_batches(small: ModuleType, tmp_path: Path) -> None:
    for workers in (0, 1):
        small.train(tmp_path / str(workers), small.seeded(small.Classifier), workers=workers)
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("0", "1"))
    assert first == second


def test_a_nan_is_traced_to_its_subject(small: ModuleType, tmp_path: Path) -> None:
    train, _, labels = small.parts()
    train = {atlas: block.copy() for atlas, block in train.items()}
    train["large"][7, 3] = np.nan
    data = ConnectomeData(train, labels[: small.TRAIN], [f"s{number}" for number in range(small.TRAIN)])
    with pytest.raises(DivergenceError, match=r"not finite in 1 \(s7\): repair or leave out"):
        small.train(tmp_path, small.seeded(small.Classifier), data=data)


def test_out_of_memory_speaks_of_connections(small: ModuleType, tmp_path: Path) -> None:
    class Greedy(small.Classifier):  # type: ignore[name-defined,misc]
        def forward(self, given: Any) -> torch.Tensor:
            raise MemoryError

    with pytest.raises(ResourceError) as caught:
        small.train(tmp_path, Greedy())
    text = str(caught.value)
    assert "batch of 8, connections of small with 15, large with 36" in text
    assert "training.batch_size=4" in text and "fewer data.atlases" in text and "image_size" not in text


def test_the_exponential_schedule_follows_the_epochs(small: ModuleType, tmp_path: Path) -> None:
    config = {"lr": 0.01, "lr_schedule": "exponential", "lr_decay": 0.5, "warmup": 0.0}
    result = small.train(tmp_path, small.seeded(small.Classifier), config=config)
    assert [row["lr"] for row in result.history] == pytest.approx([0.01, 0.005, 0.0025, 0.00125])


def test_an_unknown_measure_is_refused(small: ModuleType, tmp_path: Path) -> None:
    class Odd:
        measure = "dise"

        def __call__(self, model: nn.Module) -> float:
            return 0.0

    with pytest.raises(ValueError, match=r"'dise', expected one of dice, auc"):
        small.train(tmp_path, small.seeded(small.Classifier), validate=Odd())


def test_the_last_weights_are_kept_where_asked_and_nothing_stops_early(small: ModuleType, tmp_path: Path) -> None:
    class Falling:
        measure = "auc"
        score = 1.0

        def __call__(self, model: nn.Module) -> float:
            self.score -= 0.1
            return self.score

    config = {"keep": "last", "patience": 1, "epochs": 5}
    model = small.seeded(small.Classifier)
    result = small.train(tmp_path, model, validate=Falling(), config=config)
    assert (result.epochs, result.best_epoch) == (5, 5) and result.best == pytest.approx(0.5)
    assert read_metadata(result.weights)["epoch"] == 5


def test_the_losses_of_a_classifier() -> None:
    logits, labels = torch.tensor([[0.5, 1.0], [2.0, -1.0], [0.0, 3.0]]), torch.tensor([1, 0, 0])
    batch = {"edges": {"a": torch.zeros(3, 2)}, "label": labels}
    now = Moment(0, 0, 0)
    margins = torch.tensor([0.5, -3.0, 3.0])
    squared = ClassificationObjective("squared")(lambda _: logits, batch, now)
    assert squared.item() == pytest.approx((0.5**2 + 2.0**2 + 4.0**2) / 3)
    plain = ClassificationObjective()(lambda _: logits, batch, now)
    expected = nn.functional.binary_cross_entropy_with_logits(margins, labels.float())
    assert plain.item() == pytest.approx(expected.item(), rel=1e-6)
