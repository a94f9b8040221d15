"""A case is tested once in every repeat, and each time it has files of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from medformer.files import read_csv
from medformer.imaging.mask_rule import read_mask


def test_every_row_names_the_mask_that_it_was_scored_on(
    medformer: Callable[..., Any], data: Path, settings: tuple[str, ...], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    more = ("crossval.repeats=2", "training.epochs=1", "--no-baselines")
    result = medformer("polyp", "crossval", "--out", run, "--data", data, *settings, *more, report=False)
    assert result.code == 0, result.err
    rows = read_csv(run / "oof.csv")
    assert len(rows) == 32 and len({row["mask"] for row in rows}) == 32
    for row in rows:
        assert row["mask"] == f"masks/repeat-{row['repeat']}/{row['id']}.png"
        assert np.count_nonzero(read_mask(run / row["mask"])) == int(row["pred_px"])
        assert (run / row["mask"].replace("masks", "overlays", 1)).is_file()
    by_case = {(row["id"], row["repeat"]): row["pred_px"] for row in rows}
    different = sum(by_case[name, "0"] != by_case[name, "1"] for name, _ in by_case)
    assert different, "the repeats predict the same, so that this test could not fail"
