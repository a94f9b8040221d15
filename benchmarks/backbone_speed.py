"""Speed of our backbones against timm's: inference and a training step, fp32, in turns within one run.

python benchmarks/backbone_speed.py --json
"""

from __future__ import annotations

import argparse
import json
from functools import partial

import timm
import torch
from alternating import alternate
from machine import machine
from torch import nn

from medformer.models.backbone.variants import build_classifier

MODELS = ("poolformerv2_s12", "convformer_s18", "caformer_s18")


def inference(model: nn.Module, images: torch.Tensor) -> None:
    """One forward pass of a model in evaluation mode."""
    model.eval()
    with torch.inference_mode():
        model(images)


def training_step(model: nn.Module, images: torch.Tensor) -> None:
    """Forward and backward pass of a model in training mode."""
    model.train()
    model.zero_grad(set_to_none=True)
    model(images).square().mean().backward()


def main() -> None:
    """Measure every model and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON only")
    parser.add_argument("--models", nargs="+", default=list(MODELS), metavar="NAME")
    parser.add_argument("--size", type=int, default=224, help="input rows and columns, px")
    parser.add_argument("--batch", type=int, default=4, help="images per step")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--rounds", type=int, default=15, help="measured rounds; the median counts")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    images = torch.randn(arguments.batch, 3, arguments.size, arguments.size)
    results = []
    for name in arguments.models:
        # The rate of stochastic depth is 0 on both sides: dropped branches would make the steps unequal work.
        ours, theirs = build_classifier(name, drop_path=0.0), timm.create_model(name, pretrained=False)
        for label, step in (("inference", inference), ("training step", training_step)):
            timing = alternate(partial(step, ours, images), partial(step, theirs, images), arguments.rounds)
            results.append({"model": name, "step": label, **timing})
            if not arguments.json:
                print(
                    f"{name:<20}{label:<15}ours {timing['ours_s']:.3f} s   timm {timing['theirs_s']:.3f} s   "
                    f"ratio {timing['ratio']:.2f}",
                    flush=True,
                )
    if arguments.json:
        settings = {key: value for key, value in vars(arguments).items() if key not in {"json", "models"}}
        print(json.dumps({"machine": machine(), "settings": settings, "results": results}, indent=2))


if __name__ == "__main__":
    main()
