"""In which precision a network is computed, and whether a device computes the lower one quickly."""

from __future__ import annotations

import torch

from medformer.config.shared import Precision

_AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """The autocast of a precision, switched off for `32-true`, and for `auto` that nobody has decided."""
    dtype = _AUTOCAST.get(precision)
    return torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)


def bfloat16_units(device: torch.device) -> str:
    """Return, in words, what makes a device quick in bfloat16; empty where nothing does.

    Without such instructions a CPU is several times slower than in float32, and a GPU before compute capability 8
    emulates them. MPS computes bfloat16 no faster.
    """
    if device.type == "cuda":
        with torch.cuda.device(device):
            quick = torch.cuda.is_bf16_supported(including_emulation=False)
            major, minor = torch.cuda.get_device_capability()
        return f"compute capability {major}.{minor}" if quick and major >= 8 else ""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return ""
    # Not part of torch's public interface: a version without them has no answer.
    for name, words in (("_is_amx_tile_supported", "AMX"), ("_is_avx512_bf16_supported", "AVX-512 BF16")):
        supported = getattr(torch.cpu, name, None)
        if supported is not None and supported():
            return words
    return ""
