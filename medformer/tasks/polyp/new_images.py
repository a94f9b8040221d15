"""A trained model applied to new images: verified masks at their own sizes, overlays, and predictions.csv."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from medformer.data.cases import Case
from medformer.data.frames.descriptors import frame_traits, thumbnail
from medformer.data.problems import Problem
from medformer.data.training_range import TrainingRange, outside_column
from medformer.errors import DataError
from medformer.files import files_below
from medformer.imaging.images import read_image
from medformer.inference.export_table import output_names
from medformer.inference.frames.export import Probabilities, image_exports
from medformer.inference.scoring import SUFFIXES
from medformer.names import id_fault
from medformer.tasks.new_cases import Made, Request, manifest_cases
from medformer.tasks.polyp.predictor import FramePredictor


@dataclass(frozen=True, kw_only=True)
class Segmented(Made):
    """What came of images.

    Attributes:
        threshold: That their masks were made with.
    """

    threshold: float


def export_images(
    request: Request, *, threshold: float | None = None, probabilities: Probabilities = "none"
) -> Segmented:
    """Segment images, and write masks, overlays, probability maps where asked for, and the table.

    The probability maps of all networks are averaged. The threshold is the mean of those that they learned from their
    validation parts, unless one is given.

    Args:
        request: What segments which files, folders of them, or CSV manifests.
        threshold: A pixel is foreground where its probability is at least this.
        probabilities: Whether and how to write the maps.

    Raises:
        CheckpointError: What a fold left is missing or damaged.
        DataError: No image can be used.
        ResourceError: The device is not there, or a file cannot be written.
    """
    given = manifest_cases(request.paths) or list_images(request.paths, request.out)
    faults = [(case, id_fault(case.id)) for case in given]
    problems = [Problem(case.id, str(case.image), "bad-name", fault) for case, fault in faults if fault]
    cases = [case for case, fault in faults if not fault]
    predictor = cast(FramePredictor, request.load())
    cut = predictor.threshold if threshold is None else threshold
    with image_exports(
        request.work,
        [case.id for case in cases],
        threshold=cut,
        probabilities=probabilities,
        run=request.trained.made_by,
        resume=request.resume,
    ) as export:
        check = partial(_check, size=request.trained.config.data.image_size, trained_on=request.trained_on)
        good = request.usable(cases, check, problems, noun="images", export=export)
        outside = outside_column(problems)
        for case, image, probability in predictor.maps(good, "images", request.reporter):
            more = {"outside": outside.get(case.id, "")}
            export.add(case.id, image, probability, source=str(case.image), images=case.images, more=more)
    return Segmented(len(given), problems, threshold=cut)


def _check(case: Case, *, size: tuple[int, int], trained_on: TrainingRange | None) -> list[Problem]:
    """Read an image, keep nothing, and say whether it is unlike the training images."""
    path = case.required_image()
    return unlike_training(case.id, str(path), read_image(path), size=size, trained_on=trained_on)


def unlike_training(
    name: str, path: str, image: NDArray[np.uint8], *, size: tuple[int, int], trained_on: TrainingRange | None
) -> list[Problem]:
    """A warning for an image that lies outside of the range of the training images, where that is known.

    Args:
        name: Id of the image.
        path: Where it is from.
        image: RGB, uint8 (H, W, 3).
        size: Of the network's input, rows x columns.
        trained_on: The range.
    """
    if trained_on is None:
        return []
    return trained_on.problems(name, path, frame_traits(thumbnail(image, size), *image.shape[:2]))


def list_images(given: Sequence[Path], out: Path | None = None) -> list[Case]:
    """List pictures, and those of folders, as cases; hidden ones and those below `out` are left out.

    Raises:
        DataError: There is none, or two would be exported under one name.
    """
    results = None if out is None else _real(out)

    def below(folder: Path) -> Iterator[Path]:
        for file in files_below(folder):
            # What has the name of a picture and is none, such as a broken link, is found when it is read.
            if file.suffix.lower() in SUFFIXES - {".npz"} and not (results and _real(file).is_relative_to(results)):
                yield file

    paths = list(dict.fromkeys(file for path in given for file in (below(path) if path.is_dir() else [path])))
    if not paths:
        raise DataError(f"No image in {', '.join(map(str, given))}; expected PNG, JPEG, TIFF, BMP or another format.")
    return [Case(name, path) for name, path in zip(output_names(paths), paths, strict=True)]


def _real(path: Path) -> Path:
    """The path behind all links, also where they lead nowhere."""
    return Path(os.path.realpath(path))
