"""Segmentation of polyps, as the table of tasks has it.

A command asks it for one thing. What that needs is imported then: a prediction does without what trains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medformer.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from medformer.config import PolypConfig
    from medformer.crossval.plan import PlanCase
    from medformer.progress import Reporter
    from medformer.tasks.polyp.predictor import FramePredictor
    from medformer.tasks.polyp.study import PolypStudy


class PolypTask:
    """Segmentation of polyps (see `Task`)."""

    name = "polyp"

    def open(
        self, config: PolypConfig, reporter: Reporter, *, out: Path | None = None, labelled: bool = True
    ) -> PolypStudy:
        from medformer.data.manifest import read_manifest
        from medformer.tasks.polyp.study import PolypStudy

        if not config.data.manifest:
            raise ConfigError("No data: give --data MANIFEST. `medformer polyp prepare` writes one from a folder.")
        data = read_manifest(config.data.manifest, ungrouped=config.data.ungrouped)
        if config.data.foreground:
            data = replace(data, cases=tuple(replace(case, foreground=config.data.foreground) for case in data.cases))
        return PolypStudy(config=config, data=data, masks=labelled)

    def last_file(self, config: PolypConfig) -> str:
        from medformer.tasks.polyp.predictor import THRESHOLD_FILE

        return THRESHOLD_FILE

    def load(self, config: PolypConfig, folders: Sequence[Path], device: torch.device | None = None) -> FramePredictor:
        from medformer.tasks.polyp.predictor import load_predictor

        return load_predictor(config, folders, device)

    def share(self, config: PolypConfig, folder: Path, out: Path, train: Sequence[PlanCase]) -> None:
        from medformer.inference.threshold import copy_threshold
        from medformer.tasks.polyp.predictor import THRESHOLD_FILE
        from medformer.training.saving import copy_weights

        copy_weights(folder, out)
        copy_threshold(folder / THRESHOLD_FILE, out / THRESHOLD_FILE)

    def describe(self, config: PolypConfig, folders: Sequence[Path]) -> Mapping[str, Any]:
        from medformer.config.shared import IMAGE_MEAN, IMAGE_STD

        return {
            "labels": {"1": "polyp"},
            "input": {
                "images": "RGB, 8 bits, of any size",
                "resized_to": list(config.data.image_size),
                "scaled": "(value / 255 - mean) / std of each channel",
                "mean": list(IMAGE_MEAN),
                "std": list(IMAGE_STD),
            },
            "output": {
                "probability": "of each pixel, at the size of the image",
                "views": 4 if config.inference.flips else 1,
            },
        }

    def write_onnx(self, predictor: Any, folder: Path, study: Any, names: Sequence[str]) -> list[dict[str, Any]]:
        from medformer.tasks.polyp.onnx import write_onnx

        return write_onnx(predictor, folder, [study.by_id[name] for name in names] if study else [])
