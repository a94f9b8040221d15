"""Strides and kernels by patch and spacing."""

from __future__ import annotations

import pytest

from medformer.data.volumes.plan.patch_size import MIN_FEATURES, STAGES, fitted, topology


@pytest.mark.parametrize("size", [1, 2, 7, 28, 31, 32, 35, 50, 64, 96, 200])
def test_an_axis_is_halved_while_positions_are_left(size: int) -> None:
    patch, layout = fitted((size, size, size), (1.0, 1.0, 1.0))

    assert len(layout.strides) == len(layout.kernel_sizes) == STAGES
    assert all(n % step == 0 and n >= size for n, step in zip(patch, layout.divisor, strict=True))
    assert patch[0] // layout.divisor[0] >= min(MIN_FEATURES, size)


def test_a_large_cube_is_halved_at_every_step() -> None:
    assert topology((96, 96, 96), (1.0, 1.0, 1.0)).strides == ((2, 2, 2),) * 4


def test_a_coarse_axis_waits_until_the_others_have_caught_up() -> None:
    layout = topology((256, 256, 64), (0.5, 0.5, 3.0))

    assert layout.strides == ((2, 2, 1), (2, 2, 1), (2, 2, 2), (2, 2, 2))
    assert layout.kernel_sizes == ((3, 3, 1), (3, 3, 3), (3, 3, 3), (3, 3, 3))


def test_the_coarse_axis_may_be_any() -> None:
    for axis in range(3):
        spacing, patch = [1.0, 1.0, 1.0], [128, 128, 128]
        spacing[axis], patch[axis] = 5.0, 32
        layout = topology(patch, spacing)
        assert [step[axis] for step in layout.strides][:2] == [1, 1]
        assert layout.kernel_sizes[0][axis] == 1


def test_an_axis_without_room_does_not_hold_back_the_others() -> None:
    layout = topology((128, 128, 1), (1.0, 1.0, 1.0))

    assert layout.divisor == (16, 16, 1)
    assert all(kernel[2] == 1 for kernel in layout.kernel_sizes)
    assert all(kernel[:2] == (3, 3) for kernel in layout.kernel_sizes)
