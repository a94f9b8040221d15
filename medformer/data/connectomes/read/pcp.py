"""Time series in the layout of the Preprocessed Connectomes Project.

`Outputs/<pipeline>/<strategy>/rois_<atlas>/<FILE_ID>_rois_<atlas>.1D`, or, as nilearn keeps its download,
`ABIDE_pcp/<pipeline>/<strategy>/<FILE_ID>_rois_<atlas>.1D`; the folder given may be the one above, or any of these
down to the one of the strategy. The phenotypic table lies in the folder that is given or in one above the pipelines.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from medformer.connectome.atlases import atlas_name
from medformer.data.connectomes.read.phenotype import Phenotype, read_phenotype
from medformer.data.connectomes.read.series import read_series
from medformer.data.connectomes.read.source import Candidate, Reading, UnusableError
from medformer.data.connectomes.store import Content
from medformer.data.problems import Problem
from medformer.errors import DataError

PIPELINES = ("cpac", "dparsf", "ccs", "niak")
STRATEGIES = ("filt_noglobal", "filt_global", "nofilt_noglobal", "nofilt_global")

_FILE = re.compile(r"(?P<id>.+)_rois_(?P<atlas>[A-Za-z0-9-]+)\.1D", re.IGNORECASE)
_TOPS = ("", "Outputs", "ABIDE_pcp", "ABIDE_pcp/Outputs")


@dataclass(frozen=True)
class PcpSource:
    """A folder of series; see `medformer.data.connectomes.read.source.Source`.

    Attributes:
        files: The series file of each scan, by atlas and id.
        phenotype: The table.
    """

    files: dict[str, dict[str, Path]]
    phenotype: Phenotype

    @property
    def content(self) -> Content:
        """Time series."""
        return "series"

    @property
    def atlases(self) -> tuple[str, ...]:
        """Every atlas that someone has."""
        return tuple(sorted(self.files))

    @cached_property
    def candidates(self) -> list[Candidate]:
        """Rows of the table; where it does not name files, one for each of a person's scans."""
        if self.phenotype.names_files:
            return list(self.phenotype.candidates)
        scans = sorted({name for files in self.files.values() for name in files})
        found: list[Candidate] = []
        for candidate in self.phenotype.candidates:
            name = candidate.subject.id
            own = [scan for scan in scans if scan == name or scan.startswith(f"{name}_")]
            found.extend(replace(candidate, subject=replace(candidate.subject, id=scan)) for scan in own or [name])
        return found

    @cached_property
    def problems(self) -> list[Problem]:
        """Rows that cannot be used, and files that no row names."""
        named = {candidate.subject.id for candidate in self.candidates}
        named |= {problem.case_id for problem in self.phenotype.problems}
        strangers: dict[str, Path] = {}
        for files in self.files.values():
            for name, path in files.items():
                if name not in named:
                    strangers.setdefault(name, path)
        lost = [Problem(name, str(strangers[name]), "not-in-table") for name in sorted(strangers)]
        return [*self.phenotype.problems, *lost]

    def read(self, candidate: Candidate, atlases: Sequence[str]) -> Reading:
        """Read one scan's series; an atlas without a file is absent from the result.

        Raises:
            UnusableError: A file is damaged.
        """
        found = {}
        for atlas in atlases:
            path = self.files.get(atlas, {}).get(candidate.subject.id)
            if path is not None:
                try:
                    found[atlas] = read_series(path)
                except UnusableError as error:
                    raise UnusableError(error.reason, f"{path}: {error}") from None
        return Reading(
            values={atlas: series.values for atlas, series in found.items()},
            regions={atlas: series.values.shape[1] for atlas, series in found.items()},
            numbers={atlas: series.numbers for atlas, series in found.items() if series.numbers is not None},
        )


def find_pcp(folder: Path, *, pipeline: str, strategy: str, phenotype: Path | None = None) -> PcpSource:
    """Find the series of a pipeline and strategy, and the phenotypic table.

    Args:
        folder: See the module.
        pipeline: cpac, dparsf, ccs or niak; others are taken too when their folder is there.
        strategy: Such as filt_noglobal.
        phenotype: The table; looked for by its name when not given.

    Raises:
        DataError: There are no such series, two files claim to be the same one, or the table is missing or unclear.
    """
    files: dict[str, dict[str, Path]] = defaultdict(dict)
    for path, scan, atlas in _series(folder, pipeline, strategy):
        earlier = files[atlas].setdefault(scan, path)
        if earlier != path:
            raise DataError(f"{earlier} and {path} are both the {atlas} series of {scan}; keep one of them.")
    if not files:
        there = sorted({f"{path.parent.name}/{path.name}" for path in _strategies(folder)})
        hint = f" There is {', '.join(there)}." if there else ""
        raise DataError(
            f"{folder} holds no time series of the pipeline '{pipeline}' and the strategy '{strategy}'; expected files "
            f"such as Outputs/{pipeline}/{strategy}/rois_cc200/NYU_0050954_rois_cc200.1D.{hint}"
        )
    return PcpSource(dict(files), read_phenotype(phenotype or find_phenotype(folder)))


def find_phenotype(folder: Path) -> Path:
    """The phenotypic table of a folder: `Phenotypic*.csv`, or `participants.tsv` as in BIDS.

    Raises:
        DataError: There is none, or there are several.
    """
    places = [folder, folder / "ABIDE_pcp", folder / "Outputs", *list(folder.absolute().parents)[:3]]
    for place in places:
        found = sorted({*place.glob("[Pp]henotypic*.csv"), *place.glob("participants.tsv")})
        if len(found) > 1:
            raise DataError(
                f"{place} holds {len(found)} phenotypic tables ({', '.join(path.name for path in found)}); "
                "say which with --phenotype."
            )
        if found:
            return found[0]
    raise DataError(
        f"{folder} holds no phenotypic table; expected Phenotypic_V1_0b_preprocessed1.csv or participants.tsv in it. "
        "Put it there, or say where it is with --phenotype."
    )


def _series(folder: Path, pipeline: str, strategy: str) -> Iterator[tuple[Path, str, str]]:
    places = [folder / top / pipeline / strategy for top in _TOPS] + [folder / strategy]
    # A folder that is already the pipeline's or the strategy's, or that was written without either.
    inside = any(folder.glob("rois_*/*.1D")) or any(folder.glob("*.1D"))
    for place in [*places, *([folder] if inside else [])]:
        for path in sorted([*place.glob("rois_*/*.1D"), *place.glob("*.1D")]):
            match = _FILE.fullmatch(path.name)
            if match is not None:
                yield path, match["id"], atlas_name(match["atlas"])


def _strategies(folder: Path) -> Iterator[Path]:
    for top in _TOPS:
        for path in [*(folder / top).glob("*/*/rois_*"), *(folder / top).glob("*/*/*.1D")]:
            yield path.parent
