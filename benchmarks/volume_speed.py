"""Speed of `meta_unet` against MONAI's networks: one patch through each, in turns within one run, and its memory.

python benchmarks/volume_speed.py --json
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from functools import partial
from pathlib import Path

import torch
from alternating import alternate
from machine import machine
from torch import nn

from medformer.config import VolumeConfig
from medformer.models.backbone.variants import count_parameters
from medformer.models.networks.build import build_network
from medformer.models.networks.grid import Grid

PEERS = {"monai:swinunetr": 6.0, "monai:dynunet": 2.0}
"""How many times faster than each ours has to be."""


def build(name: str, side: int) -> nn.Module:
    """Return a network in its default settings, as a plan of isotropic voxels would build it."""
    torch.manual_seed(0)
    config = VolumeConfig().model.model_copy(update={"name": name})
    grid = Grid(1, 3, (side,) * 3, None, strides=((2, 2, 2),) * 4, kernel_sizes=((3, 3, 3),) * 4)
    return build_network(config, grid).eval()


def predict(model: nn.Module, patch: torch.Tensor) -> None:
    with torch.inference_mode():
        model(patch)


def training_step(model: nn.Module, patch: torch.Tensor) -> None:
    model.train()
    model.zero_grad(set_to_none=True)
    outputs = model(patch)
    sum(level.square().mean() for level in (outputs if isinstance(outputs, list) else [outputs])).backward()


def peak_bytes(name: str, side: int, threads: int) -> int:
    """Peak memory that one pass takes beyond the network and its libraries, measured in a process of its own."""
    command = [sys.executable, str(Path(__file__).resolve()), "--alone", name, "--side", str(side)]
    done = subprocess.run(
        [*command, "--threads", str(threads)], check=True, capture_output=True, text=True, timeout=600
    )
    return int(done.stdout.split()[-1])


def measure_alone(name: str, side: int) -> int:
    model, patch = build(name, side), torch.randn(1, 1, side, side, side)
    # A small pass first: what libraries allocate once is none of the patch's memory.
    predict(model, patch[..., :32, :32, :32])
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    predict(model, patch)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - pages * resource.getpagesize()


def main() -> None:
    """Measure ours against each peer and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON only")
    parser.add_argument("--peers", nargs="+", default=list(PEERS), choices=list(PEERS), metavar="NAME")
    parser.add_argument("--side", type=int, default=96, help="voxels along each axis of the patch")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--rounds", type=int, default=3, help="measured rounds; the median counts")
    parser.add_argument("--train", action="store_true", help="measure a training step of one patch as well")
    parser.add_argument("--alone", choices=["meta_unet", *PEERS], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.alone:
        print(measure_alone(arguments.alone, arguments.side))
        return
    patch = torch.randn(1, 1, arguments.side, arguments.side, arguments.side)
    ours = build("meta_unet", arguments.side)
    memory = {name: peak_bytes(name, arguments.side, arguments.threads) for name in ("meta_unet", *arguments.peers)}
    results = []
    for name in arguments.peers:
        peer = build(name, arguments.side)
        for label, step in (("inference", predict), *((("training step", training_step),) if arguments.train else ())):
            timing = alternate(partial(step, ours, patch), partial(step, peer, patch), arguments.rounds)
            row = {
                "peer": name,
                "step": label,
                **timing,
                "times_faster": 1.0 / timing["ratio"],
                "parameters": {"ours": count_parameters(ours), "theirs": count_parameters(peer)},
            }
            if step is predict:
                row["required"] = PEERS[name]
                row["peak_bytes"] = {"ours": memory["meta_unet"], "theirs": memory[name]}
            results.append(row)
            if not arguments.json:
                peaks = (
                    f"   peak memory {memory['meta_unet'] / 1e9:.2f} GB against {memory[name] / 1e9:.2f} GB"
                    if step is predict
                    else ""
                )
                print(
                    f"{name:<17}{label:<15}ours {timing['ours_s']:.3f} s   theirs {timing['theirs_s']:.3f} s   "
                    f"{1.0 / timing['ratio']:.1f}x faster{peaks}",
                    flush=True,
                )
    if arguments.json:
        settings = {key: value for key, value in vars(arguments).items() if key not in {"json", "peers", "alone"}}
        print(json.dumps({"machine": machine(), "settings": settings, "results": results}, indent=2))


if __name__ == "__main__":
    main()
