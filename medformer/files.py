"""Atomic writes: a reader sees the old file or the new one, never half of either; and where shipped files lie.

The shipped configs and manifests lie beside the packages in a clone, and inside them in an installed wheel.
"""

from __future__ import annotations

import csv
import errno
import hashlib
import json
import math
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from io import StringIO
from pathlib import Path
from typing import Any

from medformer.errors import DamagedFileError, DataError, ResourceError, write_advice

_TEMPORARY = re.compile(r"\.medformer-tmp-\d+-[0-9a-f]{16}-.*|\.tmp\w{6}", re.DOTALL)

before_replacing: list[Callable[[Path], None]] = []
"""What is told of every file before it takes its name, and may refuse: see `medformer.crossval.run.outputs`."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success flush it to disk and rename it over `path`.

    The temporary name keeps the suffix, because writers choose their format by it. The file gets the permissions that
    the umask gives, also from a writer that puts a file of its own there, as safetensors does with one for the owner
    alone.

    Raises:
        ResourceError: The folder is not writable or the disk is full. Whatever stood at `path` before
            is untouched.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # No case can have this name: names of exported files do not begin with a dot (`medformer.names`).
        name = f".medformer-tmp-{os.getpid()}-{secrets.token_hex(8)}-{path.stem[:40]}{path.suffix[:20]}"
        temporary = path.parent / name
        handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        mode = stat.S_IMODE(os.fstat(handle).st_mode)
        os.close(handle)
        yield temporary
        # Some file systems refuse every change of permissions, so that none is asked for without need.
        if stat.S_IMODE(temporary.stat().st_mode) != mode:
            temporary.chmod(mode)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        for told in before_replacing:
            told(path)
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise ResourceError(
            f"Could not write {path}: {error.strerror or error}. "
            f"{write_advice(error)}; nothing written earlier is lost."
        ) from error
    finally:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink()


def require_writable(path: Path) -> None:
    """See whether a file or folder can be made or replaced, before any work is done for it.

    Raises:
        ResourceError: It cannot: its folder is a file, its name is too long, or permission is lacking.
    """
    try:
        with suppress(FileNotFoundError):
            os.lstat(path)
        there = next(place for place in (path, *Path(path).absolute().parents) if os.path.lexists(place))
        if not os.access(there, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(there))
    except OSError as error:
        raise ResourceError(f"Could not write {path}: {error.strerror or error}. {write_advice(error)}.") from error


def is_temporary(name: str) -> bool:
    """Whether a file name is one that `atomic_path`, or safetensors below it, gives to a half-written file."""
    return _TEMPORARY.fullmatch(name) is not None


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write UTF-8 text to `path` atomically; bytes of a file's name that are not UTF-8 are written as codes."""
    write_bytes(path, content.encode("utf-8", "backslashreplace"))


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically, keys in the given order; see `strict_json` for what becomes of other values."""
    write_text(path, json.dumps(strict_json(content), indent=2, allow_nan=False) + "\n")


def strict_json(content: Any) -> Any:
    """Return content as strict JSON reads it back: string keys, lists, and null for NaN and infinity."""
    if isinstance(content, float) and not math.isfinite(content):
        return None
    if isinstance(content, Mapping):
        return {str(key): strict_json(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [strict_json(value) for value in content]
    if isinstance(content, Path):
        return str(content)
    return content


def read_json(path: Path, *, finite: bool = False) -> Any:
    """Read a UTF-8 JSON file (a byte-order mark is tolerated).

    Args:
        path: The file.
        finite: Refuse NaN and infinity, which JSON does not have but Python reads.

    Raises:
        OSError: The file is missing or cannot be read.
        DamagedFileError: It is not JSON, or nested as no file of ours is.
    """
    numbers: dict[str, Any] = {"parse_constant": _finite, "parse_float": _finite} if finite else {}
    try:
        return json.loads(Path(path).read_text("utf-8-sig"), **numbers)
    except RecursionError:
        raise DamagedFileError(f"{path} is no JSON file of ours: it is nested too deeply.") from None
    except ValueError as error:
        raise DamagedFileError(f"{path} is not complete JSON: {error}.") from None


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"it holds {text}, expected finite numbers")
    return number


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Write rows atomically, columns in the given order, LF line ends, floats with `repr` (round-trips exactly)."""
    buffer = StringIO()
    writer = csv.DictWriter(buffer, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, buffer.getvalue())


