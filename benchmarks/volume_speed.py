"""Speed and memory of a network of ours for volumes against MONAI's: one patch through each, in turns within one run.

python benchmarks/volume_speed.py --threads 2 --out volume-speed
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from monai.networks.nets import MedNeXtS
from speed import Side, ceilings_of, finish, make_parser, modes_of, run
from torch import nn

from medformer.config import VolumeConfig
from medformer.models.networks.build import build_network
from medformer.models.networks.grid import Grid

WANTED = {
    ("predict", "swinunetr"): 1 / 12,
    ("predict", "dynunet"): 1 / 5,
    ("predict", "mednext-s"): 1 / 3,
    ("train", "dynunet"): 1 / 3,
}
"""The most that ours should take of the time of a peer in single precision, by pass."""


def ours_or(name: str, side: int) -> nn.Module:
    """Return a network in its default settings, as a plan of isotropic voxels would build it."""
    torch.manual_seed(0)
    config = VolumeConfig().model.model_copy(update={"name": name})
    grid = Grid(1, 3, (side,) * 3, None, strides=((2, 2, 2),) * 4, kernel_sizes=((3, 3, 3),) * 4)
    return build_network(config, grid)


def mednext_s(side: int) -> nn.Module:
    """MedNeXt-S with kernels of 3; `monai:mednext` is MedNeXt-B."""
    torch.manual_seed(0)
    network: nn.Module = MedNeXtS(spatial_dims=3, in_channels=1, out_channels=3, kernel_size=3)
    return network


PEERS: dict[str, Callable[[int], nn.Module]] = {
    "dynunet": partial(ours_or, "monai:dynunet"),
    "mednext-s": mednext_s,
    "swinunetr": partial(ours_or, "monai:swinunetr"),
}


def main() -> None:
    """Measure ours against every peer and print a table or JSON."""
    parser = make_parser(__doc__, batch=1, rounds=5)
    parser.add_argument("--peers", nargs="+", default=list(PEERS), choices=list(PEERS), metavar="NAME")
    parser.add_argument("--model", default="meta_unet_fine", help="our side")
    parser.add_argument("--side", type=int, default=96, help="voxels along each axis of the patch")
    arguments = parser.parse_args()
    if arguments.tiny:
        arguments.side, arguments.rounds = 32, 1
    models = {"ours": ours_or(arguments.model, arguments.side)}
    models |= {name: PEERS[name](arguments.side) for name in arguments.peers}
    patch = torch.randn(arguments.batch, 1, *(arguments.side,) * 3)
    rows, ceilings = [], {}
    for threads in arguments.threads:
        ceilings[threads] = ceilings_of(arguments, threads)
        for work in arguments.works:
            modes = [mode for mode in modes_of(arguments, work) if mode.numbers != "bf16 weights"]
            for mode in modes:
                sides = [Side(name, model, mode) for name, model in models.items()]

                def against(side: Side, sides: list[Side] = sides) -> dict[str, Side]:
                    return {each.name: each for each in sides if side.name == "ours" and each.name != "ours"}

                rows += run(arguments, patch, work, sides, against, ceilings[threads], voxels=f"{arguments.side}^3")
    finish(arguments, rows, ceilings, wanted)


def wanted(row: Mapping[str, Any], name: str) -> float | None:
    """The most that a ratio should be."""
    ours = row["side"] == "ours" and not row["compiled"] and row["numbers"] == "fp32"
    return WANTED.get((row["work"], name)) if ours else None


if __name__ == "__main__":
    main()
