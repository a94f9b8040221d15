"""From the files of a volume to a label map on its own grid, and the number that chooses a network's weights.

The label map comes from windows, flips, ensembles and component rules; the number is the mean Dice on validation cases.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medformer.config.shared import Precision
from medformer.data.network_inputs import to_device
from medformer.data.volumes.plan.volume_plan import VolumePlan
from medformer.data.volumes.prepare.deformation import centered_start, cut
from medformer.data.volumes.prepare.prepare_case import PreparedCase, Scan, prepare_image
from medformer.errors import ConfigError, DataError, enough_memory
from medformer.imaging.geometry import Axes, reorient, smallest_integer
from medformer.inference.forward_passes import device_of, evaluating, mean_probability
from medformer.inference.volumes.components import Components
from medformer.inference.volumes.label_map import LabelMap, ProbabilityBuffer, Stream, write_classes
from medformer.inference.volumes.probabilities import Probabilities, empty_maps
from medformer.inference.volumes.windows import fits_on, stream, window_starts
from medformer.models.judge import PartwiseScore

Member = tuple[nn.Module, VolumePlan]
"""A network, and the plan that it was trained under."""
AnyMember = TypeVar("AnyMember", bound=tuple[Any, ...])


@dataclass(eq=False)
class VolumeSegmenter:
    """Predicts a label for every voxel with one network or an ensemble.

    Probabilities (after the softmax, not logits) are averaged over flips, overlapping windows and networks. Networks
    whose plans agree share one preparation of the volume and one pass of windows; others follow one after the other,
    and their sums are kept in a temporary file when they are large. The average is then resampled to the input's grid
    and labeled there, a few planes at a time. Beyond the volume itself, once as it is stored and once on the plan's
    grid, memory grows with the area of a plane and not with the number of planes.

    Args:
        members: Networks that map (B, C, *patch) to logits (B, K, *patch), each with the plan that it was trained
            under. Plans may differ in spacing, patch and intensities, not in orientation, labels or channels. The
            networks are moved to `device` and stay there; their training flags are put back after every call.
        overlap: Share of a window that its neighbor sees too, in [0, 1).
        flips: Average over the flips of all axes, eight passes instead of one.
        batch_size: Windows per pass.
        device: Where to compute; by default where the first network is.
        precision: Autocast type of the passes; averages are always float32.
        components: Which connected components to keep; all without it.
        folder: Where large sums of an ensemble may be kept; the system's temporary folder without one.
        probabilities: Whether label maps come with probabilities, and in which form (see `empty_maps`).

    Raises:
        ConfigError: There is no network, or the plans do not belong together.
    """

    members: Sequence[Member]
    _: KW_ONLY
    overlap: float = 0.5
    flips: bool = False
    batch_size: int = 2
    device: torch.device | str | None = None
    precision: Precision = "32-true"
    components: Components = field(default_factory=Components)
    folder: Path | None = None
    probabilities: Probabilities = "none"

    def __post_init__(self) -> None:
        if not self.members:
            raise ConfigError("A segmenter needs at least one network, got none.")
        _require_compatible([plan for _, plan in self.members])
        self.plan = self.members[0][1]
        self._device = device_of(self.members[0][0]) if self.device is None else torch.device(self.device)

    def segment(self, images: Path | Scan) -> LabelMap:
        """Segment one volume.

        Args:
            images: The file (or DICOM folder) of a volume, the files of its channels, a case, or a scan in memory.

        Returns:
            Label values on the grid of the first file, in the smallest unsigned type that holds every label.

        Raises:
            DataError: The volume cannot be read or does not fit the plan, or a network answered NaN or infinity.
            ResourceError: Not enough memory or temporary disk.
        """
        scan: Scan = (images,) if isinstance(images, Path) else images
        models = [model for model, _ in self.members]
        with torch.inference_mode(), enough_memory(self._out_of_memory), evaluating(*models, device=self._device):
            return self._segment(scan)

    def _segment(self, scan: Scan) -> LabelMap:
        groups = group_members(self.members)
        prepared: PreparedCase | None = prepare_image(scan, self.plan)
        assert prepared is not None
        source = prepared.source
        labels, outputs = dict(self.plan.found), self.plan.outputs
        array = np.zeros(source.shape, smallest_integer(0, max(labels)), order="F")
        write = partial(write_classes, regions=bool(self.plan.regions))
        # A view in the orientation of the networks: writing to it turns back.
        turned = reorient(array, source.affine, self.plan.orientation)[0]
        axis = int(np.argmax(turned.shape))
        values = [0, *labels]
        maps = to = None
        if self.probabilities != "none":
            maps = empty_maps(self.probabilities, source.shape, len(labels), self.folder)
            to = reorient(np.moveaxis(maps, 3, 0), source.affine, self.plan.orientation)[0]
        if len(groups) == 1:
            streams = [Stream(prepared.shape, self._pieces(prepared, groups[0], axis))]
            confidence = write(streams, turned, axis=axis, values=values, maps=to)
        else:
            with ExitStack() as stack:
                buffers: dict[tuple[int, int, int], ProbabilityBuffer] = {}
                for group in groups:
                    prepared = prepared or prepare_image(scan, group[0][1])
                    shape = prepared.shape
                    if shape not in buffers:
                        buffer = ProbabilityBuffer(outputs, shape, axis=axis, folder=self.folder)
                        buffers[shape] = stack.enter_context(buffer)
                    buffers[shape].add(self._pieces(prepared, group, axis), len(group) / len(self.members))
                    # The memory of this volume is free before the next one is prepared.
                    prepared = None
                streams = [Stream(shape, buffer.pieces()) for shape, buffer in buffers.items()]
                confidence = write(streams, turned, axis=axis, values=values, maps=to)
        self.components.apply(array)
        confidence.pop(0, None)
        return LabelMap(array, source, labels, confidence, maps, self.plan.made_of)

    def _pieces(self, prepared: PreparedCase, group: Sequence[Member], axis: int) -> Iterator[Tensor]:
        """The mean probabilities of networks whose plans agree, from one end of `axis` to the other."""
        patch, maps = group[0][1].patch, self.plan.outputs
        fits = fits_on(self._device, prepared.image.shape, maps, patch=patch, axis=axis)
        pieces = stream(
            torch.from_numpy(prepared.image),
            partial(self._probabilities, [model for model, _ in group]),
            patch=patch,
            overlap=self.overlap,
            batch_size=self.batch_size,
            axis=axis,
            device=self._device if fits else None,
        )
        for piece in pieces:
            # Looked at here and not window by window, for which a GPU would have to be waited for each time.
            if not bool(torch.isfinite(piece).all()):
                raise DataError(
                    f"The network's output is NaN or infinite for {prepared.id}. "
                    "Its weights are damaged or its precision overflows: try precision 32-true, or train it again."
                )
            yield piece

    def _probabilities(self, models: Sequence[nn.Module], windows: Tensor) -> Tensor:
        """Average over networks and views: (B, C, *patch) to float32 (B, K, *patch)."""
        return mean_probability(
            models,
            windows.to(self._device),
            torch.sigmoid if self.plan.regions else partial(torch.softmax, dim=1),
            classes=self.plan.outputs,
            flips=(-3, -2, -1) if self.flips else (),
            precision=self.precision,
        )

    def _out_of_memory(self) -> str:
        return (
            f"Out of memory on {self._device} while segmenting a volume with windows of {self.plan.patch} voxels, "
            f"{self.batch_size} per pass. Use inference.batch_size=1, or plans with a coarser plan.spacing."
        )


def group_members(members: Sequence[AnyMember]) -> list[list[AnyMember]]:
    """Members that see the same windows with the same values, together; each has its plan in the second place."""
    groups: dict[object, list[AnyMember]] = {}
    for member in members:
        plan: VolumePlan = member[1]
        groups.setdefault((plan.spacing, plan.intensity, plan.patch), []).append(member)
    return list(groups.values())


def _require_compatible(plans: Sequence[VolumePlan]) -> None:
    first = plans[0]
    if not first.labels:
        raise ConfigError("The plan of the first network has no labels; a network for classification segments nothing.")
    for number, plan in enumerate(plans[1:], start=2):
        for what, own, other in (
            ("orientation", plan.orientation, first.orientation),
            ("labels", plan.labels, first.labels),
            ("regions", plan.regions, first.regions),
            ("number of channels", len(plan.intensity), len(first.intensity)),
        ):
            if own != other:
                raise ConfigError(
                    f"Network {number} of the ensemble was trained with {what} {own}, the first with {other}. "
                    "Only networks of the same task can be averaged."
                )


@dataclass(frozen=True)
class ValidationVolumeDice(PartwiseScore):
    """Mean Dice over labels and cases on the plan's grid; a label that is absent and not predicted counts 1.

    Cheap enough for every epoch: windows lie side by side, without overlap (but for the last one along an axis, which
    ends with the volume; what two windows see counts twice) and without flips, and at most `windows` of a case are
    looked at. Of a larger case three quarters of these have labels, where it has so many, evenly chosen along the
    volume, so that false positives far away count as well. Reported numbers are computed elsewhere, on the grid of the
    files and from all windows.

    Args:
        cases: Of the inner validation part, with labels. Looked at in order, as often as needed.
        plan: Of this training.
        batch_size: Windows per pass.
        windows: Most windows per case.
    """

    cases: Sequence[PreparedCase]
    plan: VolumePlan
    batch_size: int = 2
    _: KW_ONLY
    windows: int = 16
    measure: ClassVar[str] = "dice"

    def __len__(self) -> int:
        return len(self.cases)

    @torch.no_grad()
    def parts(self, model: nn.Module, numbers: Sequence[int]) -> Iterator[NDArray[np.float64]]:
        """Yield the Dice of each label of cases, (labels,)."""
        for number in numbers:
            yield self._case(model, self.cases[number])

    def score(self, parts: Sequence[NDArray[np.float64]]) -> float:
        """Return the mean Dice."""
        return float(np.mean(parts))

    def _case(self, model: nn.Module, case: PreparedCase) -> NDArray[np.float64]:
        """Dice of each label, (labels,)."""
        device = next(model.parameters()).device
        size = case.shape
        membership = self.plan.membership
        sums = np.zeros((2, self.plan.outputs), np.int64)
        pairs = np.zeros(self.plan.classes**2, np.int64)
        chosen = self._chosen(case)
        for first in range(0, len(chosen), self.batch_size):
            starts = chosen[first : first + self.batch_size]
            images = np.stack([cut(case.image, start, self.plan.patch, case.lowest) for start in starts])
            logits = model(to_device(torch.from_numpy(images), device))
            # As bytes where they fit, which are an eighth of what a GPU would have to hand over.
            small = torch.uint8 if logits.shape[1] <= 256 else torch.int64
            predicted = (logits.argmax(1).to(small) if membership is None else logits > 0).cpu().numpy()
            for start, found in zip(starts, predicted, strict=True):
                places = [_overlap(*axis) for axis in zip(start, self.plan.patch, size, strict=True)]
                truth = _classes(case)[tuple(there for there, _ in places)].astype(np.int64)
                inside = found[(..., *(here for _, here in places))]
                if membership is not None:
                    true = membership[:, truth]
                    sums += [[np.count_nonzero(one) for one in some] for some in (inside & true, inside)]
                    sums[1] += [np.count_nonzero(one) for one in true]
                    continue
                pairs += np.bincount((truth * self.plan.classes + inside).ravel(), minlength=len(pairs))
        if membership is not None:
            return np.where(sums[1] > 0, 2 * sums[0] / np.maximum(sums[1], 1), 1.0)
        table = pairs.reshape(self.plan.classes, self.plan.classes)
        both, total = np.diagonal(table)[1:], (table.sum(0) + table.sum(1))[1:]
        return np.where(total > 0, 2 * both / np.maximum(total, 1), 1.0)

    def _chosen(self, case: PreparedCase) -> Sequence[Axes]:
        """First voxels of the windows to look at."""
        starts = list(_tiles(case.shape, self.plan.patch))
        if len(starts) <= self.windows:
            return starts
        classes = _classes(case)
        labeled = [bool(classes[tuple(map(_within, start, self.plan.patch))].any()) for start in starts]
        full = [start for start, some in zip(starts, labeled, strict=True) if some]
        empty = [start for start, some in zip(starts, labeled, strict=True) if not some]
        wanted = min(len(full), max(self.windows - self.windows // 4, self.windows - len(empty)))
        return [*_evenly(full, wanted), *_evenly(empty, self.windows - wanted)]


def _tiles(size: Axes, patch: Axes) -> Iterator[Axes]:
    """Windows side by side; along an axis where the volume is smaller, one with the volume in its middle."""
    centered = centered_start(size, patch)
    axes = [
        (middle,) if side >= length else window_starts(length, side, 0.0)
        for middle, length, side in zip(centered, size, patch, strict=True)
    ]
    yield from product(*axes)


def _overlap(start: int, side: int, length: int) -> tuple[slice, slice]:
    """Where a window and a volume meet along an axis: in the volume, and in the window."""
    low, high = max(0, start), min(length, start + side)
    return slice(low, high), slice(low - start, high - start)


def _within(start: int, side: int) -> slice:
    return slice(max(0, start), start + side)


def _evenly(items: Sequence[Axes], count: int) -> list[Axes]:
    return [items[(2 * number + 1) * len(items) // (2 * count)] for number in range(count)]


def _classes(case: PreparedCase) -> NDArray[Any]:
    assert case.classes is not None, "a validation case has its labels"
    return case.classes
