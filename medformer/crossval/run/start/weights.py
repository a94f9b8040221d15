"""The pretrained weights that a run starts from: decided once, recorded, and the same when it is resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medformer.config import AbideConfig, AnyConfig
from medformer.config.shared import AUTO
from medformer.crossval.bundle import FOLDS
from medformer.crossval.run.directory import RunDirectory
from medformer.crossval.run.record import read_config
from medformer.crossval.run.start.seen import Seen
from medformer.crossval.run.start.source import KEY, Start, open_start
from medformer.errors import ConfigError
from medformer.files import digest, sha256
from medformer.models.networks.pretrained import resolve_weights, with_weights
from medformer.models.weights.store import OWN, Weights, find_weights
from medformer.training.job import WEIGHTS


def decide_weights(
    config: AnyConfig, out: Path, *, resume: bool, start: Start | None = None
) -> tuple[AnyConfig, list[str]]:
    """Decide what `model.weights` is for a run, which keeps it from then on: `auto`, or the folder of another run.

    Args:
        config: Of the run.
        out: Its folder.
        resume: Whether the run found there goes on: it keeps what it began with, whatever is on this machine.
        start: The network of another run that training starts from: it was built for the weights that it began with,
            which are not read again.

    Returns:
        The config with the name or the file, and what must be said before training and in the report.

    Raises:
        ConfigError: The config of the run that goes on was changed, or the folder is no run of this task.
    """
    if isinstance(config, AbideConfig):
        return config, []
    if config.model.weights and Path(config.model.weights).is_dir():
        network = _opened(Path(config.model.weights), config.task).folder / WEIGHTS
        return config.model_copy(update={"model": with_weights(config.model, str(network))}), []
    if config.model.weights != AUTO:
        return config, []
    directory, note = RunDirectory(out, resumed=True), ""
    if resume and directory.is_run() and directory.config_yaml.is_file():
        name = (read_config(directory).get("model") or {}).get("weights")
    elif start is not None:
        name = start.record.weights
    else:
        resolved, note = resolve_weights(config.model)
        name = resolved.weights
    # Levels that are kept as they are come from the other network, whatever that began with.
    model = with_weights(config.model, name) if start is None else config.model.model_copy(update={"weights": name})
    return config.model_copy(update={"model": model}), [note] if note else []


def seen_by_encoder(config: AnyConfig) -> Seen:
    """What the network has seen whose encoder `model.weights` names; nothing for published weights.

    Raises:
        ConfigError: It is of another task.
        CheckpointError: Its run does not say what it has seen.
    """
    weights = _named(config)
    if weights is None or weights.source is not OWN:
        return Seen()
    fold = _its_fold(weights, config.task)
    if fold is not None:
        return fold.record.seen
    return Seen(
        unknown=[
            "The encoder starts from a network of medformer that lies outside of its run, so that nobody can tell "
            "whether a case that is tested here was among those it was trained on."
        ]
    )


def _named(config: AnyConfig) -> Weights | None:
    name = getattr(config.model, "weights", None)
    return find_weights(name) if name else None


def _its_fold(weights: Weights, task: str) -> Start | None:
    """The fold that a network of ours lies in; None where it was copied out of its run."""
    folder = weights.path.resolve().parent
    return _opened(folder, task) if folder.parent.name == FOLDS else None


def _opened(path: Path, task: str) -> Start:
    try:
        return open_start(path, task)
    except ConfigError as error:
        raise ConfigError(str(error).replace(KEY, "model.weights")) from None


def weights_hashes(config: AnyConfig, start: Start | None = None) -> dict[str, str]:
    """SHA-256 of the files that training starts from, by config key."""
    if start is not None:
        return {KEY: start.record.sha256}
    found, encoder, folder = {}, _named(config), config.pretraining.weights
    if encoder is not None:
        found["model.weights"] = digest([encoder.sha256])
    if folder:
        found["pretraining.weights"] = digest([sha256(file) for file in sorted(Path(folder).glob("*.safetensors"))])
    return found


def describe_weights(config: AnyConfig, start: Start | None = None) -> dict[str, Any]:
    """What the report says of the pretrained weights of the encoder, or of that of `start`; empty without any."""
    if start is not None:
        return dict(start.record.pretrained)
    weights = _named(config)
    if weights is None:
        return {}
    found = weights.record()
    fold = _its_fold(weights, config.task) if weights.source is OWN else None
    if fold is not None and fold.record.pretrained:
        # Whose license holds does not end with a training.
        before = fold.record.pretrained
        found |= {"data": f"{before.get('data')}, then {found['data']}", "license": before.get("license")}
    return found
