"""What every test starts from: few threads, seeded generators, no display, and the real data only where it is."""

from __future__ import annotations

import gc
import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

os.environ.setdefault("MPLBACKEND", "Agg")
# A shell ignores Ctrl-C in what it starts in the background, and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))


def pytest_collection_finish() -> None:
    """What is imported and collected stays, so that the garbage collector need not look at it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_the_disk() -> Iterator[None]:
    """No test cuts the power, which is all that waiting for the disk is for; it takes longer than the writing."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_seeds_for_missing_devices() -> Iterator[None]:
    """For a device that may come, `torch.manual_seed` writes down the whole stack at each of many thousand calls."""
    with pytest.MonkeyPatch.context() as patched:
        for device in (torch.cuda, torch.xpu, torch.mtia):
            if not device.is_available():
                patched.setattr(device, "manual_seed_all", lambda seed: None)
        yield


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


Precision = Callable[..., float]
"""Gets scores (n,), which of them are wanted (n,), and how many to look at; see `precision_at_k`."""


@pytest.fixture
def precision_at_k() -> Precision:
    """The share of the `k` highest scores that are wanted, for explanations whose truth is known.

    Of equal scores, the first come first; without `k`, as many are looked at as are wanted. A random order reaches the
    share of wanted ones.
    """

    def share(scores: np.ndarray, wanted: np.ndarray, k: int | None = None) -> float:
        k = int(np.count_nonzero(wanted)) if k is None else k
        assert scores.shape == wanted.shape == (scores.size,), (scores.shape, wanted.shape)
        assert 1 <= k <= len(scores) and wanted.any(), (k, len(scores))
        return float(wanted[np.argsort(-scores, kind="stable")[:k]].mean())

    return share


_OPENED: list[str] = []
_HOOKED: list[bool] = []
_HOOK_ADDED: list[bool] = []


def _note(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and _HOOKED and isinstance(arguments[0], (str, os.PathLike)):
        _OPENED.append(os.fspath(arguments[0]))


@pytest.fixture
def opened() -> Iterator[list[str]]:
    """Every file that is opened, by its whole path; an audit hook cannot be removed, so it is switched."""
    if not _HOOK_ADDED:
        sys.addaudithook(_note)
        _HOOK_ADDED.append(True)
    _OPENED.clear()
    _HOOKED.append(True)
    yield _OPENED
    _HOOKED.clear()
