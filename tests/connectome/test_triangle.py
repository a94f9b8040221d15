from __future__ import annotations

import numpy as np
import pytest

from medformer.connectome.measures import to_matrices, to_triangle, triangle_regions, triangle_size
from medformer.errors import DataError


@pytest.mark.parametrize(("regions", "strict"), [(116, 6670), (200, 19900), (161, 12880), (111, 6105)])
def test_known_atlases_have_the_published_number_of_edges(regions: int, strict: int) -> None:
    assert triangle_size(regions) == strict
    assert triangle_size(regions, diagonal=True) == strict + regions
    assert triangle_regions(strict) == regions
    assert triangle_regions(strict + regions, diagonal=True) == regions


def test_the_order_is_that_of_triu_indices() -> None:
    matrix = np.arange(16.0).reshape(1, 4, 4)
    assert to_triangle(matrix)[0].tolist() == [1, 2, 3, 6, 7, 11]
    assert to_triangle(matrix, diagonal=True)[0].tolist() == [0, 1, 2, 3, 5, 6, 7, 10, 11, 15]


@pytest.mark.parametrize("diagonal", [False, True])
def test_matrices_come_back(diagonal: bool) -> None:
    triangles = np.random.default_rng(0).normal(size=(3, triangle_size(7, diagonal))).astype(np.float32)
    matrices = to_matrices(triangles, 7, diagonal)
    assert matrices.dtype == np.float32
    assert np.array_equal(matrices, matrices.transpose(0, 2, 1))
    assert np.array_equal(to_triangle(matrices, diagonal), triangles)
    if not diagonal:
        assert (matrices[:, range(7), range(7)] == 1).all()


def test_sizes_that_no_matrix_has_are_refused() -> None:
    with pytest.raises(DataError, match="12721"):
        triangle_regions(12721)
    with pytest.raises(DataError, match=r"12720.*12880.*161 regions"):
        to_matrices(np.zeros((2, 12720)), 161)
    with pytest.raises(DataError, match=r"\(2, 3, 4\)"):
        to_triangle(np.zeros((2, 3, 4)))
