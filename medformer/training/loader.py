"""Batches of an epoch from any step on, in an order that only the seed and the epoch decide."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate, get_worker_info

from medformer.config.shared import Workers
from medformer.data.network_inputs import TrainingData
from medformer.errors import MedformerError, ResourceError, SharedMemoryError, exhaustion
from medformer.files import write_json
from medformer.seeds import derive_seed
from medformer.training.signals import SIGNALS
from medformer.training.worker_choice import WorkerChoice, cores

Batch = dict[str, Any]

_GRACE = 10.0
"""Seconds that loader processes have to end."""


class _NotStarted(ResourceError):
    """Loader processes that could not be started."""


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
        workers: Workers,
        pin: bool,
        rank: int = 0,
        replicas: int = 1,
        visits: int = 1,
        say: Callable[[str], None] = lambda text: None,
        record: Path | None = None,
    ) -> None:
        """Prepare the loader.

        Args:
            data: The training cases.
            batch_size: Cases per step of this process.
            seed: Decides the order.
            workers: Loader processes; 0 loads in this one, "auto" lets `choice` decide.
            pin: Whether to load into page-locked memory, for copies to a GPU.
            rank: Which process this is.
            replicas: Number of processes sharing an epoch.
            visits: Steps in a row that each batch is for.
            say: Receives how many loader processes there will be, and that they are given up.
            record: JSON file for what "auto" chose, and what it measured.
        """
        self.batch_size = batch_size
        count = max(1, len(data) // (batch_size * replicas))
        self.steps = count * visits
        self._visits = visits
        self._data = data
        self.choice = WorkerChoice(max(1, cores() // replicas - 1)) if workers == "auto" else None
        self._workers = 0 if workers == "auto" else workers
        self._pin = pin
        self._say = say
        self._record = record
        self._order = EpochSampler(len(data), seed=seed, rank=rank, replicas=replicas, per_epoch=count * batch_size)
        self._loader = self._new_loader()

    def batches(self, epoch: int, start: int) -> Iterator[Batch]:
        """Yield the batch of each step of an epoch from step `start` on, without loading those before it.

        Where shared memory is too small for loader processes, this process loads the rest by itself: the same batches.

        Raises:
            MedformerError: What reading a case raised, unchanged, also from a loader process.
            ResourceError: A loader process was killed, or something is lacking.
        """
        while True:
            try:
                began = time.perf_counter()
                for batch in self._load(epoch, start // self._visits):
                    loaded = time.perf_counter()
                    for _ in range(start % self._visits, self._visits):
                        yield batch
                        start += 1
                    trained = time.perf_counter()
                    if self._reconsidered(loaded - began, trained - loaded):
                        break
                    began = time.perf_counter()
                else:
                    return
            except SharedMemoryError as error:
                self._give_up(error)
            except _NotStarted as error:
                # Nobody asked for them.
                if self.choice is None:
                    raise
                self._give_up(error)

    def _reconsidered(self, waiting: float, training: float) -> bool:
        """Whether another number of processes loads from here on."""
        choice = self.choice
        if choice is None or choice.decided:
            return False
        changed = choice.seen(waiting, training)
        if choice.decided:
            self._say(choice.described())
            if self._record is not None:
                write_json(self._record, {"workers": choice.workers, "most": choice.limit, "seconds": choice.times})
        if changed:
            self._load_by(choice.workers)
        return changed

    def _give_up(self, error: ResourceError) -> None:
        if not self._workers:
            raise error
        self._say(f"Note: {error} This process loads the batches by itself from here on.")
        self.choice = None
        self._load_by(0)

    def _load_by(self, workers: int) -> None:
        self.close()
        self._workers = workers
        self._loader = self._new_loader()

    def close(self) -> None:
        """End the loader processes, and kill those that do not end; no batches can be had after it."""
        running = getattr(self._loader, "_iterator", None)
        del self._loader
        if running is None:
            return
        # PyTorch waits without limit for its threads, and asks processes with a signal that ours ignore.
        ending = threading.Thread(target=running._shutdown_workers, daemon=True)
        ending.start()
        ending.join(_GRACE)
        for process in running._workers:
            if process.is_alive():
                process.kill()

    def _load(self, epoch: int, start: int) -> Iterator[Batch]:
        self._order.begin(epoch, start * self.batch_size)
        source = self._started()
        while True:
            try:
                batch = next(source)
            except StopIteration:
                return
            except Exception as error:
                found = exhaustion(error)
                if found is None:
                    raise
                raise found from error
            if isinstance(batch, MedformerError):
                raise batch
            yield batch

    def _started(self) -> Iterator[Any]:
        try:
            return iter(self._loader)
        except (OSError, RuntimeError) as error:
            # Where the queues between processes are made nothing is written but shared memory.
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise SharedMemoryError(f"/dev/shm has no room for loader processes ({error}).") from error
            raise _NotStarted(
                f"{self._workers} loader processes could not be started ({error}). Lower data.workers, or set it to 0."
            ) from error

    def _new_loader(self) -> DataLoader[Any]:
        return DataLoader(
            _GuardedBatches(self._data) if isinstance(self._data, WholeBatches) else _Guarded(self._data),
            batch_size=self.batch_size,
            sampler=self._order,
            num_workers=self._workers,
            collate_fn=_collate,
            pin_memory=self._pin,
            worker_init_fn=_prepare_worker,
            persistent_workers=self._workers > 0,
            # Its own generator: the loader would otherwise draw from the global one, once per epoch and resume.
            generator=torch.Generator().manual_seed(0),
        )


@dataclass(eq=False)
class EpochSampler(Sampler[tuple[int, int]]):
    """Yields (epoch, index) pairs.

    Loader workers that live through several epochs hold a copy of the dataset made before the first one, so telling the
    dataset its epoch in the main process would not reach them. An index that carries the epoch always does. The order
    depends on the seed and the epoch alone: after `begin(k)` a resumed run continues with the order of epoch k.

    Args:
        length: Number of cases.
        seed: The run's (or fold's) seed.
        rank: Which process this is, in 0 .. replicas-1.
        replicas: Number of processes that share an epoch. Each gets equally many cases, because unequal numbers would
            leave some waiting for a gradient exchange; the first cases of the order fill up the last round.
        per_epoch: At most this many cases of an epoch are visited by this process; all by default.
    """

    length: int
    _: KW_ONLY
    seed: int
    rank: int = 0
    replicas: int = 1
    per_epoch: int | None = None

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ValueError(f"EpochSampler needs at least one case, got {self.length}")
        if not 0 <= self.rank < self.replicas:
            raise ValueError(f"rank must be in 0 .. {self.replicas - 1}, got {self.rank}")
        share = -(-self.length // self.replicas)
        self._end = share if self.per_epoch is None else min(share, self.per_epoch)
        self.begin(0)

    def begin(self, epoch: int, skip: int = 0) -> None:
        """Choose the epoch of the next iteration, and how many cases of it are done already."""
        self.epoch = epoch
        self.skip = skip

    def __len__(self) -> int:
        """Cases of this process that are left of the epoch."""
        return max(0, self._end - self.skip)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Return what is left of this process's share of the epoch."""
        order = np.random.default_rng(derive_seed(self.seed, "order", self.epoch)).permutation(self.length)
        rounds = -(-self.length // self.replicas)
        own = np.resize(order, rounds * self.replicas)[self.rank :: self.replicas]
        return iter([(self.epoch, int(index)) for index in own[self.skip : self._end]])


def _handed_on(make: Callable[[], Any]) -> Any:
    """What `make` gives, or the error that it raises as a value: the loader would put a traceback into its text."""
    try:
        return make()
    except MedformerError as error:
        return error
    except Exception as error:
        found = exhaustion(error)
        if found is None:
            raise
        return found


class _Guarded(Dataset[Any]):
    """Training data whose errors are values."""

    def __init__(self, data: TrainingData) -> None:
        self._data = data

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: tuple[int, int]) -> Any:
        return _handed_on(lambda: self._data[index])


