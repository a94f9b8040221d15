"""A command imports what it uses: no torch to read tables, and nothing that only training uses to predict."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from medformer.config import PolypConfig
from medformer.config_loading import load_config
from medformer.crossval.bundle import CONFIG_FILE, fold_folder, write_record
from medformer.files import write_json, write_text
from medformer.imaging.images import write_image
from medformer.tasks.polyp.predictor import THRESHOLD_FILE, new_network
from medformer.tensor_file import write_tensors
from medformer.yaml_files import dump_yaml

TRAINING = {"albumentations", "lightning_fabric", "torch._dynamo"}
"""Augmentation, the engine, and compiling, which every optimizer asks for."""
OTHERS = {"monai", "nilearn", "segmentation_models_pytorch", "timm", "torchvision"}
"""What other networks and other tasks use."""
TABLES = {"pandas", "scipy.optimize", "scipy.stats", "sklearn"}
"""What frames have no use for."""
PAGES = {"jinja2", "matplotlib"}
NEVER = TRAINING | OTHERS | TABLES

SCRIPT = """
import json, sys, typer
from pipelines.cli import app
typer.main.get_command(app)(sys.argv[1:], prog_name="medformer", standalone_mode=False)
print(json.dumps(list(sys.modules)))
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network that frames have by default, untrained, as a bundle of one fold."""
    path = tmp_path_factory.mktemp("bundle")
    changes = ["data.image_size=[64, 64]", "model.weights=null", "model.frozen=0"]
    config = load_config("polyp/default", changes, model=PolypConfig)
    write_text(path / CONFIG_FILE, dump_yaml(config.model_dump(mode="json")))
    fold = fold_folder(path, 0)
    write_tensors(fold / "model.safetensors", new_network(config, 0).state_dict(), {})
    write_json(fold / THRESHOLD_FILE, {"threshold": 0.5})
    write_record(path, {"task": "polyp", "folds": [0], "made_by": "0" * 64})
    return path


def imported(*command: object) -> set[str]:
    """The modules that a command leaves behind, in a process of its own."""
    words = [sys.executable, "-c", SCRIPT, *map(str, command)]
    result = subprocess.run(words, capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == 0, result.stderr
    return set(json.loads(result.stdout.splitlines()[-1]))


def test_a_prediction_of_frames_imports_nothing_that_only_training_or_other_networks_use(
    bundle: Path, tmp_path: Path
) -> None:
    write_image(tmp_path / "image.png", np.zeros((64, 64, 3), np.uint8))
    modules = imported("polyp", "predict", bundle, tmp_path / "image.png", "--out", tmp_path / "out")
    assert (tmp_path / "out" / "masks" / "image.png").is_file()
    assert not modules & (NEVER | PAGES | {"nibabel"})


def test_what_reads_tables_imports_no_torch(finished: Path, tmp_path: Path) -> None:
    assert not imported("compare", finished, finished) & (NEVER | PAGES | {"nibabel", "torch"})
    run = shutil.copytree(finished, tmp_path / finished.name)
    assert not imported("report", run) & (NEVER | {"torch"})
