from __future__ import annotations

from dataclasses import replace
from itertools import permutations, product
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medformer.errors import DataError
from medformer.imaging.geometry import Geometry, Volume, corner_distance, reorient, same_grid, turn_onto

CODES = ["".join(codes) for order in permutations(("RL", "AP", "SI")) for codes in product(*order)]


def rotation(*angles: float) -> np.ndarray:
    return nibabel.eulerangles.euler2mat(*angles)


def affine_of(codes: str, spacing: tuple[float, float, float], turn: np.ndarray | None = None) -> np.ndarray:
    affine = np.eye(4)
    ways = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}
    axes = np.array([ways[code] for code in codes], dtype=float).T
    affine[:3, :3] = (np.eye(3) if turn is None else turn) @ axes @ np.diag(spacing)
    affine[:3, 3] = (-31.25, 17.5, 4.125)
    return affine


def test_there_are_48_codes() -> None:
    assert len(set(CODES)) == 48


@pytest.mark.parametrize("turn", [None, rotation(0.2, -0.3, 0.25)])
@pytest.mark.parametrize("codes", CODES)
def test_a_grid_knows_its_axes_and_sizes(codes: str, turn: np.ndarray | None) -> None:
    grid = Geometry((3, 4, 5), affine_of(codes, (0.7, 1.5, 3.0), turn))
    assert grid.axcodes == codes
    assert (np.count_nonzero(np.abs(grid.affine[:3, :3]) > 1e-3) > 3) == (turn is not None)
    np.testing.assert_allclose(grid.spacing, (0.7, 1.5, 3.0))
    assert grid.voxel_ml == pytest.approx(0.7 * 1.5 * 3.0 / 1000)


@pytest.mark.parametrize("wanted", CODES)
@pytest.mark.parametrize("turn", [None, rotation(0.2, -0.3, 0.25)])
def test_turning_moves_no_voxel_in_space_and_is_undone_exactly(wanted: str, turn: np.ndarray | None) -> None:
    array = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    for codes in ("RAS", "LPI", "SAR", "PIL"):
        affine = affine_of(codes, (0.7, 1.5, 3.0), turn)
        view, turned = reorient(array, affine, wanted)
        assert np.shares_memory(view, array)
        assert Geometry(view.shape[1:], turned).axcodes == wanted
        for index in np.ndindex(3, 4, 5):
            place = affine @ (*index, 1)
            there = np.rint(np.linalg.solve(turned, place))[:3].astype(int)
            assert np.array_equal(view[:, *there], array[:, *index])
        back = np.zeros_like(array)
        reorient(back, affine, wanted)[0][...] = view
        assert np.array_equal(back, array)


def test_a_tie_between_two_axes_is_undone_as_it_was_made() -> None:
    array = np.arange(3 * 4 * 5).reshape(3, 4, 5)
    for angle in (np.pi / 4, -np.pi / 4, 3 * np.pi / 4):
        affine = np.eye(4)
        affine[:3, :3] = rotation(angle, angle, angle)
        for wanted in CODES:
            back = np.zeros_like(array)
            reorient(back, affine, wanted)[0][...] = reorient(array, affine, wanted)[0]
            assert np.array_equal(back, array)


def test_an_agreeing_orientation_changes_nothing() -> None:
    affine = affine_of("LAS", (1.0, 2.0, 3.0))
    view, turned = reorient(np.zeros((3, 4, 5)), affine, "las")
    assert view.shape == (3, 4, 5)
    assert np.array_equal(turned, affine)


@pytest.mark.parametrize("codes", ["", "RA", "RAA", "RLS", "XYZ", "RASI"])
def test_a_wrong_orientation_is_refused(codes: str) -> None:
    with pytest.raises(DataError, match="such as RAS"):
        reorient(np.zeros((2, 2, 2)), np.eye(4), codes)


def test_grids_are_compared_where_their_corners_lie() -> None:
    first = Geometry((101, 11, 11), np.eye(4))
    assert same_grid(first, first, tolerance_mm=0.0) == ""
    turned = np.eye(4)
    turned[1, 0] = 0.01  # a small angle moves the far corner by a whole voxel
    second = Geometry(first.shape, turned)
    assert corner_distance(first, second) == pytest.approx(1.0)
    assert same_grid(first, second, tolerance_mm=1.001) == ""
    assert "1 mm apart" in same_grid(first, second, tolerance_mm=0.5)
    assert "101 x 11 x 11" in same_grid(first, Geometry((100, 11, 11), np.eye(4)), tolerance_mm=9.0)
    flipped = Geometry(first.shape, np.diag((-1.0, 1.0, 1.0, 1.0)))
    assert "axes RAS and LAS" in same_grid(first, flipped, tolerance_mm=9.0)


