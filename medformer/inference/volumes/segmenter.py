"""From the files of a volume to a label map on its own grid: windows, flips, ensembles, component rules."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from medformer.data.manifest import Case
from medformer.data.volumes.plan.volume_plan import VolumePlan
from medformer.data.volumes.prepare.prepare_case import PreparedCase, prepare_image
from medformer.errors import ConfigError, DataError, enough_memory
from medformer.imaging.geometry import reorient, smallest_integer
from medformer.inference.forward_passes import Precision, device_of, evaluating, mean_probability
from medformer.inference.volumes.components import Components
from medformer.inference.volumes.label_map import LabelMap
from medformer.inference.volumes.probability_buffer import ProbabilityBuffer
from medformer.inference.volumes.resample_back import Stream, write_classes
from medformer.inference.volumes.windows import stream

Member = tuple[nn.Module, VolumePlan]
"""A network, and the plan that it was trained under."""


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

    Raises:
        ConfigError: There is no network, or the plans do not belong together.
    """

    def __init__(
        self,
        members: Sequence[Member],
        *,
        overlap: float = 0.5,
        flips: bool = False,
        batch_size: int = 2,
        device: torch.device | str | None = None,
        precision: Precision = "32-true",
        components: Components | None = None,
        folder: Path | None = None,
    ) -> None:
        if not members:
            raise ConfigError("A segmenter needs at least one network, got none.")
        _require_compatible([plan for _, plan in members])
        self.members = tuple(members)
        self.plan = members[0][1]
        self.overlap = overlap
        self.flips = flips
        self.batch_size = batch_size
        self.device = torch.device(device) if device is not None else device_of(members[0][0])
        self.precision = precision
        self.components = components or Components()
        self.folder = folder

    def segment(self, images: Path | Case | Sequence[Path]) -> LabelMap:
        """Segment one volume.

        Args:
            images: The file (or DICOM folder) of a volume, the files of its channels, or a case.

        Returns:
            Label values on the grid of the first file, in the smallest unsigned type that holds every label.

        Raises:
            DataError: The volume cannot be read or does not fit the plan, or a network answered NaN or infinity.
            ResourceError: Not enough memory or temporary disk.
        """
        scan = images if isinstance(images, Case) else (images,) if isinstance(images, Path) else tuple(images)
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            stack.enter_context(enough_memory(self._out_of_memory))
            for model, _ in self.members:
                stack.enter_context(evaluating(model))
                model.to(self.device)
            return self._segment(scan)

    def _segment(self, scan: Case | Sequence[Path]) -> LabelMap:
        groups = _groups(self.members)
        prepared: PreparedCase | None = prepare_image(scan, self.plan)
        assert prepared is not None
        source = prepared.source
        labels = dict(self.plan.labels)
        array = np.zeros(source.shape, smallest_integer(0, max(labels)), order="F")
        # A view in the orientation of the networks: writing to it turns back.
        turned = reorient(array, source.affine, self.plan.orientation)[0]
        axis = int(np.argmax(turned.shape))
        values = [0, *labels]
        if len(groups) == 1:
            streams = [Stream(prepared.shape, self._pieces(prepared, groups[0], axis))]
            confidence = write_classes(streams, turned, axis=axis, values=values)
        else:
            with ExitStack() as stack:
                buffers: dict[tuple[int, int, int], ProbabilityBuffer] = {}
                for group in groups:
                    prepared = prepared or prepare_image(scan, group[0][1])
                    shape = prepared.shape
                    if shape not in buffers:
                        buffer = ProbabilityBuffer(len(values), shape, axis=axis, folder=self.folder)
                        buffers[shape] = stack.enter_context(buffer)
                    buffers[shape].add(self._pieces(prepared, group, axis), len(group) / len(self.members))
                    # The memory of this volume is free before the next one is prepared.
                    prepared = None
                streams = [Stream(shape, buffer.pieces()) for shape, buffer in buffers.items()]
                confidence = write_classes(streams, turned, axis=axis, values=values)
        self.components.apply(array)
        confidence.pop(0, None)
        return LabelMap(array, source, labels, confidence)

    def _pieces(self, prepared: PreparedCase, group: Sequence[Member], axis: int) -> Iterator[Tensor]:
        """The mean probabilities of networks whose plans agree, from one end of `axis` to the other."""
        return stream(
            torch.from_numpy(prepared.image),
            partial(self._probabilities, [model for model, _ in group], prepared.id),
            patch=group[0][1].patch,
            overlap=self.overlap,
            batch_size=self.batch_size,
            axis=axis,
        )

    def _probabilities(self, models: Sequence[nn.Module], name: str, windows: Tensor) -> Tensor:
        """Average over networks and views: (B, C, *patch) to float32 (B, K, *patch)."""
        mean = mean_probability(
            models,
            windows.to(self.device),
            partial(torch.softmax, dim=1),
            classes=self.plan.classes,
            flips=(-3, -2, -1) if self.flips else (),
            precision=self.precision,
        )
        if not bool(torch.isfinite(mean).all()):
            raise DataError(
                f"The network's output is NaN or infinite for {name}. "
                "Its weights are damaged or its precision overflows: try precision 32-true, or train it again."
            )
        return mean

    def _out_of_memory(self) -> str:
        return (
            f"Out of memory on {self.device} while segmenting a volume with windows of {self.plan.patch} voxels, "
            f"{self.batch_size} per pass. Use inference.batch_size=1, or plans with a coarser plan.spacing."
        )


def _groups(members: Sequence[Member]) -> list[list[Member]]:
    """Members that see the same windows with the same values, together."""
    groups: dict[object, list[Member]] = {}
    for member in members:
        plan = member[1]
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
            ("number of channels", len(plan.intensity), len(first.intensity)),
        ):
            if own != other:
                raise ConfigError(
                    f"Network {number} of the ensemble was trained with {what} {own}, the first with {other}. "
                    "Only networks of the same task can be averaged."
                )
