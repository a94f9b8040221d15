"""`medformer polyp`: the verbs that only images have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from medformer.crossval.run.outputs import output_file
from medformer.data.frames.layouts import Layout, scan
from medformer.data.manifest import write_manifest
from medformer.errors import DataError, counted
from medformer.foreground import Foreground

from .console import make_reporter, say
from .work import evaluated, list_problems, predicting, sidecars


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
    site_pattern: str | None,
    link_duplicates: bool,
    overwrite: bool,
) -> None:
    """Turn folders in a known layout into one manifest."""
    from medformer.data.frames.describe import inspect_frames
    from medformer.data.frames.descriptors import FRAMES
    from medformer.data.near_duplicates import link_near_duplicates

    output_file(out, overwrite=overwrite, beside=sidecars(out))
    found = scan(
        folders,
        layout=cast(Layout, layout),
        split=split,
        group_pattern=group_pattern,
        sites=site,
        site_pattern=site_pattern,
    )
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
        after = len({case.group for case in cases})
        joined = f"joined {counted(before, 'group')} into {after}" if after < before else "found none to join"
        say(f"Linking near-duplicates {joined}.")
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
    *, run: Path, images: list[Path], out: Path, probabilities: str, threshold: float | None, **common: Any
) -> None:
    """Write verified masks at the images' own sizes, overlays, and predictions.csv (see `export_images`)."""
    from medformer.inference.frames.export import TABLE, Probabilities
    from medformer.tasks.new_cases import TRY_AGAIN, require_all
    from medformer.tasks.polyp.new_images import export_images

    with predicting("polyp", run, images, out=out, **common) as request:
        made = export_images(request, threshold=threshold, probabilities=cast(Probabilities, probabilities))
    require_all(made, "images", TRY_AGAIN)
    networks = counted(len(request.trained.folders), "network")
    say(f"{counted(made.done, 'mask')} from {networks}, threshold {made.threshold:.3g}: {out / 'masks'}")
    say(f"Overlays (yellow: prediction): {out / 'overlays'}")
    say(f"Table: {out / TABLE}")


def evaluate(*, threshold: float, foreground: Foreground | None, **common: Any) -> None:
    """Score a folder of prediction maps."""
    from medformer.inference.scoring import score_folder

    def lines(summary: Mapping[str, Any]) -> Iterator[str]:
        pooled = summary["pooled"]
        means = {name: values["mean"] for name, values in pooled["metrics"].items()}
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
            yield f"{label:<26}{value:.4f}"

    evaluated("polyp", partial(score_folder, threshold=threshold, foreground=foreground or ()), lines, **common)
