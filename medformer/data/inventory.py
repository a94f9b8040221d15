"""The inventory: each case is read, hashed, checked and described once, and the result is kept on disk.

The next pass compares each file's size, times and inode with those of the pass before. A file that differs in these is
hashed, and its case is described again only when the content is another one. Nothing else is opened.

The cache is a folder of numbered parts for each of the settings that cases were described with. Of each part,
`<settings>.<number>.npz` holds the arrays and the JSON file beside it, which is written later, all the rest. A long
pass writes a part every few seconds, so that an interrupted pass continues where it stopped; a complete pass leaves
one part. A damaged part counts as absent.
"""

from __future__ import annotations

import stat
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medformer.data.cases import Case, image_hash
from medformer.data.problems import REASONS, Problem
from medformer.errors import DataError
from medformer.files import atomic_path, digest, read_json, sha256, strict_json, write_json
from medformer.progress import Reporter, SilentReporter

FORMAT = "medformer-inventory/1"

_SAVE_SECONDS = 10.0
"""How much work an interruption may lose."""

_DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True, eq=False)
class Record:
    """What is known of one case.

    Attributes:
        id: The case.
        problems: Everything that is wrong with the case by itself.
        hashes: SHA-256 by kind, such as `file` (see `image_hash`), `mask` and `pixels`; a kind is absent where the case
            could not be read that far.
        facts: Plain data by name.
        arrays: By name, such as the `descriptor` that near-duplicates are found by.
    """

    id: str
    problems: tuple[Problem, ...] = ()
    hashes: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def array(self, name: str) -> NDArray[Any]:
        """One of the arrays.

        Raises:
            DataError: The case could not be read, and the message says why.
        """
        if name not in self.arrays:
            reasons = "; ".join(problem.detail for problem in self.problems if problem.severity == "error")
            raise DataError(f"Case '{self.id}' cannot be used: {reasons or f'it has no {name}'}")
        return self.arrays[name]


class Inventory(Mapping[str, Record]):
    """The records of all cases by id, in the order of the manifest."""

    def __init__(self, records: Iterable[Record]) -> None:
        self._records = {record.id: record for record in records}

    def __getitem__(self, case_id: str) -> Record:
        return self._records[case_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)

    @property
    def problems(self) -> list[Problem]:
        """What is wrong with each case by itself, in order."""
        return [problem for record in self.values() for problem in record.problems]

    def arrays(self, name: str) -> dict[str, NDArray[Any]]:
        """One array of every case, by id.

        Raises:
            DataError: A case could not be read.
        """
        return {case_id: record.array(name) for case_id, record in self.items()}


def case_files(case: Case) -> dict[str, tuple[Path, ...]]:
    """The files that a description reads, by the kind of hash that identifies their content: `file` and `mask`."""
    return {"file": case.images, "mask": () if case.mask is None else (case.mask,)}


def take_inventory(
    cases: Sequence[Case],
    describe: Callable[[Case], Record],
    *,
    files: Callable[[Case], Mapping[str, Sequence[Path]]] = case_files,
    cache: Path | None = None,
    settings: Any = None,
    workers: int = 1,
    reporter: Reporter | None = None,
) -> Inventory:
    """Describe every case, or recall what an earlier pass found.

    Args:
        cases: What to describe.
        describe: Reads the files of one case. What it finds may depend on the contents of these files, on whether they
            have the hashes that the manifest expects, and on `settings`; the case's id may appear only as `Record.id`
            and `Problem.case_id`.
        files: The files that `describe` reads, by the kind of hash that identifies their content. A folder (a DICOM
            series) counts as all the files in it.
        cache: Folder that keeps the results, for each of the settings; None to keep nothing.
        settings: Plain data that identifies `describe`: its version, and all parameters that change what it finds.
        workers: Cases that are read at once.
        reporter: Receives one step per case.

    Returns:
        A record per case. Facts and arrays are the same whether they were found now or by an earlier pass.

    Raises:
        ResourceError: The cache cannot be written.
    """
    reporter = reporter or SilentReporter()
    parts = None if cache is None else _Parts(cache, digest([FORMAT, settings]))
    known = {} if parts is None else parts.read()
    found: dict[str, _Entry] = {}
    unsaved: dict[str, _Entry] = {}
    records: list[Record] = []
    saved = monotonic()
    pool = ThreadPoolExecutor(workers)
    try:
        inspected = pool.map(lambda one: _inspect(one, describe, files, known), cases)
        tracked = reporter.track(inspected, "inspecting", len(cases))
        for case, (key, entry) in zip(cases, tracked, strict=True):
            records.append(entry.record(case.id))
            found[key] = entry
            if known.get(key) is not entry:
                unsaved[key] = entry
            if parts is not None and unsaved and monotonic() - saved > _SAVE_SECONDS:
                parts.write(unsaved)
                unsaved, saved = {}, monotonic()
    finally:
        pool.shutdown(cancel_futures=True)
        if parts is not None and unsaved:
            parts.write(unsaved)
    if parts is not None and (len(parts.numbers) > 1 or found.keys() != known.keys() | found.keys()):
        parts.replace(found)
    return Inventory(records)


