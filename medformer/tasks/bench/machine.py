"""What figures were measured on."""

from __future__ import annotations

import os
import platform
from typing import Any

import torch

from medformer.crossval.run.record import installed_versions
from medformer.models.precision import bfloat16_units


def describe_machine(device: torch.device | None = None) -> dict[str, Any]:
    """Processor, device, what makes it quick in bfloat16, cores and threads, and the versions of packages."""
    used = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return {
        "processor": _processor(),
        **({"gpu": torch.cuda.get_device_name(used)} if used.type == "cuda" else {}),
        "bfloat16": bfloat16_units(used),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        **installed_versions(),
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
