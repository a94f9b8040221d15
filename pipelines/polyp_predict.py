"""Segmenting new images with a finished run: one network, or the ensemble of its folds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

from torch import nn

from medformer.config import PolypConfig
from medformer.config_loading import load_config
from medformer.crossval.plan import read_plan
from medformer.crossval.run.directory import RunDirectory
from medformer.errors import ConfigError, DataError
from medformer.imaging.images import read_image
from medformer.inference.frames.export import TABLE, Probabilities, image_exports
from medformer.inference.frames.scoring import SUFFIXES
from medformer.inference.frames.segment import Segmenter
from medformer.inference.names import output_names
from medformer.models.networks.build import build_model
from medformer.progress import Reporter
from medformer.training.devices import choose_device
from medformer.training.saving.checkpoint import load_model
from pipelines.console import say
from pipelines.outputs import claim, clear
from pipelines.polyp_fold import fold_threshold, make_segmenter

ENTRIES = (TABLE, "masks", "overlays", "probabilities")
"""Everything that a prediction writes below its folder."""


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
    claim(out, overwrite=overwrite, resume=resume)
    paths = _images(images, out)
    names = output_names(paths)
    config = load_config(run.config_yaml, [])
    models, cut = _ensemble(run, config)
    cut = cut if threshold is None else threshold
    segmenter = make_segmenter(models, config, choose_device(device))
    kind: Probabilities = "png" if probabilities == "png" else "npz" if probabilities == "npz" else "none"
    if overwrite:
        clear(out, ENTRIES)
    reporter.start("images", len(paths))
    try:
        with image_exports(out, threshold=cut, probabilities=kind, resume=resume) as export:
            todo = [(name, path) for name, path in zip(names, paths, strict=True) if not export.done(name)]
            reporter.advance(len(paths) - len(todo))
            for first in range(0, len(todo), segmenter.batch_size):
                for name, path, image, probability in _maps(segmenter, todo[first : first + segmenter.batch_size]):
                    export.add(name, image, probability, source=str(path))
                    reporter.advance()
    finally:
        reporter.finish()
    say(f"{len(paths)} masks from {len(models)} network(s), threshold {cut:.3g}: {out / 'masks'}")
    say(f"Overlays (yellow: prediction): {out / 'overlays'}")
    say(f"Table: {export.table}")


def _maps(segmenter: Segmenter, part: Sequence[tuple[str, Path]]) -> Iterator[tuple[str, Path, Any, Any]]:
    """Yield name, path, image and probability map; what comes before an unreadable image is predicted first."""
    images, unreadable = [], None
    for _, path in part:
        try:
            images.append(read_image(path))
        except DataError as error:
            unreadable = error
            break
    readable = list(part[: len(images)])
    maps = segmenter.predict(images, [str(path) for _, path in readable]) if images else []
    for (name, path), image, probability in zip(readable, images, maps, strict=True):
        yield name, path, image, probability
    if unreadable is not None:
        raise unreadable


def _ensemble(run: RunDirectory, config: PolypConfig) -> tuple[list[nn.Module], float]:
    models, thresholds = [], []
    folds = read_plan(run.splits_json).folds if run.splits_json.exists() else ()
    for fold in folds:
        folder = run.fold(fold.index)
        # A fold learns its threshold once its network is trained.
        if not (folder / "threshold.json").is_file():
            continue
        model = build_model(config.model)
        load_model(folder / "model.safetensors", model)
        models.append(model)
        thresholds.append(fold_threshold(folder))
    if not models:
        raise ConfigError(f"{run.path} holds no finished network. Finish the run with --resume first.")
    if len(models) < len(folds):
        say(f"note: {len(models)} of {len(folds)} folds are trained; finish {run.path} with --resume to use them all.")
    return models, sum(thresholds) / len(thresholds)


def _images(given: Sequence[Path], out: Path) -> list[Path]:
    """List the pictures of folders, hidden ones and those that an earlier call wrote to `out` left out."""
    paths: list[Path] = []
    for path in given:
        if path.is_dir():
            paths += sorted(file for file in path.rglob("*") if _is_picture(file) and not _is_below(file, out))
        else:
            paths.append(path)
    if not paths:
        raise DataError(f"No image in {', '.join(map(str, given))}; expected PNG, JPEG, TIFF, BMP or another format.")
    return list(dict.fromkeys(paths))


def _is_picture(file: Path) -> bool:
    return file.suffix.lower() in SUFFIXES - {".npz"} and not file.name.startswith(".") and file.is_file()


def _is_below(file: Path, folder: Path) -> bool:
    return file.resolve().is_relative_to(folder.resolve())
