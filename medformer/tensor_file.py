"""Safetensors files with JSON metadata: tensors and plain values, nothing that can execute."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from medformer.errors import CheckpointError, ResourceError
from medformer.files import atomic_path

if TYPE_CHECKING:
    # What asks a file about itself does without it.
    from torch import Tensor

_KEY = "medformer"

_PICKLE = "It was not opened, because a pickle can run code; convert it where you trust it."

_OTHER_FORMATS = (
    (b"PK\x03\x04", "a zip archive, which is how torch.save writes pickles", _PICKLE),
    (b"\x80", "a Python pickle", _PICKLE),
    (b"\x89HDF", "an HDF5 file (Keras weights)", "Convert it first."),
    (b"\x1f\x8b", "a gzip archive", "Unpack it first."),
    (b"version https://git-lfs", "a Git LFS pointer", "Fetch the file that it stands for with `git lfs pull`."),
)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write tensors and JSON-able metadata atomically.

    Raises:
        ResourceError: The disk is full or the folder not writable; what stood at `path` is untouched.
    """
    from safetensors.torch import save_file

    content = _independent(tensors)
    with atomic_path(path) as temporary:
        try:
            save_file(content, temporary, {_KEY: json.dumps(metadata)})
        except SafetensorError as error:
            raise ResourceError(
                f"Could not write {path}: {error}. Free some space or choose a folder that you may write to; "
                "nothing written earlier is lost."
            ) from error


def read_tensors(path: Path, ending: str = "") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read every tensor (on the CPU), or those whose name ends so, and the metadata.

    Raises:
        CheckpointError: The file is missing, truncated, or of another format than its name says.
    """
    try:
        return _read(path, ending)
    except CheckpointError:
        # An interruption inside of safetensors comes out as an error of the file, which then reads well.
        _read(path, ending)
        raise KeyboardInterrupt from None


def _read(path: Path, ending: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with _opened(path) as file:
        names = [name for name in file.keys() if name.endswith(ending)]  # noqa: SIM118
        # The clone detaches tensors from the mapped file, which may be replaced while they live.
        return {name: file.get_tensor(name).clone() for name in names}, _metadata(file.metadata())


def read_metadata(path: Path) -> dict[str, Any]:
    """Read the metadata alone: what a file says of itself before any weight is loaded.

    Raises:
        CheckpointError: As `read_tensors`.
    """
    with _opened(path) as file:
        return _metadata(file.metadata())


def count_floating(path: Path) -> int:
    """Count the floating-point values of all tensors, without reading them.

    Raises:
        CheckpointError: As `read_tensors`.
    """
    with _opened(path) as file:
        slices = [file.get_slice(name) for name in file.keys()]  # noqa: SIM118
        return sum(math.prod(part.get_shape()) for part in slices if part.get_dtype().startswith(("F", "BF")))


def copy_tensors(path: Path, target: Path, keep: Iterable[str] = ()) -> None:
    """Copy a file without its metadata, except for some of its keys.

    Raises:
        CheckpointError: As `read_tensors`.
        ResourceError: As `write_tensors`.
    """
    tensors, metadata = read_tensors(path)
    write_tensors(target, tensors, {key: metadata[key] for key in keep if key in metadata})


def check_format(path: Path) -> None:
    """Make sure that a file can be a safetensors file, judged by its first bytes.

    Raises:
        CheckpointError: It is missing, empty, or begins like another known format.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(64)
    except OSError as error:
        raise CheckpointError(
            f"Cannot read {path}: {error.strerror}. Expected a .safetensors file; check the path, or train first."
        ) from error
    # Safetensors begin with the length of a JSON header, whose bytes can be any, a pickle's mark among them.
    if head[8:9] == b"{":
        return
    for magic, meaning, advice in _OTHER_FORMATS:
        if head.startswith(magic):
            raise CheckpointError(f"{path} is {meaning}, whatever its name says; expected safetensors. {advice}")
    if len(head) < 8:
        raise _damaged(path, f"it has only {len(head)} bytes")


def name_some(names: Iterable[str], limit: int = 5) -> str:
    """Return `12 (a, b, c, ...)`: how many names there are, and the first few."""
    listed = list(names)
    more = ", ..." if len(listed) > limit else ""
    return f"{len(listed)} ({', '.join(listed[:limit])}{more})" if listed else "0"


def describe_difference(found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> str:
    """Say how two tables of tensor shapes differ; empty when they do not."""
    missing = [name for name in expected if name not in found]
    surplus = [name for name in found if name not in expected]
    reshaped = [
        f"{name}: {found[name]} instead of {shape}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    if not (missing or surplus or reshaped):
        return ""
    return f"missing {name_some(missing)}; unexpected {name_some(surplus)}; other shape {name_some(reshaped)}"


def shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor by name."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _independent(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Detach, move to the CPU, and give tensors that share memory (tied weights) a copy of their own."""
    seen: set[int] = set()
    result: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        plain = tensor.detach().to("cpu").contiguous()
        if plain.numel() and plain.untyped_storage().data_ptr() in seen:
            plain = plain.clone()
        seen.add(plain.untyped_storage().data_ptr())
        result[name] = plain
    return result


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a file whose format was checked; what goes wrong while it is read is a `CheckpointError`."""
    check_format(path)
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, ValueError) as error:
        raise _damaged(path, error) from error


def _metadata(raw: Mapping[str, str] | None) -> dict[str, Any]:
    try:
        loaded = json.loads((raw or {}).get(_KEY, "{}"))
    except RecursionError:
        raise ValueError("its metadata is nested too deeply") from None
    if not isinstance(loaded, dict):
        raise ValueError("its metadata is not a table")
    return loaded


def _damaged(path: Path, reason: object) -> CheckpointError:
    return CheckpointError(
        f"{path} is not a complete safetensors file ({reason}): it was cut off, damaged, or is something else. "
        "Copy it again from its source, or delete it and train again."
    )
