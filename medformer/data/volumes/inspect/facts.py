"""What planning needs to know about each case: its grid, its intensities, how many voxels each label has.

Facts are kept case by case and only brought together by whoever plans, so that a fold plans from its own training cases
although every file is read once (see `fingerprint`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from medformer.data.volumes.plan.volume_plan import Axes

FORMAT = "medformer-volume-facts/1"

QUANTILES = 400
"""How many values stand for a case's foreground: finer than the 0.5th percentile that clipping needs."""


@dataclass(frozen=True)
class ChannelFacts:
    """The intensities of one channel of one case, in the image's own units.

    Attributes:
        minimum: Over the whole image.
        maximum: Over the whole image.
        mean: Over the whole image.
        std: Over the whole image.
        foreground: `QUANTILES` values at evenly spaced ranks of the labeled voxels, ascending; without labels, of the
            voxels above the minimum. Empty when there are none.
        foreground_mean: Over the same voxels; 0 when there are none.
        foreground_std: Over the same voxels; 0 when there are none.
    """

    minimum: float
    maximum: float
    mean: float
    std: float
    foreground: tuple[float, ...]
    foreground_mean: float
    foreground_std: float


@dataclass(frozen=True)
class CaseFacts:
    """What planning needs of one case.

    Attributes:
        id: The case.
        shape: Voxels per axis, in the orientation of planning.
        spacing: Voxel size per axis, mm.
        channels: One entry for each channel.
        labels: Voxels of each declared label.
    """

    id: str
    shape: Axes
    spacing: tuple[float, float, float]
    channels: tuple[ChannelFacts, ...]
    labels: Mapping[int, int]


@dataclass(frozen=True)
class Fingerprint:
    """The facts of several cases, seen in one orientation.

    Attributes:
        orientation: Axis codes that shapes and spacings are given in.
        cases: In the order of the cases.
    """

    orientation: str
    cases: tuple[CaseFacts, ...]

    def of(self, ids: Iterable[str]) -> Fingerprint:
        """The facts of some cases only, such as the training part of a fold, in the order of `ids`."""
        by_id = {facts.id: facts for facts in self.cases}
        return Fingerprint(self.orientation, tuple(by_id[identifier] for identifier in ids))

    def to_json(self) -> dict[str, Any]:
        """The facts as plain data."""
        return {
            "format": FORMAT,
            "orientation": self.orientation,
            "cases": [asdict(facts) for facts in self.cases],
        }


def facts_from_json(content: Mapping[str, Any]) -> CaseFacts:
    """The facts of one case from plain data.

    Raises:
        KeyError, TypeError, ValueError: It is something else.
    """
    x, y, z = (int(n) for n in content["shape"])
    a, b, c = (float(mm) for mm in content["spacing"])
    channels = tuple(
        ChannelFacts(**{**channel, "foreground": tuple(channel["foreground"])}) for channel in content["channels"]
    )
    labels = {int(label): int(count) for label, count in content["labels"].items()}
    return CaseFacts(str(content["id"]), (x, y, z), (a, b, c), channels, labels)
