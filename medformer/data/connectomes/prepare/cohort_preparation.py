"""From a published layout to a cohort: one manifest, one feature store, and a list of the subjects that were left out.

`prepare_cohort` prepares what a run learns from. `read_new` prepares what a trained run predicts: labels and a table of
subjects need not be there, and atlases must be those that were trained on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from medformer.data.connectomes.cohort import FEATURES, MANIFEST_FILE, Cohort, read_cohort, write_cohort
from medformer.data.connectomes.prepare.quality import Limits, oddities, reject_candidate, require_sound
from medformer.data.connectomes.read.folders import find_matrices, find_series
from medformer.data.connectomes.read.npz import find_npz
from medformer.data.connectomes.read.regions import Labels, describe_atlas, find_labels, read_labels
from medformer.data.connectomes.read.source import Candidate, ConnectomeSource, SubjectData, UnusableError
from medformer.data.connectomes.store import StoredAtlas, StoreWriter
from medformer.data.manifest import Case
from medformer.data.problems import Problem, write_problems
from medformer.errors import DataError
from medformer.files import write_json
from medformer.progress import Reporter, SilentReporter

EXCLUSIONS_FILE = "exclusions.csv"
PREPARATION_FILE = "preparation.json"


@dataclass(frozen=True)
class Prepared:
    """The result of a preparation.

    Attributes:
        manifest: The cohort's manifest.
        kept: Number of subjects.
        problems: Every subject that was left out, with the reason, and warnings about those that were kept.
        excluded: Number of subjects that were left out, by reason.
        warnings: Number of subjects that were kept in spite of a warning, by reason.
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
        reporter: Shows the progress.

    Raises:
        DataError: There is nothing to read, the table is no such table, an atlas is not there, or no subject is left.
        ResourceError: The folder is not writable or the disk is full.
    """
    limits = limits or Limits()
    found = _find_source(source, atlases=atlases, pipeline=pipeline, strategy=strategy, phenotype=phenotype)
    chosen = _chosen(source, found, atlases, "Choose among these, or fetch the others.")
    tables = {atlas: read_labels(path) for atlas, path in {**find_labels(source), **(labels or {})}.items()}
    run = _Preparation(found, out / FEATURES, chosen, tables, limits, missing_atlas, reporter or SilentReporter())
    settings = {"atlases": chosen, "pipeline": pipeline, "strategy": strategy, **asdict(limits)}
    if found.content == "correlation":
        del settings["pipeline"], settings["strategy"]
    return run.write(source, out, settings)


def read_new(
    source: Path,
    *,
    atlases: Mapping[str, int],
    out: Path,
    pipeline: str | None = None,
    strategy: str | None = None,
    reporter: Reporter | None = None,
) -> tuple[Cohort, tuple[Problem, ...]]:
    """Read the connectomes of new subjects, with or without labels; what raters of their quality said does not count.

    Args:
        source: What `prepare_cohort` takes, or a cohort that is prepared already. A phenotypic table, diagnoses in it,
            and rows for some subjects may be missing; rows without data are passed over.
        atlases: Number of regions by atlas, as the model was trained on; other atlases of the source are not read.
        out: Folder for the manifest, the feature store and `exclusions.csv`; a prepared cohort is read where it is.
        pipeline: Of time series; the only one that is there when not given.
        strategy: Of time series; the only one that is there when not given.
        reporter: Shows the progress.

    Returns:
        The cohort of all subjects that can be used, and a problem for each of the others: an atlas is missing, has
        another number of regions, is not square, is not finite, or cannot be read. Warnings are listed too.

    Raises:
        DataError: There is nothing to read, an atlas is not there at all, or no subject can be used.
        ResourceError: The folder is not writable or the disk is full.
    """
    manifest = source / MANIFEST_FILE if source.is_dir() else source
    if manifest.name.endswith(".csv") and manifest.is_file():
        return _prepared_before(manifest, atlases)
    limits = Limits(usable_only=False)
    found = _find_source(source, atlases=tuple(atlases), pipeline=pipeline, strategy=strategy, unlabelled=True)
    advice = f"The model was trained on {', '.join(atlases)}; give data of all of these."
    chosen = _chosen(source, found, tuple(atlases), advice)
    run = _Preparation(found, out / FEATURES, chosen, {}, limits, "exclude", reporter or SilentReporter(), atlases)
    made = run.write(source, out, {"atlases": chosen, **asdict(limits)})
    return read_cohort(made.manifest, unlabelled="allow"), made.problems


def _prepared_before(manifest: Path, atlases: Mapping[str, int]) -> tuple[Cohort, tuple[Problem, ...]]:
    """A prepared cohort, whose preparation refused all data that cannot be used.

    Raises:
        DataError: It lacks an atlas, or has another number of regions.
    """
    cohort = read_cohort(manifest, unlabelled="allow")
    for atlas, regions in atlases.items():
        found = cohort.store.atlas(atlas).regions
        if found != regions:
            raise DataError(f"{cohort.store.folder}: {_other_regions(atlas, found, regions)}")
    return cohort, ()


def _find_source(
    path: Path,
    *,
    atlases: Sequence[str],
    pipeline: str | None,
    strategy: str | None,
    phenotype: Path | None = None,
    unlabelled: bool = False,
) -> ConnectomeSource:
    """Recognize the layout of a folder or file; see `prepare_cohort` and `read_new`.

    Raises:
        DataError: It is none that is known.
    """
    if path.suffix == ".npz":
        return find_npz(path, unlabelled=unlabelled)
    if not path.is_dir():
        raise DataError(f"{path} is not there; expected a folder of time series or matrices, or an .npz file.")
    if next(path.rglob("*.1D"), None) is None:
        matrices = find_matrices(path, atlases=atlases, phenotype=phenotype, unlabelled=unlabelled)
        if matrices is not None:
            return matrices
    return find_series(path, pipeline=pipeline, strategy=strategy, phenotype=phenotype, unlabelled=unlabelled)


@dataclass
class _Preparation:
    """One preparation; the store is opened when the first subject shows how many regions there are."""

    source: ConnectomeSource
    features: Path
    atlases: tuple[str, ...]
    labels: Mapping[str, Labels]
    limits: Limits
    missing_atlas: str
    reporter: Reporter
    regions: Mapping[str, int] = field(default_factory=dict)
    stack: ExitStack = field(default_factory=ExitStack)
    writer: StoreWriter | None = None
    subjects: list[Case] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    numbers: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def write(self, path: Path, out: Path, settings: Mapping[str, Any]) -> Prepared:
        """Read every candidate and write the cohort.

        Raises:
            DataError: No subject can be used.
        """
        self.reporter.start("preparing", len(self.source.candidates))
        try:
            with self.stack:
                for candidate in self.source.candidates:
                    self._take(candidate)
                    self.reporter.advance()
                if not self.subjects:
                    raise DataError(_no_subject(path, (*self.source.problems, *self.problems)))
                self._require_usual_first(path)
        finally:
            self.reporter.finish()
        problems = (*self.source.problems, *self.problems)
        excluded, warnings = _counts(problems)
        manifest = write_cohort(out, self.subjects)
        write_problems(out / EXCLUSIONS_FILE, problems)
        counts = {"kept": len(self.subjects), "excluded": excluded, "warnings": warnings}
        write_json(out / PREPARATION_FILE, {"settings": settings, **counts})
        return Prepared(manifest, len(self.subjects), problems, excluded, warnings)

    def _require_usual_first(self, path: Path) -> None:
        """The first subject sets the numbers of regions, so it must not be the odd one.

        Raises:
            DataError: Most subjects have other numbers than the first.
        """
        others = [problem for problem in self.problems if problem.reason == "region-count"]
        if not self.regions and len(others) > len(self.subjects):
            raise DataError(
                f"{path}: {len(others)} subjects have other numbers of regions than the first, "
                f"'{self.subjects[0].id}', and {len(self.subjects)} the same: '{others[0].case_id}', "
                f"{others[0].detail}. Correct or remove the odd one, and prepare again."
            )

    def _take(self, candidate: Candidate) -> None:
        """Keep a candidate, or note why not."""
        subject = candidate.subject
        problem = reject_candidate(candidate, self.limits)
        if problem is not None:
            self.problems.append(problem)
            return
        try:
            data = self.source.read(candidate, self.atlases)
            require_sound(data, self.source.content, self.atlases, candidate, self.limits)
            self._require_same(data)
        except UnusableError as error:
            if error.reason == "missing-atlas" and self.missing_atlas == "error":
                raise DataError(f"Subject '{subject.id}' has {error}; expected {', '.join(self.atlases)}.") from None
            self.problems.append(Problem(subject.id, "", error.reason, str(error)))
            return
        if self.writer is None:
            blocks = {atlas: self._described(atlas, data) for atlas in self.atlases}
            self.writer = self.stack.enter_context(StoreWriter(self.features, blocks))
        for atlas, numbers in data.numbers.items():
            self.numbers.setdefault(atlas, numbers)
        self.writer.add(subject.id, data.values)
        lengths = [len(values) for values in data.values.values()] if self.source.content == "series" else []
        points = lengths[0] if lengths else candidate.time_points
        known = {} if points is None else {"time_points": str(points)}
        self.subjects.append(replace(subject, covariates={**subject.covariates, **known}))
        self.problems.extend(oddities(data.values, data.regions, self.source.content, subject.id))

    def _described(self, atlas: str, data: SubjectData) -> StoredAtlas:
        numbers = data.numbers.get(atlas)
        block = describe_atlas(atlas, self.source.content, data.regions[atlas], numbers, self.labels.get(atlas))
        if numbers is None and atlas in self.labels and block.names[0] == "1":
            self.reporter.line(
                f"{atlas}: {len(self.labels[atlas])} labels for {block.regions} regions, and the data do not "
                "show which label belongs to which region; the regions are named by their position."
            )
        return block

    def _require_same(self, data: SubjectData) -> None:
        for atlas in self.atlases:
            given = self.regions.get(atlas)
            if given is not None and data.regions[atlas] != given:
                raise UnusableError("region-count", _other_regions(atlas, data.regions[atlas], given))
            if self.writer is not None and data.regions[atlas] != self.writer.atlases[atlas].regions:
                raise UnusableError(
                    "region-count",
                    f"found {data.regions[atlas]} regions for atlas '{atlas}', expected "
                    f"{self.writer.atlases[atlas].regions} as of the first subject, '{self.subjects[0].id}'",
                )
            first = self.numbers.get(atlas)
            own = data.numbers.get(atlas)
            if first is not None and own is not None and first != own:
                place = next(i for i, (a, b) in enumerate(zip(first, own, strict=True)) if a != b)
                raise UnusableError(
                    "region-names", f"column {place + 1} of {atlas} is region {own[place]}, others have {first[place]}"
                )


def _other_regions(atlas: str, found: int, expected: int) -> str:
    return f"found {found} regions for atlas '{atlas}', expected {expected}, which the model was trained on"


def _chosen(path: Path, source: ConnectomeSource, atlases: Sequence[str], advice: str) -> tuple[str, ...]:
    lacking = [atlas for atlas in atlases if atlas not in source.atlases]
    if lacking:
        raise DataError(
            f"{path} holds no data of {', '.join(lacking)}; found the atlases {', '.join(source.atlases)}. {advice}"
        )
    return tuple(dict.fromkeys(atlases)) or source.atlases


def _counts(problems: Sequence[Problem]) -> tuple[dict[str, int], dict[str, int]]:
    """Numbers of subjects by reason: left out, and kept in spite of it."""
    each = {(problem.severity, problem.reason, problem.case_id): None for problem in problems}
    errors = Counter(reason for severity, reason, _ in each if severity == "error")
    warnings = Counter(reason for severity, reason, _ in each if severity == "warning")
    return dict(errors.most_common()), dict(warnings.most_common())


def _no_subject(path: Path, problems: Sequence[Problem]) -> str:
    excluded, _ = _counts(problems)
    counts = ", ".join(f"{count} {reason}" for reason, count in excluded.items())
    examples = {problem.reason: problem for problem in reversed(problems) if problem.severity == "error"}
    shown = "".join(f"\n  {problem}" for problem in list(examples.values())[::-1][:10])
    return f"No subject of {path} can be used ({counts or 'it has none'}); expected some. One of each kind:{shown}"
