"""A finished run as something that predicts."""

from __future__ import annotations

from pathlib import Path

import pytest

from medformer.crossval.plan import read_plan
from medformer.errors import ConfigError
from medformer.files import digest, sha256
from medformer.tasks.trained import open_trained, predictor_hash
from medformer.tensor_file import copy_tensors


def test_a_run_says_what_predicts_and_whom_it_was_trained_on(finished: Path) -> None:
    trained = open_trained(finished)
    assert (trained.task, trained.config.task) == ("polyp", "polyp")
    assert [folder.name for folder in trained.folders] == ["0", "1"] and not trained.note
    assert trained.known_cases == read_plan(finished / "splits.json").cases
    assert trained.scores == finished / "oof.csv"


def test_what_predicts_is_another_with_other_weights_or_without_a_fold(own_run: Path) -> None:
    before = open_trained(own_run)
    weights = own_run / "folds" / "1" / "model.safetensors"
    # The same tensors, without what the file says of itself.
    copy_tensors(weights, weights)
    changed = open_trained(own_run).made_by
    (own_run / "folds" / "1" / "threshold.json").unlink()
    left = open_trained(own_run)
    assert len({before.made_by, changed, left.made_by}) == 3
    assert [folder.name for folder in left.folders] == ["0"] and "1 of 2 folds are trained" in left.note
    (own_run / "folds" / "0" / "threshold.json").unlink()
    with pytest.raises(ConfigError, match="no finished network"):
        open_trained(own_run)


def test_a_run_of_another_task_is_refused(finished: Path) -> None:
    with pytest.raises(ConfigError, match="a run of the task polyp; this command works on runs of `medformer abide`"):
        open_trained(finished, "abide")


def test_what_predicts_is_all_that_a_fold_learned(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    names = ("model.safetensors", "features/cc200.safetensors", "columns.json", "members/1/model.safetensors")
    found = set()
    for change in ("", *names):
        for name in names:
            file = tmp_path / "0" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("other" if name == change else name)
        found.add(predictor_hash(tmp_path / "config.yaml", [tmp_path / "0"]))
    assert len(found) == 1 + len(names)
    # Tables of frames and volumes name their run by the hash that they always had.
    for name in names[1:]:
        (tmp_path / "0" / name).unlink()
    of_frames = ["0", sha256(tmp_path / "0" / "model.safetensors"), "", "", ""]
    expected = digest([sha256(tmp_path / "config.yaml"), [of_frames]])
    assert predictor_hash(tmp_path / "config.yaml", [tmp_path / "0"]) == expected
