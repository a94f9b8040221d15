"""Our network against peers on equal terms: the same data, settings and time, trained in turns in one process.

The turns make sure that whatever else the machine does slows both alike. Each turn ends by the package's own
checkpoints, and the next one resumes from them.
"""

from __future__ import annotations

import argparse
import os
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from medformer.config_loading import load_config
from medformer.errors import InterruptedRun
from medformer.files import read_json
from medformer.models.backbone.variants import count_parameters
from medformer.training.job import FitResult


def make_parser(
    description: str | None, *, data: str, config: str | None, peer: str, peer_lr: str, minutes: float, turn: float
) -> argparse.ArgumentParser:
    """Return the command line that these benchmarks share.

    Args:
        description: Text of the help page.
        data: The folder below MEDFORMER_DATA that is read.
        config: Shipped config of our side; None leaves it to the caller.
        peer: Name of the other side's network.
        peer_lr: Its peak learning rate.
        minutes: Training time of each side.
        turn: Minutes before the next side's turn.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = os.environ.get("MEDFORMER_DATA")
    parser.add_argument(
        "--data", type=Path, default=root, required=root is None, help=f"folder with {data}/ (default: MEDFORMER_DATA)"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for weights, per-case scores and JSON")
    parser.add_argument("--config", default=config, help="shipped config or YAML file of our side")
    parser.add_argument("--peer", default=peer, help="the other side's model")
    parser.add_argument("--peer-lr", default=peer_lr, help="the peer's peak learning rate: the best for it of --inner")
    parser.add_argument("--inner", action="store_true", help="score held-out training cases, to choose settings by")
    parser.add_argument("--minutes", type=float, default=minutes, help="training time of each side")
    parser.add_argument("--turn", type=float, default=turn, help="minutes before the next side's turn")
    parser.add_argument("--seed", type=int, default=0, help="of first weights, order and augmentation")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("override", nargs="*", metavar="KEY=VALUE", help="config values for all sides")
    return parser


def load_configs(
    arguments: argparse.Namespace, model: type[Any], sides: Mapping[str, Sequence[str]], common: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the config of each side.

    Args:
        arguments: Of the command line.
        model: The schema.
        sides: What sets each side apart, as `key=value`.
        common: Values for all sides, which the user's override.
    """
    given = [
        *common,
        f"seed={arguments.seed}",
        f"training.minutes={arguments.minutes}",
        f"training.accelerator={arguments.device}",
        *arguments.override,
    ]
    return {side: load_config(arguments.config, [*given, *own], model=model) for side, own in sides.items()}


def peer_settings(arguments: argparse.Namespace) -> list[str]:
    """What sets the peer apart that the command line names."""
    return [f"model.name={arguments.peer}", f"training.lr={arguments.peer_lr}"]


def kept(path: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Read what an earlier call left of a finished training.

    Args:
        path: JSON that also holds the settings that it was made with.
        settings: Those of this call, as JSON has them.

    Returns:
        None if there is nothing yet.

    Raises:
        SystemExit: It was made with other settings, so that its numbers are not those that are asked for.
    """
    if not path.is_file():
        return None
    content = dict(read_json(path))
    if content.get("settings") != settings:
        raise SystemExit(f"error: {path} was made with other settings. Name another folder with --out.")
    return content


def train_in_turns(
    networks: Mapping[str, nn.Module], train: Callable[[str], FitResult], minutes: float
) -> dict[str, dict[str, Any]]:
    """Train the sides in turns until each has spent its time.

    Args:
        networks: Of all sides; they end with their last weights.
        train: Starts or resumes the training of a side.
        minutes: Length of a turn.

    Returns:
        Parameters, updates, epochs and seconds of each side.
    """
    found: dict[str, dict[str, Any]] = {}
    while left := [side for side in networks if side not in found]:
        for side in left:
            turn = Turn(minutes)
            try:
                with turn:
                    result = train(side)
            except InterruptedRun:
                if not turn.over:
                    raise
                continue
            came = {"updates": result.updates, "epochs": result.epochs, "seconds": result.seconds}
            found[side] = {"parameters": count_parameters(networks[side]), **came}
    return found


class Turn:
    """Asks the training inside to save and stop after some minutes, as a batch system would: with SIGTERM."""

    def __init__(self, minutes: float) -> None:
        self.over = False
        self._timer = threading.Timer(60 * minutes, self._stop)

    def __enter__(self) -> Turn:
        # `fit` listens while it trains; a signal that comes just before or after must not end the benchmark.
        self._before = signal.signal(signal.SIGTERM, lambda number, frame: None)
        self._timer.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._timer.cancel()
        self._timer.join()
        signal.signal(signal.SIGTERM, self._before)

    def _stop(self) -> None:
        self.over = True
        os.kill(os.getpid(), signal.SIGTERM)
