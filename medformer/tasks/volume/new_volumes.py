"""A trained model applied to new volumes: verified label maps in the geometry of each, overlays, and volumes.csv."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, cast

from medformer.data.problems import Problem, quarantine
from medformer.data.training_range import outside_column, read_range
from medformer.data.volumes.prepare.prepare_case import check_image
from medformer.data.volumes.read.new_volumes import list_volumes
from medformer.errors import ConfigError, DataError
from medformer.inference.volumes.export import volume_exports
from medformer.inference.volumes.probabilities import Probabilities
from medformer.progress import Reporter
from medformer.tasks.new_cases import Say, left_to_do, manifest_cases, readable, require_all, unusable
from medformer.tasks.trained import Trained
from medformer.tasks.volume.predictor import VolumePredictor
from medformer.training.devices import choose_device


class Segmented(NamedTuple):
    """What came of volumes.

    Attributes:
        given: How many there were.
        listed: Those that are complete, of which a label map was made unless a problem says why not.
        problems: Why the others could not be used, and warnings.
    """

    given: int
    listed: int
    problems: Sequence[Problem]


def export_volumes(
    trained: Trained,
    images: Sequence[Path],
    work: Path,
    *,
    out: Path,
    device: str = "auto",
    dicom_seg: bool = False,
    probabilities: Probabilities = "none",
    resume: bool = False,
    say: Say,
    reporter: Reporter,
) -> Segmented:
    """Segment volumes, and write label maps, overlays, the table, and DICOM segmentations where asked for.

    The probabilities of all networks are averaged. Where folds learned which connected components to keep, a label is
    reduced to its largest one if most of them did so.

    Args:
        trained: What segments them.
        images: NIfTI files, folders of them, folders of one DICOM series, or CSV manifests.
        work: Folder to write into.
        out: Where the results will be; volumes below it are no input.
        device: Where to compute.
        dicom_seg: Write a DICOM segmentation of each series too.
        probabilities: Whether and how to write a map of probabilities for each label too.
        resume: Keep what an earlier call left, as far as this one would make the same.
        say: Receives what the user must see before the work begins.
        reporter: Receives the progress.

    Raises:
        ConfigError: DICOM segmentations are asked for of files.
        CheckpointError: What a fold left is missing or damaged.
        DataError: No volume can be used.
        ResourceError: The device is not there, memory does not suffice, or a file cannot be written.
    """
    predictor = cast(VolumePredictor, trained.load(choose_device(device)))
    segmenter = predictor.segmenter
    segmenter.folder = work
    segmenter.probabilities = probabilities
    listed: list[Problem] = []
    cases = manifest_cases(images) or list_volumes(images, listed, channels=predictor.channels, without=out)
    for problem in listed:
        say(str(problem))
    given = len(cases) + len(quarantine(listed))
    if dicom_seg and segmenter.plan.regions:
        raise ConfigError(
            "--dicom-seg: segments of one file do not overlap, and this model finds regions that do. Leave it out; the "
            "NIfTI label maps hold the regions as the table says."
        )
    if dicom_seg and (others := [case for case in cases if not case.required_image().is_dir()]):
        raise ConfigError(
            f"--dicom-seg: a DICOM segmentation refers to a DICOM series, and {len(others)} of {len(cases)} inputs "
            f"are none, such as {others[0].image}. Give folders with a series each, or leave --dicom-seg out."
        )
    labels = [name for _, name in predictor.labels]
    names = [case.id for case in cases]
    with volume_exports(
        work,
        labels,
        names,
        dicom_seg=dicom_seg,
        probabilities=probabilities,
        run=trained.made_by,
        resume=resume,
    ) as export:
        left = left_to_do(export, cases, say)
        check = partial(check_image, plan=segmenter.plan, trained_on=read_range(trained.folders))
        good, problems = readable(left, check, say, reporter)
        outside = outside_column(problems)
        problems += listed
        if not (good or export.rows):
            require_all(problems, given, "volumes")
        for case in reporter.track(good, "volumes"):
            try:
                more = {"outside": outside.get(case.id, "")}
                export.add(
                    case.id, segmenter.segment(case), case, source=str(case.image), images=case.images, more=more
                )
            except DataError as error:
                problems.append(unusable(case, error))
    return Segmented(given, len(cases), problems)
