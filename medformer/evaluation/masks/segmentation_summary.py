"""The numbers of a segmentation: means over images, lesions found, and false alarms where there is no lesion."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medformer.evaluation.masks.lesions import RULE, detection
from medformer.evaluation.masks.overlap import EMPTY_POLICIES, EmptyPolicy, check_policy
from medformer.evaluation.masks.saliency import max_and_mean_e
from medformer.evaluation.masks.segmentation import SIZES, e_curve
from medformer.evaluation.masks.surface import SURFACE_POLICIES, Unit
from medformer.evaluation.masks.volumes import MEAN_OVER_LABELS, label_names
from medformer.evaluation.metrics import LABEL_MAPS, MASKS, in_summary
from medformer.evaluation.statistics.agreement import RULE as AGREEMENT
from medformer.evaluation.statistics.spread import spread
from medformer.evaluation.table import Row, distinct, has, numbers, one_value

# Without these a table is not a scored one; other metrics are left out when no row has them.
_ESSENTIAL = ("dice", "iou")

_LESIONS = ("lesions_true", "lesions_pred", "lesions_hit")
_UNITS: tuple[Unit, ...] = ("px", "mm")


class SegmentationNumbers:
    """The columns of a table, read once, and what they say about any part of it.

    Args:
        rows: One per image or volume and repeat.
        groups: The group that each row is resampled with.
        level: Coverage of the intervals.
        resamples: Bootstrap draws.
        seed: Of the draws.

    Raises:
        DataError: A column is missing, a cell is no number, or rows were scored under different rules.
    """

    def __init__(self, rows: Sequence[Row], groups: Sequence[str], *, level: float, resamples: int, seed: int) -> None:
        name = one_value(rows, "empty_policy", "empty-mask policies")
        check_policy(name)
        self.policy: EmptyPolicy = name  # type: ignore[assignment]
        # A label map is the most probable label of each voxel: no threshold made it.
        self.thresholds = distinct(rows, "threshold") if has(rows, "threshold") else None
        self._labels = bool(label_names(rows))
        self._sizes = has(rows, "size")
        self.tolerance = {
            unit: float(one_value(rows, f"nsd_tolerance_{unit}", "tolerances of the NSD"))
            for unit in _UNITS
            if has(rows, f"nsd_tolerance_{unit}")
        }
        self._groups = groups
        self._bootstrap: dict[str, Any] = {"level": level, "resamples": resamples, "seed": seed}
        self._spread = partial(spread, level=level, resamples=resamples, seed=seed)
        self._metrics = {
            name: numbers(rows, name) for name in in_summary(MASKS) if name in _ESSENTIAL or has(rows, name)
        }
        self._curves = np.stack([e_curve(row) for row in rows]) if has(rows, "e_curve") else None
        self._lesions = np.stack([numbers(rows, name) for name in _LESIONS]) if has(rows, *_LESIONS) else None
        self._false_alarms = {name: numbers(rows, name) for name in in_summary(MASKS, "negatives") if has(rows, name)}
        areas = has(rows, "truth_px", "pred_px")
        self._truth = numbers(rows, "truth_px") if areas else None
        self._marked = numbers(rows, "pred_px") if areas else None

    def head(self) -> dict[str, Any]:
        """What stands before the blocks: the rules that the numbers were made under."""
        return {
            "empty_policy": self.policy,
            **({} if self.thresholds is None else {"thresholds": self.thresholds}),
            **({"nsd_tolerance": self.tolerance} if self.tolerance else {}),
        }

    def definitions(self) -> dict[str, Any]:
        """What each number means, for those that are there."""
        table = LABEL_MAPS if self._labels else MASKS
        metrics = {name: table[name].definition for name in self._metrics}
        for unit, tolerance in self.tolerance.items():
            metrics[f"nsd_{unit}"] += f", {tolerance:g} {unit}"
        texts: dict[str, Any] = {"metrics": metrics, "empty_policy": EMPTY_POLICIES[self.policy]}
        if self._sizes:
            texts["size"] = SIZES
        if self._labels:
            texts |= {"labels": MEAN_OVER_LABELS, "agreement": AGREEMENT}
        if self.tolerance:
            texts["surface_empty_policy"] = SURFACE_POLICIES[self.policy]
        if self._lesions is not None:
            texts["lesions"] = RULE
        if self._marked is not None:
            texts["missed"] = f"{'volumes with a label' if self._labels else 'images with a lesion'} and nothing marked"
        if self._false_alarms:
            texts["negatives"] = "images without a lesion, and what was marked on them (px of an image, ml of a volume)"
        if self._curves is not None:
            texts |= {name: metric.definition for name, metric in in_summary(MASKS, "block").items()}
        return texts

    def block(self, selected: NDArray[np.intp]) -> dict[str, Any]:
        """Every number of some rows."""
        groups = [self._groups[index] for index in selected]
        found: dict[str, Any] = {
            "n": len(selected),
            "groups": len(set(groups)),
            "metrics": {name: self._spread(values[selected], groups) for name, values in self._metrics.items()},
        }
        if self._curves is not None:
            found["max_e"], found["mean_e"] = max_and_mean_e(self._curves[selected])
        if self._lesions is not None:
            found["lesions"] = detection(self._lesions[:, selected], groups, **self._bootstrap)
        if self._truth is not None and self._marked is not None:
            truth, marked = self._truth[selected], self._marked[selected]
            found["missed"] = int(((truth > 0) & (marked == 0)).sum())
            if self._false_alarms:
                found["negatives"] = {
                    "n": int((truth == 0).sum()),
                    "images_with_false_positive": int(((truth == 0) & (marked > 0)).sum()),
                    **{name: self._spread(area[selected], groups) for name, area in self._false_alarms.items()},
                }
        return found
