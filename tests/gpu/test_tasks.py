"""A whole cross-validation of each task on the device."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import medformer
from medformer.data.connectomes.prepare.cohort_preparation import prepare_cohort
from medformer.data.manifest import read_manifest
from medformer.data.synthetic.abide import write_synthetic_abide
from medformer.data.synthetic.brain_volumes import write_synthetic_volumes
from medformer.data.synthetic.colonoscopy import write_synthetic_colonoscopy
from medformer.files import read_json
from medformer.imaging.images import read_image

pytestmark = pytest.mark.gpu

Crossval = Callable[..., medformer.Run]


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_colonoscopy(tmp_path_factory.mktemp("frames"), groups=8, frames_per_group=2, size=(48, 64))


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_volumes(tmp_path_factory.mktemp("volumes"), cases=8, spacing=12.0)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("abide")
    write_synthetic_abide(folder / "series", subjects=32, regions={"coarse": 12}, sites=2, effect=3.0, volumes=60)
    return prepare_cohort(folder / "series", folder / "cohort").manifest


@pytest.fixture
def crossval(device: torch.device, precision: str, tmp_path: Path) -> Crossval:
    """Cross-validates on the device in a precision, two folds of one epoch."""

    def run(task: Any, data: Path, base: str | None = None, **config: Any) -> medformer.Run:
        keys = {
            "training.accelerator": device.type,
            "training.precision": precision,
            "training.epochs": 1,
            "crossval.folds": 2,
            "crossval.baselines": False,
            **config,
        }
        found = medformer.crossval(
            task, data, out=tmp_path / "run", base=base, write_report=False, progress=None, **keys
        )
        sessions = read_json(found.path / "run.json")["sessions"]
        assert sessions[0]["device"].startswith(device.type)
        return found

    return run


def test_frames(crossval: Crossval, frames: Path, device: torch.device, precision: str) -> None:
    small = {"data.image_size": [32, 32], "model.backbone": "tiny", "training.batch_size": 4, "data.workers": 2}
    run = crossval("polyp", frames, "polyp/quick", **small)
    assert len(run.table) == 16 and all(math.isfinite(float(row["dice"])) for row in run.table)
    image = read_image(read_manifest(frames).cases[0].required_image())
    here, there = (run.load(device=name).predict(image).probability for name in (device.type, "cpu"))
    np.testing.assert_allclose(here, there, atol=2e-3 if precision == "32-true" else 5e-2)


def test_volumes(crossval: Crossval, volumes: Path) -> None:
    small = {"model.backbone": "tiny", "plan.patch": [16, 16, 16], "plan.batch_size": 2, "data.patches": 1}
    run = crossval("volume", volumes, **small, **{"data.workers": 1})
    assert len(run.table) == 8 and all(math.isfinite(float(row["dice"])) for row in run.table)


def test_connectomes(crossval: Crossval, cohort: Path) -> None:
    run = crossval("abide", cohort, **{"model.width": 8, "crossval.validation": 0.25})
    assert len(run.table) == 32 and all(0 <= float(row["score"]) <= 1 for row in run.table)
