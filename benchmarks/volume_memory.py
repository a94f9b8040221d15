"""Expected against measured peak memory of training, each in a process of its own (Linux).

python benchmarks/volume_memory.py --json
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from machine import machine, peak_bytes
from torch import Tensor, nn

from medformer.config import VolumeConfig
from medformer.config.shared import Precision, TrainingConfig
from medformer.data.volumes.plan.patch_size import fitted
from medformer.imaging.geometry import Axes
from medformer.models.memory import training_memory
from medformer.models.networks.build import build_network
from medformer.models.networks.grid import Grid

TOLERANCE = 0.25
CLASSES = 3
STEPS = 3


@dataclass(frozen=True)
class Setup:
    """One training to measure.

    Attributes:
        model: Name of the network.
        size: Voxels per axis, 1 mm each, rounded up as a plan does.
        batch_size: Patches per step.
        precision: Of the step.
    """

    model: str
    size: Axes
    batch_size: int
    precision: Precision = "32-true"


SETUPS = (
    # What is planned for the 200 hippocampi of the Medical Segmentation Decathlon.
    Setup("meta_unet_fine", (35, 50, 36), 7),
    Setup("meta_unet_fine", (96, 96, 96), 2),
    Setup("monai:dynunet", (64, 64, 64), 2),
    Setup("meta_unet_fine", (64, 64, 64), 2, "bf16-mixed"),
    Setup("monai:dynunet", (64, 64, 64), 2, "bf16-mixed"),
)


class Noise:
    """Training data without files: patches of noise with random classes."""

    def __init__(self, patch: Axes, cases: int) -> None:
        self.patch = patch
        self.cases = cases

    def __len__(self) -> int:
        return self.cases

    def __getitem__(self, index: tuple[int, int]) -> dict[str, Tensor | str]:
        return {
            "image": torch.randn(1, *self.patch),
            "mask": torch.randint(CLASSES, (1, *self.patch)),
            "id": f"case {index[1]}",
        }


def build(setup: Setup) -> tuple[nn.Module, Axes]:
    """Return the network of a setup and its patch."""
    patch, layout = fitted(setup.size, (1.0, 1.0, 1.0))
    config = VolumeConfig().model.model_copy(update={"name": setup.model})
    model = build_network(config, Grid(1, CLASSES, patch, None, layout.strides, layout.kernel_sizes))
    return model, patch


def train(setup: Setup) -> int:
    """Train a few steps as a run does, and return the peak resident memory of this process in bytes."""
    from medformer.training.fit import fit
    from medformer.training.losses.objectives import VolumeObjective
    from medformer.training.losses.segmentation import build_volume_loss

    model, patch = build(setup)
    config = TrainingConfig(epochs=1, batch_size=setup.batch_size, accelerator="cpu", precision=setup.precision)
    with tempfile.TemporaryDirectory() as folder:
        data = Noise(patch, STEPS * setup.batch_size)
        fit(model, VolumeObjective(build_volume_loss("dice_ce")), data, None, config, out=Path(folder), seed=0)
    return peak_bytes("VmHWM")


def compare(index: int, threads: int) -> dict[str, Any]:
    """Expect and measure one setup."""
    setup = SETUPS[index]
    model, patch = build(setup)
    expected = training_memory(model, patch, setup.batch_size, in_channels=1, precision=setup.precision)
    command = [sys.executable, __file__, "--train", str(index), "--threads", str(threads)]
    measured = int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()[-1])
    return {
        **asdict(setup),
        "patch": patch,
        "expected_gb": round(expected / 1e9, 3),
        "measured_gb": round(measured / 1e9, 3),
        "deviation": round(expected / measured - 1, 3),
        "within": abs(expected / measured - 1) <= TOLERANCE,
    }


def main() -> None:
    """Compare every setup and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON only")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--train", type=int, metavar="N", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.train is not None:
        print(train(SETUPS[arguments.train]))
        return
    results = []
    for index in range(len(SETUPS)):
        results.append(compare(index, arguments.threads))
        if not arguments.json:
            row = results[-1]
            patch = "x".join(map(str, row["patch"]))
            print(
                f"{row['model']:<16}{patch:<12}batch {row['batch_size']:<3}{row['precision']:<12}"
                f"expected {row['expected_gb']:.2f} GB   measured {row['measured_gb']:.2f} GB   "
                f"{row['deviation']:+.0%}",
                flush=True,
            )
    if arguments.json:
        print(json.dumps({"machine": machine(), "tolerance": TOLERANCE, "results": results}, indent=2))
    if not all(row["within"] for row in results):
        sys.exit(f"An expectation is off by more than {TOLERANCE:.0%}.")


if __name__ == "__main__":
    main()
