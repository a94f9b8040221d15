"""The demo: the main job from data to report on synthetic images, with nothing to download."""

from __future__ import annotations

from pathlib import Path

from medformer.config_loading import load_config
from medformer.data.synthetic.colonoscopy import write_synthetic_colonoscopy
from medformer.errors import ConfigError
from pipelines.console import say

_NOTE = "The images are synthetic: the numbers show that everything works, and say nothing about real colonoscopy."


def demo(*, out: Path, overwrite: bool, resume: bool) -> None:
    """Draw synthetic colonoscopy frames below `out/data` and cross-validate on them in `out/run`."""
    from pipelines.polyp import run_polyp

    if out.is_dir() and (set(entry.name for entry in out.iterdir()) - {"data", "run"}):
        raise ConfigError(f"--out {out} holds other files than an earlier demo's. Choose another folder.")
    if out.is_dir() and any(out.iterdir()) and not (overwrite or resume):
        raise ConfigError(f"--out {out} is not empty. Add --resume to continue, --overwrite to start again.")
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
