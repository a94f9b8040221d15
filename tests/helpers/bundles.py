"""For tests of what may be passed on: a bundle far from its run, and a search through every byte for names."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from medformer.crossval.plan import read_plan
from medformer.files import read_json

Medformer = Callable[..., Any]


def moved_bundle(medformer: Medformer, run: Path, folder: Path, *options: object) -> Path:
    """Export a copy of a run, remove the copy, and move the bundle elsewhere."""
    copy = shutil.copytree(run, folder / "copy" / run.name)
    result = medformer("export", copy, "--out", folder / "copy" / "bundle", *options)
    assert result.code == 0, result.err
    shutil.rmtree(copy)
    return Path(shutil.move(folder / "copy" / "bundle", folder / "elsewhere"))


def private_names(run: Path) -> set[str]:
    """Every name of a case, patient and site of a run, its paths, and the machine that made it."""
    record, cases = read_json(run / "run.json"), read_plan(run / "splits.json").cases
    names = {name for case in cases for name in (case.id, case.group, case.site)}
    names |= {str(run), record["manifest"], record["data_root"], str(Path.home())}
    return {name for name in names if name} | {name for name in [socket.gethostname()] if len(name) > 5}


def told(files: Iterable[Path], names: Iterable[str]) -> list[str]:
    """The names that files hold in any of their bytes, as text or as JSON writes it, or in their own names."""
    found = []
    for file in files:
        content = file.read_bytes()
        for name in names:
            spelled = {name, json.dumps(name)[1:-1], json.dumps(json.dumps(name))[3:-3]}
            if any(text.encode() in content for text in spelled) or name in file.name:
                found.append(f"{file.name}: {name}")
    return found


def folders_told(run: Path) -> list[str]:
    """The folders, and the name of the machine, that the report and the model card of a run hold."""
    machine = {name for name in [socket.gethostname()] if len(name) > 5}
    names = {name for name in private_names(run) if Path(name).is_absolute()} | machine
    return told([run / "report.html", run / "model_card.md"], names)


def files_of(folder: Path) -> list[Path]:
    """Every file below a folder, hidden ones too."""
    return [file for file in folder.rglob("*") if file.is_file()]
