"""Medical image segmentation and connectome classification on one MetaFormer backbone.

    import medformer as mf

    model = mf.load("run")                 # a finished run, or a bundle
    result = model.predict(image)          # an array, a path, or a list of paths
    run = mf.crossval("polyp", "polyps.csv", out="run", training={"epochs": 50})

Nothing is imported before it is used, so that `import medformer` takes no time.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from medformer.errors import ConfigError, DataError, LeakageError, MedformerError, ResourceError
    from medformer.interface.backbones import create_backbone, list_backbones, list_mixers
    from medformer.interface.connectomes import ConnectomeModel
    from medformer.interface.frames import FrameModel, FrameResult
    from medformer.interface.load import load
    from medformer.interface.model import ClassResult, Model
    from medformer.interface.runs import Run, audit, compare, crossval
    from medformer.interface.volumes import VolumeClassifier, VolumeModel, VolumeResult

__all__ = [
    "ClassResult",
    "ConfigError",
    "ConnectomeModel",
    "DataError",
    "FrameModel",
    "FrameResult",
    "LeakageError",
    "MedformerError",
    "Model",
    "ResourceError",
    "Run",
    "VolumeClassifier",
    "VolumeModel",
    "VolumeResult",
    "audit",
    "compare",
    "create_backbone",
    "crossval",
    "list_backbones",
    "list_mixers",
    "load",
]

_PLACES = {
    "medformer.errors": ("ConfigError", "DataError", "LeakageError", "MedformerError", "ResourceError"),
    "medformer.interface.backbones": ("create_backbone", "list_backbones", "list_mixers"),
    "medformer.interface.connectomes": ("ConnectomeModel",),
    "medformer.interface.frames": ("FrameModel", "FrameResult"),
    "medformer.interface.load": ("load",),
    "medformer.interface.model": ("ClassResult", "Model"),
    "medformer.interface.runs": ("Run", "audit", "compare", "crossval"),
    "medformer.interface.volumes": ("VolumeClassifier", "VolumeModel", "VolumeResult"),
}
_PLACE = {name: module for module, names in _PLACES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _PLACE:
        raise AttributeError(f"module 'medformer' has no attribute {name!r}")
    found = getattr(import_module(_PLACE[name]), name)
    # The next use finds it without this function. `crossval` is also a package: to import it has set the name to the
    # package, which can be called like the function.
    return globals().setdefault(name, found)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
