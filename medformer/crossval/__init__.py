"""Cross-validation as the unit of work: a frozen plan, a journal of fold jobs, one out-of-fold table.

The package can be called: `medformer.crossval("polyp", ...)` is the function that `medformer.interface` offers under
the package's own name.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    def __call__(self, *given: Any, **settings: Any) -> Any:
        """See `medformer.interface.runs.crossval`."""
        # By name, because this layer lies below the interface.
        return import_module("medformer.interface.runs").crossval(*given, **settings)


sys.modules[__name__].__class__ = _Callable
