"""What a network is trained for: how a batch becomes a loss.

    SegmentationObjective(loss, scales=(1.0,))      batches {"image": (B, C, *S), "mask": (B, 1, *S), "id": [...]}
    VolumeObjective(loss)                           the same, the mask a map of classes
    ClassificationObjective(loss)                   batches {"edges": {atlas: (B, d)}, "label": (B,), "id": [...]},
                                                    or of images (B, C, *S) with `inputs="image"`
    MaskedReconstruction(mask)                      batches of images or connections without labels; see `pretraining`

The training loop knows none of these keys but `id`; everything else it asks the objective.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from medformer.config.shared import Scaling, TrainingConfig
from medformer.data.network_inputs import draw_scale, resize_batch
from medformer.training.loader import Batch

HALF = 0.5
"""Weight of a coarser map, as a share of the one before, where nothing else is said."""
_INTERPOLATION = {1: "linear", 2: "bilinear", 3: "trilinear"}

Network = Callable[..., Any]
"""The network as it is trained, perhaps wrapped for several processes: it must be called once per step."""


class Moment(NamedTuple):
    """When a step happens: what an objective draws may derive from it, or from torch's generator.

    Attributes:
        seed: Of the training.
        epoch: Counted from 0.
        step: Of the epoch, counted from 0.
    """

    seed: int
    epoch: int
    step: int


@dataclass(frozen=True)
class Load:
    """How big a batch is, in the words of an error about memory.

    Attributes:
        cases: In the batch.
        seen: What one batch holds, such as `images of 352 x 352 with 3 channels`; may be empty.
        smaller: Settings, besides a smaller batch, that take less memory.
        batch_setting: What sets the size of a batch.
    """

    cases: int
    seen: str = ""
    smaller: tuple[str, ...] = ()
    batch_setting: str = "training.batch_size"


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


class Objective(Protocol):
    """Turns a network and a batch into a loss.

    It is copied to other processes when several train together, so it must be picklable.
    """

    @property
    def visits(self) -> int:
        """Return how many steps in a row are taken on each batch."""

    def tensors(self, batch: Batch) -> dict[str, Any]:
        """Return what of a batch goes to the device: tensors, whose first axis are the cases, or tables of such."""

    def load(self, batch: Mapping[str, Any], moment: Moment) -> Load:
        """Say how big a batch of `tensors` is."""

    def example(self, batch: Mapping[str, Any]) -> tuple[Any, Tensor | None]:
        """Return what of a batch of `tensors` a network is given, as it is, and the classes, for a memory of them.

        Classes are `(B,)` of cases, or `(B, 1, *S)` of places: whole numbers, or floats of which a half and more is 1.
        None without labels.
        """

    def __call__(self, network: Network, batch: Mapping[str, Any], moment: Moment) -> Tensor:
        """Return the loss of a batch of `tensors`, a scalar; torch's generator is seeded from the moment before."""

    def identity(self) -> dict[str, Any]:
        """Return what must be the same when a training is resumed: JSON-able values, `loss` among them."""


class Loss(Protocol):
    """Compares logits with the truth, as those of `medformer.training.losses.segmentation` do.

    Attributes:
        name: Required to be the same on resume.
    """

    @property
    def name(self) -> str: ...

    def __call__(self, logits: Tensor, target: Tensor, /) -> Tensor:
        """Return the scalar loss."""


@dataclass(frozen=True)
class SegmentationObjective:
    """A loss between logits and masks, every batch at one of a few sizes, or at each of them.

    Args:
        loss: Called with logits and masks of one shape; see `medformer.training.losses.segmentation`. A network that
            returns several maps is judged by all of them (`supervised_loss`).
        scales: Multi-scale factors.
        scaling: Whether one is drawn per batch, or a step is taken at each (`medformer.data.network_inputs`).
        side_weight: See `supervised_loss`.
    """

    loss: Loss
    scales: Sequence[float] = (1.0,)
    scaling: Scaling = "drawn"
    side_weight: float = HALF

    @property
    def visits(self) -> int:
        return len(self.scales) if self.scaling == "as_published" else 1

    def tensors(self, batch: Batch) -> dict[str, Any]:
        return {"image": batch["image"], "mask": batch["mask"]}

    def load(self, batch: Mapping[str, Any], moment: Moment) -> Load:
        return load_of(batch["image"], draw_scale(self.scales, *moment, self.scaling))

    def example(self, batch: Mapping[str, Any]) -> tuple[Any, Tensor | None]:
        return batch["image"], batch["mask"]

    def __call__(self, network: Network, batch: Mapping[str, Any], moment: Moment) -> Tensor:
        scale = draw_scale(self.scales, *moment, self.scaling)
        resized = resize_batch(dict(batch), scale, self.scaling)
        return supervised_loss(self.loss, network(resized["image"]), resized["mask"], side_weight=self.side_weight)

    def identity(self) -> dict[str, Any]:
        return {"loss": self.loss.name, "scales": list(self.scales), **self._later()}

    def _later(self) -> dict[str, Any]:
        """What states of older code do not say, where it is not what these did."""
        said = {"scaling": self.scaling, "side_weight": self.side_weight}
        return {key: value for key, value in said.items() if value not in ("drawn", HALF)}


class VolumeObjective(SegmentationObjective):
    """A loss between the logits of patches of volumes and their classes.

    Args:
        loss: Called with logits (B, K, *S) and classes (B, 1, *S); see `medformer.training.losses.segmentation`. Of a
            network that returns several maps, each is judged at its own resolution (`supervised_loss`).
    """

    def __call__(self, network: Network, batch: Mapping[str, Any], moment: Moment) -> Tensor:
        return supervised_loss(
            self.loss, network(batch["image"]), batch["mask"], judged_at="output", side_weight=self.side_weight
        )

    def identity(self) -> dict[str, Any]:
        return {"loss": self.loss.name, **self._later()}


