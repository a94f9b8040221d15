"""New cases are compared with the range of training cases, which is aggregate numbers and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medformer.data.frames.descriptors import frame_traits, thumbnail
from medformer.data.training_range import RANGE, TrainingRange, outside_column, read_range, share_range, write_range
from medformer.data.volumes.inspect.facts import volume_traits, whole_image
from medformer.errors import DataError
from medformer.files import read_json
from medformer.imaging.geometry import Geometry


def test_the_range_of_folds_is_the_widest_and_names_no_case(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in "ab"]
    write_range(folders[0], [{"size": 1.0, "time": 100.0}, {"size": 2.0, "time": float("nan")}])
    write_range(folders[1], [{"size": 3.0}, {}, {}])
    assert read_json(folders[0] / RANGE) == {
        "format": "medformer-range/1",
        "cases": 2,
        "spans": {"size": [1.0, 2.0], "time": [100.0, 100.0]},
    }
    known = read_range([*folders, tmp_path / "of an earlier version"])
    assert known == TrainingRange(3, {"size": (1.0, 3.0), "time": (100.0, 100.0)})
    assert read_range([tmp_path]) is None
    write_range(tmp_path, [{}])
    assert not (tmp_path / RANGE).exists()
    share_range(folders[0], tmp_path / "out")
    assert (tmp_path / "out" / RANGE).read_bytes() == (folders[0] / RANGE).read_bytes()
    (folders[0] / RANGE).write_text('{"format": "medformer-range/1", "cases": 2}')
    with pytest.raises(DataError, match=r"range\.json.*'spans' is missing.*Remove it"):
        read_range(folders)


def test_a_case_is_outside_beyond_a_margin(tmp_path: Path) -> None:
    few, many = TrainingRange(29, {"size": (10.0, 20.0)}), TrainingRange(30, {"size": (10.0, 20.0)})
    assert [few.outside({"size": value}) == [] for value in (4.9, 5.0, 25.0, 25.1)] == [False, True, True, False]
    assert [many.outside({"size": value}) == [] for value in (7.4, 7.5, 22.5, 22.6)] == [False, True, True, False]
    same = TrainingRange(50, {"voxel size in mm": (1.0, 1.0)})
    assert same.outside({"voxel size in mm": 1.04, "unknown": 5.0}) == []
    (problem,) = same.problems("a", "a.nii", {"voxel size in mm": 3.0})
    assert (problem.severity, problem.detail) == ("warning", "voxel size in mm 3 (training cases: 1)")
    assert outside_column([problem]) == {"a": problem.detail}
    assert same.problems("a", "a.nii", {"voxel size in mm": float("nan")}) == []
    large = TrainingRange(50, {"height in px": (576.0, 1072.0)})
    assert large.outside({"height in px": 1920.0}) == ["height in px 1920 (training cases: 576 to 1072)"]


def test_a_frame_without_color_is_outside_of_frames_with_color() -> None:
    tints = {"green as a share of red": (0.4, 0.8), "blue as a share of red": (0.2, 0.7)}
    gray, black = (np.full((8, 8, 3), value, np.uint8) for value in (90, 0))
    found = TrainingRange(500, tints).outside(frame_traits(thumbnail(gray, (8, 8)), 8, 8))
    assert found == [
        "green as a share of red 1 (training cases: 0.4 to 0.8)",
        "blue as a share of red 1 (training cases: 0.2 to 0.7)",
    ]
    assert TrainingRange(500, tints).outside(frame_traits(thumbnail(black, (8, 8)), 8, 8)) == []


def test_traits_of_frames_and_volumes_are_what_they_say() -> None:
    image = np.zeros((40, 60, 3), np.uint8)
    image[:, :30] = (255, 51, 0)
    traits = frame_traits(thumbnail(image, (40, 60)), *image.shape[:2])
    assert (traits["height in px"], traits["width in px"]) == (40, 60)
    assert traits["mean red (0 to 1)"] == pytest.approx(0.5)
    assert traits["mean green (0 to 1)"] == pytest.approx(0.1, abs=1e-5)
    assert traits["share of nearly black pixels"] == pytest.approx(0.5)
    assert traits["green as a share of red"] == pytest.approx(0.2, abs=1e-5)
    # The first axis of this file runs from head to foot.
    grid = Geometry((10, 20, 30), np.array([[0, 2.0, 0, 0], [0, 0, 3.0, 0], [-1.0, 0, 0, 0], [0, 0, 0, 1.0]]))
    values = np.full((10, 20, 30), 5.0, np.float32)
    values[0] = 15.0
    found = volume_traits(grid, [whole_image(values)])
    assert found["voxel size from foot to head in mm"] == 1.0
    assert (found["extent from left to right in mm"], found["extent from back to front in mm"]) == (40.0, 90.0)
    assert found["mean of the image"] == pytest.approx(6.0)
    assert found["highest value of the image in standard deviations"] == pytest.approx(3.0)
