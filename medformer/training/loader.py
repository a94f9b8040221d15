"""Batches of an epoch from any step on, in an order that only the seed and the epoch decide."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from medformer.data.sampling import EpochSampler
from medformer.errors import MedformerError
from medformer.training.signals import SIGNALS

Batch = dict[str, Any]


class TrainingData(Protocol):
    """What is trained on: `data[(epoch, index)]` gives a table of tensors, or tables of such, and "id": str.

    Which tensors, the objective says (see `medformer.training.losses.objectives`). An item depends on its epoch and
    index alone, never on a random state or on the items before it; that is what makes a resumed run equal to an
    uninterrupted one. With loader workers it must be picklable. Data may also give whole batches (`WholeBatches`).
    """

    def __len__(self) -> int:
        """Number of cases."""

    def __getitem__(self, index: tuple[int, int], /) -> Any:
        """Give one item."""


@runtime_checkable
class WholeBatches(Protocol):
    """Training data that makes a batch at once, where that is faster than one item after the other."""

    def batch(self, indices: Sequence[tuple[int, int]], /) -> Batch:
        """Give what collating `self[index]` for each index gives: tensors with an axis of cases, and "id": [str]."""


class BatchSource:
    """The batches of one process, epoch by epoch.

    Every batch is full: the cases left over at the end of an epoch are left out of it (others in each epoch), since
    batch normalization does badly on a batch of one. Fewer cases than one batch make one smaller batch.

    The batches that `replicas` processes see in a step make up the batch that one process with a batch size of
    `replicas * batch_size` sees, case for case. One exception: when there are too few cases for that batch, and not a
    multiple of `replicas`, the first of the order are seen twice, so that every process has equally many.
    """

    def __init__(
        self,
        data: TrainingData,
        batch_size: int,
        *,
        seed: int,
        workers: int,
        pin: bool,
        rank: int = 0,
        replicas: int = 1,
    ) -> None:
        """Prepare the loader.

        Args:
            data: The training cases.
            batch_size: Cases per step of this process.
            seed: Decides the order.
            workers: Loader processes; 0 loads in this one.
            pin: Whether to load into page-locked memory, for copies to a GPU.
            rank: Which process this is.
            replicas: Number of processes sharing an epoch.
        """
        self.batch_size = batch_size
        order = EpochSampler(len(data), seed=seed, rank=rank, replicas=replicas)
        self.steps = max(1, len(data) // (batch_size * replicas))
        self._order = _Steps(order, self.steps, batch_size)
        self._loader: DataLoader[Any] = DataLoader(
            _GuardedBatches(data) if isinstance(data, WholeBatches) else _Guarded(data),
            batch_size=batch_size,
            sampler=self._order,
            num_workers=workers,
            collate_fn=_collate,
            pin_memory=pin,
            worker_init_fn=_prepare_worker,
            persistent_workers=workers > 0,
            # Its own generator: the loader would otherwise draw from the global one, once per epoch and resume.
            generator=torch.Generator().manual_seed(0),
        )

    def batches(self, epoch: int, start: int) -> Iterator[Batch]:
        """Yield the batches of an epoch from step `start` on, without loading those before it.

        Raises:
            MedformerError: What reading a case raised, unchanged, also from a loader process.
        """
        self._order.begin(epoch, start)
        for batch in self._loader:
            if isinstance(batch, MedformerError):
                raise batch
            yield batch

    def close(self) -> None:
        """Stop the loader processes; no batches can be had after it."""
        del self._loader


class _Steps(Sampler[tuple[int, int]]):
    """An epoch's order without the cases of the steps already done, and without those that fill no batch."""

    def __init__(self, order: EpochSampler, steps: int, batch_size: int) -> None:
        self._full = order
        self._batch_size = batch_size
        self._end = min(len(order), steps * batch_size)
        self._skip = 0

    def begin(self, epoch: int, start: int) -> None:
        self._full.set_epoch(epoch)
        self._skip = start * self._batch_size

    def __len__(self) -> int:
        return max(0, self._end - self._skip)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(list(self._full)[self._skip : self._end])


class _Guarded(Dataset[Any]):
    """Hands errors on as values: the loader would rewrite one from a worker with a traceback in its text."""

    def __init__(self, data: TrainingData) -> None:
        self._data = data

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: tuple[int, int]) -> Any:
        try:
            return self._data[index]
        except MedformerError as error:
            return error


class _GuardedBatches(_Guarded):
    """Lets the loader ask for a whole batch, which it does of data that have this method."""

    def __getitems__(self, indices: list[tuple[int, int]]) -> Any:
        assert isinstance(self._data, WholeBatches)
        try:
            return self._data.batch(indices)
        except MedformerError as error:
            return error


def _collate(items: Any) -> Any:
    if not isinstance(items, list):
        return items
    for item in items:
        if isinstance(item, MedformerError):
            return item
    return default_collate(items)


def _prepare_worker(_: int) -> None:
    """Leave stopping to the main process, which finishes its step and then ends its loader processes.

    Terminals and schedulers signal the whole group, and a loader process that died of it would fail the step.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
