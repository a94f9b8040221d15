"""The connectome task, as the table of tasks has it.

A command asks it for one thing. What that needs is imported then: a prediction does without what trains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medformer.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from medformer.config import AbideConfig
    from medformer.crossval.plan import PlanCase
    from medformer.crossval.run.classes import ClassPredictor
    from medformer.progress import Reporter
    from medformer.tasks.abide.study import AbideStudy


class AbideTask:
    """The connectome task (see `Task`)."""

    name = "abide"

    def open(
        self, config: AbideConfig, reporter: Reporter, *, out: Path | None = None, labelled: bool = True
    ) -> AbideStudy:
        from medformer.data.connectomes.cohort import read_cohort
        from medformer.tasks.abide.study import AbideStudy

        if not config.data.manifest:
            raise ConfigError(
                "No data: give --data COHORT/manifest.csv. `medformer abide prepare` writes one from the Preprocessed "
                "Connectomes Project's folders, from matrices, or from what `medformer abide extract` made."
            )
        data = read_cohort(config.data.manifest, unlabelled="error" if labelled else "allow")
        return AbideStudy(config=config, data=data)

    def last_file(self, config: AbideConfig) -> str:
        from medformer.inference.classification import THRESHOLD

        return THRESHOLD

    def load(self, config: AbideConfig, folders: Sequence[Path], device: torch.device | None = None) -> ClassPredictor:
        from medformer.crossval.run.classes import ClassPredictor
        from medformer.inference.classification import read_decision
        from medformer.tasks.abide.predictor import load_scorer

        return ClassPredictor(
            [(load_scorer(config, folder, device), read_decision(folder)) for folder in folders], covariates=True
        )

    def share(self, config: AbideConfig, folder: Path, out: Path, train: Sequence[PlanCase]) -> None:
        from medformer.tasks.abide.sharing import share_fold

        share_fold(config, folder, out, train)

    def describe(self, config: AbideConfig, folders: Sequence[Path]) -> Mapping[str, Any]:
        from medformer.tasks.abide.sharing import describe_folds

        return describe_folds(config, folders[0])

    def write_onnx(self, predictor: Any, folder: Path, study: Any, names: Sequence[str]) -> list[dict[str, Any]]:
        from medformer.tasks.abide.onnx import write_onnx

        return write_onnx(predictor, folder, study, names)
