"""The demo: the main jobs from data to report on synthetic cases, with nothing to download."""

from __future__ import annotations

from pathlib import Path

from medformer.config import AbideConfig, VolumeConfig
from medformer.config_loading import load_config
from medformer.data.synthetic.abide import write_synthetic_abide
from medformer.data.synthetic.brain_volumes import write_synthetic_volumes
from medformer.data.synthetic.colonoscopy import write_synthetic_colonoscopy
from medformer.errors import ConfigError
from pipelines.console import say

_NOTE = "The images are synthetic: the numbers show that everything works, and say nothing about real colonoscopy."
_SCANS_NOTE = "The scans are synthetic: the numbers show that everything works, and say nothing about autism."
_VOLUMES_NOTE = (
    "The volumes are deformed copies of the MNI152 template with planted lesions: the numbers show that everything "
    "works, and say nothing about real lesions."
)
_ATLASES = {"coarse": 24, "middle": 36, "fine": 48}
_SUBJECTS = 120


def demo(*, out: Path, overwrite: bool, resume: bool) -> None:
    """Cross-validate on synthetic connectomes (`out/abide`), brain volumes (`out/volume`), and frames (`out/run`)."""
    if out.is_dir() and (set(entry.name for entry in out.iterdir()) - {"data", "run", "abide", "volume"}):
        raise ConfigError(f"--out {out} holds other files than an earlier demo's. Choose another folder.")
    if out.is_dir() and any(out.iterdir()) and not (overwrite or resume):
        raise ConfigError(f"--out {out} is not empty. Add --resume to continue, --overwrite to start again.")
    _connectomes(out / "abide", overwrite=overwrite, resume=resume)
    _volumes(out / "volume", overwrite=overwrite, resume=resume)
    _frames(out, overwrite=overwrite, resume=resume)


def _connectomes(out: Path, *, overwrite: bool, resume: bool) -> None:
    from pipelines.abide import run_abide
    from pipelines.abide_data import prepare_folder
    from pipelines.abide_explain import explain

    say("Drawing synthetic scans of the resting brain.")
    write_synthetic_abide(out / "data", subjects=_SUBJECTS, regions=_ATLASES, effect=2.0)
    cohort = prepare_folder(out / "data", out / "cohort")
    run = out / "run"
    config = load_config("abide/demo", [f"data.manifest={cohort}"], model=AbideConfig)
    run_abide(
        config,
        run,
        resume=resume and run.is_dir(),
        overwrite=overwrite and run.is_dir(),
        notes=[_SCANS_NOTE],
    )
    explain(run=run, steps=16)


def _volumes(out: Path, *, overwrite: bool, resume: bool) -> None:
    from pipelines.volume import run_volume

    say("Scanning synthetic brains.")
    manifest = write_synthetic_volumes(out / "data")
    run = out / "run"
    run_volume(
        load_config("volume/demo", [f"data.manifest={manifest}"], model=VolumeConfig),
        run,
        resume=resume and run.is_dir(),
        overwrite=overwrite and run.is_dir(),
        notes=[_VOLUMES_NOTE],
    )


def _frames(out: Path, *, overwrite: bool, resume: bool) -> None:
    from pipelines.polyp import run_polyp

    say("Drawing synthetic colonoscopy frames.")
    manifest = write_synthetic_colonoscopy(out / "data")
    config = load_config("polyp/demo", [f"data.manifest={manifest}"])
    run = out / "run"
    run_polyp(
        config,
        run,
        resume=resume and run.is_dir(),
        overwrite=overwrite and run.is_dir(),
        accept=[],
        notes=[_NOTE],
    )
