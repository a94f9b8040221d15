"""Segmentation and classification of volumes, as the table of tasks has it.

A command asks it for one thing. What that needs is imported then: a prediction does without what trains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from medformer.config import VolumeConfig
    from medformer.crossval.plan import PlanCase
    from medformer.crossval.run.classes import ClassPredictor
    from medformer.progress import Reporter
    from medformer.tasks.volume.predictor import VolumePredictor
    from medformer.tasks.volume.study import VolumeStudy


class VolumeTask:
    """Segmentation and classification of volumes (see `Task`)."""

    name = "volume"

    def open(
        self, config: VolumeConfig, reporter: Reporter, *, out: Path | None = None, labelled: bool = True
    ) -> VolumeStudy:
        from medformer.tasks.volume.dataset import open_volumes
        from medformer.tasks.volume.network import check_network
        from medformer.tasks.volume.study import VolumeStudy

        if out is not None:
            # A run begins: a folder is read below, which may take long.
            check_network(config)
        data = open_volumes(config, out, reporter)
        return VolumeStudy(config=config, data=data, labelled=labelled)

    def last_file(self, config: VolumeConfig) -> str:
        from medformer.inference.classification import THRESHOLD
        from medformer.tasks.volume.predictor import COMPONENTS

        return COMPONENTS if config.target == "segmentation" else THRESHOLD

    def load(
        self, config: VolumeConfig, folders: Sequence[Path], device: torch.device | None = None
    ) -> VolumePredictor | ClassPredictor:
        from medformer.tasks.volume.predictor import load_predictor

        return load_predictor(config, folders, device)

    def share(self, config: VolumeConfig, folder: Path, out: Path, train: Sequence[PlanCase]) -> None:
        from medformer.tasks.volume.sharing import share_fold

        share_fold(config, folder, out)

    def describe(self, config: VolumeConfig, folders: Sequence[Path]) -> Mapping[str, Any]:
        from medformer.tasks.volume.sharing import describe_folds

        return describe_folds(config, folders)

    def write_onnx(
        self,
        predictor: Any,
        folder: Path,
        study: Any,
        names: Sequence[str],
    ) -> list[dict[str, Any]]:
        from medformer.tasks.volume.onnx import write_onnx

        return write_onnx(predictor, folder, [study.by_id[name] for name in names] if study else [])
