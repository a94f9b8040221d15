"""The device that tests marked `gpu` run on: CUDA, or what MEDFORMER_TEST_DEVICE names.

On a GPU: `pytest -m gpu`. Without one, `MEDFORMER_TEST_DEVICE=cpu pytest -m gpu tests/gpu` shows that the tests
themselves run; what only a GPU has, such as float16, is skipped there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch
from tiny_backbone import tiny_backbones

from medformer.errors import MedformerError
from medformer.training.devices import choose_device


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Where the test runs; without that it fails, because a skipped test would look like a passed one."""
    try:
        return choose_device(os.environ.get("MEDFORMER_TEST_DEVICE", "cuda"))
    except MedformerError as error:
        pytest.fail(f"{error} MEDFORMER_TEST_DEVICE=cpu shows that these tests run.")


@pytest.fixture
def gpu(device: torch.device) -> torch.device:
    """The same, for what only a GPU of CUDA has."""
    if device.type != "cuda":
        pytest.skip("only on a GPU of CUDA")
    return device


@pytest.fixture(params=["32-true", "bf16-mixed", "16-mixed"])
def precision(request: pytest.FixtureRequest, device: torch.device) -> str:
    """Each precision that the device trains in."""
    if request.param == "16-mixed" and device.type == "cpu":
        pytest.skip("float16 is for GPUs")
    return str(request.param)


@pytest.fixture(scope="module", autouse=True)
def _tiny_backbones() -> Iterator[None]:
    with tiny_backbones():
        yield
