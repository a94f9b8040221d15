"""A training small enough for tests; also a program, so that a test can kill it or run it in several processes."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medformer.config.shared import TrainingConfig
from medformer.errors import InterruptedRun
from medformer.files import read_csv
from medformer.seeds import derive_seed
from medformer.training.fit import FitResult, fit
from medformer.training.losses.objectives import SegmentationObjective
from medformer.training.losses.segmentation import build_loss
from pipelines.console import PlainReporter


class Squares:
    """Noise with a bright square whose place depends on case and epoch, as an augmented dataset's does.

    `faults` maps a case to a value put into its image, or to an error raised instead of it. From the epoch `hangs` on,
    no case comes: the training waits until somebody kills it.
    """

    def __init__(
        self,
        cases: int = 10,
        *,
        seed: int = 0,
        faults: dict[int, Any] | None = None,
        pause: float = 0.0,
        hangs: int | None = None,
        side: int = 12,
    ) -> None:
        self.side = side
        self.cases, self.seed, self.faults, self.pause, self.hangs = cases, seed, faults or {}, pause, hangs
        self.asked: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return self.cases

    def __getitem__(self, index: tuple[int, int]) -> dict[str, Any]:
        epoch, case = index
        self.asked.append(index)
        time.sleep(self.pause if self.hangs is None or epoch < self.hangs else 600)
        generator = torch.Generator().manual_seed(derive_seed(self.seed, epoch, case))
        image = torch.randn(3, self.side, self.side, generator=generator)
        mask = torch.zeros(1, self.side, self.side)
        row, column = (int(v) for v in torch.randint(0, 8, (2,), generator=generator))
        mask[:, row : row + 4, column : column + 4] = 1
        fault = self.faults.get(case)
        if isinstance(fault, Exception):
            raise fault
        if fault is not None:
            image[0, 0, 0] = fault
        return {"image": image + 2 * mask, "mask": mask, "id": f"case{case}"}


class TinyNet(nn.Module):
    """Convolution, batch normalization and dropout: everything whose state a resume could lose."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout(0.2))
        self.head = nn.Conv2d(width, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


class HeldOutDice:
    """Dice of a model on a few fixed squares."""

    measure = "dice"

    def __call__(self, model: nn.Module) -> float:
        items = [Squares(3, seed=99)[(0, case)] for case in range(3)]
        image, mask = (torch.stack([item[key] for item in items]) for key in ("image", "mask"))
        predicted = (model(image.to(next(model.parameters()).device)) > 0).float().cpu()
        return float((2 * (predicted * mask).sum() + 1) / (predicted.sum() + mask.sum() + 1))


def seeded_net(width: int = 6) -> TinyNet:
    torch.manual_seed(0)
    return TinyNet(width)


def train(out: Path, *, config: dict[str, Any] | None = None, **change: Any) -> FitResult:
    """Train with small settings, which keywords replace."""
    loss = change.pop("loss") if "loss" in change else build_loss("bce_dice")
    settings = {"epochs": 3, "batch_size": 4, "lr": 0.02, "accelerator": "cpu", **(config or {})}
    return fit(
        change.pop("model") if "model" in change else seeded_net(),
        SegmentationObjective(loss, change.pop("scales", (1.0,)), change.pop("scaling", "drawn")),
        change.pop("data") if "data" in change else Squares(),
        change.pop("validate", HeldOutDice()),
        TrainingConfig(**settings),
        out=out,
        seed=1,
        **change,
    )


def curve(out: Path) -> list[dict[str, str]]:
    """The learning curve without its one column that differs between equal runs."""
    return [{key: value for key, value in row.items() if key != "seconds"} for row in read_csv(out / "history.csv")]


def program(folder: Path, kind: str, *words: str) -> None:
    """What the program does; its arguments are the words of the command line."""
    if kind == "slow":
        tracker = words[0] if words else "none"
        train(folder, data=Squares(pause=0.01, hangs=4), config={"epochs": 6, "tracker": tracker}, resume=True)
    elif kind == "workers":
        try:
            train(folder, data=Squares(40, pause=0.02), workers=1, config={"epochs": 1000})
        except InterruptedRun as error:
            sys.exit(error.exit_code)
    elif kind == "large":
        data = Squares(16, side=160)
        workers, reporter = int(words[0]), PlainReporter(sys.stdout)
        train(folder, data=data, workers=workers, reporter=reporter, config={"epochs": 2, "batch_size": 8})
    elif kind == "ddp":
        faults = {3: float("nan")} if words == ("nan",) else None
        result = train(folder, data=Squares(16, faults=faults), config={"devices": 2, "strategy": "ddp"})
        print(result.updates, result.ended)


def serve() -> None:
    """Run the program in a fork, a group of its own, for each line of the input: say its process, then how it ended."""
    while line := sys.stdin.readline():
        child = os.fork()
        if not child:
            os.setsid()
            folder, *words = line.split()
            program(Path(folder), *words)
            sys.exit()
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1:] == ["serve"]:
        serve()
    else:
        program(Path(sys.argv[1]), *sys.argv[2:])
