"""`medformer volume`: the verbs that only volumes have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

from medformer.config import VolumeConfig
from medformer.crossval.run.outputs import has_format, output_file, output_folder
from medformer.data.manifest import write_manifest
from medformer.data.volumes.read.dataset_file import named_labels, write_info
from medformer.data.volumes.read.layouts import Layout
from medformer.data.volumes.read.several_folders import scan_folders
from medformer.errors import ConfigError, counted

from .console import make_reporter, say
from .work import evaluated, list_problems, predicting, say_scores, sidecars


def prepare(
    *,
    sources: list[Path],
    out: Path,
    layout: str,
    ungrouped: str,
    group_pattern: str | None,
    site: list[str],
    site_pattern: str | None,
    overwrite: bool,
) -> None:
    """Turn folders in a known layout, or an .npz file of MedMNIST3D, into one manifest."""
    from medformer.data.volumes.read.medmnist import write_medmnist
    from medformer.tasks.volume.dataset import PATIENT_NOTES, complete

    source = next((one for one in sources if one.is_file()), None)
    if source is not None:
        if source.suffix != ".npz" or len(sources) > 1:
            raise ConfigError(f"{source} is a file; expected folders of volumes, or one .npz file of MedMNIST3D.")
        with output_folder(out, overwrite=overwrite, by="volume prepare") as work:
            manifest = write_medmnist(source, work).name
        say(f"Manifest: {out / manifest}\nNext: medformer volume check {out / manifest} --task classification")
        return
    output_file(out, overwrite=overwrite, beside=sidecars(out))
    scan = scan_folders(
        sources,
        layout=cast(Layout, layout),
        ungrouped="each" if ungrouped == "each" else "error",
        group_pattern=group_pattern,
        sites=site,
        site_pattern=site_pattern,
    )
    cases, info = complete(scan, None, make_reporter())
    list_problems(scan.problems, out)
    write_manifest(out, cases)
    write_info(out, info)
    groups, channels = len({case.group for case in cases}), len(info.channels)
    what = (counted(len(cases), "volume"), counted(groups, "patient"), counted(channels, "channel"))
    say(f"{what[0]} of {what[1]}, {what[2]}, labels: {info.shown_labels}: {out}")
    if info.patients in PATIENT_NOTES:
        say(f"note: {PATIENT_NOTES[info.patients]}")
    classes = "" if info.labels else " --task classification (after you add a column `label` with 0 and 1)"
    say(f"Next: medformer volume check {out}{classes}")


def plan(*, config: VolumeConfig, out: Path | None, overwrite: bool) -> None:
    """Plan from all cases of a manifest or folder, and say what training will take (see `forecast`)."""
    from medformer.data.volumes.plan.volume_plan import FORMAT as PLAN_FORMAT
    from medformer.data.volumes.plan.volume_plan import write_volume_plan
    from medformer.tasks.volume.forecast import forecast

    if out is not None:
        output_file(out, overwrite=overwrite, ours=lambda file: has_format(file, PLAN_FORMAT))
    made = forecast(config, say=say, reporter=make_reporter())
    if out is not None:
        write_volume_plan(out, made)
        say(f"Plan: {out}")


def predict(
    *,
    run: Path,
    images: Sequence[Path],
    out: Path,
    dicom_seg: bool,
    probabilities: str,
    model: str | None,
    **common: Any,
) -> None:
    """Write verified label maps, overlays and volumes.csv (`export_volumes`), or scores (`export_classes`)."""
    from medformer.inference.volumes.export import TABLE
    from medformer.inference.volumes.probabilities import Probabilities
    from medformer.tasks.new_cases import LEAVE_OUT, TRY_AGAIN, require_all
    from medformer.tasks.volume.new_classes import export_classes
    from medformer.tasks.volume.new_volumes import export_volumes

    with predicting("volume", run, images, out=out, **common) as request:
        segments = request.trained.config.target == "segmentation"
        if (dicom_seg or probabilities != "none") and not segments:
            option = "--dicom-seg" if dicom_seg else "--probabilities"
            raise ConfigError(f"{option}: {run} classifies volumes and makes no masks. Leave it out.")
        if model and segments:
            raise ConfigError(f"--model {model}: {run} segments volumes, and no baseline of it predicts. Leave it out.")
        if segments:
            made = export_volumes(request, dicom_seg=dicom_seg, probabilities=cast(Probabilities, probabilities))
        else:
            scored = export_classes(request, model=model or "")
    if not segments:
        by = f"{model} model" if model else "network"
        say_scores(request.trained, scored, "volume", "positive", out, by=by)
        require_all(scored, "volumes", LEAVE_OUT)
        return
    require_all(made, "volumes", TRY_AGAIN)
    say(f"{counted(made.done, 'label map')} from {counted(len(request.trained.folders), 'network')}: {out / 'masks'}")
    if dicom_seg:
        say(f"DICOM segmentations: {out / 'dicom_seg'}")
    if probabilities != "none":
        say(f"Probability of each label, before component rules: {out / 'probabilities'}")
    say(f"Overlays (three planes; slices of a scan with thick ones): {out / 'overlays'}")
    say(f"Milliliters of each label: {out / TABLE}")


def evaluate(*, tolerance: float, labels: str | None, images: Path | None, **common: Any) -> None:
    """Score a folder of label maps."""
    from medformer.inference.volumes.scoring import score_label_maps

    def lines(summary: Mapping[str, Any]) -> Iterator[str]:
        for label, part in summary["by_label"].items():
            means = {name: part["metrics"][name]["mean"] for name in ("dice", "hd95_mm", "nsd_mm")}
            yield f"{label}: Dice {means['dice']:.4f}, HD95 {means['hd95_mm']:.2f} mm, NSD {means['nsd_mm']:.4f}"

    names = None if labels is None else named_labels(labels)
    evaluated("volume", partial(score_label_maps, images=images, labels=names, tolerance=tolerance), lines, **common)
