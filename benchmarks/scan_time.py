"""How the time of the scans grows with the length of a sequence, and the exponent that fits it, fp32, on CPU.

Seconds are CPU time of this process, so that other work on the machine does not count; the quickest of some rounds
counts. The exponent is the slope of log time over log length, beside the one that n log n has on the same lengths.
Freed memory stays with the process: for arrays of more than some megabytes the kernel would take longer to hand out new
pages, again and again, than the scans to fill them.

python benchmarks/scan_time.py --json
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from machine import machine
from torch import Tensor, nn

from medformer.models.backbone.mixers import make_mixer
from medformer.models.backbone.mixers.scan.recurrence import linear_scan, state_space_scan

STATES = 16
MIXERS = ("selective_scan", "decision_metamamba")


def main() -> None:
    """Time every scan at every length and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON only")
    parser.add_argument("--lengths", nargs="+", type=int, default=[2**power for power in range(9, 16)])
    parser.add_argument("--channels", type=int, default=16, help="of the sequence")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; CPU time adds up over them")
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds; the quickest counts")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    keep_memory()
    expected = exponent(arguments.lengths, [n * math.log(n) for n in arguments.lengths])
    results = []
    for name, step in steps(arguments.channels).items():
        seconds = [quickest(step(length), arguments.rounds) for length in arguments.lengths]
        found = exponent(arguments.lengths, seconds)
        results.append(
            {
                "name": name,
                "cpu_seconds": dict(zip(arguments.lengths, seconds, strict=True)),
                "exponent": found,
                "exponent_of_n_log_n": expected,
                "no_worse_than_n_log_n": found <= expected,
            }
        )
        if not arguments.json:
            shown = "  ".join(f"{length}: {1000 * s:.1f}" for length, s in zip(arguments.lengths, seconds, strict=True))
            print(f"{name:<34}{found:5.2f} (n log n {expected:.2f})   ms at {shown}", flush=True)
    if arguments.json:
        settings = {key: value for key, value in vars(arguments).items() if key != "json"}
        print(json.dumps({"machine": machine(), "settings": settings, "results": results}, indent=2))


def keep_memory() -> None:
    """Have glibc keep what is freed (M_MMAP_MAX 0, no trimming); other libraries are left as they are."""
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(-4, 0)
        library.mallopt(-1, 2**31 - 1)


def steps(channels: int) -> dict[str, Callable[[int], Callable[[], object]]]:
    """What is timed, by name: makes, for a length, a call without arguments."""
    found: dict[str, Callable[[int], Callable[[], object]]] = {
        "linear_scan": partial(_linear, channels),
        "state_space_scan": partial(_state_space, channels),
    }
    for name in MIXERS:
        mixer = make_mixer(name, channels, spatial_dims=1, stage=0)
        found[f"{name}, inference"] = partial(_inference, mixer, channels)
        found[f"{name}, training step"] = partial(_training, mixer, channels)
    return found


def quickest(call: Callable[[], object], rounds: int) -> float:
    """Return the CPU seconds of the quickest of some calls, after one that is not measured."""
    taken = []
    for _ in range(rounds + 1):
        began = time.process_time()
        call()
        taken.append(time.process_time() - began)
    return min(taken[1:])


def exponent(lengths: Sequence[int], seconds: Sequence[float]) -> float:
    """Return p of the `seconds ~ lengths^p` that fits best in the logarithm."""
    return float(np.polyfit(np.log(lengths), np.log(seconds), 1)[0])


def _linear(channels: int, length: int) -> Callable[[], object]:
    decay, inputs = torch.rand(1, length, channels, STATES), torch.randn(1, length, channels, STATES)
    return partial(linear_scan, decay, inputs)


def _state_space(channels: int, length: int) -> Callable[[], object]:
    x, log_decay = torch.randn(1, length, 1, channels), -torch.rand(1, length, 1)
    return partial(state_space_scan, x, log_decay, torch.randn(1, length, STATES), torch.randn(1, length, STATES))


def _inference(mixer: nn.Module, channels: int, length: int) -> Callable[[], object]:
    x = torch.randn(1, channels, length)

    def call() -> Tensor:
        with torch.inference_mode():
            return mixer(x)

    return call


def _training(mixer: nn.Module, channels: int, length: int) -> Callable[[], object]:
    x = torch.randn(1, channels, length)

    def call() -> None:
        mixer.zero_grad(set_to_none=True)
        mixer(x).square().mean().backward()

    return call


if __name__ == "__main__":
    main()
