"""From a folder to the trained model in it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

from medformer.interface.model import Model, require_one_of
from medformer.tasks.trained import Trained, open_trained

if TYPE_CHECKING:
    from medformer.interface.connectomes import ConnectomeModel
    from medformer.interface.frames import FrameModel
    from medformer.interface.volumes import VolumeClassifier, VolumeModel


@overload
def load(path: str | Path, *, task: Literal["polyp"], device: str = "auto") -> FrameModel: ...
@overload
def load(path: str | Path, *, task: Literal["abide"], device: str = "auto") -> ConnectomeModel: ...
@overload
def load(path: str | Path, *, task: Literal["volume"], device: str = "auto") -> VolumeModel | VolumeClassifier: ...
@overload
def load(path: str | Path, *, task: None = None, device: str = "auto") -> Model: ...
def load(path: str | Path, *, task: str | None = None, device: str = "auto") -> Model:
    """Load the trained model of a run or bundle.

    Its predictions are those of `medformer <task> predict` for the same input.

    >>> import medformer as mf
    >>> model = mf.load(run)
    >>> model.task, model.networks
    ('polyp', 2)
    >>> model.predict(image).mask.shape == image.shape[:2]
    True

    Args:
        path: The folder that `train`, `crossval` or `export` wrote.
        task: The only task that will do, for which type checkers then know the model; any without it.
        device: `auto`, `cpu`, `cuda` or `mps`.

    Returns:
        A `FrameModel`, `VolumeModel`, `VolumeClassifier` or `ConnectomeModel`. Where a run is not finished, a warning
        says how many of its folds are in it.

    Raises:
        ConfigError: Not a run or bundle, one of another task, or no network of it is finished.
        CheckpointError: A file is missing, damaged or does not fit.
        ResourceError: The device is not there.
    """
    if task is not None:
        require_one_of("task", task, Literal["polyp", "abide", "volume"])
    trained = open_trained(Path(path), task)
    if trained.note:
        warnings.warn(trained.note, stacklevel=2)
    return model_of(trained)(trained, device)


def model_of(trained: Trained) -> type[Model]:
    """The class of the model; only the task of what was opened is imported."""
    if trained.task == "polyp":
        from medformer.interface.frames import FrameModel

        return FrameModel
    if trained.task == "abide":
        from medformer.interface.connectomes import ConnectomeModel

        return ConnectomeModel
    from medformer.interface.volumes import VolumeClassifier, VolumeModel

    return VolumeModel if trained.config.target == "segmentation" else VolumeClassifier
