"""What a training advises when numbers or memory give out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medformer.config.shared import TrainingConfig
from medformer.tensor_file import name_some
from medformer.training.losses.objectives import Load


def divergence_advice(bad_ids: Sequence[str], config: TrainingConfig) -> str:
    """Say what to do about a loss or gradient that is not a finite number.

    Args:
        bad_ids: Cases of the batch whose data already hold NaN or infinity.
        config: How it was trained.
    """
    if bad_ids:
        return f"The input itself is not finite in {name_some(bad_ids)}: repair or leave out these cases."
    clip = "" if config.clip else ", training.clip=1.0"
    precision = "" if config.precision == "32-true" else ", training.precision=32-true"
    return (
        f"The inputs are finite. Look at these cases, or start again with training.lr={config.lr / 10:g} "
        f"(now {config.lr:g}){clip}{precision}."
    )


@dataclass
class MemoryContext:
    """The numbers behind a lack of memory; the loop keeps `load` up to date.

    Attributes:
        config: Batch size and precision.
        parameters: Of the network.
        load: The last batch; None before the first.
    """

    config: TrainingConfig
    parameters: int
    load: Load | None = None

    def advice(self) -> str:
        """Say what was asked for and what to try."""
        load = self.load or Load(self.config.batch_size)
        batch, seen = load.cases, f", {load.seen}" if load.seen else ""
        # Weights, gradients, two moments and the average, in float32.
        fixed = 5 * 4 * self.parameters / 2**30
        options = []
        if batch > 1:
            options.append(f"{load.batch_setting}={max(1, batch // 2)}")
        if self.config.precision == "32-true":
            options.append("training.precision=bf16-mixed")
        options += load.smaller or ("a smaller model",)
        return (
            f"Out of memory: batch of {batch}{seen}, network of {self.parameters:,} parameters "
            f"(weights, gradients, optimizer and average alone take {fixed:.2f} GiB). Try {', or '.join(options)}; "
            "fewer data.workers if the machine, not the GPU, ran out."
        )
