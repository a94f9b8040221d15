from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medformer.config import TrainingConfig
from medformer.errors import ConfigError
from medformer.training.failures import MemoryContext
from medformer.training.losses.objectives import ClassificationObjective, Moment, VolumeObjective
from medformer.training.losses.volume_losses import build_volume_loss
from medformer.training.volume_masking import MaskedVolumes

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
    assert set(objective.tensors(batch)) == {"image", "mask"} and objective.identity() == {"loss": "DiceCrossEntropy"}


def test_a_lack_of_memory_names_what_the_plan_can_change() -> None:
    load = VolumeObjective(build_volume_loss("dice")).load(_batch(64, 48, 5), NOW)
    text = str(MemoryContext(TrainingConfig(batch_size=3), 1000, load).advice(RuntimeError("out of memory")))
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


@pytest.mark.parametrize(
    ("block", "ratio", "size"), [(4, 0.6, (16, 12, 8)), (3, 0.25, (10, 7, 2)), (1, 0.5, (3, 3, 3))]
)
def test_whole_blocks_are_hidden_and_as_many_as_asked_for(block: int, ratio: float, size: tuple[int, ...]) -> None:
    images = _batch(*size)["image"]
    masks = MaskedVolumes(block, ratio).masks(images, torch.Generator().manual_seed(0))
    assert masks.shape == (3, 1, *size) and masks.dtype == torch.bool
    padded = F.pad(masks.float(), [n for length in reversed(size) for n in (0, -length % block)], value=-1.0)
    blocks = padded.reshape(3, *(n for length in padded.shape[2:] for n in (length // block, block)))
    blocks = blocks.permute(0, 1, 3, 5, 2, 4, 6).flatten(4).flatten(1, 3)
    inside = [[set(one.tolist()) - {-1.0} for one in of_patch] for of_patch in blocks]
    assert all(len(values) == 1 for of_patch in inside for values in of_patch), "a block is hidden in part"
    hidden = [sum(values == {1.0} for values in of_patch) for of_patch in inside]
    assert hidden == [round(ratio * blocks.shape[1])] * 3
    assert not torch.equal(masks[0], masks[1])


def test_only_what_was_hidden_counts_and_is_not_shown() -> None:
    objective = MaskedVolumes(4, 0.5)
    images = _batch(8, 8, 8)["image"]
    shown: list[Tensor] = []

    def guess(seen: Tensor) -> Tensor:
        shown.append(seen)
        return torch.where(seen == 0, images + 2.0, torch.inf).nan_to_num(posinf=1e6)

    torch.manual_seed(0)
    assert objective(guess, {"image": images}, NOW).item() == pytest.approx(4.0)
    hidden = shown[0] == 0
    assert hidden.float().mean() == pytest.approx(0.5)
    assert torch.equal(shown[0][~hidden], images[~hidden])
    assert (hidden[:, 0] == hidden[:, 1]).all(), "a channel tells what another hides"


@pytest.mark.parametrize("ratio", [0.01, 0.99])
def test_something_is_always_hidden_and_something_seen(ratio: float) -> None:
    masks = MaskedVolumes(4, ratio).masks(torch.zeros(5, 1, 8, 4, 4))
    assert masks.float().mean((1, 2, 3, 4)).tolist() == [0.5] * 5


def test_masks_repeat_with_their_generator_and_resume_needs_the_same_settings() -> None:
    objective = MaskedVolumes(2, 0.5)
    images = torch.zeros(2, 1, 8, 8, 8)
    first, again = (objective.masks(images, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, again)
    assert objective.identity() == {"loss": "masked_mse", "mask": "blocks", "block": 2, "ratio": 0.5}


def test_settings_that_hide_nothing_or_everything_are_refused() -> None:
    with pytest.raises(ValueError, match="masked share"):
        MaskedVolumes(4, 1.0)
    with pytest.raises(ValueError, match="side of a masked block"):
        MaskedVolumes(0, 0.5)
    with pytest.raises(ConfigError, match=r"blocks of 8 voxels for patches of 8 x 6 x 4.*pretraining.block=2"):
        MaskedVolumes(8, 0.5).masks(torch.zeros(1, 1, 8, 6, 4))
