"""`medformer polyp`: the verbs that only images have."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast, get_args

from medformer.crossval.run.outputs import output_file, output_folder
from medformer.data.frames.describe import inspect_frames
from medformer.data.frames.descriptors import FRAMES
from medformer.data.frames.layouts import Layout, scan
from medformer.data.manifest import Case, write_manifest
from medformer.data.near_duplicates import link_near_duplicates
from medformer.data.problems import Problem
from medformer.errors import ConfigError, DataError, counted
from medformer.files import files_below
from medformer.foreground import Foreground
from medformer.imaging.images import read_image
from medformer.inference.export_table import output_names
from medformer.inference.frames.export import TABLE, Probabilities, image_exports
from medformer.inference.scoring import SUFFIXES, score_folder, write_scores
from medformer.names import id_fault
from medformer.tasks.polyp.learner import THRESHOLD_FILE, load_predictor
from medformer.training.devices import choose_device
from pipelines.console import make_reporter, say
from pipelines.work import (
    TRY_AGAIN,
    finished_folds,
    left_to_do,
    list_problems,
    manifest_cases,
    open_run,
    readable,
    require_all,
    say_units,
    sidecars,
)


def prepare(
    *,
    folders: list[Path],
    out: Path,
    layout: str,
    split: str | None,
    ungrouped: str,
    group_pattern: str | None,
    foreground: Foreground | None,
    site: list[str],
    link_duplicates: bool,
    overwrite: bool,
) -> None:
    """Turn folders in a known layout into one manifest."""
    output_file(out, overwrite=overwrite, beside=sidecars(out))
    found = scan(folders, layout=cast(Layout, layout), split=split, group_pattern=group_pattern, sites=site)
    for note in found.notes:
        say(f"note: {note}")
    cases = [replace(case, foreground=foreground or ()) for case in found.cases]
    if ungrouped == "each":
        cases = [replace(case, group=case.group or case.id) for case in cases]
    if link_duplicates:
        before = len({case.group for case in cases})
        cases = link_near_duplicates(
            cases, inspect_frames(cases, require_masks=False, reporter=make_reporter()), FRAMES
        )
        say(f"Linking near-duplicates joined {counted(before, 'group')} into {len({case.group for case in cases})}.")
    unknown = [case.id for case in cases if not case.group]
    if unknown:
        raise DataError(
            f"{len(unknown)} of {len(cases)} images have no patient or sequence, such as '{unknown[0]}', so "
            "leakage cannot be ruled out. Give --group-pattern when the file name tells it, or --ungrouped each when "
            "every image really is of another patient; --link-duplicates then joins those that show the same thing."
        )
    list_problems(found.problems, out)
    write_manifest(out, cases)
    groups = counted(len({case.group for case in cases}), "group")
    sites = counted(len({case.site for case in cases}), "dataset")
    say(f"{counted(len(cases), 'case')} of {groups} from {sites}: {out}")
    say(f"Next: medformer polyp check {out}")


def predict(
    *,
    run: Path,
    images: list[Path],
    out: Path,
    overwrite: bool,
    resume: bool,
    probabilities: str,
    threshold: float | None,
    device: str,
) -> None:
    """Write verified masks at the images' own sizes, overlays, and predictions.csv.

    The probability maps of all folds are averaged. The threshold is the mean of those that the folds learned from
    their validation parts, unless one is given.

    Raises:
        ConfigError: The run has no finished network, or `out` is not empty.
        DataError: Images cannot be read; all others are done.
        ResourceError: The device is not there.
    """
    if probabilities not in get_args(Probabilities):
        raise ConfigError(f"--probabilities {probabilities}: expected {', '.join(get_args(Probabilities))}.")
    with output_folder(out, overwrite=overwrite, resume=resume, by="polyp predict") as work:
        given = manifest_cases(images) or _named(_images(images, out))
        faults = {case.id: id_fault(case.id) for case in given}
        misnamed = [Problem(one.id, str(one.image), "bad-name", fault) for one in given if (fault := faults[one.id])]
        for problem in misnamed:
            say(str(problem))
        cases = [case for case in given if faults[case.id] is None]
        opened, config = open_run(run, "polyp")
        folders = finished_folds(opened, THRESHOLD_FILE)
        predictor = load_predictor(config, folders, choose_device(device))
        cut = predictor.threshold if threshold is None else threshold
        with image_exports(
            work,
            [case.id for case in cases],
            threshold=cut,
            probabilities=cast(Probabilities, probabilities),
            run=opened.predictor_hash(folders),
            resume=resume,
        ) as export:
            left = left_to_do(export, cases)
            good, problems = readable(left, lambda case: read_image(case.required_image()), make_reporter())
            problems = [*misnamed, *problems]
            if not (good or export.rows):
                require_all(problems, len(given), "images", TRY_AGAIN)
            for case, image, probability in predictor.maps(good, "images", make_reporter()):
                export.add(case.id, image, probability, source=str(case.image), images=case.images)
    require_all(problems, len(given), "images", TRY_AGAIN)
    say(f"{counted(len(cases), 'mask')} from {counted(len(folders), 'network')}, threshold {cut:.3g}: {out / 'masks'}")
    say(f"Overlays (yellow: prediction): {out / 'overlays'}")
    say(f"Table: {out / TABLE}")


def evaluate(
    *,
    predictions: Path,
    masks: Path,
    out: Path,
    overwrite: bool,
    groups: Path | None,
    threshold: float,
    foreground: Foreground | None,
) -> None:
    """Score a folder of prediction maps."""
    with output_folder(out, overwrite=overwrite, by="polyp evaluate") as work:
        rows, summary = score_folder(
            predictions,
            masks,
            threshold=threshold,
            foreground=foreground or (),
            groups=groups,
            reporter=make_reporter(),
        )
        written = write_scores(work, rows, summary)
    table, numbers = (out / file.name for file in written)
    pooled = summary["pooled"]
    means = {name: values["mean"] for name, values in pooled["metrics"].items()}
    say(f"{counted(summary['n'], 'frame')}; two empty masks: {summary['definitions']['empty_policy']}")
    say_units(summary)
    for label, value in (
        (f"Dice at {threshold:g}", means["dice"]),
        (f"IoU at {threshold:g}", means["iou"]),
        ("mean Dice, 256 thresholds", means["mean_dice_256"]),
        ("mean IoU, 256 thresholds", means["mean_iou_256"]),
        ("weighted F", means["weighted_f"]),
        ("S-measure", means["s_measure"]),
        ("max E-measure", pooled["max_e"]),
        ("mean E-measure", pooled["mean_e"]),
        ("MAE", means["mae"]),
    ):
        say(f"  {label:<26}{value:.4f}")
    say(f"Per case: {table}\nAll numbers: {numbers}")


def _named(paths: Sequence[Path]) -> list[Case]:
    return [Case(name, path) for name, path in zip(output_names(paths), paths, strict=True)]


def _images(given: Sequence[Path], out: Path) -> list[Path]:
    """List the pictures of folders, hidden ones and those that an earlier call wrote to `out` left out."""

    def below(folder: Path) -> Iterator[Path]:
        for file in files_below(folder):
            # What has the name of a picture and is none, such as a broken link, is found when it is read.
            if file.suffix.lower() in SUFFIXES - {".npz"} and not _real(file).is_relative_to(_real(out)):
                yield file

    paths = [file for path in given for file in (below(path) if path.is_dir() else [path])]
    if not paths:
        raise DataError(f"No image in {', '.join(map(str, given))}; expected PNG, JPEG, TIFF, BMP or another format.")
    return list(dict.fromkeys(paths))


def _real(path: Path) -> Path:
    """The path behind all links, also where they lead nowhere."""
    return Path(os.path.realpath(path))
