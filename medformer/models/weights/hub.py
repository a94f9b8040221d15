"""Fetching weights from the Hugging Face hub, which only `medformer weights get` asks for.

The hub is that of huggingface_hub; the variable HF_ENDPOINT names another one, such as a mirror in a hospital. A fetch
that was cut off goes on where it ended, also in a later call. What arrives is hashed before it gets its name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medformer.errors import CheckpointError, ConfigError, MedformerError, ResourceError, exhaustion
from medformer.files import digest, require_writable, sha256, write_json
from medformer.models.weights.store import RECORD, Weights, find_weights, place_of, read_fetched, without_network
from medformer.models.weights.table import Source, find_source
from medformer.tensor_file import read_metadata

_SHA256 = re.compile("[0-9a-f]{64}")
_PART = ".part"


def fetch(name: str, say: Callable[[str], None], *, revision: str = "main") -> Weights:
    """Put the weights of a name into the store, unless they are there, and record what they are.

    Args:
        name: Of the table, or of the installed timm.
        say: Receives a line of what is done.
        revision: Commit, branch or tag of the repository.

    Raises:
        ConfigError: No hub has the name, or the weights that are here are of another revision than the one asked for.
        CheckpointError: What arrived is not what the table or the hub says it is; nothing of it is kept.
        ResourceError: The hub cannot be reached, or the store not be written.
    """
    source = find_source(name)
    if source is None or (source.package and not place_of(name, source).is_file()):
        # Says which names there are, or which package to install.
        return find_weights(name)
    path = place_of(name, source)
    if not path.is_file():
        _download(name, source, path, say, revision)
        return find_weights(name)
    found, record = find_weights(name), read_fetched(path)
    if not source.package and record is None:
        _record(found, path)
        say(f"{path} was here without a record; its SHA-256 is recorded now.")
    elif source.package and revision != "main":
        raise ConfigError(f"{name} comes with the package {source.package}, which has one state. Leave --revision out.")
    elif revision not in ("main", found.revision):
        raise ConfigError(
            f"{name} is here in the revision {found.revision or 'not known'}; expected {revision}. Delete "
            f"{path.parent} and get it again, or set MEDFORMER_WEIGHTS to another folder."
        )
    return found


def _download(name: str, source: Source, path: Path, say: Callable[[str], None], revision: str) -> None:
    # The library tells the hub which packages are here, unless this is set before its import.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from filelock import FileLock, Timeout
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get

    require_writable(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    asked: dict[str, Any] = {"repo_id": source.repository, "filename": source.file, "endpoint": endpoint}
    try:
        with FileLock(path.parent / "lock", timeout=0), _network(name, source, endpoint):
            # Public files: no token of this machine is sent.
            about = get_hf_file_metadata(hf_hub_url(revision=revision, **asked), token=False, endpoint=endpoint)
            if not about.commit_hash or not about.etag:
                raise ResourceError(f"{endpoint} does not answer as a Hugging Face hub does. Check HF_ENDPOINT.")
            part = path.with_name(f"{source.file}.{digest(about.etag)[:16]}{_PART}")
            for other in path.parent.glob(f"*{_PART}"):
                if other != part or (about.size is not None and other.stat().st_size > about.size):
                    other.unlink()
            there = part.stat().st_size if part.exists() else 0
            size = f"{about.size / 1e6:.0f} MB" if about.size else "of unknown size"
            say(f"Fetching {name} from {endpoint}/{source.repository} ({size}{', going on' if there else ''}) ...")
            with open(part, "ab") as file:
                # The commit, so that all parts are of one file.
                url = hf_hub_url(revision=about.commit_hash, **asked)
                http_get(url, file, resume_size=there, expected_size=about.size)
                file.flush()
                os.fsync(file.fileno())
            _check(name, source, part, about.etag)
            weights = Weights(name, path, sha256(part), source, about.commit_hash)
            os.replace(part, path)
            _record(weights, path)
    except Timeout:
        raise ResourceError(f"Another command is fetching into {path.parent}. Wait for it to end.") from None


def _check(name: str, source: Source, part: Path, etag: str) -> None:
    """Refuse, and delete, what is not the file that it should be.

    Raises:
        CheckpointError: It has another hash, or is no file of weights.
    """
    found = sha256(part)
    # The hub names a large file by its hash.
    expected = source.sha256 or (etag if _SHA256.fullmatch(etag) else "")
    try:
        if expected and found != expected:
            raise CheckpointError(
                f"What arrived as {name} has the SHA-256 {found}; expected {expected}. It was damaged on its way or is "
                "another file. It was deleted; get it again, and if that does not help, ask who runs the hub."
            )
        if source.file.endswith(".safetensors"):
            read_metadata(part)
    except CheckpointError:
        part.unlink()
        raise


def _record(weights: Weights, path: Path) -> None:
    about = {**weights.record(), "file": path.name, "bytes": path.stat().st_size}
    write_json(path.with_name(RECORD), about)


@contextmanager
def _network(name: str, source: Source, endpoint: str) -> Iterator[None]:
    """Turn whatever the hub's library raises inside the block into an error that says what to do.

    Raises:
        ResourceError: Something went wrong between here and the hub, or the disk is full.
    """
    try:
        yield
    except MedformerError:
        raise
    except Exception as error:
        lack = exhaustion(error)
        if lack is not None:
            raise lack from error
        reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        raise ResourceError(
            f"{name} could not be fetched from {endpoint}/{source.repository} ({reason}). With a "
            f"network, run the same command again: it goes on from what has arrived. {without_network(name)}"
        ) from error
