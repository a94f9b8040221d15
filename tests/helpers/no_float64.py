"""A tensor that behaves like one on Apple's GPUs: it has no float64."""

from __future__ import annotations

from typing import Any

import torch


class WithoutFloat64(torch.Tensor):
    """Computes on the CPU, says that it is on `mps`, and refuses float64 until it is moved to the CPU."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            if func == torch.Tensor.device.__get__:
                return torch.device("mps")
            plain = [arg.as_subclass(torch.Tensor) if isinstance(arg, cls) else arg for arg in args]
            found = func(*plain, **{key: value for key, value in (kwargs or {}).items() if key != "device"})
        if func is torch.Tensor.cpu or not isinstance(found, torch.Tensor):
            return found
        if found.dtype == torch.float64:
            raise TypeError(
                "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64."
            )
        return found.as_subclass(cls)
