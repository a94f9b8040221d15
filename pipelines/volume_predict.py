"""Segmenting new volumes with a finished run: one network, or the ensemble of its folds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from medformer.config import VolumeConfig
from medformer.config_loading import load_config
from medformer.crossval.plan import read_plan as read_folds
from medformer.crossval.run.directory import RunDirectory
from medformer.data.volumes.plan.volume_plan import VolumePlan, read_volume_plan
from medformer.data.volumes.read.layouts import list_volumes
from medformer.errors import ConfigError
from medformer.inference.volumes.components import Components, join_components, read_components
from medformer.inference.volumes.export import TABLE, volume_exports
from medformer.training.devices import choose_device
from pipelines.console import make_reporter, say
from pipelines.outputs import claim, clear
from pipelines.volume_fold import COMPONENTS, make_segmenter
from pipelines.volume_network import read_network
from pipelines.volume_plan import PLAN

ENTRIES = (TABLE, "masks", "overlays", "dicom_seg")
"""Everything that a prediction writes below its folder."""

Member = tuple[nn.Module, VolumePlan]


def predict(
    *,
    run: Path,
    images: Sequence[Path],
    out: Path,
    overwrite: bool,
    resume: bool,
    dicom_seg: bool,
    device: str,
) -> None:
    """Write verified label maps in the geometry of each input, overlays, and volumes.csv in milliliters.

    The probabilities of all folds are averaged. Where folds learned which connected components to keep, a label is
    reduced to its largest one if most of them did so.

    Raises:
        ConfigError: The run has no finished network, or `out` is not empty.
        DataError: A volume cannot be read; those before it are kept.
        ResourceError: The device is not there, or memory does not suffice.
    """
    claim(out, overwrite=overwrite, resume=resume)
    opened = RunDirectory.open(run)
    config = load_config(opened.config_yaml, [], model=VolumeConfig)
    members, components = _ensemble(opened, config)
    cases = list_volumes(images, channels=len(members[0][1].intensity), without=out)
    segmenter = make_segmenter(members, config, choose_device(device))
    segmenter.components = components
    segmenter.folder = out
    if overwrite:
        clear(out, ENTRIES)
    reporter = make_reporter()
    reporter.start("volumes", len(cases))
    try:
        labels = [name for _, name in members[0][1].labels]
        with volume_exports(out, labels, dicom_seg=dicom_seg, resume=resume) as export:
            for case in cases:
                if not export.done(case.id):
                    export.add(case.id, segmenter.segment(case), case, source=str(case.image))
                reporter.advance()
    finally:
        reporter.finish()
    say(f"{len(cases)} label maps from {len(members)} network(s): {out / 'masks'}")
    if dicom_seg:
        say(f"DICOM segmentations: {out / 'dicom_seg'}")
    say(f"Overlays in three planes: {out / 'overlays'}")
    say(f"Milliliters of each label: {export.table}")


def _ensemble(run: RunDirectory, config: VolumeConfig) -> tuple[list[Member], Components]:
    if config.target != "segmentation":
        raise ConfigError(f"{run.path} classifies volumes; predict needs a run that segments them.")
    folds = read_folds(run.splits_json).folds if run.splits_json.exists() else ()
    members, rules = [], []
    for fold in folds:
        folder = run.fold(fold.index)
        # The last that a fold learns; before it is there, the network may still change.
        if not (folder / COMPONENTS).is_file():
            continue
        plan = read_volume_plan(folder / PLAN)
        members.append((read_network(config, plan, folder), plan))
        rules.append(read_components(folder / COMPONENTS))
    if not members:
        raise ConfigError(f"{run.path} holds no finished network. Finish the run with --resume first.")
    if len(members) < len(folds):
        say(f"note: {len(members)} of {len(folds)} folds are trained; finish {run.path} with --resume to use them all.")
    return members, join_components(rules)
