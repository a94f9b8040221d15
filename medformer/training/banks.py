"""Filling the memory of a network while it trains, and the record of the cases that it holds.

After each step, one latent of each class in each case of the batch is stored (`Banks.store`), as the step saw it. What
is validated and used are averaged weights, to which those latents would be another network's. So the averaged weights
have banks of their own, and at the end of each epoch every slot that the training filled is filled anew for them
(`Banks.refill`): from the same case without augmentation, at a place of the same class, mixer by mixer in the order in
which the network asks them. In the weights that are kept, a stored latent is thus what they themselves compute for that
case at that place, and the file says which cases these are.

A network without a memory pays nothing for it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import default_collate

from medformer.data.network_inputs import TrainingData
from medformer.errors import CheckpointError, ConfigError, LeakageError
from medformer.models.backbone.mixers import MIXERS, SEVERAL_DEVICES
from medformer.models.backbone.mixers.hopfield_memory import EMPTY, MemoryBank, memory_banks
from medformer.models.backbone.queries import Queries, recorded_queries
from medformer.seeds import derive_seed
from medformer.tensor_file import name_some, read_tensors
from medformer.training.job import WEIGHTS, Job
from medformer.training.losses.objectives import Moment

KEY = "memory"
"""In the metadata of a file of weights: ids of the cases that the memory holds, by the number that its slots have."""

ToDevice = Callable[[dict[str, Any]], dict[str, Any]]


@runtime_checkable
class NamedCases(Protocol):
    """Training data that can fill a memory."""

    @property
    def names(self) -> Sequence[str]:
        """Id of the case of each item."""

    def plain(self) -> TrainingData:
        """The same items without augmentation."""


class Slot(NamedTuple):
    """What a filled slot of a bank holds, but for the latent: its number, class, case and order."""

    number: int
    kind: int
    case: int
    order: int


@dataclass(eq=False)
class Banks:
    """The memory banks of a network in training.

    Attributes:
        model: The network, perhaps without any.
        job: Its training.
        cases: Ids of the cases in the banks that `refill` filled last, by their number.

    Raises:
        ConfigError: Several processes, or data that do not say which case an item is of.
    """

    model: nn.Module
    job: Job
    cases: dict[str, str] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._banks = memory_banks(self.model)
        if not self._banks:
            return
        if self.job.config.devices > 1:
            MIXERS.require("hopfield_memory", SEVERAL_DEVICES)
        data = self.job.data
        if not isinstance(data, NamedCases):
            raise ConfigError(
                f"{type(data).__name__} does not say which case an item is of, so that the memory of a network (mixer "
                "hopfield_memory) cannot be filled from it. Choose another mixer."
            )
        self._names, self._plain = tuple(data.names), data.plain()
        self._items: dict[str, list[int]] = {}
        for item, name in enumerate(self._names):
            self._items.setdefault(name, []).append(item)

    def __bool__(self) -> bool:
        return bool(self._banks)

    def clear(self) -> None:
        """Empty all banks: those of pretraining or of another run hold its cases, and latents of its weights."""
        for bank in self._banks.values():
            bank.forget(range(len(bank.classes)))

    def asked(self) -> AbstractContextManager[Mapping[MemoryBank, Queries]]:
        """Record what the banks are asked inside the block."""
        return recorded_queries(self.model) if self._banks else nullcontext({})

    def store(
        self, asked: Mapping[MemoryBank, Queries], ids: Sequence[str], batch: Mapping[str, Any], moment: Moment
    ) -> None:
        """Store one latent of each class in each case of a batch, at places that the moment draws.

        Args:
            asked: By the step.
            ids: Of the cases.
            batch: What the step was given.
            moment: Of the step.
        """
        if not asked:
            return
        truth = self.job.objective.example(batch)[1]
        draw = np.random.default_rng(derive_seed(*moment[:1], "memory", *moment[1:]))
        for bank, queries in asked.items():
            classes = _classes(queries, truth)
            rows = [(row, int(kind)) for row, kinds in enumerate(classes) for kind in np.unique(kinds[kinds >= 0])]
            samples = [row for row, _ in rows]
            where = [int(draw.choice(np.flatnonzero(classes[row] == kind))) for row, kind in rows]
            bank.store(
                queries.values[samples, where],
                _places(queries, where, bank),
                [kind for _, kind in rows],
                [self._items[ids[row]][0] for row in samples],
            )

    def held(self) -> dict[str, list[Slot]]:
        """What the slots of each bank hold, the oldest first."""
        found = {}
        for name, bank in self._banks.items():
            slots = map(Slot, count(), bank.classes.tolist(), bank.cases.tolist(), bank.order.tolist())
            found[name] = sorted((slot for slot in slots if slot.kind != EMPTY), key=lambda slot: slot.order)
        return found

    @torch.no_grad()
    def refill(self, held: Mapping[str, Sequence[Slot]], epoch: int, to_device: ToDevice) -> None:
        """Fill the banks for the weights that the model has now, from the cases in the slots of other weights.

        A slot stays empty where its case shows nothing of its class without augmentation.

        Args:
            held: What those slots hold.
            epoch: Decides the places.
            to_device: Moves the tensors of a batch to where the model is.
        """
        if not any(held.values()):
            return
        self.model.eval()
        draw = np.random.default_rng(derive_seed(self.job.seed, "memory", "refill", epoch))
        for names in self._in_order(to_device):
            self._fill({name: held[name] for name in names}, draw, to_device)
        numbers = {case for bank in self._banks.values() for case in bank.cases.tolist() if case != EMPTY}
        self.cases = {str(number): self._names[number] for number in sorted(numbers)}

    def _in_order(self, to_device: ToDevice) -> list[list[str]]:
        """The names of the banks of each mixer, in the order in which the network asks the mixers."""
        asked = self._ask([0], to_device)[0]
        mixers: dict[str, list[str]] = {}
        names = {bank: name for name, bank in self._banks.items()}
        for bank in asked:
            mixers.setdefault(names[bank].rpartition(".")[0], []).append(names[bank])
        return list(mixers.values())

    def _fill(self, held: Mapping[str, Sequence[Slot]], draw: np.random.Generator, to_device: ToDevice) -> None:
        """Fill the banks of one mixer, which are asked before any of them answers, from one item of each case a round.

        A case has several items where items are patches; it is asked for the next one while it lacks a class.
        """
        left = dict(held)
        size = self.job.config.batch_size
        for name in held:
            self._banks[name].forget(range(len(self._banks[name].classes)))
        for attempt in count():
            cases = sorted({slot.case for slots in left.values() for slot in slots})
            items = [(own[attempt], case) for case in cases if attempt < len(own := self._items[self._names[case]])]
            if not items:
                return
            for first in range(0, len(items), size):
                part = items[first : first + size]
                asked, truth = self._ask([item for item, _ in part], to_device)
                rows = {case: row for row, (_, case) in enumerate(part)}
                left = {
                    name: _take(self._banks[name], slots, asked[self._banks[name]], truth, rows, draw)
                    for name, slots in left.items()
                }

    def _ask(self, items: Sequence[int], to_device: ToDevice) -> tuple[Mapping[MemoryBank, Queries], Tensor | None]:
        """Let the model see items as they are."""
        objective = self.job.objective
        batch = to_device(objective.tensors(default_collate([self._plain[(0, item)] for item in items])))
        inputs, truth = objective.example(batch)
        with recorded_queries(self.model) as asked:
            self.model(inputs)
        return asked, truth


def _take(
    bank: MemoryBank,
    slots: Sequence[Slot],
    queries: Queries,
    truth: Tensor | None,
    rows: Mapping[int, int],
    draw: np.random.Generator,
) -> list[Slot]:
    """Fill the slots whose case, in a row of the batch, shows something of their class; return the others."""
    classes = _classes(queries, truth)
    taken, left = [], []
    for slot in slots:
        row = rows.get(slot.case, -1)
        # A scene is of the class that it has as a whole, which a case without augmentation may have another of.
        fitting = np.flatnonzero((classes[row] == slot.kind) | (queries.places is None)) if row >= 0 else ()
        if len(fitting):
            taken.append((slot, row, int(draw.choice(fitting))))
        else:
            left.append(slot)
    samples, where = [row for _, row, _ in taken], [at for _, _, at in taken]
    bank.write(
        [slot.number for slot, _, _ in taken],
        queries.values[samples, where],
        _places(queries, where, bank),
        [int(classes[row, at]) for _, row, at in taken],
        [slot.case for slot, _, _ in taken],
        [slot.order for slot, _, _ in taken],
    )
    return left


def _classes(queries: Queries, truth: Tensor | None) -> NDArray[np.int64]:
    """The class at the middle of each query, `(B, N)`; `EMPTY` beyond the image.

    Args:
        queries: Of a bank.
        truth: Classes of cases `(B,)` or of places `(B, 1, *S)`. A scene of the latter is of class 1 where anything of
            it is not of class 0. Without any, all are of class 0.
    """
    shape, places = queries.values.shape[:2], queries.places
    if truth is None:
        found = torch.zeros(shape, dtype=torch.int64)
    elif truth.dim() == 1:
        found = truth.long().unsqueeze(1).expand(shape)
    else:
        marked = (truth >= 0.5).long() if truth.is_floating_point() else truth
        if places is None:
            found = (marked.flatten(1) > 0).any(1, keepdim=True).long().expand(shape)
        else:
            size = torch.tensor(marked.shape[2:], device=places.device)
            at = torch.minimum((places * size).long(), size - 1)
            everywhere: tuple[Any, ...] = (slice(None), 0, *at.to(marked.device).unbind(1))
            found = marked[everywhere].long()
    classes: NDArray[np.int64] = found.cpu().numpy().copy()
    if places is not None:
        classes[:, (places >= 1).any(1).cpu().numpy()] = EMPTY
    return classes


def _places(queries: Queries, where: Sequence[int], bank: MemoryBank) -> Tensor:
    if queries.places is None:
        return bank.places.new_zeros(len(where), bank.places.shape[1])
    return queries.places[list(where)]


def remembered_cases(weights: Path) -> dict[int, str]:
    """Ids of the cases that the memory in a file of weights holds, by their number in it; none without a memory.

    Raises:
        CheckpointError: The file is missing, damaged, or does not name all cases of its memory.
    """
    tensors, metadata = read_tensors(weights, ending=".cases")
    numbers = {number for tensor in tensors.values() for number in tensor.tolist() if number != EMPTY}
    named = metadata.get(KEY, {})
    if not isinstance(named, Mapping) or any(not isinstance(named.get(str(number)), str) for number in numbers):
        raise CheckpointError(
            f"{weights} does not say which cases its memory holds, so that nobody knows whether one of them is tested. "
            "Restore the file from a copy, or train again."
        )
    return {int(number): str(name) for number, name in named.items()}


def cases_in_memory(folder: Path) -> set[str]:
    """Ids of the cases that the memories of a fold's networks hold.

    Raises:
        CheckpointError: As `remembered_cases`.
    """
    return set().union(*_memories(folder).values())


def _memories(folder: Path) -> dict[Path, set[str]]:
    return {weights: set(remembered_cases(weights).values()) for weights in sorted(folder.rglob(WEIGHTS))}


def require_unremembered(folder: Path, parts: Mapping[str, Collection[str]]) -> None:
    """Refuse a fold whose networks remember another case than those they learn from.

    Args:
        folder: Of the fold.
        parts: Ids of its parts by name: `train`, and those that nothing is learned from.

    Raises:
        LeakageError: A memory holds a case of another part than `train`.
        CheckpointError: A file of weights is damaged.
    """
    for weights, held in _memories(folder).items():
        for part, names in parts.items():
            if part != "train" and (leaked := sorted(held & set(names))):
                raise LeakageError(
                    f"The memory in {weights} holds {name_some(leaked)} of the {part} part of this fold, expected "
                    "cases of its training part alone: what it predicts for them is no test. Delete the folder "
                    f"{folder} and repeat the command that trained it with --resume, which trains this fold again."
                )
