"""run.json: what ran, on what, with what, when, and how it ended."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

import medformer
from medformer.config import SCHEMAS
from medformer.crossval.run.directory import FORMAT, RunDirectory
from medformer.errors import CheckpointError, ConfigError, InterruptedRun, MedformerError
from medformer.files import digest, sha256, strict_json, write_json, write_text
from medformer.progress import now
from medformer.tensor_file import count_floating
from medformer.yaml_files import dump_yaml, read_yaml

PACKAGES = (
    "torch",
    "torchvision",
    "monai",
    "timm",
    "segmentation-models-pytorch",
    "lightning-fabric",
    "albumentations",
    "scikit-learn",
    "nilearn",
    "numpy",
    "scipy",
    "pillow",
)

_SHOWN = 10

State = Literal["running", "done", "failed", "interrupted"]


@dataclass(frozen=True)
class RunInfo:
    """What the caller knows about a run before it starts.

    Attributes:
        task: `polyp`, `abide` or `volume`.
        command: The command line, word by word.
        config: The resolved config.
        seed: The run's seed.
        device: In words, e.g. `"cpu"` or `"cuda: NVIDIA H100"`.
        threads: Processor threads that a fold computes with; another number may change the last digits.
        manifest: Path of the manifest.
        data_root: The folder that the manifest's paths are relative to.
        data_sha256: Hash over the cases.
        accepted_leaks: Leaks that the user accepted by name.
        notes: What a reader of the report must know about the data, e.g. that they are synthetic.
        weights: SHA-256 of the weights that training starts from, by the config key that names their file or folder.
        pretrained: What is known of the encoder's pretrained weights: name, data, license, normalization.
    """

    task: str
    command: Sequence[str]
    config: Mapping[str, Any]
    seed: int
    device: str
    threads: int = 1
    manifest: str = ""
    data_root: str = ""
    data_sha256: str = ""
    accepted_leaks: Sequence[str] = ()
    notes: Sequence[str] = ()
    weights: Mapping[str, str] = field(default_factory=dict)
    pretrained: Mapping[str, Any] = field(default_factory=dict)


def start(run: RunDirectory, info: RunInfo, *, may_differ: Collection[str] = ()) -> str:
    """Write config.yaml and run.json, or append a session to the run.json of a resumed run.

    Args:
        run: The folder, created.
        info: What is about to run.
        may_differ: Dotted config keys that a resumed run may change, because they do not change results.

    Returns:
        How the code differs from that of the session before; empty when it does not.

    Raises:
        ConfigError: A resumed run has another config; lists the keys that differ.
    """
    session, changes = _session(info), ""
    if run.resumed:
        record = run.record()
        if record["task"] != info.task:
            raise ConfigError(
                f"--resume: {run.path} is a run of the task {record['task']}. Continue it with medformer "
                f"{record['task']}, or start a new run in another folder."
            )
        # A kill may have come between run.json and config.yaml.
        if run.config_yaml.exists() or record["config_sha256"] != digest(strict_json(info.config)):
            _check_config(run, info.config, may_differ)
        changed = [key for key, found in record.get("weights", {}).items() if info.weights.get(key) != found]
        if changed:
            raise ConfigError(
                f"--resume: the weights that {' and '.join(changed)} names are not those that {run.path} was started "
                "with. Restore them, or start a new run in another folder."
            )
        changes = _changed_code(record["sessions"], session)
        record["notes"] += [changes] if changes and changes not in record["notes"] else []
        record["sessions"].append(session)
        record["accepted_leaks"] = sorted({*record["accepted_leaks"], *info.accepted_leaks})
    else:
        record = {
            "format": FORMAT,
            "task": info.task,
            "seed": info.seed,
            "config_sha256": digest(strict_json(info.config)),
            "data_sha256": info.data_sha256,
            "weights": dict(info.weights),
            "pretrained": dict(info.pretrained),
            "manifest": info.manifest,
            "data_root": info.data_root,
            "accepted_leaks": sorted(info.accepted_leaks),
            "notes": list(info.notes),
            "state": "running",
            "reason": "",
            "sessions": [session],
        }
    # run.json comes first: it is what makes the folder recognizable as a run after a kill.
    write_json(run.run_json, {**record, "state": "running", "reason": ""})
    if not run.config_yaml.exists():
        write_text(run.config_yaml, dump_yaml(strict_json(info.config)))
    return changes


def finish(run: RunDirectory, state: State, reason: str = "") -> None:
    """Record how the last session ended and let other processes write to the folder."""
    try:
        record = run.record()
        end = {"state": state, "reason": reason}
        with suppress(CheckpointError):
            # A report says it, and must not need the weights.
            record["parameters"] = count_floating(run.fold(0) / "model.safetensors")
        record["sessions"][-1].update(end, finished=now())
        write_json(run.run_json, {**record, **end})
    finally:
        run.release()


@contextmanager
def session(run: RunDirectory, info: RunInfo, *, may_differ: Collection[str] = ()) -> Iterator[str]:
    """Run the body between `start` and `finish`; the exit state follows from the exception, which is passed on.

    Gives what `start` returned.
    """
    try:
        changes = start(run, info, may_differ=may_differ)
    except BaseException:
        run.release()
        raise
    try:
        yield changes
    except BaseException as error:
        # A full disk may be the very reason; it must not hide behind a second error.
        with suppress(MedformerError):
            finish(
                run, "interrupted" if isinstance(error, (InterruptedRun, KeyboardInterrupt)) else "failed", why(error)
            )
        raise
    finish(run, "done")


def why(error: BaseException) -> str:
    """The reason that is written down for an error: its message, with its type where it is not one of ours."""
    if isinstance(error, KeyboardInterrupt):
        return "stopped by Ctrl-C or SIGTERM"
    return str(error) if isinstance(error, MedformerError) else f"{type(error).__name__}: {error}"


def installed_versions() -> dict[str, str]:
    """Versions of Python, medformer and the packages that results depend on."""
    versions = {"python": platform.python_version(), "medformer": medformer.__version__}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def _session(info: RunInfo) -> dict[str, Any]:
    return {
        "started": now(),
        "finished": None,
        "state": "running",
        "reason": "",
        "command": list(info.command),
        "device": info.device,
        "threads": info.threads,
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "host": socket.gethostname(),
        "versions": installed_versions(),
        **source_code(),
    }


def source_code() -> dict[str, str]:
    """A hash over the files of this package, and the commit that a clone is at."""
    package = Path(medformer.__file__).parent
    files = {str(file.relative_to(package)): sha256(file) for file in sorted(package.rglob("*.py"))}
    commit = ""
    if (package.parent / ".git").exists():
        asked = ["git", "-C", str(package.parent), "rev-parse", "HEAD"]
        with suppress(OSError, subprocess.SubprocessError):
            commit = subprocess.run(asked, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    return {"source_sha256": digest(files), "commit": commit}


def _changed_code(sessions: Sequence[Mapping[str, Any]], now: Mapping[str, Any]) -> str:
    before = sessions[-1] if sessions else {}
    was, versions = before.get("versions") or {}, now["versions"]
    changed = [
        f"{name} {was[name]}, now {versions[name]}"
        for name in versions
        if was.get(name, "") not in ("", versions[name])
    ]
    if before.get("source_sha256", now["source_sha256"]) != now["source_sha256"]:
        changed.append(f"medformer's own files, from {_short(before)} to {_short(now)}")
    if not changed:
        return ""
    return (
        f"The code changed between two sessions of this run ({'; '.join(changed)}), so its folds may differ in "
        "more than their cases."
    )


def _short(session: Mapping[str, Any]) -> str:
    return str(session.get("commit") or session.get("source_sha256"))[:12]


def read_config(run: RunDirectory) -> dict[Any, Any]:
    """Read config.yaml of a run, as the run wrote it.

    Raises:
        ConfigError: It is missing, damaged, or was changed.
    """
    advice = "Restore the file from a copy, or start a new run in another folder."
    try:
        content = read_yaml(run.config_yaml)
    except ConfigError as error:
        raise ConfigError(f"{error} {advice}") from error
    recorded = run.record()["config_sha256"]
    if recorded and digest(content) != recorded:
        raise ConfigError(
            f"{run.config_yaml} was changed after the run wrote it: its networks were trained with other settings. "
            f"{advice}"
        )
    return content


def _check_config(run: RunDirectory, config: Mapping[str, Any], may_differ: Collection[str]) -> None:
    before = _flat(_completed(read_config(run)))
    after = _flat(strict_json(config))
    missing = "(not set)"
    changed = [
        f"{key}: {before.get(key, missing)} before, {after.get(key, missing)} now"
        for key in sorted({*before, *after})
        if before.get(key, missing) != after.get(key, missing) and key not in may_differ
    ]
    if changed:
        more = f"; and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
        raise ConfigError(
            f"--resume: the config differs from the one {run.path} was started with "
            f"({'; '.join(changed[:_SHOWN])}{more}). "
            "Resume with the same config, or start a new run in another folder."
        )


def _completed(config: dict[Any, Any]) -> Any:
    """Add the keys that the config of an older run lacks: their defaults mean what its code did."""
    schema = SCHEMAS.get(str(config.get("task")))
    try:
        return config if schema is None else strict_json(schema.model_validate(config).model_dump(mode="json"))
    except ValidationError:
        return config


def _flat(config: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(config, Mapping):
        return {prefix: config}
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat.update(_flat(value, f"{prefix}.{key}" if prefix else str(key)))
    return flat
