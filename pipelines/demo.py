"""The demo: the main jobs from data to report on synthetic cases, with nothing to download."""

from __future__ import annotations

from pathlib import Path

from medformer.config import SCHEMAS
from medformer.config_loading import load_config
from medformer.crossval.run.outputs import has_format
from medformer.data.synthetic.abide import write_synthetic_abide
from medformer.errors import ConfigError
from medformer.files import require_writable, write_json

from .abide import explain, prepare_folder
from .console import say
from .work import crossval

_NOTES = {
    "abide": "The scans are synthetic: the numbers show that everything works, and say nothing about autism.",
    "volume": "The volumes are deformed copies of the MNI152 template with planted lesions: the numbers show that "
    "everything works, and say nothing about real lesions.",
    "polyp": "The images are synthetic: the numbers show that everything works, and say nothing about real "
    "colonoscopy.",
}
_ATLASES = {"coarse": 24, "middle": 36, "fine": 48}
_SUBJECTS = 120
_MARK = "demo.json"
_FORMAT = "medformer-demo/1"


def demo(*, out: Path, overwrite: bool, resume: bool) -> None:
    """Cross-validate on synthetic connectomes (`out/abide`), brain volumes (`out/volume`), and frames (`out/run`)."""
    from medformer.data.synthetic.brain_volumes import write_synthetic_volumes
    from medformer.data.synthetic.colonoscopy import write_synthetic_colonoscopy

    require_writable(out)
    there = {entry.name for entry in out.iterdir()} if out.is_dir() else set()
    if there and (not has_format(out / _MARK, _FORMAT) or there - {_MARK, "data", "run", "abide", "volume"}):
        raise ConfigError(f"--out {out} holds other files than an earlier demo's. Choose another folder.")
    if there and not (overwrite or resume):
        raise ConfigError(f"--out {out} is not empty. Add --resume to continue, --overwrite to start again.")
    write_json(out / _MARK, {"format": _FORMAT})

    def run(task: str, manifest: Path, folder: Path) -> None:
        config = load_config(f"{task}/demo", [f"data.manifest={manifest}"], model=SCHEMAS[task])
        there = folder.is_dir()
        crossval(
            task=task,
            config=config,
            out=folder,
            resume=resume and there,
            overwrite=overwrite and there,
            notes=[_NOTES[task]],
        )

    say("Drawing synthetic scans of the resting brain.")
    write_synthetic_abide(out / "abide" / "data", subjects=_SUBJECTS, regions=_ATLASES, effect=2.0)
    cohort = prepare_folder(out / "abide" / "data", out / "abide" / "cohort", overwrite=True)
    run("abide", cohort, out / "abide" / "run")
    explain(run=out / "abide" / "run", steps=16)
    say("Scanning synthetic brains.")
    run("volume", write_synthetic_volumes(out / "volume" / "data"), out / "volume" / "run")
    say("Drawing synthetic colonoscopy frames.")
    run("polyp", write_synthetic_colonoscopy(out / "data"), out / "run")
