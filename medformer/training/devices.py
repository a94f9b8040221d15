"""The device and the engine that a config names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from medformer.config.shared import TrainingConfig
from medformer.errors import ConfigError, ResourceError

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def is_distributed(config: TrainingConfig) -> bool:
    """Whether a config trains in data-parallel processes, though perhaps in a single one."""
    return config.devices > 1 or config.strategy == "ddp"


def build_fabric(config: TrainingConfig, *, unused: bool = True) -> Fabric:
    """Return the engine for the device, precision and number of processes of a config.

    Several devices are driven by data-parallel processes that this process starts, so that the rest of a run stays one
    process.

    Args:
        config: How to train.
        unused: Whether the network may have parameters that get no gradient, which processes must then search for.

    Raises:
        ResourceError: The device is not there, or there are too few.
        ConfigError: float16 on a CPU.
    """
    # It imports the compiler of PyTorch, which takes seconds, and most commands train nothing.
    from lightning_fabric import Fabric
    from lightning_fabric.strategies import DDPStrategy, Strategy

    check_devices(config)
    strategy: str | Strategy = "auto"
    if is_distributed(config):
        strategy = DDPStrategy(start_method="spawn", find_unused_parameters=unused)
    return Fabric(accelerator=config.accelerator, devices=config.devices, strategy=strategy, precision=config.precision)


def choose_device(accelerator: str) -> torch.device:
    """Return the one device that `auto`, `cpu`, `cuda` or `mps` means on this machine.

    Raises:
        ConfigError: It is no device.
        ResourceError: The device is not there.
    """
    if accelerator == "auto":
        accelerator = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(accelerator)
    except (RuntimeError, TypeError):
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda", "mps"):
        raise ConfigError(f"Got the device {accelerator!r}; expected auto, cpu, cuda or mps.")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ResourceError(f"Got the device {device}, but no CUDA device is visible. Check the driver, or use cpu.")
    if device.type == "cuda" and device.index is not None and device.index >= torch.cuda.device_count():
        raise ResourceError(f"Got the device {device}; {torch.cuda.device_count()} are visible, from cuda:0 on.")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ResourceError("Got the device mps, but this machine has none. Use auto or cpu.")
    return device


def check_devices(config: TrainingConfig) -> None:
    """Refuse a config that this machine cannot train with.

    Raises:
        ResourceError: The device is not there, or there are too few.
        ConfigError: float16 on a CPU.
    """
    wanted, visible = config.accelerator, torch.cuda.device_count()
    on_cuda = wanted == "cuda" or (wanted == "auto" and torch.cuda.is_available())
    if on_cuda and visible < config.devices:
        raise ResourceError(
            f"training.accelerator={wanted} with training.devices={config.devices}, but {visible} CUDA devices are "
            "visible. Check the driver and CUDA_VISIBLE_DEVICES, lower training.devices, or use "
            "training.accelerator=cpu."
        )
    if choose_device(wanted).type == "cpu" and config.precision == "16-mixed":
        raise ConfigError(
            "training.precision=16-mixed needs a GPU, and this training runs on the CPU. "
            "Use training.precision=32-true (or bf16-mixed)."
        )
