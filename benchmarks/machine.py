"""What numbers were measured on, and the peak memory of this process."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from time import process_time
from typing import Any
from unittest.mock import patch

import torch

from medformer.training import optimizer


def machine() -> dict[str, Any]:
    """Describe what the numbers were measured on."""
    names = ("torch", "timm", "segmentation-models-pytorch", "monai")
    return {
        "processor": _processor(),
        **({"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{name: version(name) for name in names},
    }


def peak_bytes(name: str) -> int:
    """A peak of this process, such as `VmHWM` (resident memory) or `VmPeak` (address space); Linux.

    Unlike the resource module's, it does not include the process that started this one.
    """
    status = Path("/proc/self/status").read_text("ascii").splitlines()
    return int(next(line for line in status if line.startswith(name)).split()[1]) * 1024


@contextmanager
def cpu_clock() -> Iterator[None]:
    """Let trainings inside count the CPU time of this process, so that other work on the machine takes none of it.

    Right for one thread on a CPU: more threads count once each, and a GPU works while this clock stands still.
    """
    with patch.object(optimizer, "monotonic", process_time):
        yield


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
