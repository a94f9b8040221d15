"""Masked pretraining: its objective, the number that judges it, training an encoder, and reading one trained before.

The objective (`MaskedReconstruction`, see `losses.objectives`) and the validation (`ReconstructionLoss`) are for
networks that map (B, C, *S) to (B, C, *S), or {atlas: (B, d)} to {atlas: (B, d)}.

autoencoder = masked_autoencoder(network, seed)
quality = pretrain(autoencoder, data, judge, settings, out=..., record=..., seed=..., metadata=..., ...)
network's encoder, or autoencoder.encoder.state_dict(), is pretrained

network_encoder.load_state_dict(read_encoder(folder, autoencoder))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, Unpack

import numpy as np
import torch
from torch import Tensor, nn

from medformer.config.shared import PretrainingConfig, TrainingConfig
from medformer.data.network_inputs import Edges, Inputs, TrainingData, batches, cases_of, count_batches, with_float64
from medformer.files import write_json
from medformer.models.autoencoder import MaskedAutoencoder
from medformer.models.judge import PartwiseScore
from medformer.progress import Reporter
from medformer.training.fit import fit
from medformer.training.job import RunOptions
from medformer.training.loader import Batch
from medformer.training.losses.objectives import Load, Moment, Network, load_of
from medformer.training.pretraining.masks import MaskStrategy, TensorInputs
from medformer.training.saving import load_model


@dataclass(frozen=True)
class MaskedReconstruction:
    """Mean squared error on what was hidden, summed over the atlases; what was not hidden does not count.

    What is hidden is replaced by 0, which is the mean of standardized connections and close to that of normalized
    images. Masks are drawn anew for every case and step. The target stays without noise.

    Attributes:
        mask: Decides what is hidden.
    """

    mask: MaskStrategy
    visits: ClassVar[int] = 1

    def tensors(self, batch: Batch) -> dict[str, Any]:
        return {self.mask.inputs: batch[self.mask.inputs]}

    def load(self, batch: Mapping[str, Any], moment: Moment) -> Load:
        return load_of(batch[self.mask.inputs])

    def example(self, batch: Mapping[str, Any]) -> tuple[Any, Tensor | None]:
        return batch[self.mask.inputs], None

    def __call__(self, network: Network, batch: Mapping[str, Any], moment: Moment) -> Tensor:
        truth: TensorInputs = batch[self.mask.inputs]
        masks = self.mask.draw(truth)
        shown = truth
        if self.mask.noise:
            shown = _each(truth, lambda name, values: values + self.mask.noise * torch.randn_like(values))
        found, truths = by_name(network(hide(shown, masks))), by_name(truth)
        errors = [
            masked_error(found[name], truths[name], mask.expand_as(truths[name]))
            for name, mask in by_name(masks).items()
        ]
        return torch.stack(errors).sum()

    def identity(self) -> dict[str, Any]:
        return {"loss": "masked_mse", **self.mask.identity()}


class NaiveGuess(Protocol):
    """A prediction of what is hidden that took no training, to hold a network against.

    Attributes:
        key: Of its error in `pretraining.json`.
    """

    key: str

    def __call__(self, name: str, truth: Tensor, mask: Tensor) -> Tensor:
        """Return values that broadcast to the truth, of which it may look at what `mask` leaves visible."""


class VisibleMean:
    """For every hidden pixel or voxel, the mean of the visible ones of its image, by channel."""

    key = "mean_visible_mse"

    def __call__(self, name: str, truth: Tensor, mask: Tensor) -> Tensor:
        space, seen = list(range(2, truth.ndim)), (~mask).to(truth.dtype)
        return (truth * seen).sum(space, keepdim=True) / seen.sum(space, keepdim=True)


class TrainingMean:
    """For every connection, its mean over training subjects.

    Args:
        train: Connections of the training part by atlas, (n, d).
    """

    key = "mean_edge_mse"

    def __init__(self, train: Edges) -> None:
        self.means = {atlas: np.asarray(np.mean(block, 0, np.float64), np.float32) for atlas, block in train.items()}

    def __call__(self, name: str, truth: Tensor, mask: Tensor) -> Tensor:
        return torch.from_numpy(self.means[name]).to(truth)


@dataclass
class _Sums:
    """Sums of squared errors over what was hidden, and how many values that were."""

    found: float = 0.0
    guess: float = 0.0
    hidden: int = 0

    def __add__(self, other: _Sums) -> _Sums:
        return _Sums(self.found + other.found, self.guess + other.guess, self.hidden + other.hidden)


@dataclass(frozen=True)
class ReconstructionLoss(PartwiseScore):
    """Mean squared error on what was hidden, summed over the atlases; the same is hidden every time.

    Noise is for training: here the network sees what is not hidden as it is.

    Attributes:
        mask: Decides what is hidden.
        inputs: Connections by atlas, or images (`ItemImages`), of the inner validation part.
        guess: What the network is held against.
        unit: What was reconstructed, in the plural: the key of their number in `pretraining.json`.
        batch_size: Cases per forward pass.
        seed: Decides what is hidden.
    """

    mask: MaskStrategy
    inputs: Inputs
    guess: NaiveGuess
    _: KW_ONLY
    unit: str
    batch_size: int = 128
    seed: int = 0
    measure: ClassVar[str] = "loss"

    def __len__(self) -> int:
        return count_batches(self.inputs, self.batch_size)

    @torch.no_grad()
    def parts(self, model: nn.Module, numbers: Sequence[int], *, guess: bool = False) -> Iterator[dict[str, _Sums]]:
        """Yield the sums of batches by atlas; of images there is one, without a name.

        One generator draws what is hidden for all batches in turn, those of other processes too.
        """
        generator, wanted = torch.Generator().manual_seed(self.seed), set(numbers)
        for number, part in enumerate(batches(self.inputs, model, self.batch_size)):
            masks = self.mask.draw(part, generator)
            if number in wanted:
                yield self._part(model, part, masks, guess)

    def score(self, parts: Sequence[Mapping[str, _Sums]]) -> float:
        """Return the error."""
        return sum(part.found / max(1, part.hidden) for part in _added(parts).values())

    def against_mean(self, model: nn.Module) -> dict[str, Any]:
        """Compare a model in evaluation mode with the guess.

        Returns:
            `masked_mse` and the guess's error over all that was hidden; `hidden`, how many values that were; how many
            cases there were, under their unit; and of connectomes under `atlases` the same for each atlas.
        """
        sums = _added(list(self.parts(model, range(len(self)), guess=True)))

        def row(part: _Sums) -> dict[str, Any]:
            count = max(1, part.hidden)
            return {"masked_mse": part.found / count, self.guess.key: part.guess / count, "hidden": part.hidden}

        record = {**row(sum(sums.values(), _Sums())), self.unit: cases_of(self.inputs)}
        atlases = {"atlases": {name: row(part) for name, part in sums.items()}} if self.mask.inputs == "edges" else {}
        return {**record, **atlases}

    def _part(self, model: nn.Module, part: Any, masks: TensorInputs, guess: bool) -> dict[str, _Sums]:
        sums = {}
        found, truths = by_name(model(hide(part, masks))), by_name(part)
        for name, mask in by_name(masks).items():
            truth = truths[name]
            sums[name] = _Sums(
                _sum_of_squares(found[name].float(), truth, mask),
                _sum_of_squares(self.guess(name, truth, mask), truth, mask) if guess else 0.0,
                int(mask.expand_as(truth).sum()),
            )
        return sums


def _added(parts: Sequence[Mapping[str, _Sums]]) -> dict[str, _Sums]:
    sums: dict[str, _Sums] = {}
    for part in parts:
        for name, own in part.items():
            sums[name] = sums.get(name, _Sums()) + own
    return sums


def hide(inputs: TensorInputs, masks: TensorInputs) -> TensorInputs:
    """Return what the network is given: 0 where a mask is set."""
    named = by_name(masks)
    return _each(inputs, lambda name, values: values.masked_fill(named[name], 0.0))


def masked_error(found: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error over the set part of a mask; 0 where nothing is set."""
    squares = (found - truth).square() * mask
    return squares.sum() / mask.sum().clamp(min=1)


