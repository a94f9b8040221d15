from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from medformer.errors import UnknownNameError
from medformer.training.losses.objectives import supervised_loss
from medformer.training.losses.segmentation import LOSSES, VOLUME_LOSSES, border_weight, box_mean, build_loss

SHAPES = [(2, 1, 40), (2, 1, 33, 20), (2, 1, 9, 12, 7)]


def _pair(shape: tuple[int, ...], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(shape, generator=generator)
    return logits, (torch.rand(shape, generator=generator) > 0.6).float()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("shape", SHAPES)
def test_good_predictions_cost_less_than_bad_ones_in_every_dimension(name: str, shape: tuple[int, ...]) -> None:
    loss = build_loss(name)
    logits, target = _pair(shape)
    right, wrong = loss((target * 2 - 1) * 20, target), loss((1 - target * 2) * 20, target)
    assert right.shape == () and right.dtype == torch.float32
    assert right < 0.02 < loss(logits, target) < wrong


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("size", [1, 4, 40])
def test_an_empty_mask_still_pushes_every_false_positive_down(name: str, size: int) -> None:
    logits = torch.full((2, 1, size, size), 3.0, requires_grad=True)
    build_loss(name)(logits, torch.zeros(2, 1, size, size)).backward()
    assert logits.grad is not None
    # A gradient that one optimizer step would notice: on the order of 1 / pixels, not 1 / pixels squared.
    assert (logits.grad * logits.numel() > 0.01).all()


def test_dice_of_an_empty_mask_is_the_mean_probability_of_that_image_alone() -> None:
    target = torch.zeros(2, 1, 8, 8)
    target[1, :, :4] = 1
    logits = torch.zeros_like(target)
    filled = 1 - (2 * 16 + 1) / (32 + 32 + 1)
    assert build_loss("dice")(logits, target).item() == pytest.approx((0.5 + filled) / 2)
    assert build_loss("batch_dice")(logits, target * 0).item() == pytest.approx(0.5)


def test_batch_dice_counts_the_batch_as_one_image() -> None:
    logits, target = _pair((3, 1, 10, 10))
    p = logits.sigmoid()
    expected = 1 - (2 * (p * target).sum() + 1e-7) / (p.sum() + target.sum() + 1e-7)
    assert build_loss("batch_dice")(logits, target).item() == pytest.approx(expected.item(), abs=1e-6)
    assert abs(build_loss("dice")(logits, target).item() - expected.item()) > 1e-4


def test_bce_dice_is_the_sum_of_its_parts() -> None:
    logits, target = _pair((2, 1, 10, 10))
    parts = build_loss("bce")(logits, target) + build_loss("dice")(logits, target)
    assert build_loss("bce_dice")(logits, target).item() == pytest.approx(parts.item())


@pytest.mark.parametrize("shape", SHAPES)
def test_box_mean_is_padded_average_pooling_also_below_the_window(shape: tuple[int, ...]) -> None:
    maps = torch.rand(shape)
    dims = len(shape) - 2
    pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[dims - 1]
    expected = pool(F.pad(maps, [15] * 2 * dims), 31, 1)
    torch.testing.assert_close(box_mean(maps, 31), expected, atol=1e-6, rtol=1e-5)


def _written_out_structure(logits: torch.Tensor, target: torch.Tensor, bce: torch.Tensor) -> torch.Tensor:
    """The formula of the paper in plain pooling calls; `bce` is a map, or a scalar as in the released code."""
    weight = 1 + 5 * (F.avg_pool2d(target, 31, 1, 15) - target).abs()
    wbce = (weight * bce).sum((2, 3)) / weight.sum((2, 3))
    p = logits.sigmoid()
    inter, union = (p * target * weight).sum((2, 3)), ((p + target) * weight).sum((2, 3))
    return (wbce + 1 - (inter + 1) / (union - inter + 1)).mean()


def test_structure_weights_both_terms_and_legacy_only_the_iou() -> None:
    logits, target = _pair((2, 1, 48, 40), seed=1)
    target = F.max_pool2d(target, 9, 1, 4) * (torch.arange(40) < 20)
    bce = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    intended, legacy = build_loss("structure")(logits, target), build_loss("structure_legacy")(logits, target)
    assert intended.item() == pytest.approx(_written_out_structure(logits, target, bce).item(), rel=1e-5)
    assert legacy.item() == pytest.approx(_written_out_structure(logits, target, bce.mean()).item(), rel=1e-5)
    assert abs(intended.item() - legacy.item()) > 1e-4
    # The two share their IoU term, so what differs is exactly weighted against plain cross-entropy.
    weight = border_weight(target)
    weighted = ((weight * bce).sum((1, 2, 3)) / weight.sum((1, 2, 3))).mean()
    assert (intended - legacy).item() == pytest.approx((weighted - bce.mean()).item(), abs=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_maps_are_summed_in_float32(name: str) -> None:
    logits, target = _pair((1, 1, 300, 300))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = build_loss(name)(logits.bfloat16(), target)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(build_loss(name)(logits.bfloat16().float(), target).item(), rel=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_agree_with_finite_differences(name: str) -> None:
    logits, target = _pair((2, 1, 4, 5))
    loss = build_loss(name)
    assert torch.autograd.gradcheck(
        lambda x: loss.compute(x, target.double()), logits.double().requires_grad_(), atol=1e-6
    )


def test_the_documentation_names_every_loss() -> None:
    text = (Path(__file__).parents[2] / "docs" / "losses.md").read_text("utf-8")
    assert [name for name in {**LOSSES, **VOLUME_LOSSES} if f"| `{name}`" not in text] == []


def test_shapes_that_would_broadcast_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2, 1, 8, 8\).*\(2, 8, 8\)"):
        build_loss("dice")(torch.zeros(2, 1, 8, 8), torch.zeros(2, 8, 8))


def test_a_mistyped_name_gets_the_nearest_one() -> None:
    with pytest.raises(UnknownNameError, match="structure"):
        build_loss("strukture")


def test_auxiliary_maps_are_resized_and_weigh_half_of_the_one_before() -> None:
    logits, target = _pair((2, 1, 16, 16))
    loss = build_loss("bce")
    coarse = logits[..., ::2, ::2]
    judged = loss(F.interpolate(coarse, (16, 16), mode="bilinear"), target)
    expected = loss(logits, target) + 0.5 * judged + 0.25 * judged
    assert supervised_loss(loss, (logits, coarse, coarse), target).item() == pytest.approx(expected.item())
    assert supervised_loss(loss, logits, target).item() == pytest.approx(loss(logits, target).item())


def test_auxiliary_maps_may_weigh_as_much_as_the_result() -> None:
    logits, target = _pair((2, 1, 16, 16))
    loss = build_loss("structure_legacy")
    expected = loss(logits, target) + 2 * loss(-logits, target)
    found = supervised_loss(loss, [logits, -logits, -logits], target, side_weight=1.0)
    assert found.item() == pytest.approx(expected.item())