def duplicates(cases: Sequence[Case], records: Mapping[str, Record], kinds: Sequence[str]) -> list[Problem]:
    """Cases with the content of an earlier case.

    Args:
        cases: In the order in which the first is the original.
        records: Of these cases.
        kinds: Hashes to compare, the strongest statement first; each case is named once, under the first that matches.
            The reason is `duplicate-<kind>`.
    """
    first: dict[tuple[str, str], str] = {}
    problems = []
    for case in cases:
        for kind, value in ((kind, records[case.id].hashes.get(kind)) for kind in kinds):
            earlier = case.id if value is None else first.setdefault((kind, value), case.id)
            if earlier != case.id:
                path = str(case.image or "")
                problems.append(Problem(case.id, path, f"duplicate-{kind}", f"the same {kind} as {earlier}"))
                break
    return problems


def formulas(cases: Sequence[Case]) -> list[Problem]:
    """Names of cases that a spreadsheet takes for formulas when it opens a table with them: `=1+1`, `@SUM(A1)`, `-x`.

    The tables are for programs, which must read back what was there; so the names are written as they are, and said.
    """
    problems = []
    for case in cases:
        texts = {"id": case.id, "group": case.group, "site": case.site, **case.covariates}
        marked = {name: text for name, text in texts.items() if text.startswith(("=", "+", "-", "@"))}
        risky = {name: text for name, text in marked.items() if not _is_number(text)}
        if risky:
            detail = "; ".join(f"{name} is '{text}'" for name, text in risky.items())
            problems.append(Problem(case.id, str(case.image or ""), "formula", f"{detail}: a spreadsheet runs it"))
    return problems


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        # A dash alone is how people write that something is not known.
        return text.strip("-") == ""
    return True


@dataclass(frozen=True, eq=False)
class _Entry:
    """A record without its id.

    Attributes:
        stamps: What the files looked like before they were read.
        unexpected: The hashes that differed from the manifest's.
        content: What was found.
    """

    stamps: Any
    unexpected: list[str]
    content: Record

    def record(self, case_id: str) -> Record:
        problems = tuple(replace(problem, case_id=case_id) for problem in self.content.problems)
        return replace(self.content, id=case_id, problems=problems)


def _inspect(
    case: Case,
    describe: Callable[[Case], Record],
    files: Callable[[Case], Mapping[str, Sequence[Path]]],
    known: Mapping[str, _Entry],
) -> tuple[str, _Entry]:
    """The key of a case, and its entry: the known one where the files did not change."""
    paths = files(case)
    listed = {kind: [str(path) for path in some] for kind, some in paths.items()}
    key = digest(listed if any(listed.values()) else case.id)
    # Taken before the files are read, so that a change while they are read is noticed the next time.
    stamps = [_stamp(path) for some in paths.values() for path in some]
    earlier = known.get(key)
    if earlier is not None and earlier.unexpected == _unexpected(case, earlier.content):
        if earlier.stamps == stamps:
            return key, earlier
        if _same_content(paths, earlier.content.hashes):
            return key, replace(earlier, stamps=stamps)
    record = describe(case)
    return key, _Entry(stamps, _unexpected(case, record), replace(record, facts=strict_json(record.facts)))


