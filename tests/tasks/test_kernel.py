"""The kernel machine beside a network of volumes, in a fold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score

from medformer.config import VolumeConfig
from medformer.config_loading import load_config
from medformer.data.network_inputs import ItemImages
from medformer.data.volumes.plan.volume_plan import VolumePlan
from medformer.data.volumes.prepare.patches import WholeImages
from medformer.models.backbone.heads import Classifier
from medformer.models.networks.kernel import KernelPath
from medformer.tasks.volume import wide
from medformer.tasks.volume.network import new_network, small_plan
from medformer.tasks.volume.wide import fit_kernel, join
from medformer.tensor_file import write_tensors

CASES = 60
SIDE = 12


class Prepared:
    """A case as far as `WholeImages` reads it."""

    def __init__(self, image: NDArray[np.float32]) -> None:
        self.image, self.classes, self.shape, self.lowest = image, None, image.shape[1:], image.min((1, 2, 3))


def balls() -> tuple[dict[str, Prepared], dict[str, int]]:
    """Balls of many sizes: class 1 are neither the small nor the large ones, which no linear model of size tells."""
    generator = np.random.default_rng(0)
    places = np.stack(np.meshgrid(*[np.arange(SIDE)] * 3, indexing="ij"), -1)
    cases, labels = {}, {}
    for number, radius in enumerate(np.linspace(1.5, 5.5, CASES)):
        image = (np.linalg.norm(places - generator.uniform(5, 6, 3), axis=-1) <= radius).astype(np.float32)
        cases[str(number)] = Prepared((image - image.mean())[None] / image.std())
        labels[str(number)] = int(2.8 < radius < 4.2)
    return cases, labels


def network() -> tuple[Classifier, KernelPath, VolumePlan]:
    config = load_config("volume/classification", [f"plan.patch=[{SIDE},{SIDE},{SIDE}]"], model=VolumeConfig)
    plan = small_plan(config)
    model = new_network(config, plan, 0)
    assert isinstance(model, Classifier) and isinstance(model.wide, KernelPath)
    return model, model.wide, plan


def test_it_tells_what_is_not_linear_and_its_scores_of_training_cases_do_not_know_their_labels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cases, labels = balls()
    model, path, plan = network()
    images = WholeImages(cases, plan, list(cases))  # type: ignore[arg-type]
    found = fit_kernel(model, path, images, labels, batch_size=7)
    truth = [labels[name] for name in cases]
    assert roc_auc_score(truth, [found[name] for name in cases]) > 0.9
    with torch.no_grad():
        fitted = path.score(torch.stack([images[int(name)]["image"] for name in cases]))
    assert roc_auc_score(truth, fitted) > 0.95
    # The label has a say in which penalty is taken, and in nothing else of its own score.
    monkeypatch.setattr(wide, "PENALTIES", (0.1,))
    told = labels | {"20": 1 - labels["20"]}
    one, two = (fit_kernel(model, path, images, given, batch_size=60) for given in (labels, told))
    assert one["20"] == pytest.approx(two["20"], abs=1e-9) and one["21"] != two["21"]


def test_a_network_starts_at_nothing_and_is_added_where_it_helps(tmp_path: Path) -> None:
    cases, labels = balls()
    model, path, plan = network()
    images = WholeImages(cases, plan, list(cases))  # type: ignore[arg-type]
    batch = torch.stack([images[number]["image"] for number in range(4)])
    assert torch.equal(model.train()(batch), torch.zeros(4, 2))
    fit_kernel(model, path, images, {name: 1 - label for name, label in labels.items()}, batch_size=20)
    truth = np.array(list(labels.values()))
    with torch.no_grad():
        assert torch.allclose(model.eval()(batch).diff(dim=1)[:, 0], path.score(batch), atol=1e-6)
    planted = torch.from_numpy(np.stack([1.0 - 2.0 * truth, 2.0 * truth - 1.0], 1))
    model.classify = lambda x: planted  # type: ignore[method-assign]
    write_tensors(tmp_path / "model.safetensors", model.state_dict(), {})
    record = join(model, path, ItemImages(images), truth, folder=tmp_path, batch_size=CASES)
    assert record["value"] > 0 and record["sees"] == "shape and coarse voxels"
    assert float(load_file(tmp_path / "model.safetensors")["wide.gate"]) == float(path.gate) == record["value"]
