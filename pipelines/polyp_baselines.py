"""What a baseline of the polyp task does in one fold: fit, learn the threshold, score the fold's test cases once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medformer.config import PolypConfig
from medformer.crossval.plan import Fold
from medformer.data.manifest import Case, path_from
from medformer.evaluation.masks.segmentation import binarize, case_row
from medformer.files import write_csv
from medformer.imaging.images import read_image, read_mask
from medformer.inference.baselines.table import BASELINES, MaskBaseline
from medformer.inference.frames.export import confidence, count_components
from medformer.inference.threshold import DiceThreshold, learn_threshold
from medformer.progress import Reporter, SilentReporter
from medformer.seeds import derive_seed


class PolypBaselineFold:
    """The fold job of a baseline (see `medformer.crossval.run.fold_job.FoldJob`).

    Its table has the columns of the network's. No mask is exported, so `mask` is empty.

    Args:
        name: Of the baselines' table.
        config: The run's config; the threshold, the image size and the seed are used.
        cases: Cases of the manifest by id.
        root: Folder that image paths in tables are relative to.
        reporter: Told about every step.

    Raises:
        UnknownNameError: There is no such baseline.
    """

    def __init__(
        self, name: str, config: PolypConfig, cases: Mapping[str, Case], root: Path, reporter: Reporter | None = None
    ) -> None:
        self.name = BASELINES[name].name
        self.config = config
        self.cases = cases
        self.root = root
        self.reporter = reporter or SilentReporter()

    def __call__(self, fold: Fold, folder: Path, resume: bool) -> None:
        """Leave `threshold.json` and `predictions.csv` in `folder`; an interrupted fold simply starts again."""
        seed = derive_seed(self.config.seed, "repeat", fold.repeat, "fold", fold.index, "baseline", self.name)
        baseline = BASELINES[self.name].part(image_size=self.config.data.image_size, seed=seed)
        baseline.fit([self.cases[name] for name in fold.train])
        threshold = self._threshold(baseline, fold, folder)
        if fold.test:
            rows = list(self._score(baseline, threshold, fold))
            write_csv(folder / "predictions.csv", rows, list(rows[0]))

    def _threshold(self, baseline: MaskBaseline, fold: Fold, folder: Path) -> float:
        truths = (read_mask(self.cases[name].required_mask()) for name in fold.validation)
        maps = (probability for _, probability in self._maps(baseline, fold.validation, "threshold"))
        return learn_threshold(
            self.config.inference.threshold,
            DiceThreshold(),
            maps,
            truths,
            cases=len(fold.validation),
            path=folder / "threshold.json",
        )

    def _score(self, baseline: MaskBaseline, threshold: float, fold: Fold) -> Iterator[dict[str, Any]]:
        for case, probability in self._maps(baseline, fold.test, "test cases"):
            mask = binarize(probability, threshold, case=case.id)
            yield {
                "id": case.id,
                "site": case.site,
                **case_row(case.id, probability, read_mask(case.required_mask()), threshold=threshold),
                "components": count_components(mask),
                "confidence": confidence(probability, mask),
                "mask": "",
                "image": path_from(self.root, case.required_image()),
                "truth": path_from(self.root, case.required_mask()),
            }

    def _maps(
        self, baseline: MaskBaseline, names: Sequence[str], label: str
    ) -> Iterator[tuple[Case, NDArray[np.float32]]]:
        self.reporter.start(f"{self.name}, {label}", len(names))
        try:
            for name in names:
                case = self.cases[name]
                yield case, baseline.predict(read_image(case.required_image()))
                self.reporter.advance()
        finally:
            self.reporter.finish()
