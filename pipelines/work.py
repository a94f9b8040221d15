"""The verbs that all tasks have in the same form."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from medformer.errors import ConfigError


def train(*, task: str, config: Any, out: Path, resume: bool, overwrite: bool, accept: list[str]) -> None:
    """Train on a given split."""
    crossval(task=task, config=config, out=out, resume=resume, overwrite=overwrite, accept=accept)


def crossval(*, task: str, config: Any, out: Path, resume: bool, overwrite: bool, accept: list[str]) -> None:
    """Cross-validate by the scheme that the config names."""
    module, name = {
        "polyp": ("pipelines.polyp", "run_polyp"),
        "abide": ("pipelines.abide", "run_abide"),
        "volume": ("pipelines.volume", "run_volume"),
    }[task]
    getattr(import_module(module), name)(config, out, resume=resume, overwrite=overwrite, accept=accept)


def pretrain(*, task: str, config: Any, out: Path, resume: bool, overwrite: bool) -> None:
    """Pretrain an encoder without labels."""
    module = {"abide": "pipelines.abide", "volume": "pipelines.volume_pretrain"}[task]
    import_module(module).pretrain(config=config, out=out, resume=resume, overwrite=overwrite)


def check(
    *,
    task: str,
    data: Path,
    out: Path | None,
    accept: list[str],
    ungrouped: str,
    target: Literal["segmentation", "classification"] | None,
) -> None:
    """List what is wrong with the cases, and audit the split."""
    if task == "polyp":
        from pipelines import polyp_data

        polyp_data.check(manifest=data, out=out, accept=accept, ungrouped=ungrouped)
    elif task == "abide":
        from pipelines import abide_data

        abide_data.check(manifest=data, out=out)
    else:
        from pipelines import volume_data

        volume_data.check(data=data, out=out, target=target or "segmentation", accept=accept, ungrouped=ungrouped)


def predict_connectomes(
    *,
    run: Path,
    sources: list[Path],
    out: Path,
    overwrite: bool,
    resume: bool,
    pipeline: str,
    strategy: str,
    threshold: float | None,
    device: str,
) -> None:
    """Classify new subjects."""
    raise ConfigError("abide predict needs the predictor of a run.")
