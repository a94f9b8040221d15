"""Segmenting new images with a finished run: one network, or the ensemble of its folds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from torch import nn

from medformer.config import PolypConfig
from medformer.config_loading import load_config
from medformer.crossval.run_directory import RunDirectory
from medformer.errors import ConfigError, DataError
from medformer.imaging.images import read_image
from medformer.inference.export import Probabilities
from medformer.inference.export_table import Export
from medformer.inference.names import output_names
from medformer.inference.scoring import SUFFIXES
from medformer.models.build import build_model
from medformer.progress import Reporter
from medformer.training.checkpoint import load_model
from medformer.training.devices import choose_device
from pipelines.console import say
from pipelines.polyp_fold import fold_threshold, make_segmenter


def predict_images(
    run: RunDirectory,
    images: Sequence[Path],
    out: Path,
    *,
    overwrite: bool,
    resume: bool,
    probabilities: str,
    threshold: float | None,
    device: str,
    reporter: Reporter,
) -> None:
    """Write verified masks at the images' own sizes, overlays, and predictions.csv.

    The probability maps of all folds are averaged. The threshold is the mean of those that the folds learned from
    their validation parts, unless one is given.

    Raises:
        ConfigError: The run has no finished network, or `out` is not empty.
        DataError: An image cannot be read; those before it are kept.
        ResourceError: The device is not there.
    """
    if probabilities not in get_args(Probabilities):
        raise ConfigError(f"--probabilities {probabilities}: expected {', '.join(get_args(Probabilities))}.")
    if out.is_dir() and any(out.iterdir()) and not (resume or overwrite):
        raise ConfigError(f"--out {out} is not empty. Add --resume or --overwrite, or choose another folder.")
    paths = _images(images)
    names = output_names(paths)
    config = load_config(run.config_yaml, [])
    models, cut = _ensemble(run, config)
    cut = cut if threshold is None else threshold
    segmenter = make_segmenter(models, config, choose_device(device))
    kind: Probabilities = "png" if probabilities == "png" else "npz" if probabilities == "npz" else "none"
    reporter.start("images", len(paths))
    try:
        with Export(out, threshold=cut, probabilities=kind, resume=resume) as export:
            for name, path in zip(names, paths, strict=True):
                if not export.done(name):
                    image = read_image(path)
                    export.add(name, image, segmenter.predict([image], [str(path)])[0], source=str(path))
                reporter.advance()
    finally:
        reporter.finish()
    say(f"{len(paths)} masks from {len(models)} network(s), threshold {cut:.3g}: {out / 'masks'}")
    say(f"Table: {export.table}")


def _ensemble(run: RunDirectory, config: PolypConfig) -> tuple[list[nn.Module], float]:
    models, thresholds = [], []
    folders = sorted(run.folds.glob("*/model.safetensors"), key=lambda path: int(path.parent.name))
    for weights in folders:
        if not (weights.parent / "threshold.json").is_file():
            continue
        model = build_model(config.model)
        load_model(weights, model)
        models.append(model)
        thresholds.append(fold_threshold(weights.parent))
    if not models:
        raise ConfigError(f"{run.path} holds no finished network. Finish the run with --resume first.")
    return models, sum(thresholds) / len(thresholds)


def _images(given: Sequence[Path]) -> list[Path]:
    paths: list[Path] = []
    for path in given:
        if path.is_dir():
            paths += sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES - {".npz"} and p.is_file())
        else:
            paths.append(path)
    if not paths:
        raise DataError(f"No image in {', '.join(map(str, given))}; expected PNG, JPEG, TIFF, BMP or another format.")
    return list(dict.fromkeys(paths))
