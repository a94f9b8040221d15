from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medformer.config.shared import TrainingConfig
from medformer.training.losses.objectives import ClassificationObjective, MemoryContext, Moment, VolumeObjective
from medformer.training.losses.segmentation import build_volume_loss

NOW = Moment(0, 0, 0)


def _batch(*size: int, channels: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "image": torch.randn(3, channels, *size, generator=generator),
        "mask": torch.randint(3, (3, 1, *size), generator=generator),
        "label": torch.tensor([0, 1, 1]),
    }


class TwoMaps(nn.Module):
    def forward(self, image: Tensor) -> list[Tensor]:
        logits = torch.cat([image, image[:, :1]], 1)
        return [logits, F.avg_pool3d(logits, 2)]


def test_a_batch_of_patches_becomes_a_loss_of_every_map() -> None:
    batch = _batch(8, 6, 4)
    loss = build_volume_loss("dice_ce")
    fine, coarse = TwoMaps()(batch["image"])
    expected = loss(fine, batch["mask"]) + 0.5 * loss(coarse, batch["mask"][:, :, 1::2, 1::2, 1::2])
    objective = VolumeObjective(loss)
    assert objective(TwoMaps(), objective.tensors(batch), NOW).item() == pytest.approx(expected.item())
    assert set(objective.tensors(batch)) == {"image", "mask"} and objective.identity() == {"loss": "dice_ce"}


def test_a_lack_of_memory_names_what_the_plan_can_change() -> None:
    load = VolumeObjective(build_volume_loss("dice")).load(_batch(64, 48, 5), NOW)
    text = MemoryContext(TrainingConfig(batch_size=3), 1000, load).advice()
    assert "batch of 3, patches of 64 x 48 x 5 voxels with 2 channels" in text
    assert "plan.batch_size=1" in text and "plan.patch=[48, 32, 3]" in text and "model.checkpointing=true" in text
    assert "training.batch_size" not in text


def test_images_are_classified_by_the_same_objective_as_connectomes() -> None:
    batch = _batch(8, 8, 8)
    objective = ClassificationObjective(inputs="image")
    logits = batch["image"].mean((2, 3, 4))
    found = objective(lambda image: image.mean((2, 3, 4)), objective.tensors(batch), NOW)
    assert found.item() == pytest.approx(F.cross_entropy(logits, batch["label"]).item())
    assert set(objective.tensors(batch)) == {"image", "label"}
    assert objective.load(batch, NOW).seen == "patches of 8 x 8 x 8 voxels with 2 channels"
