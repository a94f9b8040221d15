"""When a training's weights and state go to disk, so that what lies there always fits together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from medformer.tensor_file import write_tensors
from medformer.training.ema import WeightAverage
from medformer.training.job import Job
from medformer.training.saving.state import Progress, save_state


class Saving:
    """Writes the best weights and the state, at most every `config.save_minutes`.

    Between two writes the best weights wait in memory. They are written just before the state that knows of them: after
    a crash at any moment the state on disk is that of some complete epoch, the weights beside it are its best ones or
    later ones, and a resumed training computes the later ones again.

    Args:
        job: Says where and how often.
        identity: What must be the same on resume.
        model: The weights under training.
        average: Their average, which is what is kept.
        optimizer: Its moments are part of the state.
    """

    def __init__(
        self, job: Job, identity: Mapping[str, Any], model: nn.Module, average: WeightAverage, optimizer: Optimizer
    ) -> None:
        self._job = job
        self._identity = identity
        self._model = model
        self._average = average
        self._optimizer = optimizer
        self._best: dict[str, Tensor] | None = None
        self._about: dict[str, Any] = {}
        self._written_at = 0.0

    def mark(self, elapsed: float) -> None:
        """Note, in every process, that what is on disk is as of `elapsed` seconds after the training's beginning."""
        self._written_at = elapsed

    def keep(self, about: Mapping[str, Any]) -> None:
        """Remember the present average as the best weights, with what is written beside them."""
        with self._average.applied():
            state = self._model.state_dict()
            self._best = {name: tensor.detach().to("cpu", copy=True) for name, tensor in state.items()}
        self._about = dict(about)

    def due(self, elapsed: float) -> bool:
        """Whether enough time has passed since the last write."""
        return elapsed - self._written_at >= 60.0 * self._job.config.save_minutes

    def write_weights(self) -> None:
        """Write the best weights if they are not on disk yet."""
        if self._best is not None:
            write_tensors(self._job.weights, self._best, self._about)
            self._best = None

    def write(self, progress: Progress) -> None:
        """Write the best weights, then the state.

        Raises:
            ResourceError: The disk is full or the folder not writable.
        """
        self.write_weights()
        save_state(self._job.state, progress, self._identity, self._model, self._average, self._optimizer)
