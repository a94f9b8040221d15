"""A trained model applied to new images: verified masks at their own sizes, overlays, and predictions.csv."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from medformer.data.cases import Case
from medformer.data.frames.descriptors import frame_traits, thumbnail
from medformer.data.problems import Problem
from medformer.data.training_range import TrainingRange, outside_column, read_range
from medformer.errors import DataError
from medformer.files import files_below
from medformer.imaging.images import read_image
from medformer.inference.export_table import output_names
from medformer.inference.frames.export import Probabilities, image_exports
from medformer.inference.scoring import SUFFIXES
from medformer.names import id_fault
from medformer.progress import Reporter
from medformer.tasks.new_cases import Say, left_to_do, manifest_cases, readable, require_all
from medformer.tasks.polyp.learner import FramePredictor
from medformer.tasks.trained import Trained
from medformer.training.devices import choose_device


class Segmented(NamedTuple):
    """What came of images.

    Attributes:
        given: How many there were.
        done: Masks that are there now.
        threshold: That they were made with.
        problems: Why the others could not be used.
    """

    given: int
    done: int
    threshold: float
    problems: Sequence[Problem]


def export_images(
    trained: Trained,
    images: Sequence[Path],
    work: Path,
    *,
    out: Path,
    device: str = "auto",
    threshold: float | None = None,
    probabilities: Probabilities = "none",
    resume: bool = False,
    say: Say,
    reporter: Reporter,
) -> Segmented:
    """Segment images, and write masks, overlays, probability maps where asked for, and the table.

    The probability maps of all networks are averaged. The threshold is the mean of those that they learned from their
    validation parts, unless one is given.

    Args:
        trained: What segments them.
        images: Files, folders of them, or CSV manifests.
        work: Folder to write into.
        out: Where the results will be; pictures below it are no input.
        device: Where to compute.
        threshold: A pixel is foreground where its probability is at least this.
        probabilities: Whether and how to write the maps.
        resume: Keep what an earlier call left, as far as this one would make the same.
        say: Receives what the user must see before the work begins.
        reporter: Receives the progress.

    Raises:
        CheckpointError: What a fold left is missing or damaged.
        DataError: No image can be used.
        ResourceError: The device is not there, or a file cannot be written.
    """
    given = manifest_cases(images) or list_images(images, out)
    faults = {case.id: id_fault(case.id) for case in given}
    misnamed = [Problem(one.id, str(one.image), "bad-name", fault) for one in given if (fault := faults[one.id])]
    for problem in misnamed:
        say(str(problem))
    cases = [case for case in given if faults[case.id] is None]
    predictor = cast(FramePredictor, trained.load(choose_device(device)))
    cut = predictor.threshold if threshold is None else threshold
    with image_exports(
        work,
        [case.id for case in cases],
        threshold=cut,
        probabilities=probabilities,
        run=trained.made_by,
        resume=resume,
    ) as export:
        left = left_to_do(export, cases, say)
        check = partial(_check, size=trained.config.data.image_size, trained_on=read_range(trained.folders))
        good, problems = readable(left, check, say, reporter)
        problems, outside = [*misnamed, *problems], outside_column(problems)
        if not (good or export.rows):
            require_all(problems, len(given), "images")
        for case, image, probability in predictor.maps(good, "images", reporter):
            more = {"outside": outside.get(case.id, "")}
            export.add(case.id, image, probability, source=str(case.image), images=case.images, more=more)
    return Segmented(len(given), len(cases), cut, problems)


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
