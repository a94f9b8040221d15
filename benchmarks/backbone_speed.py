"""Speed of our backbones against timm's: inference and a training step, in turns within one run.

Every side is held against timm's in single precision, and against timm's computed in the same way.

python benchmarks/backbone_speed.py --threads 2 --out backbone-speed
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import timm
import torch
from speed import Side, ceilings_of, finish, make_parser, modes_of, run

from medformer.models.backbone.variants import build_classifier
from medformer.tasks.bench.passes import Mode

MODELS = ("convformer_s18", "caformer_s18")
WANTED = {("predict", "fp32"): 0.8, ("predict", "bf16"): 0.6, ("train", "fp32"): 0.8, ("train", "bf16"): 0.65}
"""The most that ours should take of the time of timm's in single precision, by pass and numbers."""


def main() -> None:
    """Measure every model and print a table or JSON."""
    parser = make_parser(__doc__, batch=4, rounds=15)
    parser.add_argument("--models", nargs="+", default=list(MODELS), metavar="NAME")
    parser.add_argument("--sizes", nargs="+", type=int, default=[224, 352], help="input rows and columns, px")
    arguments = parser.parse_args()
    if arguments.tiny:
        arguments.sizes, arguments.rounds, arguments.models = [64], 1, arguments.models[-1:]
    torch.manual_seed(0)
    rows, ceilings = [], {}
    for threads in arguments.threads:
        ceilings[threads] = ceilings_of(arguments, threads)
        for name in arguments.models:
            # The rate of stochastic depth is 0 on both sides: dropped branches would make the steps unequal work.
            models = {"ours": build_classifier(name, drop_path=0.0), "timm": timm.create_model(name, pretrained=False)}
            for size in arguments.sizes:
                images = torch.randn(arguments.batch, 3, size, size)
                for work in arguments.works:
                    modes = modes_of(arguments, work)
                    sides = [Side(side, model, mode) for mode in modes for side, model in models.items()]

                    def against(side: Side, models: Mapping[str, Any] = models) -> dict[str, Side]:
                        fp32 = Side("timm", models["timm"], Mode("fp32"))
                        same = Side("timm", models["timm"], side.mode)
                        return {"timm fp32": fp32, "timm alike": same} if side.name == "ours" else {"timm fp32": fp32}

                    rows += run(arguments, images, work, sides, against, ceilings[threads], network=name, px=size)
    finish(arguments, rows, ceilings, wanted)


def wanted(row: Mapping[str, Any], name: str) -> float | None:
    """The most that a ratio should be."""
    ours = row["side"] == "ours" and not row["compiled"] and name == "timm fp32"
    return WANTED.get((row["work"], row["numbers"])) if ours else None


if __name__ == "__main__":
    main()
