"""From a published layout to a cohort: one manifest, one feature store, and a list of who was left out and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

from medformer.data.connectomes.cohort import FEATURES, write_cohort
from medformer.data.connectomes.prepare.quality import Limits, oddities, reject_candidate, require_sound
from medformer.data.connectomes.read.matrices import find_matrices
from medformer.data.connectomes.read.npz import find_npz
from medformer.data.connectomes.read.pcp import find_pcp
from medformer.data.connectomes.read.regions import Labels, describe_atlas, find_labels, read_labels
from medformer.data.connectomes.read.source import Candidate, Reading, Source, UnusableError
from medformer.data.connectomes.store import StoredAtlas
from medformer.data.connectomes.store_writer import StoreWriter
from medformer.data.manifest import Case
from medformer.data.problems import Problem, write_problems
from medformer.errors import DataError
from medformer.files import write_json
from medformer.progress import Reporter, SilentReporter

EXCLUSIONS_FILE = "exclusions.csv"
PREPARATION_FILE = "preparation.json"


@dataclass(frozen=True)
class Prepared:
    """What came of a preparation.

    Attributes:
        manifest: The cohort's manifest.
        kept: Number of subjects.
        problems: Everyone who was left out, with the reason, and what is odd about those who were kept.
        excluded: Number of those left out, by reason.
        warnings: Number of subjects who were kept although, by reason.
    """

    manifest: Path
    kept: int
    problems: tuple[Problem, ...]
    excluded: Mapping[str, int]
    warnings: Mapping[str, int]


def prepare_cohort(
    source: Path,
    out: Path,
    *,
    atlases: Sequence[str] = (),
    pipeline: str = "cpac",
    strategy: str = "filt_noglobal",
    phenotype: Path | None = None,
    labels: Mapping[str, Path] | None = None,
    limits: Limits | None = None,
    missing_atlas: Literal["exclude", "error"] = "exclude",
    reporter: Reporter | None = None,
) -> Prepared:
    """Prepare a cohort: `out/manifest.csv`, `out/features/`, `out/exclusions.csv` and `out/preparation.json`.

    Args:
        source: A folder in the layout of the Preprocessed Connectomes Project or of nilearn's download, an `.npz` file
            of matrices, or a folder of square matrices.
        out: Folder to write.
        atlases: Which; all that are there when none are given.
        pipeline: Of time series: cpac, dparsf, ccs or niak.
        strategy: Of time series, such as filt_noglobal.
        phenotype: The phenotypic table, when it does not lie in the folder.
        labels: A table of the regions' names by atlas; else `labels/<atlas>_labels.csv` of the folder, where there is
            one. See `medformer.data.connectomes.read.regions`.
        limits: Who is kept.
        missing_atlas: Whether a subject without one of the atlases is left out, or stops the preparation.
        reporter: Told about the progress.

    Raises:
        DataError: There is nothing to read, the table is no such table, an atlas is not there, or nobody is left.
        ResourceError: The folder is not writable or the disk is full.
    """
    limits = limits or Limits()
    found = find_source(source, atlases=atlases, pipeline=pipeline, strategy=strategy, phenotype=phenotype)
    chosen = _chosen(source, found, atlases)
    tables = {atlas: read_labels(path) for atlas, path in {**find_labels(source), **(labels or {})}.items()}
    reporter = reporter or SilentReporter()
    run = _Run(found, out / FEATURES, chosen, tables, limits, missing_atlas, reporter)
    reporter.start("preparing", len(found.candidates))
    try:
        with run.stack:
            for candidate in found.candidates:
                run.take(candidate)
                reporter.advance()
            if not run.subjects:
                raise DataError(_nobody(source, (*found.problems, *run.problems)))
    finally:
        reporter.finish()
    problems = (*found.problems, *run.problems)
    excluded, warnings = _counts(problems)
    manifest = write_cohort(out, run.subjects)
    write_problems(out / EXCLUSIONS_FILE, problems)
    settings = {"atlases": chosen, "pipeline": pipeline, "strategy": strategy, **asdict(limits)}
    if found.content == "correlation":
        del settings["pipeline"], settings["strategy"]
    write_json(
        out / PREPARATION_FILE,
        {"settings": settings, "kept": len(run.subjects), "excluded": excluded, "warnings": warnings},
    )
    return Prepared(manifest, len(run.subjects), problems, excluded, warnings)


def find_source(path: Path, *, atlases: Sequence[str], pipeline: str, strategy: str, phenotype: Path | None) -> Source:
    """Recognize the layout of a folder or file; see `prepare_cohort`.

    Raises:
        DataError: It is none that is known.
    """
    if path.suffix == ".npz":
        return find_npz(path)
    if not path.is_dir():
        raise DataError(f"{path} is not there; expected a folder of time series or matrices, or an .npz file.")
    if next(path.rglob("*.1D"), None) is None:
        matrices = find_matrices(path, atlases=atlases, phenotype=phenotype)
        if matrices is not None:
            return matrices
    return find_pcp(path, pipeline=pipeline, strategy=strategy, phenotype=phenotype)


@dataclass
class _Run:
    """A preparation on its way; the store is opened when the first subject says how many regions there are."""

    source: Source
    features: Path
    atlases: tuple[str, ...]
    labels: Mapping[str, Labels]
    limits: Limits
    missing_atlas: str
    reporter: Reporter
    stack: ExitStack = field(default_factory=ExitStack)
    writer: StoreWriter | None = None
    subjects: list[Case] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    numbers: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def take(self, candidate: Candidate) -> None:
        """Keep someone, or note why not."""
        subject = candidate.subject
        problem = reject_candidate(candidate, self.limits)
        if problem is not None:
            self.problems.append(problem)
            return
        try:
            reading = self.source.read(candidate, self.atlases)
            require_sound(reading, self.source.content, self.atlases, candidate, self.limits)
            self._require_same(reading)
        except UnusableError as error:
            if error.reason == "missing-atlas" and self.missing_atlas == "error":
                raise DataError(f"Subject '{subject.id}' has {error}; expected {', '.join(self.atlases)}.") from None
            self.problems.append(Problem(subject.id, "", error.reason, str(error)))
            return
        if self.writer is None:
            blocks = {atlas: self._described(atlas, reading) for atlas in self.atlases}
            self.writer = self.stack.enter_context(StoreWriter(self.features, blocks))
        for atlas, numbers in reading.numbers.items():
            self.numbers.setdefault(atlas, numbers)
        self.writer.add(subject.id, reading.values)
        lengths = [len(values) for values in reading.values.values()] if self.source.content == "series" else []
        points = lengths[0] if lengths else candidate.time_points
        known = {} if points is None else {"time_points": str(points)}
        self.subjects.append(replace(subject, covariates={**subject.covariates, **known}))
        self.problems.extend(oddities(reading.values, reading.regions, self.source.content, subject.id))

    def _described(self, atlas: str, reading: Reading) -> StoredAtlas:
        numbers = reading.numbers.get(atlas)
        block = describe_atlas(atlas, self.source.content, reading.regions[atlas], numbers, self.labels.get(atlas))
        if numbers is None and atlas in self.labels and block.names[0] == "1":
            self.reporter.line(
                f"{atlas}: {len(self.labels[atlas])} labels for {block.regions} regions, and the data do not tell "
                "which is which; the regions are called by their position."
            )
        return block

    def _require_same(self, reading: Reading) -> None:
        for atlas in self.atlases:
            if self.writer is not None and reading.regions[atlas] != self.writer.atlases[atlas].regions:
                raise UnusableError(
                    "region-count",
                    f"found {reading.regions[atlas]} regions for atlas '{atlas}', expected "
                    f"{self.writer.atlases[atlas].regions} as of the first subject, '{self.subjects[0].id}'",
                )
            first = self.numbers.get(atlas)
            own = reading.numbers.get(atlas)
            if first is not None and own is not None and first != own:
                place = next(i for i, (a, b) in enumerate(zip(first, own, strict=True)) if a != b)
                raise UnusableError(
                    "region-names", f"column {place + 1} of {atlas} is region {own[place]}, others have {first[place]}"
                )


def _chosen(path: Path, source: Source, atlases: Sequence[str]) -> tuple[str, ...]:
    lacking = [atlas for atlas in atlases if atlas not in source.atlases]
    if lacking:
        raise DataError(
            f"{path} holds no data of {', '.join(lacking)}; found the atlases {', '.join(source.atlases)}. "
            "Choose among these, or fetch the others."
        )
    return tuple(dict.fromkeys(atlases)) or source.atlases


def _counts(problems: Sequence[Problem]) -> tuple[dict[str, int], dict[str, int]]:
    """Numbers of subjects by reason: left out, and kept although."""
    each = {(problem.severity, problem.reason, problem.case_id): None for problem in problems}
    errors = Counter(reason for severity, reason, _ in each if severity == "error")
    warnings = Counter(reason for severity, reason, _ in each if severity == "warning")
    return dict(errors.most_common()), dict(warnings.most_common())


def _nobody(path: Path, problems: Sequence[Problem]) -> str:
    excluded, _ = _counts(problems)
    counts = ", ".join(f"{count} {reason}" for reason, count in excluded.items())
    examples = {problem.reason: problem for problem in reversed(problems) if problem.severity == "error"}
    shown = "".join(f"\n  {problem}" for problem in list(examples.values())[::-1][:10])
    return f"No subject of {path} can be used ({counts or 'it has none'}); expected some. One of each kind:{shown}"
