from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medformer.errors import UnknownNameError
from medformer.training.losses.objectives import sample_nearest, supervised_loss
from medformer.training.losses.segmentation import VOLUME_LOSSES, build_volume_loss

SHAPES = [(2, 3, 40), (2, 4, 11, 9), (2, 3, 9, 8, 7)]


def _pair(shape: tuple[int, ...], seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(shape, generator=generator)
    return logits, torch.randint(shape[1], (shape[0], 1, *shape[2:]), generator=generator)


def _sure(classes: Tensor, count: int) -> Tensor:
    return 20.0 * (classes == torch.arange(count).reshape(1, count, *[1] * (classes.ndim - 2))).float()


@pytest.mark.parametrize("name", VOLUME_LOSSES)
@pytest.mark.parametrize("shape", SHAPES)
def test_good_predictions_cost_less_than_bad_ones_in_every_dimension(name: str, shape: tuple[int, ...]) -> None:
    loss = build_volume_loss(name)
    logits, classes = _pair(shape)
    right, wrong = _sure(classes, shape[1]), _sure((classes + 1) % shape[1], shape[1])
    assert loss(right, classes).shape == () and loss(right, classes).dtype == torch.float32
    assert loss(right, classes) < 1e-3 < loss(logits, classes) < loss(wrong, classes)


@pytest.mark.parametrize("shape", SHAPES[1:])
def test_losses_agree_with_monai_where_every_label_is_there(shape: tuple[int, ...]) -> None:
    from monai.losses import DiceCELoss, FocalLoss

    logits, classes = _pair(shape)
    settings = {"softmax": True, "to_onehot_y": True, "include_background": False, "batch": True}
    dice_ce = DiceCELoss(**settings)(logits, classes)
    assert build_volume_loss("dice_ce")(logits, classes).item() == pytest.approx(dice_ce.item(), rel=1e-5)
    dice = DiceCELoss(**settings, lambda_ce=0.0)(logits, classes).item()
    assert build_volume_loss("dice")(logits, classes).item() == pytest.approx(dice, rel=1e-5)
    # There the mean also runs over the classes, all but one of which are 0 in every voxel.
    focal = FocalLoss(use_softmax=True, to_onehot_y=True)(logits, classes).item() * shape[1]
    assert build_volume_loss("dice_focal")(logits, classes).item() == pytest.approx(dice + focal, rel=1e-5)


def test_an_absent_label_scores_its_mean_probability_and_the_others_their_dice() -> None:
    logits, classes = _pair((2, 3, 6, 6, 6))
    classes[classes == 2] = 0
    probabilities = logits.softmax(1)
    hit = (classes == 1).float()
    present = 1 - 2 * (probabilities[:, 1:2] * hit).sum() / (probabilities[:, 1].sum() + hit.sum())
    expected = (present + probabilities[:, 2].mean()) / 2
    assert build_volume_loss("dice")(logits, classes).item() == pytest.approx(expected.item(), rel=1e-5)
    empty = torch.zeros_like(classes)
    assert build_volume_loss("dice")(_sure(empty, 3), empty).item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("name", ["dice", "dice_ce", "dice_focal"])
@pytest.mark.parametrize("level", [-12.0, 0.0, 6.0])
def test_gradients_of_an_absent_label_neither_vanish_nor_explode(name: str, level: float) -> None:
    logits = torch.zeros(1, 2, 12, 12, 12)
    logits[:, 1] = level
    logits.requires_grad_()
    build_volume_loss(name)(logits, torch.zeros(1, 1, 12, 12, 12, dtype=torch.long)).backward()
    assert logits.grad is not None
    steepness = logits.grad[:, 1] * 12**3
    probability = torch.tensor(level).sigmoid()
    assert (steepness > 0.5 * probability * (1 - probability)).all() and (steepness < 3).all()


def test_the_batch_is_one_volume() -> None:
    logits, classes = _pair((2, 3, 5, 6, 7))
    joined = torch.cat([logits[:1], logits[1:]], 2), torch.cat([classes[:1], classes[1:]], 2)
    loss = build_volume_loss("dice_ce")
    assert loss(logits, classes).item() == pytest.approx(loss(*joined).item(), rel=1e-5)
    alone = (loss(logits[:1], classes[:1]) + loss(logits[1:], classes[1:])) / 2
    assert abs(loss(logits, classes).item() - alone.item()) > 1e-5


@pytest.mark.parametrize("name", VOLUME_LOSSES)
def test_half_precision_maps_are_summed_in_float32(name: str) -> None:
    logits, classes = _pair((1, 3, 40, 40, 40))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = build_volume_loss(name)(logits.bfloat16(), classes)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(build_volume_loss(name)(logits.bfloat16().float(), classes).item(), rel=1e-6)


@pytest.mark.parametrize("name", VOLUME_LOSSES)
@pytest.mark.parametrize("absent", [False, True])
def test_gradients_agree_with_finite_differences(name: str, absent: bool) -> None:
    logits, classes = _pair((2, 3, 2, 3, 2))
    classes = classes.clamp(max=1) if absent else classes
    loss = build_volume_loss(name)
    assert torch.autograd.gradcheck(lambda x: loss(x, classes), logits.double().requires_grad_(), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64])
def test_any_integer_type_will_do_and_nothing_else(dtype: torch.dtype) -> None:
    logits, classes = _pair((1, 3, 4, 4, 4))
    loss = build_volume_loss("dice_ce")
    assert loss(logits, classes.to(dtype)) == loss(logits, classes)
    with pytest.raises(ValueError, match="float32; expected integers"):
        loss(logits, classes.float())
    with pytest.raises(ValueError, match=r"\(1, 3, 4, 4, 4\) and classes of shape \(1, 4, 4, 4\)"):
        loss(logits, classes[:, 0])
    with pytest.raises(ValueError, match="at least two logits"):
        loss(logits[:, :1], classes)


def test_a_mistyped_name_gets_the_nearest_one() -> None:
    with pytest.raises(UnknownNameError, match="dice_ce"):
        build_volume_loss("dicece")


def test_coarse_maps_are_judged_against_the_truth_at_the_centers_of_their_voxels() -> None:
    logits, classes = _pair((2, 3, 12, 10, 9))
    loss = build_volume_loss("dice_ce")
    coarse = torch.randn(2, 3, 6, 10, 3, generator=torch.Generator().manual_seed(1))
    expected = loss(logits, classes) + 0.5 * loss(coarse, classes[:, :, 1::2, :, 1::3])
    assert supervised_loss(loss, [logits, coarse], classes, judged_at="output").item() == pytest.approx(expected.item())


def test_sampling_keeps_the_type_and_what_has_the_size_already() -> None:
    classes = torch.arange(20, dtype=torch.uint8).reshape(1, 1, 5, 4)
    assert sample_nearest(classes, (5, 4)) is classes
    assert sample_nearest(classes, (3, 2)).tolist() == [[[[1, 3], [9, 11], [17, 19]]]]
    assert sample_nearest(classes[..., :1, :], (2, 4)).shape == (1, 1, 2, 4)
