"""A trained model applied to new volumes: verified label maps in the geometry of each, overlays, and volumes.csv."""

from __future__ import annotations

from functools import partial
from typing import cast

from medformer.data.problems import Problem, quarantine
from medformer.data.training_range import outside_column
from medformer.data.volumes.prepare.prepare_case import check_image
from medformer.errors import ConfigError, DataError
from medformer.inference.volumes.export import volume_exports
from medformer.inference.volumes.probabilities import Probabilities
from medformer.tasks.new_cases import Made, Request, unusable
from medformer.tasks.volume.new_classes import complete_volumes
from medformer.tasks.volume.predictor import VolumePredictor


def export_volumes(request: Request, *, dicom_seg: bool = False, probabilities: Probabilities = "none") -> Made:
    """Segment volumes, and write label maps, overlays, the table, and DICOM segmentations where asked for.

    The probabilities of all networks are averaged. Where folds learned which connected components to keep, a label is
    reduced to its largest one if most of them did so.

    Args:
        request: What segments which NIfTI files, folders of them, folders of one DICOM series, or CSV manifests.
        dicom_seg: Write a DICOM segmentation of each series too.
        probabilities: Whether and how to write a map of probabilities for each label too.

    Raises:
        ConfigError: DICOM segmentations are asked for of files.
        CheckpointError: What a fold left is missing or damaged.
        DataError: No volume can be used.
        ResourceError: The device is not there, memory does not suffice, or a file cannot be written.
    """
    predictor = cast(VolumePredictor, request.load())
    segmenter = predictor.segmenter
    segmenter.folder = request.work
    segmenter.probabilities = probabilities
    cases, problems = complete_volumes(request.paths, predictor.channels, request.out)
    given = len(cases) + len(quarantine(problems))
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
    late: list[Problem] = []
    with volume_exports(
        request.work,
        [name for _, name in predictor.labels],
        [case.id for case in cases],
        dicom_seg=dicom_seg,
        probabilities=probabilities,
        run=request.trained.made_by,
        resume=request.resume,
    ) as export:
        check = partial(check_image, plan=segmenter.plan, trained_on=request.trained_on)
        good = request.usable(cases, check, problems, noun="volumes", export=export)
        outside = outside_column(problems)
        for case in request.reporter.track(good, "volumes"):
            try:
                found, more = segmenter.segment(case), {"outside": outside.get(case.id, "")}
                export.add(case.id, found, case, source=str(case.image), images=case.images, more=more)
            except DataError as error:
                late.append(unusable(case, error))
    return Made(given, problems, late)
