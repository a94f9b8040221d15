"""`import medformer as mf` on a finished run of frames: what a program gets is what the command line writes."""

from __future__ import annotations

import doctest
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

import medformer as mf
from medformer.data.manifest import read_manifest
from medformer.files import read_csv, read_json
from medformer.imaging.images import read_image
from medformer.imaging.mask_rule import read_mask
from medformer.interface import frames, load, runs

Medformer = Callable[..., Any]

_ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def image(data: Path) -> NDArray[np.uint8]:
    return read_image(read_manifest(data).cases[0].required_image())


def test_masks_and_probabilities_are_those_of_the_command(
    medformer: Medformer, finished: Path, data: Path, tmp_path: Path
) -> None:
    images = data.parent / "images"
    result = medformer("polyp", "predict", finished, images, "--out", tmp_path, "--probabilities", "npz")
    assert result.code == 0, result.err
    rows = {row["id"]: row for row in read_csv(tmp_path / "predictions.csv")}
    model = mf.load(finished, task="polyp")
    found = model.predict([images])
    assert [one.id for one in found] == list(rows) and len(found) == 16
    for one in found:
        row = rows[one.id]
        with np.load(tmp_path / row["probability_file"]) as written:
            assert np.array_equal(one.probability, next(iter(written.values())))
        assert np.array_equal(one.mask, read_mask(tmp_path / row["mask_file"]))
        assert (one.threshold, one.confidence) == (float(row["threshold"]), float(row["confidence"]))
    # One image at a time is computed in another batch, which moves the last digits.
    case = read_manifest(data).cases[0]
    array = read_image(case.required_image())
    before = array.copy()
    alone, by_path = model.predict(array), model.predict(case.required_image())
    assert np.array_equal(array, before) and (alone.id, by_path.id) == ("", case.required_image().stem)
    np.testing.assert_allclose(alone.probability, by_path.probability, rtol=0, atol=0)
    np.testing.assert_allclose(alone.probability, next(f for f in found if f.id == by_path.id).probability, atol=1e-5)
    assert not model.predict(array, threshold=1.0).mask.any()
    with pytest.raises(mf.ConfigError, match="threshold=50; expected a number from 0 to 1"):
        model.predict(array, threshold=50)
    dark = model.predict(np.zeros((9, 400, 3), np.uint8))
    assert alone.warnings == () and any("outside-range" in said for said in dark.warnings)
    # A manifest names its cases itself.
    assert [one.id for one in model.predict([data])] == [case.id for case in read_manifest(data).cases]


def test_what_is_no_image_is_refused(finished: Path, image: NDArray[np.uint8], data: Path, tmp_path: Path) -> None:
    model = mf.load(str(finished))
    for wrong in (image[..., 0], image.astype(np.float32), np.dstack([image, image[..., :1]])):
        with pytest.raises(mf.DataError, match=r"expected RGB uint8 \(H, W, 3\)"):
            model.predict(wrong)
    with pytest.raises(mf.DataError, match=r"holds 16 images; expected one. Give a list"):
        model.predict(data.parent / "images")
    with pytest.raises(mf.DataError, match=r"Got int; expected a NumPy array, a path"):
        model.predict(3)
    with pytest.raises(mf.DataError, match=r"nowhere\.png"):
        model.predict(tmp_path / "nowhere.png")
    with pytest.raises(mf.ConfigError, match="Got the device 'gpu'; expected auto"):
        mf.load(finished, device="gpu")
    with pytest.raises(mf.ConfigError, match="a run of the task polyp"):
        mf.load(finished, task="abide")
    with pytest.raises(mf.ConfigError, match="There is no run folder"):
        mf.load(tmp_path / "run")


def test_a_run_that_is_not_finished_says_so(own_run: Path) -> None:
    (own_run / "folds" / "1" / "threshold.json").unlink()
    with pytest.warns(UserWarning, match="1 of 2 folds are trained"):
        assert mf.load(own_run).networks == 1


def test_examples_run(finished: Path, image: NDArray[np.uint8], data: Path) -> None:
    for module in (load, frames, runs):
        found = doctest.testmod(module, extraglobs={"run": finished, "image": image, "data": data})
        assert found.attempted > 2 and not found.failed


def test_the_example_of_readme_runs(
    finished: Path,
    image: NDArray[np.uint8],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (_ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    (tmp_path / "polyp-run").symlink_to(finished)
    monkeypatch.chdir(tmp_path)
    exec(blocks[0], {"image": image})
    assert len(blocks) == 1 and "pixels of (48, 64)" in capsys.readouterr().out


def test_a_split_that_leaks_is_found(data: Path, tmp_path: Path) -> None:
    names = [case.id for case in read_manifest(data).cases]
    for part, held in (("train", names[::2]), ("test", names[1::2])):
        (tmp_path / f"{part}.txt").write_text("\n".join(held) + "\n")
    found = mf.audit(data, [tmp_path / "train.txt", tmp_path / "test.txt"])
    assert not found.clean and found.task == "polyp"
    with pytest.raises(mf.LeakageError, match="group"):
        found.raise_if_leaking()


def test_a_bundle_predicts_as_its_run(
    medformer: Medformer, finished: Path, image: NDArray[np.uint8], tmp_path: Path
) -> None:
    assert medformer("export", finished, "--out", tmp_path / "bundle").code == 0
    bundle, run = mf.load(tmp_path / "bundle", task="polyp"), mf.load(finished, task="polyp")
    assert np.array_equal(bundle.predict(image).probability, run.predict(image).probability)
    assert bundle.threshold == run.threshold and bundle.networks == 2


def test_a_cross_validation_is_that_of_the_command(
    quickly: None, finished: Path, data: Path, tmp_path: Path, settings: tuple[str, ...]
) -> None:
    keys = dict(text.split("=") for text in settings[2:])
    said: list[str] = []
    run = mf.crossval(
        "polyp",
        data,
        out=tmp_path / "run",
        base="polyp/quick",
        write_report=False,
        progress=said.append,
        crossval={"baselines": False},
        **{key: yaml.safe_load(value) for key, value in keys.items()},
    )
    assert (run.path / "oof.csv").read_bytes() == (finished / "oof.csv").read_bytes()
    assert run.task == "polyp" and len(run.table) == 16 and isinstance(run.table[0]["dice"], float)
    assert run.metrics["pooled"]["metrics"] == read_json(run.path / "metrics.json")["pooled"]["metrics"]
    assert "over 16 test cases, each predicted by a network that was not trained on it in this run" in str(run)
    assert any("fold" in line for line in said)
    (run.path / "metrics.json").rename(tmp_path / "metrics.json")
    assert str(run) == f"{run.path}: no results (yet)"
    (tmp_path / "metrics.json").rename(run.path / "metrics.json")
    with pytest.raises(mf.DataError, match="has no report"):
        _ = run.report
    (found,) = mf.compare(finished, run)
    assert (found.difference, found.cases) == (0.0, 16)
    with pytest.raises(mf.ConfigError, match="expected two or more"):
        mf.compare(run)
    with pytest.raises(mf.ConfigError, match=r"training\.epoch.*epochs"):
        mf.crossval("polyp", data, out=tmp_path / "other", training={"epoch": 3}, progress=None)
    with pytest.raises(mf.ConfigError, match="already holds a run"):
        mf.crossval("polyp", data, out=run.path, progress=None)
    shutil.rmtree(run.path)
    with pytest.raises(mf.ConfigError, match="There is no run folder"):
        mf.Run(run.path)
