"""A memory holds latents of training cases that are those of the weights beside it, whatever stopped the training."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from tiny_backbone import tiny_backbones
from torch import Tensor, nn

from medformer.config.shared import ModelConfig, TrainingConfig
from medformer.errors import CheckpointError, ConfigError, InterruptedRun, LeakageError
from medformer.models.backbone.mixers import make_mixer
from medformer.models.backbone.mixers.hopfield_memory import EMPTY, MemoryBank, memory_banks
from medformer.models.backbone.queries import Queries, recorded_queries
from medformer.models.networks.build import build_network
from medformer.models.networks.grid import Grid
from medformer.tensor_file import read_tensors, write_tensors
from medformer.training.banks import Banks, _classes, remembered_cases, require_unremembered
from medformer.training.job import Job
from medformer.training.losses.objectives import ClassificationObjective, SegmentationObjective
from medformer.training.losses.segmentation import build_loss
from medformer.training.saving import load_model
from tests.helpers.stopping import StopAfter

SLOTS = 12


class MemoryNet(nn.Module):
    """Two memories on a map of half the resolution, the second of which sees what the first makes of it."""

    def __init__(self) -> None:
        super().__init__()
        spec = {"name": "hopfield_memory", "slots": SLOTS}
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.drop = nn.Dropout(0.2)
        self.first, self.second = (make_mixer(spec, 8, spatial_dims=2, stage=0) for _ in range(2))  # type: ignore[arg-type]
        self.head = nn.Conv2d(8, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[2:]
        x = self.drop(self.stem(x))
        x = x + self.first(x)
        x = x + self.second(x)
        return nn.functional.interpolate(self.head(x), size)


class Named:
    """The squares of other tests, whose place no longer depends on the epoch once they are plain."""

    def __init__(self, squares: Any, is_plain: bool = False) -> None:
        self.squares, self.is_plain = squares, is_plain

    def __len__(self) -> int:
        return len(self.squares)

    def __getitem__(self, index: tuple[int, int]) -> dict[str, Any]:
        return dict(self.squares[(99, index[1])] if self.is_plain else self.squares[index])

    @property
    def names(self) -> list[str]:
        return [f"case{number}" for number in range(len(self))]

    def plain(self) -> Named:
        return Named(self.squares, True)


def train(tiny: ModuleType, out: Path, model: nn.Module | None = None, **more: Any) -> MemoryNet:
    torch.manual_seed(0)
    network = MemoryNet() if model is None else model
    tiny.train(out, model=network, data=Named(tiny.Squares()), scales=(0.75, 1.0), **more)
    assert isinstance(network, MemoryNet)
    return network


@pytest.fixture(scope="module", params=[0.9, 0.0], ids=["averaged", "latest"])
def trained(
    tiny: ModuleType, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, MemoryNet, dict[str, float]]:
    """A training of 3 epochs of 2 steps: its folder, its network, and its config."""
    out, config = tmp_path_factory.mktemp("trained"), {"ema": request.param}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    network = train(tiny, out, config=config)
    torch.set_num_threads(threads)
    return out, network, config


Trained = tuple[Path, MemoryNet, dict[str, float]]


def test_stored_latents_are_what_the_kept_weights_compute_of_plain_training_cases(
    tiny: ModuleType, trained: Trained
) -> None:
    network, data = trained[1], Named(tiny.Squares(), True)
    for name, bank in memory_banks(network).items():
        filled = [slot for slot in range(SLOTS) if bank.classes[slot] != EMPTY]
        assert len(filled) == SLOTS
        for slot in filled:
            item = data[(0, int(bank.cases[slot]))]
            with torch.no_grad(), recorded_queries(network) as asked:
                network(item["image"][None])
            at, kind = 0, 1
            if name.endswith("regions"):
                row, column = (bank.places[slot] * 6).long().tolist()
                at, kind = row * 6 + column, int(item["mask"][0, 2 * row + 1, 2 * column + 1])
            torch.testing.assert_close(asked[bank].values[0, at], bank.latents[slot])
            assert int(bank.classes[slot]) == kind


def test_classes_are_balanced_and_the_file_names_the_cases(trained: Trained) -> None:
    out, network, _ = trained
    numbers: set[int] = set()
    for name, bank in memory_banks(network).items():
        numbers |= set(bank.cases.tolist())
        if name.endswith("regions"):
            assert sorted(bank.classes.tolist()) == [0] * 6 + [1] * 6
    assert remembered_cases(out / "model.safetensors") == {number: f"case{number}" for number in sorted(numbers)}


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_a_stopped_training_goes_on_bit_for_bit(tiny: ModuleType, tmp_path: Path, trained: Trained, steps: int) -> None:
    out, _, config = trained
    with pytest.raises(InterruptedRun):
        train(tiny, tmp_path, config=config, reporter=StopAfter(steps))
    train(tiny, tmp_path, model=MemoryNet(), config=config, resume=True)
    assert (tmp_path / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()


def test_what_another_training_remembered_is_forgotten(tiny: ModuleType, tmp_path: Path, trained: Trained) -> None:
    out, _, config = trained
    torch.manual_seed(0)
    network = MemoryNet()
    for bank in memory_banks(network).values():
        bank.store(torch.randn(5, 8), torch.rand(5, 2), [3] * 5, [900] * 5)
    train(tiny, tmp_path, model=network, config=config)
    assert (tmp_path / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()


def test_the_memory_matters_and_evaluation_leaves_it_alone(tiny: ModuleType, trained: Trained) -> None:
    torch.manual_seed(1)
    network, x = MemoryNet(), torch.randn(2, 3, 12, 12)
    load_model(trained[0] / "model.safetensors", network)
    network.eval()
    kept = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with torch.no_grad():
        before = network(x)
        weights = [bank.recall(asked.values)[1] for bank, asked in _asked(network, x).items()]
        assert all(torch.equal(tensor, kept[name]) for name, tensor in network.state_dict().items())
        for bank, found in zip(list(_asked(network, x)), weights, strict=True):
            bank.forget(found.mean((0, 1)).topk(3).indices.tolist())
        assert not torch.allclose(network(x), before)


def _asked(network: nn.Module, x: Tensor) -> dict[MemoryBank, Queries]:
    with recorded_queries(network) as asked:
        network(x)
    return asked


def test_places_and_classes_are_those_of_the_image_before_padding() -> None:
    with tiny_backbones():
        config = ModelConfig(name="meta_unet", backbone="tiny", mixers=("hopfield_memory",))
        network = build_network(config, Grid(in_channels=3, out_channels=1, size=(40, 50))).eval()
    mask = torch.zeros(1, 1, 40, 50)
    # Of the first stage, whose stride is 4: the token of row 3 and column 7. The map is that of 64 x 64 pixels.
    mask[..., 12:16, 28:32] = 1
    with torch.no_grad():
        asked = _asked(network, torch.randn(1, 3, 40, 50))
    first = next(queries for queries in asked.values() if queries.places is not None)
    classes = _classes(first, mask).reshape(-1)
    assert len(classes) == 16 * 16
    assert classes[3 * 16 + 7] == 1 and (classes == 1).sum() == 1
    assert ((classes == EMPTY).reshape(16, 16) == ~_inside(10, 12)).all()
    scene = next(queries for queries in asked.values() if queries.places is None)
    assert _classes(scene, mask).tolist() == [[1]] and _classes(scene, 0 * mask).tolist() == [[0]]


def _inside(rows: int, columns: int) -> Any:
    inside = torch.zeros(16, 16, dtype=torch.bool)
    inside[:rows, :columns] = True
    return inside.numpy()


def test_cases_with_a_label_and_without_any() -> None:
    queries = Queries(torch.zeros(2, 3, 1), torch.tensor([[0.1], [0.5], [0.9]]))
    assert _classes(queries, torch.tensor([1, 0])).tolist() == [[1] * 3, [0] * 3]
    assert _classes(queries, None).tolist() == [[0] * 3] * 2


def test_several_processes_and_nameless_data_are_refused(tiny: ModuleType, tmp_path: Path) -> None:
    objective = SegmentationObjective(build_loss("bce_dice"))

    def banks(data: Any, **config: Any) -> Banks:
        return Banks(MemoryNet(), Job(objective, data, None, TrainingConfig(**config), tmp_path, 0))

    with pytest.raises(ConfigError, match=r"hopfield_memory does not support training.devices > 1: One process"):
        banks(Named(tiny.Squares()), devices=2)
    with pytest.raises(ConfigError, match="Squares does not say which case an item is of"):
        banks(tiny.Squares())
    assert banks(Named(tiny.Squares()))
    assert not Banks(
        nn.Linear(1, 1), Job(ClassificationObjective(), tiny.Squares(), None, TrainingConfig(), tmp_path, 0)
    )


def test_a_memory_of_a_held_out_case_is_refused(tmp_path: Path, trained: Trained) -> None:
    file = tmp_path / "members/1/model.safetensors"
    tensors, metadata = read_tensors(trained[0] / "model.safetensors")
    held = list(metadata["memory"].values())
    write_tensors(file, tensors, metadata)
    require_unremembered(tmp_path, {"train": held, "validation": ["other"], "test": ["another"]})
    with pytest.raises(LeakageError, match=f"{held[0]}.* of the test part .*--resume"):
        require_unremembered(tmp_path, {"train": held[1:], "test": [held[0]]})
    with pytest.raises(LeakageError, match="of the validation part"):
        require_unremembered(tmp_path, {"validation": [held[-1]], "test": []})
    number = next(iter(metadata["memory"]))
    write_tensors(
        file, tensors, {**metadata, "memory": {key: v for key, v in metadata["memory"].items() if key != number}}
    )
    with pytest.raises(CheckpointError, match="does not say which cases its memory holds"):
        require_unremembered(tmp_path, {"test": ["another"]})