def test_the_volume_of_a_sheared_voxel_is_its_cell() -> None:
    affine = np.eye(4)
    affine[0, 2] = 1.0
    grid = Geometry((2, 2, 2), affine)
    assert grid.voxel_ml == pytest.approx(0.001)
    assert grid.spacing[2] == pytest.approx(np.sqrt(2))


def test_what_is_no_grid_is_refused() -> None:
    flat = np.eye(4)
    flat[:, 2] = flat[:, 1]
    lost = np.eye(4)
    lost[0, 3] = np.nan
    for affine, words in (
        (np.diag((1.0, 0.0, 1.0, 1.0)), "spacing is 1 0 1 mm"),
        (flat, "one plane"),
        (lost, "nan"),
        (np.eye(3), "4 x 4"),
        (np.diag((1.0, 1.0, 1.0, 2.0)), "last row"),
    ):
        with pytest.raises(DataError, match=words):
            Geometry((2, 2, 2), affine)
    for shape in ((2, 2), (2, 0, 2)):
        with pytest.raises(DataError, match="three axes"):
            Geometry(shape, np.eye(4))  # type: ignore[arg-type]


def test_the_affine_cannot_be_changed_behind_the_grid() -> None:
    affine = np.eye(4)
    grid = Geometry((2, 2, 2), affine)
    affine[0, 0] = 5.0
    assert grid.spacing == (1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="read-only"):
        grid.affine[0, 0] = 5.0


def every_turn() -> list[np.ndarray]:
    """All 48 ways to swap and reverse three axes, as steps from one grid's axes to the other's."""
    return [np.eye(3)[list(order)] * signs for order in permutations(range(3)) for signs in product((1, -1), repeat=3)]


def test_the_axes_of_a_volume_are_turned_onto_those_of_another() -> None:
    array = np.arange(3 * 4 * 5).reshape(3, 4, 5)
    affine = np.eye(4)
    affine[:3] = np.column_stack([rotation(0.3, -0.8, 0.7853) * (0.7, 1.5, 3.0), (5.0, -40.0, 12.0)])
    grid = Geometry(array.shape, affine)
    turns = every_turn()
    assert len(turns) == 48
    for turn in turns:
        # The same voxels as a file with other axes has them: index j of the file is voxel turn @ j + start.
        start = np.where(turn.sum(1) < 0, np.array(array.shape) - 1, 0)
        shape = tuple(int(n) for n in np.abs(turn.T) @ array.shape)
        places = (turn @ np.indices(shape).reshape(3, -1) + start[:, None]).astype(int)
        other = affine.copy()
        other[:3, :3] = affine[:3, :3] @ turn
        other[:3, 3] += affine[:3, :3] @ start
        volume = Volume(array[tuple(places)].reshape(shape), Geometry(shape, other), Path("a"), sha256="kept")
        turned = turn_onto(volume, grid)
        assert np.array_equal(turned.array, array)
        assert turned.sha256 == "kept"
        assert same_grid(turned.geometry, grid, tolerance_mm=1e-9) == ""


def test_a_volume_without_such_a_turn_stays_as_it_is() -> None:
    flipped = np.diag((-1.0, -1.0, 1.0, 1.0))
    volume = Volume(np.zeros((2, 3, 4)), Geometry((2, 3, 4), flipped), Path("a"))
    guessed = replace(volume, geometry=Geometry((2, 3, 4), flipped, placed=False))
    for other, grid in (
        (volume, Geometry((2, 3, 4), np.diag((3.0, 3.0, 3.0, 1.0)))),
        (volume, Geometry((2, 3, 4), np.eye(4), placed=False)),
        (guessed, Geometry((2, 3, 4), np.eye(4))),
        (volume, Geometry((9, 9, 9), flipped)),
    ):
        assert turn_onto(other, grid) is other


def test_sheared_axes_are_measured_as_they_are() -> None:
    tilted = np.eye(4)
    tilted[:3, :3] = rotation(0.4, 0.1, -0.9) * (1.0, 2.0, 3.0)
    np.testing.assert_allclose(Geometry((2, 2, 2), tilted).steps, (1.0, 2.0, 3.0))
    sheared = np.eye(4)
    sheared[0, 1] = 0.3
    assert np.array_equal(Geometry((2, 2, 2), sheared).steps, sheared[:3, :3])