def _unexpected(case: Case, record: Record) -> list[str]:
    """The kinds of hashes that differ from those that the manifest expects."""
    expected = {"file": case.sha256, "mask": case.covariates.get("mask_sha256")}
    return [kind for kind, value in expected.items() if value and value != record.hashes.get(kind, value)]


def _stamp(path: Path) -> Any:
    """What changes when a file does; None for a file that is not there."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            return [[file.name, _stamp(file)] for file in sorted(path.iterdir()) if not file.name.startswith(".")]
    except OSError:
        return None
    # The time of the last status change cannot be set back, unlike that of the last modification.
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _same_content(paths: Mapping[str, Sequence[Path]], hashes: Mapping[str, str]) -> bool:
    with suppress(OSError):
        return all(hashes.get(kind) == image_hash(some) for kind, some in paths.items() if some)
    return False


class _Parts:
    """The parts of the cache that were made with the same settings.

    Attributes:
        numbers: Those that are there, whether or not they can be used.
    """

    def __init__(self, folder: Path, settings: str) -> None:
        self.folder = folder
        self.settings = settings[:16]
        names = [path.name.split(".") for path in folder.glob(f"{self.settings}.*")]
        self.numbers = sorted({int(name[1]) for name in names if name[1].isdecimal()})

    def read(self) -> dict[str, _Entry]:
        """Every entry by key."""
        entries: dict[str, _Entry] = {}
        for number in self.numbers:
            with suppress(*_DAMAGE):
                entries |= self._read_part(number)
        return entries

    def write(self, entries: Mapping[str, _Entry]) -> None:
        """Add a part.

        Raises:
            ResourceError: The folder is not writable or the disk is full.
        """
        number = max(self.numbers, default=0) + 1
        contents = [entry.content for entry in entries.values()]
        arrays = {f"{row}.{name}": array for row, one in enumerate(contents) for name, array in one.arrays.items()}
        with atomic_path(self._path(number, "npz")) as temporary:
            np.savez(temporary, **arrays)  # type: ignore[arg-type]
            arrays_hash = sha256(temporary)
        listed = {
            key: {
                "stamps": entry.stamps,
                "unexpected": entry.unexpected,
                "problems": [[problem.path, problem.reason, problem.detail] for problem in entry.content.problems],
                "hashes": entry.content.hashes,
                "facts": entry.content.facts,
                "arrays": list(entry.content.arrays),
            }
            for key, entry in entries.items()
        }
        write_json(self._path(number, "json"), {"arrays_sha256": arrays_hash, "entries": listed})
        self.numbers.append(number)

    def replace(self, entries: Mapping[str, _Entry]) -> None:
        """Put one part in the place of all the others; see `write` for errors."""
        old = list(self.numbers)
        self.write(entries)
        for number in old:
            for suffix in ("json", "npz"):
                with suppress(OSError):
                    self._path(number, suffix).unlink()
        self.numbers = self.numbers[-1:]

    def _read_part(self, number: int) -> dict[str, _Entry]:
        listed = read_json(self._path(number, "json"))
        # Two runs that share a folder may each have written one of the two files.
        if listed["arrays_sha256"] != sha256(self._path(number, "npz")):
            raise ValueError("the arrays of another part")
        entries = {}
        with open(self._path(number, "npz"), "rb") as file, np.load(file, allow_pickle=False) as arrays:
            for row, (key, entry) in enumerate(listed["entries"].items()):
                problems = [Problem("", path, reason, detail) for path, reason, detail in entry["problems"]]
                if any(problem.reason not in REASONS for problem in problems):
                    raise ValueError("a reason that is not known")
                found = {name: arrays[f"{row}.{name}"] for name in entry["arrays"]}
                content = Record("", tuple(problems), dict(entry["hashes"]), dict(entry["facts"]), found)
                entries[key] = _Entry(entry["stamps"], entry["unexpected"], content)
        return entries

    def _path(self, number: int, suffix: str) -> Path:
        return self.folder / f"{self.settings}.{number:06d}.{suffix}"
