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
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from medformer.connectome.atlases import ATLASES, atlas_name
from medformer.data.connectomes.read.files import SUFFIXES, as_edges, read_series, read_square
from medformer.data.connectomes.read.phenotype import Phenotype, find_phenotype, read_phenotype
from medformer.data.connectomes.read.source import Candidate, ConnectomeSource, SubjectData, UnusableError
from medformer.data.connectomes.store import Content
from medformer.data.manifest import Case
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
    """

    files: Mapping[str, Mapping[str, Path]]

    def read(self, candidate: Candidate, atlases: Sequence[str]) -> SubjectData:
        """Read one subject's files; an atlas without a file is absent from the result.

        Raises:
            UnusableError: A file is damaged or holds something else.
        """
        values: dict[str, NDArray[Any]] = {}
        regions: dict[str, int] = {}
        numbers: dict[str, tuple[str, ...]] = {}
        for atlas in atlases:
            path = self.files.get(atlas, {}).get(candidate.subject.id)
            if path is None:
                continue
            try:
                if self.content == "correlation":
                    values[atlas], regions[atlas] = as_edges(read_square(path))
                    continue
                series = read_series(path)
            except UnusableError as error:
                raise UnusableError(error.reason, f"{path}: {error}") from None
            values[atlas], regions[atlas] = series.values, series.values.shape[1]
            if series.numbers is not None:
                numbers[atlas] = series.numbers
        return SubjectData(values, regions, numbers)


def find_series(
    folder: Path,
    *,
    pipeline: str | None,
    strategy: str | None,
    phenotype: Path | None = None,
    unlabelled: bool = False,
) -> FileSource:
    """Find the series of a pipeline and strategy, and the phenotypic table.

    Args:
        folder: See the module.
        pipeline: cpac, dparsf, ccs, niak or fmriprep; others are taken too when their folder is there. None: the only
            one that is there.
        strategy: Such as filt_noglobal. None: the only one that is there.
        phenotype: The table; looked for by its name when not given.
        unlabelled: Whether the table, a row of it, and a label may be missing.

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
    if not files:
        hint = f" There is {', '.join('/'.join(one) for one in there)}." if there else ""
        raise DataError(
            f"{folder} holds no time series of the pipeline '{pipeline}' and the strategy '{strategy}'; expected files "
            f"such as Outputs/{pipeline}/{strategy}/rois_cc200/NYU_0050954_rois_cc200.1D.{hint} Nor does it hold "
            "matrices of an atlas, called <atlas>/<id>.npy; other names need the atlas named (prepare --atlas)."
        )
    return _source("series", files, folder, phenotype, unlabelled)


def find_matrices(
    folder: Path, *, atlases: Sequence[str], phenotype: Path | None, unlabelled: bool = False
) -> FileSource | None:
    """Find the matrices of a folder, and the phenotypic table.

    Returns:
        None when the folder holds no matrices.

    Raises:
        DataError: Two files claim to be the same matrix, or the table is missing or unclear.
    """
    files = _one_each("matrix", _matrices(folder, atlases, phenotype))
    return _source("correlation", files, folder, phenotype, unlabelled) if files else None


def _one_each(what: str, found: Iterator[Named]) -> dict[str, dict[str, Path]]:
    files: dict[str, dict[str, Path]] = defaultdict(dict)
    for path, atlas, scan in found:
        earlier = files[atlas].setdefault(scan, path)
        if earlier != path:
            raise DataError(f"{earlier} and {path} are both the {atlas} {what} of {scan}; keep one of them.")
    return dict(files)


def _source(
    content: Content, files: dict[str, dict[str, Path]], folder: Path, phenotype: Path | None, unlabelled: bool
) -> FileSource:
    path = phenotype or find_phenotype(folder, required=not unlabelled)
    table = Phenotype() if path is None else read_phenotype(path, unlabelled=unlabelled)
    scans: dict[str, Path] = {}
    for by_scan in files.values():
        for scan, file in by_scan.items():
            scans.setdefault(scan, file)
    candidates = list(table.candidates) if table.names_files else _scans_of(table, sorted(scans))
    named = {candidate.subject.id for candidate in candidates} | {problem.case_id for problem in table.problems}
    strangers = sorted(set(scans) - named)
    if unlabelled:
        # A row without a file is no subject: the table only says more about the subjects that there are data of.
        candidates = [candidate for candidate in candidates if candidate.subject.id in scans]
        candidates += [Candidate(Case(scan, group=scan)) for scan in strangers]
        problems = [one for one in table.problems if one.case_id in scans]
    else:
        problems = [*table.problems, *(Problem(scan, str(scans[scan]), "not-in-table") for scan in strangers)]
    return FileSource(content, tuple(sorted(files)), candidates, problems, files)


def _scans_of(table: Phenotype, scans: Sequence[str]) -> list[Candidate]:
    """One candidate for each scan of each person of a table that does not name files."""
    found: list[Candidate] = []
    for candidate in table.candidates:
        name = candidate.subject.id
        own = [scan for scan in scans if scan == name or scan.startswith(f"{name}_")]
        found.extend(replace(candidate, subject=replace(candidate.subject, id=scan)) for scan in own or [name])
    return found


def _series(folder: Path, pipeline: str, strategy: str) -> Iterator[Named]:
    places = [folder / top / pipeline / strategy for top in _TOPS] + [folder / strategy]
    # A folder that is already the pipeline's or the strategy's, or that was written without either.
    inside = any(folder.glob("rois_*/*.1D")) or any(folder.glob("*.1D"))
    for place in [*places, *([folder] if inside else [])]:
        for path in sorted([*place.glob("rois_*/*.1D"), *place.glob("*.1D")]):
            match = _FILE.fullmatch(path.name)
            if match is not None:
                yield path, atlas_name(match["atlas"]), match["id"]


def _strategies(folder: Path) -> Iterator[Path]:
    """Every folder of a strategy, below the folder or, when that is already a pipeline's, in it."""
    for top in _TOPS:
        for path in [*(folder / top).glob("*/*/rois_*"), *(folder / top).glob("*/*/*.1D")]:
            if not path.parent.name.startswith("rois_"):
                yield path.parent
    yield from (path.parent for path in folder.absolute().glob("*/rois_*"))


def _matrices(folder: Path, atlases: Sequence[str], phenotype: Path | None) -> Iterator[Named]:
    """Every file that is named as a matrix is."""
    for path in sorted(folder.glob("*/*")):
        if path.suffix in SUFFIXES and not path.parent.name.startswith("."):
            atlas = path.parent.name.removeprefix("fc_")
            yield path, atlas_name(atlas), path.stem.removesuffix(f"_{atlas}")
    for path in sorted(folder.glob("*")):
        table = path == phenotype or path.stem.lower().startswith(("phenotypic", "participants"))
        if path.suffix not in SUFFIXES or table:
            continue
        name, _, atlas = path.stem.rpartition("_")
        if name and atlas_name(atlas) in {*ATLASES, *atlases}:
            yield path, atlas_name(atlas), name
        elif len(atlases) == 1:
            yield path, atlases[0], path.stem
