from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medformer.errors import ConfigError
from medformer.imaging.images import read_image
from medformer.imaging.pictures import write_image

ROWS, COLUMNS = np.mgrid[:40, :50]
IMAGE = np.stack([5 * ROWS, 4 * COLUMNS, 2 * ROWS + 2 * COLUMNS], -1).astype(np.uint8)


def test_png_is_lossless(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", IMAGE)
    assert np.array_equal(read_image(tmp_path / "a.png"), IMAGE)


def test_jpeg_is_close_and_leaves_nothing_else_behind(tmp_path: Path) -> None:
    write_image(tmp_path / "new" / "a.jpg", IMAGE)
    assert np.abs(read_image(tmp_path / "new" / "a.jpg").astype(int) - IMAGE).max() < 12
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.jpg"]


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\.gif"):
        write_image(tmp_path / "a.gif", IMAGE)
    assert not list(tmp_path.iterdir())
