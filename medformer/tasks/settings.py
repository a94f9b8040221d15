"""What the settings of every task have in common to be checked before any case is read."""

from __future__ import annotations

from pathlib import Path

from medformer.config import AnyConfig
from medformer.training.devices import check_devices
from medformer.training.trackers.build import build_tracker


def check_training(config: AnyConfig) -> None:
    """Refuse a device that is not there and a tracker that is not installed.

    Raises:
        ConfigError: An unknown name, or a package is missing.
        ResourceError: The device is not there.
    """
    if config.execution.address is None:
        # A cluster's head may lack what its workers have; there the first fold tells.
        check_devices(config.training)
    build_tracker(config.training.tracker, Path(), Path())
