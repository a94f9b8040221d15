"""Connectomes that come as one square matrix per subject and atlas.

`<atlas>/<id>.npy` (or `.csv`, `.tsv`, `.txt`, `.mat`), or `<id>_<atlas>.npy`, or `<id>.npy` when exactly one atlas is
asked for; and a phenotypic table. Values are Pearson correlations.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medformer.connectome.atlases import ATLASES, atlas_name
from medformer.data.connectomes.read.matrix_file import SUFFIXES, as_edges, read_square
from medformer.data.connectomes.read.pcp import find_phenotype
from medformer.data.connectomes.read.phenotype import read_phenotype
from medformer.data.connectomes.read.source import Candidate, Reading, UnusableError
from medformer.data.connectomes.store import Content
from medformer.data.problems import Problem
from medformer.errors import DataError


@dataclass(frozen=True)
class MatrixSource:
    """Matrices; see `medformer.data.connectomes.read.source.Source`.

    Attributes:
        candidates: Who there is.
        problems: Rows and files that are no candidates.
        files: The matrix file of each subject, by atlas and id.
    """

    candidates: Sequence[Candidate]
    problems: Sequence[Problem]
    files: Mapping[str, Mapping[str, Path]]
    content: Content = "correlation"

    @property
    def atlases(self) -> tuple[str, ...]:
        """Every atlas that someone has."""
        return tuple(sorted(self.files))

    def read(self, candidate: Candidate, atlases: Sequence[str]) -> Reading:
        """Read one subject's matrices; an atlas without a file is absent from the result.

        Raises:
            UnusableError: A file is damaged or holds no correlations.
        """
        values, regions = {}, {}
        for atlas in atlases:
            path = self.files.get(atlas, {}).get(candidate.subject.id)
            if path is None:
                continue
            try:
                values[atlas], regions[atlas] = as_edges(read_square(path))
            except UnusableError as error:
                raise UnusableError(error.reason, f"{path}: {error}") from None
        return Reading(values, regions)


def find_matrices(folder: Path, *, atlases: Sequence[str], phenotype: Path | None) -> MatrixSource | None:
    """Find the matrices of a folder, and the phenotypic table.

    Returns:
        None when the folder holds no matrices.

    Raises:
        DataError: Two files claim to be the same matrix, or the table is missing or unclear.
    """
    files: dict[str, dict[str, Path]] = defaultdict(dict)
    for path, atlas, name in _matrix_files(folder, atlases):
        earlier = files[atlas].setdefault(name, path)
        if earlier != path:
            raise DataError(f"{earlier} and {path} are both the {atlas} matrix of {name}; keep one of them.")
    if not files:
        return None
    table = read_phenotype(phenotype or find_phenotype(folder))
    named = {one.subject.id for one in table.candidates} | {problem.case_id for problem in table.problems}
    strangers = {name: path for found in files.values() for name, path in found.items() if name not in named}
    lost = [Problem(name, str(path), "not-in-table") for name, path in sorted(strangers.items())]
    return MatrixSource(table.candidates, [*table.problems, *lost], dict(files))


def _matrix_files(folder: Path, atlases: Sequence[str]) -> Iterator[tuple[Path, str, str]]:
    """Path, atlas and subject of every file that is named as a matrix is."""
    for path in sorted(folder.glob("*/*")):
        if path.suffix in SUFFIXES and not path.parent.name.startswith("."):
            atlas = path.parent.name.removeprefix("fc_")
            yield path, atlas_name(atlas), path.stem.removesuffix(f"_{atlas}")
    for path in sorted(folder.glob("*")):
        if path.suffix not in SUFFIXES or path.stem.lower().startswith(("phenotypic", "participants")):
            continue
        name, _, atlas = path.stem.rpartition("_")
        if name and atlas_name(atlas) in {*ATLASES, *atlases}:
            yield path, atlas_name(atlas), name
        elif len(atlases) == 1:
            yield path, atlases[0], path.stem
