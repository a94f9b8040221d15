"""What every test starts from: few threads, seeded generators, no display, and the real data only where it is."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch

os.environ.setdefault("MPLBACKEND", "Agg")
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def medformer_data() -> Path:
    """The folder of real data sets that MEDFORMER_DATA names; tests that ask for it skip without."""
    folder = os.environ.get("MEDFORMER_DATA")
    if not folder:
        pytest.skip("MEDFORMER_DATA is not set")
    if not Path(folder).is_dir():
        pytest.fail(f"MEDFORMER_DATA={folder} is not a folder")
    return Path(folder)