def read_csv(path: Path) -> list[dict[str, str]]:
    """Read a UTF-8 CSV file (a byte-order mark is tolerated) as one dictionary of strings per row.

    Raises:
        OSError: The file is missing or cannot be read.
        DamagedFileError: It is no table, or a row has more or fewer cells than the header.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (csv.Error, ValueError) as error:
        raise DamagedFileError(f"{path} is not a readable CSV table: {error}.") from None
    ragged = next((number for number, row in enumerate(rows, start=2) if None in row or None in row.values()), None)
    if ragged is not None:
        raise DamagedFileError(f"{path} has more or fewer cells than its header in line {ragged}.")
    return rows


def walk(
    folder: Path, *, leave_out: Callable[[Path], bool] = lambda folder: False
) -> Iterator[tuple[Path, list[Path]]]:
    """Give a folder and every folder below it, each with its files in the order of their names.

    Hidden files and folders are skipped. Links to folders are followed; a folder that can be reached in several ways,
    or that contains a link to itself, is entered once.

    Args:
        folder: Where to begin.
        leave_out: Says of a folder below that it is not to be entered.

    Raises:
        DataError: A folder cannot be listed.
    """
    waiting, entered = [folder], set()
    while waiting:
        place = waiting.pop()
        try:
            if (real := place.resolve()) in entered:
                continue
            entered.add(real)
            entries = sorted(entry for entry in place.iterdir() if not entry.name.startswith("."))
            folders = [entry for entry in entries if entry.is_dir()]
        except OSError as error:
            raise DataError(
                f"The folder {place} cannot be listed ({error.strerror}); expected one that this user may read. "
                "Change its access, or leave it out."
            ) from error
        yield place, [entry for entry in entries if entry not in folders]
        wanted = [entry for entry in folders if not leave_out(entry)]
        # The last one is entered next: real folders before links, in the order of their names.
        waiting += sorted(wanted, key=lambda entry: (entry.is_symlink(), entry), reverse=True)


_NO_FILE = {
    stat.S_IFDIR: "is a folder",
    stat.S_IFIFO: "is a named pipe",
    stat.S_IFSOCK: "is a socket",
    stat.S_IFCHR: "is a device",
    stat.S_IFBLK: "is a device",
}


def file_fault(path: Path) -> str:
    """Why a path cannot be read as a file, such as `does not exist` or `is a folder`; empty where it can.

    Nothing is opened, because to open a named pipe is to wait for its other end.
    """
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return f"does not exist: it is a link to {os.readlink(path)}" if path.is_symlink() else "does not exist"
    except PermissionError:
        return "lies in a folder that this user may not enter"
    except OSError as error:
        return (
            "is a link that leads to itself" if error.errno == errno.ELOOP else f"cannot be reached ({error.strerror})"
        )
    except ValueError:
        return "is no name of a file"
    if kind != stat.S_IFREG:
        return _NO_FILE.get(kind, "is no regular file")
    return "" if os.access(path, os.R_OK) else "may not be read by this user"


def files_below(folder: Path) -> list[Path]:
    """Every file that `walk` gives, in the order of the paths."""
    return sorted(file for _, files in walk(folder) for file in files)


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal.

    Raises:
        OSError: It cannot be read, or is no regular file.
    """
    fault = file_fault(path)
    if fault.startswith("is "):
        raise OSError(errno.EINVAL, fault, str(path))
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(content: Any) -> str:
    """SHA-256 of a JSON-able object, independent of key order."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


_PACKAGE = Path(__file__).resolve().parent


def configs_dir() -> Path:
    """Return the folder of the shipped YAML configs.

    Raises:
        ResourceError: The installation lacks it.
    """
    return _find("configs")


def manifests_dir() -> Path:
    """Return the folder of the shipped manifests and named splits.

    Raises:
        ResourceError: The installation lacks it.
    """
    return _find("data_manifests")


def _find(name: str, package: Path = _PACKAGE) -> Path:
    inside = package / "_resources" / name
    if inside.is_dir():
        return inside
    # Next to a wheel's packages stands whatever else is installed; only a source tree also has the project file.
    clone = package.parent
    if (clone / "pyproject.toml").is_file() and (clone / name).is_dir():
        return clone / name
    raise ResourceError(
        f"The folder '{name}' that ships with medformer is missing: looked for {inside} and {clone / name}. "
        "Install the package again, or run it from a complete clone."
    )
