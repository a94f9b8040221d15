"""The pretrained weights that a run starts from: decided once, recorded, and the same when it is resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medformer.config import AbideConfig, AnyConfig
from medformer.config.shared import AUTO
from medformer.crossval.run.directory import RunDirectory
from medformer.crossval.run.record import read_config
from medformer.crossval.run.start.seen import Seen
from medformer.crossval.run.start.source import KEY, Start, open_start
from medformer.errors import ConfigError
from medformer.files import digest, sha256
from medformer.models.networks.pretrained import settle_weights, with_weights
from medformer.models.weights.store import OWN, find_weights
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
    directory = RunDirectory(out, resumed=True)
    if resume and directory.is_run() and directory.config_yaml.is_file():
        begun = (read_config(directory).get("model") or {}).get("weights")
        model, note = with_weights(config.model, begun), ""
    elif start is not None:
        model, note = with_weights(config.model, start.record.weights), ""
    else:
        model, note = settle_weights(config.model)
    return config.model_copy(update={"model": model}), [note] if note else []


def seen_by_encoder(config: AnyConfig) -> Seen:
    """What the network has seen whose encoder `model.weights` names; nothing for published weights.

    Raises:
        ConfigError: It is of another task.
        CheckpointError: Its run does not say what it has seen.
    """
    name = getattr(config.model, "weights", None)
    if not name or find_weights(name).source is not OWN:
        return Seen()
    folder = find_weights(name).path.parent
    if folder.parent.name == "folds":
        return _opened(folder, config.task).record.seen
    return Seen(
        unknown=[
            "The encoder starts from a network of medformer that lies outside of its run, so that nobody can tell "
            "whether a case that is tested here was among those it was trained on."
        ]
    )


def _opened(path: Path, task: str) -> Start:
    try:
        return open_start(path, task)
    except ConfigError as error:
        raise ConfigError(str(error).replace(KEY, "model.weights")) from None


def weights_hashes(config: AnyConfig, start: Start | None = None) -> dict[str, str]:
    """SHA-256 of the files that training starts from, by config key."""
    if start is not None:
        return {KEY: start.record.sha256}
    found, encoder, folder = {}, getattr(config.model, "weights", None), config.pretraining.weights
    if encoder:
        found["model.weights"] = digest([find_weights(encoder).sha256])
    if folder:
        found["pretraining.weights"] = digest([sha256(file) for file in sorted(Path(folder).glob("*.safetensors"))])
    return found


def describe_weights(config: AnyConfig, start: Start | None = None) -> dict[str, Any]:
    """What the report says of the pretrained weights of the encoder, or of that of `start`; empty without any."""
    if start is not None:
        return dict(start.record.pretrained)
    name = getattr(config.model, "weights", None)
    return find_weights(name).record() if name else {}