class _GuardedBatches(_Guarded):
    """Lets the loader ask for a whole batch, which it does of data that have this method."""

    def __getitems__(self, indices: list[tuple[int, int]]) -> Any:
        data = self._data
        assert isinstance(data, WholeBatches)
        return _handed_on(lambda: data.batch(indices))


def _collate(items: Any) -> Any:
    def collated() -> Any:
        if not isinstance(items, list):
            return _shared(items)
        for item in items:
            if isinstance(item, MedformerError):
                return item
        return _shared(default_collate(items))

    return _handed_on(collated)


def _shared(batch: Any) -> Any:
    """Move a batch of a loader process to shared memory here, where a lack of it can still be told."""
    if get_worker_info() is not None:
        for leaf in tree_leaves(batch):
            if isinstance(leaf, Tensor):
                leaf.share_memory_()
    return batch


def _prepare_worker(_: int) -> None:
    """Leave stopping to the main process, which finishes its step and then ends its loader processes.

    Terminals and schedulers signal the whole group, and a loader process that died of it would fail the step.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    # A batch that cannot be sent would be waited for without end; that its sender is gone is noticed.
    Queue._on_queue_feeder_error = staticmethod(_end_process)  # type: ignore[attr-defined]


def _end_process(error: BaseException, batch: Any) -> None:
    print(f"A loader process could not hand over a batch: {error}", file=sys.stderr, flush=True)
    os._exit(1)