@dataclass(frozen=True)
class ClassificationObjective:
    """A loss between the logits of connectomes or images, two each, and their labels.

    Where a batch knows an `offset`, log odds from elsewhere, it is added to the difference of the logits: the network
    learns what is missing there.

    Attributes:
        loss: `cross_entropy`, or `squared`: of the difference of the logits against +1 (label 1) and -1 (label 0), as a
            ridge classifier has it. The difference is then no log odds; calibrate it.
        inputs: What of a batch the network is given.
    """

    loss: Literal["cross_entropy", "squared"] = "cross_entropy"
    _: KW_ONLY
    inputs: Literal["edges", "image"] = "edges"
    visits: ClassVar[int] = 1

    def tensors(self, batch: Batch) -> dict[str, Any]:
        return {key: batch[key] for key in (self.inputs, "label", "offset") if key in batch}

    def load(self, batch: Mapping[str, Any], moment: Moment) -> Load:
        return load_of(batch[self.inputs])

    def example(self, batch: Mapping[str, Any]) -> tuple[Any, Tensor | None]:
        return batch[self.inputs], batch["label"]

    def __call__(self, network: Network, batch: Mapping[str, Any], moment: Moment) -> Tensor:
        logits, labels = network(batch[self.inputs]), batch["label"]
        if "offset" in batch:
            logits = logits + torch.stack([-batch["offset"], batch["offset"]], 1).to(logits.dtype) / 2
        if self.loss == "squared":
            return F.mse_loss(logits[:, 1] - logits[:, 0], 2.0 * labels.to(logits.dtype) - 1.0)
        return F.cross_entropy(logits, labels)

    def identity(self) -> dict[str, Any]:
        return {"loss": self.loss}


def load_of(inputs: Tensor | Mapping[str, Tensor], scale: float = 1.0) -> Load:
    """Say how big a batch is.

    Args:
        inputs: Connections {atlas: (B, d)}, images (B, C, H, W) or patches of volumes (B, C, X, Y, Z).
        scale: Factor that images are resized by (`augment.scales`).
    """
    if isinstance(inputs, Mapping):
        cases = next(iter(inputs.values())).shape[0]
        sizes = ", ".join(f"{name} with {block.shape[1]:,}" for name, block in inputs.items())
        return Load(cases, f"connections of {sizes}", ("fewer data.atlases",) if len(inputs) > 1 else ())
    cases, channels, *size = inputs.shape
    held = f"{' x '.join(map(str, size))}{{}} with {channels} channel{'' if channels == 1 else 's'}"
    smaller = [length * 3 // 4 for length in size]
    if len(size) == 3:
        # Multiples of 8 go through three downsamplings without a rest.
        patch = ", ".join(str(max(1, length // 8 * 8 or length)) for length in smaller)
        advice = (f"plan.patch=[{patch}]", "model.checkpointing=true")
        return Load(cases, f"patches of {held.format(' voxels')}", advice, "plan.batch_size")
    scaled = f", resized by {scale:g} (augment.scales)" if scale != 1.0 else ""
    advice = (f"data.image_size=[{', '.join(str(max(1, length)) for length in smaller)}]", "model.checkpointing=true")
    return Load(cases, f"images of {held.format('')}{scaled}", advice)


def supervised_loss(
    loss: Callable[[Tensor, Tensor], Tensor],
    outputs: Tensor | Sequence[Tensor],
    target: Tensor,
    *,
    judged_at: Literal["target", "output"] = "target",
    side_weight: float = HALF,
) -> Tensor:
    """Return `loss(outputs, target)`; of several maps each weighs less than the one before, or as much.

    A network in training mode may return `(main, auxiliary, ...)`. Where an auxiliary map has another resolution than
    the truth, either the map is resized (linearly, corners not aligned), so that it is judged against the full-size
    truth, or the truth is resized to the map (the value at the center of each coarse voxel), as in nnU-Net: a volume of
    logits is eight times as large at twice the resolution.

    Args:
        loss: Called with logits and target of one size.
        outputs: (B, K, *S) logits, or a sequence of logits (B, K, *any).
        target: (B, 1, *S).
        judged_at: Whose resolution an auxiliary map is judged at.
        side_weight: Weight of an auxiliary map as a share of the one before: a half as in nnU-Net, 1 as in PraNet.
    """
    maps = [outputs] if isinstance(outputs, Tensor) else outputs
    total: Tensor = loss(maps[0], target)
    for level, auxiliary in enumerate(maps[1:], start=1):
        if judged_at == "target":
            value = loss(_resize_as(auxiliary, target), target)
        else:
            value = loss(auxiliary, sample_nearest(target, auxiliary.shape[2:]))
        total = total + side_weight**level * value
    return total


def sample_nearest(target: Tensor, size: Sequence[int]) -> Tensor:
    """Pick from (B, C, *S) the value at the center of each voxel of a grid of `size` over the same box; any type."""
    for axis, length in enumerate(size, start=2):
        before = target.shape[axis]
        if length != before:
            center = (2 * torch.arange(length, device=target.device) + 1) * before // (2 * length)
            target = target.index_select(axis, center)
    return target


def _resize_as(logits: Tensor, target: Tensor) -> Tensor:
    if logits.shape[2:] == target.shape[2:]:
        return logits
    mode = _INTERPOLATION[target.ndim - 2]
    return F.interpolate(logits, size=target.shape[2:], mode=mode, align_corners=False)