def by_name(inputs: TensorInputs) -> Mapping[str, Tensor]:
    """Return tensors by atlas; a single one gets the empty name."""
    return {"": inputs} if isinstance(inputs, Tensor) else inputs


def _each(inputs: TensorInputs, change: Callable[[str, Tensor], Tensor]) -> TensorInputs:
    if isinstance(inputs, Tensor):
        return change("", inputs)
    return {name: change(name, values) for name, values in inputs.items()}


def _sum_of_squares(found: Tensor, truth: Tensor, mask: Tensor) -> float:
    return float(with_float64((found - truth).square() * mask).sum(dtype=torch.float64))


def pretrain(
    network: MaskedAutoencoder,
    data: TrainingData,
    judge: ReconstructionLoss,
    settings: TrainingConfig,
    *,
    record: Path,
    reporter: Reporter | None = None,
    **options: Unpack[RunOptions],
) -> dict[str, Any]:
    """Train an encoder to reconstruct what is hidden from it, and write how well it does; labels are not read.

    Args:
        network: Around the encoder to train (`masked_autoencoder`); it is left with its best weights.
        data: Cases that pretraining may see; see `fit`.
        judge: Of the inner validation part; it also says what is hidden while training.
        settings: How to train (`pretraining_settings`).
        record: JSON file for the error on the inner validation part beside that of a guess (`pretraining.json`).
        reporter: Receives every step and epoch.
        **options: Where and how it runs: `out`, `seed`, `workers`, `resume`, `metadata` and `run` (`RunOptions`).

    Returns:
        What `record` says.

    Raises:
        MedformerError: As `fit`.
    """
    fit(network, MaskedReconstruction(judge.mask), data, judge, settings, reporter=reporter, **options)
    quality = judge.against_mean(network)
    write_json(record, quality)
    return quality


def pretraining_settings(training: TrainingConfig, pretraining: PretrainingConfig) -> TrainingConfig:
    """Return how pretraining trains: as the network does, except for what the section `pretraining` says.

    Args:
        training: The network's, with the batch size that is planned where it is.
        pretraining: Sections without a batch size take the network's; without a patience they never stop early.
    """
    own = {name: getattr(pretraining, name) for name in ("epochs", "lr", "batch_size") if hasattr(pretraining, name)}
    patience = getattr(pretraining, "patience", 0)
    # The rate of pretraining is its own, and the encoder is what it trains.
    return training.model_copy(update={**own, "minutes": None, "patience": patience, "encoder_lr": 1.0})


def read_encoder(
    folder: Path, network: MaskedAutoencoder, metadata: Mapping[str, Any] | None = None
) -> dict[str, Tensor]:
    """Read the encoder that a pretraining left in a folder.

    Args:
        folder: `out` of the pretraining.
        network: An autoencoder like the pretrained one; the weights are loaded into it.
        metadata: Must be among those that the pretraining was given.

    Returns:
        The encoder's state.

    Raises:
        CheckpointError: There is none, it is of another network, or its metadata are not these.
    """
    load_model(folder / "model.safetensors", network, metadata)
    return dict(network.encoder.state_dict())
