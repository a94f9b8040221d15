"""Connectomes that come as one file per subject and atlas, beside a phenotypic table.

Time series in the layout of the Preprocessed Connectomes Project:
`Outputs/<pipeline>/<strategy>/rois_<atlas>/<FILE_ID>_rois_<atlas>.1D`, or, as nilearn keeps its download,
`ABIDE_pcp/<pipeline>/<strategy>/<FILE_ID>_rois_<atlas>.1D`; the folder given may be the one above, or any of these
down to the one of the strategy. The phenotypic table lies in the folder that is given or in one above the pipelines.

Square matrices of Pearson correlations: `<atlas>/<id>.npy` (or `.csv`, `.tsv`, `.txt`, `.mat`), or `<id>_<atlas>.npy`,
or `<id>.npy` when exactly one atlas is asked for.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from medformer.connectome.atlases import ATLASES, atlas_name
from medformer.data.cases import Case
from medformer.data.connectomes.read.files import read_series
from medformer.data.connectomes.read.matrices import SUFFIXES, OtherValuesError, Values, as_edges, read_square
from medformer.data.connectomes.read.phenotype import Phenotype, find_phenotype, is_phenotype, read_phenotype
from medformer.data.connectomes.read.source import Candidate, ConnectomeSource, SubjectData, UnusableError
from medformer.data.connectomes.store import Content
from medformer.data.people import listed, match_people, plain
from medformer.data.problems import Problem
from medformer.errors import DataError

_FILE = re.compile(r"(?P<id>.+)_rois_(?P<atlas>[A-Za-z0-9-]+)\.1D", re.IGNORECASE)
_TOPS = ("", "Outputs", "ABIDE_pcp", "ABIDE_pcp/Outputs")

# A file with the atlas and the scan that its name says.
Named = tuple[Path, str, str]


@dataclass(frozen=True)
class FileSource(ConnectomeSource):
    """Files by atlas and scan.

    Attributes:
        files: By atlas and id.
        holds: What the matrices hold.
    """

    files: Mapping[str, Mapping[str, Path]]
    holds: Values = "auto"

    def read(self, candidate: Candidate, atlases: Sequence[str]) -> SubjectData:
        """Read one subject's files; an atlas without a file is absent from the result.

        Raises:
            UnusableError: A file is damaged or holds something else.
            OtherValuesError: It shows that all matrices hold something else than correlations.
        """
        values: dict[str, NDArray[Any]] = {}
        regions: dict[str, int] = {}
        numbers: dict[str, tuple[str, ...]] = {}
        paths: dict[str, str] = {}
        for atlas in atlases:
            path = self.files.get(atlas, {}).get(candidate.subject.id)
            if path is None:
                continue
            paths[atlas] = str(path)
            try:
                if self.content == "correlation":
                    square = read_square(path)
                    values[atlas], regions[atlas] = as_edges(square.values, self.holds)
                    names = square.names
                else:
                    series = read_series(path)
                    values[atlas], regions[atlas], names = series.values, series.values.shape[1], series.numbers
            except UnusableError as error:
                raise UnusableError(error.reason, str(error), str(path)) from None
            except OtherValuesError as error:
                raise OtherValuesError(f"{path}: {error}") from None
            if names is not None:
                numbers[atlas] = names
        return SubjectData(values, regions, numbers, paths)


@dataclass(frozen=True)
class TableChoice:
    """Which phenotypic table is read, and what it must say.

    Attributes:
        path: The table; looked for by its name when None.
        positive: The diagnosis of the positive class, where it is none of the usual ones.
        unlabelled: Whether the table, a row of it, and a label may be missing.
    """

    path: Path | None = None
    positive: str | None = None
    unlabelled: bool = False


def find_series(
    folder: Path,
    *,
    pipeline: str | None,
    strategy: str | None,
    table: TableChoice,
) -> FileSource:
    """Find the series of a pipeline and strategy, and the phenotypic table.

    Args:
        folder: See the module.
        pipeline: cpac, dparsf, ccs, niak or fmriprep; others are taken too when their folder is there. None: the only
            one that is there.
        strategy: Such as filt_noglobal. None: the only one that is there.
        table: The phenotypic table.

    Raises:
        DataError: There are no such series, two files claim to be the same one, or the table is missing or unclear.
    """
    there = sorted({(path.parent.name, path.name) for path in _strategies(folder)})
    fitting = [one for one in there if pipeline in (None, one[0]) and strategy in (None, one[1])]
    if (pipeline is None or strategy is None) and len(fitting) > 1:
        names = ", ".join("/".join(one) for one in fitting)
        raise DataError(
            f"{folder} holds series of {len(fitting)} pipelines and strategies ({names}); expected one. "
            "Say which with --pipeline and --strategy."
        )
    pipeline, strategy = fitting[0] if len(fitting) == 1 else (pipeline or "cpac", strategy or "filt_noglobal")
    files = _one_each("series", _series(folder, pipeline, strategy))
    if not files and not there:
        raise DataError(
            f"{folder} holds neither time series nor matrices. Expected files such as "
            f"Outputs/{pipeline}/{strategy}/rois_cc200/NYU_0050954_rois_cc200.1D, or matrices called <atlas>/<id>.npy; "
            "matrices with other names need the atlas named (prepare --atlas)."
        )
    if not files:
        raise DataError(
            f"{folder} holds no time series of the pipeline '{pipeline}' and the strategy '{strategy}'. "
            f"There is {', '.join('/'.join(one) for one in there)}: choose with --pipeline and --strategy."
        )
    return _source("series", files, folder, table, asked=False)


def find_matrices(
    folder: Path, *, atlases: Sequence[str], table: TableChoice, holds: Values = "auto"
) -> FileSource | None:
    """Find the matrices of a folder, and the phenotypic table.

    Returns:
        None when the folder holds no matrices.

    Raises:
        DataError: Two files claim to be the same matrix, or the table is missing or unclear.
    """
    found: dict[str, list[Named]] = defaultdict(list)
    for named in _matrices(folder, atlases, table.path):
        found[named[1]].append(named)
    strays = [] if atlases else [atlas for atlas, files in found.items() if not any(_is_square(f) for f, _, _ in files)]
    if len(strays) < len(found):
        # Such as a folder of notes beside the atlases; where all files are bad, each is listed with its reason.
        found = {atlas: files for atlas, files in found.items() if atlas not in strays}
    if not found:
        return None
    files = _one_each("matrix", (named for files in found.values() for named in files))
    source = _source("correlation", files, folder, table, asked=bool(atlases))
    notes = [f"'{atlas}' in {folder} holds no square matrix and is no atlas." for atlas in strays if atlas not in found]
    return replace(source, holds=holds, notes=(*notes, *source.notes))


def _is_square(path: Path) -> bool:
    try:
        read_square(path)
    except UnusableError:
        return False
    return True


def _one_each(what: str, found: Iterator[Named]) -> dict[str, dict[str, Path]]:
    files: dict[str, dict[str, Path]] = defaultdict(dict)
    for path, atlas, scan in found:
        earlier = files[atlas].setdefault(scan, path)
        if earlier != path:
            raise DataError(f"{earlier} and {path} are both the {atlas} {what} of {scan}; keep one of them.")
    return dict(files)


def _source(
    content: Content, files: dict[str, dict[str, Path]], folder: Path, choice: TableChoice, *, asked: bool
) -> FileSource:
    path = choice.path or find_phenotype(folder, required=not choice.unlabelled)
    table = Phenotype()
    if path is not None:
        table = read_phenotype(path, positive=choice.positive, unlabelled=choice.unlabelled)
    files = _one_spelling(files)
    candidates = _candidates(table, sorted({scan for by_scan in files.values() for scan in by_scan}))
    rows = {candidate.subject.id for candidate in candidates}
    strays = [atlas for atlas, by_scan in files.items() if not rows & set(by_scan)]
    if strays and not asked and len(strays) < len(files):
        # Such as a folder with the mean of all matrices.
        files = {atlas: by_scan for atlas, by_scan in files.items() if atlas not in strays}
    notes = [f"'{one}' in {folder} holds no subject of {path} and is no atlas." for one in strays if one not in files]
    scans = {scan: file for by_scan in reversed(files.values()) for scan, file in by_scan.items()}
    if table.candidates and not rows & set(scans) and not choice.unlabelled:
        raise DataError(
            f"No row of {path} is about a file of {folder}: the table lists {listed(sorted(rows))}, "
            f"the files are called {listed(scans)}. Give the table a column FILE_ID with the files' names, or rename "
            "the files."
        )
    faulty = match_people([one.case_id for one in table.problems], scans, "files", whole=table.names_files)
    strangers = sorted(set(scans) - rows - set(faulty))
    if choice.unlabelled:
        # A row without a file is no subject: the table only says more about the subjects that there are data of.
        candidates = [candidate for candidate in candidates if candidate.subject.id in scans]
        candidates += [Candidate(Case(scan, group=scan)) for scan in strangers]
        problems = [one for one in table.problems if one.case_id in faulty.values()]
    else:
        problems = [*table.problems, *(Problem(scan, str(scans[scan]), "not-in-table") for scan in strangers)]
    return FileSource(content, tuple(sorted(files)), candidates, problems, table.label_names, files, notes=tuple(notes))


def _one_spelling(files: Mapping[str, Mapping[str, Path]]) -> dict[str, dict[str, Path]]:
    """Call a scan by one name in all atlases, also where some drop the zeros of its number."""
    usual: dict[str, str] = {}
    doubled: set[str] = set()
    for by_scan in files.values():
        counts = Counter(plain(scan) for scan in by_scan)
        doubled.update(name for name, count in counts.items() if count > 1)
        for scan in by_scan:
            usual.setdefault(plain(scan), scan)
    return {
        atlas: {scan if plain(scan) in doubled else usual[plain(scan)]: path for scan, path in by_scan.items()}
        for atlas, by_scan in files.items()
    }


def _candidates(table: Phenotype, scans: Sequence[str]) -> list[Candidate]:
    """A candidate for each scan of each row of a table, called as the scan is; one without data where there is none.

    A table may name files, whose names are then the ids of its rows; a file that is called after the person is found
    too, unless the person has several rows.
    """
    found: dict[str, list[str]] = defaultdict(list)
    ids = [candidate.subject.id for candidate in table.candidates]
    taken = match_people(ids, scans, "files", whole=table.names_files)
    for scan, name in taken.items():
        found[name].append(scan)
    if table.names_files:
        rows: dict[str, list[str]] = defaultdict(list)
        for candidate in table.candidates:
            rows[candidate.subject.group].append(candidate.subject.id)
        lone = {person: own[0] for person, own in rows.items() if len(own) == 1 and own[0] not in found}
        rest = [scan for scan in scans if scan not in taken]
        for scan, person in match_people(list(lone), rest, "files").items():
            found[lone[person]].append(scan)
    return [
        replace(candidate, subject=replace(candidate.subject, id=scan))
        for candidate in table.candidates
        for scan in found.get(candidate.subject.id) or [candidate.subject.id]
    ]


def _series(folder: Path, pipeline: str, strategy: str) -> Iterator[Named]:
    places = [folder / top / pipeline / strategy for top in _TOPS] + [folder / strategy]
    # A folder that is already the pipeline's or the strategy's, or that was written without either.
    inside = any(folder.glob("rois_*/*.1D")) or any(folder.glob("*.1D"))
    for place in [*places, *([folder] if inside else [])]:
        for path in sorted([*place.glob("rois_*/*.1D"), *place.glob("*.1D")]):
            match = _FILE.fullmatch(path.name)
            if match is not None and not path.name.startswith("."):
                yield path, atlas_name(match["atlas"]), match["id"]


def _strategies(folder: Path) -> Iterator[Path]:
    """Every folder of a strategy, below the folder or, when that is already a pipeline's, in it."""
    for top in _TOPS:
        for path in [*(folder / top).glob("*/*/rois_*"), *(folder / top).glob("*/*/*.1D")]:
            if not path.parent.name.startswith("rois_"):
                yield path.parent
    yield from (path.parent for path in folder.absolute().glob("*/rois_*"))


def _is_matrix(path: Path) -> bool:
    # Of a folder that a Mac wrote elsewhere, each file has a shadow called `._<name>`.
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def _matrices(folder: Path, atlases: Sequence[str], phenotype: Path | None) -> Iterator[Named]:
    """Every file that is named as a matrix is."""
    for path in sorted(folder.glob("*/*")):
        if _is_matrix(path) and not path.parent.name.startswith(".") and path != phenotype:
            atlas = path.parent.name.removeprefix("fc_")
            yield path, atlas_name(atlas), path.stem.removesuffix(f"_{atlas}")
    for path in sorted(folder.glob("*")):
        if not _is_matrix(path) or path == phenotype or is_phenotype(path):
            continue
        name, _, atlas = path.stem.rpartition("_")
        if name and atlas_name(atlas) in {*ATLASES, *atlases}:
            yield path, atlas_name(atlas), name
        elif len(atlases) == 1:
            yield path, atlases[0], path.stem
