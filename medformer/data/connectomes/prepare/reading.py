"""Reading all subjects of a source into a store: who is kept, and which regions most of them have.

The first subject says what the store looks like. Where most subjects turn out to have other regions than the first, all
are read again with the regions of most; without a majority nobody is kept, because the data do not show who is right.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from medformer.data.cases import Case
from medformer.data.connectomes.prepare.quality import Limits, oddities, reject_candidate, require_sound
from medformer.data.connectomes.read.matrices import VALUES_ADVICE
from medformer.data.connectomes.read.regions import Labels, describe_atlas
from medformer.data.connectomes.read.source import Candidate, ConnectomeSource, SubjectData, UnusableError
from medformer.data.connectomes.store import StoredAtlas, StoreWriter
from medformer.data.problems import Problem
from medformer.errors import DataError
from medformer.progress import Reporter

_Kind = TypeVar("_Kind")


@dataclass(frozen=True)
class Layout:
    """The columns of an atlas.

    Attributes:
        regions: How many; None where the data decide.
        numbers: What the files call each one; None where they do not say.
    """

    regions: int | None = None
    numbers: tuple[str, ...] | None = None


@dataclass(frozen=True)
class ReadSubjects:
    """What was read.

    Attributes:
        subjects: Those in the store, in its order.
        problems: Why the others are not, and warnings.
    """

    subjects: tuple[Case, ...]
    problems: tuple[Problem, ...]


def read_subjects(
    source: ConnectomeSource,
    path: Path,
    features: Path,
    atlases: Sequence[str],
    *,
    asked: bool,
    labels: Mapping[str, Labels],
    limits: Limits,
    missing_atlas: str,
    reporter: Reporter,
    trained: Mapping[str, Layout] | None = None,
) -> ReadSubjects:
    """Read every candidate and write the store.

    Args:
        source: The candidates.
        path: Where they come from, for messages.
        features: Folder of the store.
        atlases: Which are read.
        asked: Whether somebody named them, and not merely what there is.
        labels: Tables of the regions' names.
        limits: Who is kept.
        missing_atlas: `error` stops at a subject without one of the atlases.
        reporter: Shows the progress.
        trained: The columns that a model was trained on.

    Raises:
        DataError: No subject can be used; or what was read does not show what most subjects have.
    """
    fixed = dict(trained or {})
    for _ in range(2):
        reading = _Reading(source, features, tuple(atlases), labels, limits, missing_atlas, reporter, fixed)
        reading.because = "which the model was trained on" if trained else "as most subjects have"
        usual = reading.run(path, asked=asked)
        if usual is None:
            break
        fixed = usual
    return ReadSubjects(tuple(reading.subjects), tuple(reading.problems))


class _OtherRegionsError(Exception):
    """Most subjects have other regions than the first."""


@dataclass
class _Reading:
    """One reading; the store is opened when the first subject shows what it looks like."""

    source: ConnectomeSource
    features: Path
    atlases: tuple[str, ...]
    labels: Mapping[str, Labels]
    limits: Limits
    missing_atlas: str
    reporter: Reporter
    fixed: Mapping[str, Layout]
    because: str = ""
    stack: ExitStack = field(default_factory=ExitStack)
    writer: StoreWriter | None = None
    layouts: dict[str, Layout] = field(default_factory=dict)
    votes: dict[str, dict[Layout, list[str]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    lacking: Counter[str] = field(default_factory=Counter)
    read: int = 0
    subjects: list[Case] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def run(self, path: Path, *, asked: bool) -> dict[str, Layout] | None:
        """Read everyone; the columns of most where the first had others, and nothing is written then.

        Raises:
            DataError: See `read_subjects`.
        """
        self.layouts.update(self.fixed)
        self.reporter.start("preparing", len(self.source.candidates))
        usual: dict[str, Layout] = {}
        try:
            with self.stack:
                for candidate in self.source.candidates:
                    self._take(candidate)
                    self.reporter.advance()
                self._require_correlations(path)
                usual = {atlas: self._usual(path, atlas) for atlas in self.votes}
                if any(usual[atlas] != self.layouts[atlas] for atlas in usual):
                    raise _OtherRegionsError
                if not self.subjects:
                    raise DataError(_no_subject(path, (*self.source.problems, *self.problems)))
                if not asked:
                    self._require_common_atlases(path)
        except _OtherRegionsError:
            return usual
        finally:
            self.reporter.finish()
        return None

    def _take(self, candidate: Candidate) -> None:
        """Keep a candidate, or note why not."""
        subject = candidate.subject
        problem = reject_candidate(candidate, self.limits)
        if problem is not None:
            self.problems.append(problem)
            return
        try:
            data = self.source.read(candidate, self.atlases)
            self.read += bool(data.values)
            require_sound(data, self.source.content, self.atlases, candidate, self.limits)
            self._require_same(subject, data)
        except UnusableError as error:
            if error.reason in {"missing-atlas", "no-data"} and self.missing_atlas == "error":
                raise DataError(f"Subject '{subject.id}' has {error}; expected {', '.join(self.atlases)}.") from None
            if error.reason == "missing-atlas":
                self.lacking.update(atlas for atlas in self.atlases if atlas not in data.values)
            self.problems.append(Problem(subject.id, error.path, error.reason, str(error)))
            return
        if self.writer is None:
            blocks = {atlas: self._described(atlas, data) for atlas in self.atlases}
            self.writer = self.stack.enter_context(StoreWriter(self.features, blocks))
        self.writer.add(subject.id, data.values)
        lengths = [len(values) for values in data.values.values()] if self.source.content == "series" else []
        points = lengths[0] if lengths else candidate.time_points
        known = {} if points is None else {"time_points": str(points)}
        self.subjects.append(replace(subject, covariates={**subject.covariates, **known}))
        self.problems.extend(oddities(data.values, data.regions, self.source.content, subject.id))

    def _described(self, atlas: str, data: SubjectData) -> StoredAtlas:
        numbers = self.layouts[atlas].numbers
        block = describe_atlas(atlas, self.source.content, data.regions[atlas], numbers, self.labels.get(atlas))
        if numbers is None and atlas in self.labels and block.names[0] == "1":
            self.reporter.line(
                f"{atlas}: {len(self.labels[atlas])} labels for {block.regions} regions, and the data do not "
                "show which label belongs to which region; the regions are named by their position."
            )
        return block

    def _require_same(self, subject: Case, data: SubjectData) -> None:
        """Count the columns of a subject, and refuse it where they are not those of the store.

        Raises:
            UnusableError: It has another number of regions, or others.
        """
        for atlas in self.atlases:
            own = Layout(data.regions[atlas], data.numbers.get(atlas))
            self.votes[atlas][own].append(subject.id)
        for atlas in self.atlases:
            own = Layout(data.regions[atlas], data.numbers.get(atlas))
            usual = self.layouts.get(atlas, Layout())
            path = data.files.get(atlas, "")
            if usual.regions not in (None, own.regions):
                detail = f"found {own.regions} regions for atlas '{atlas}', expected {usual.regions}, {self.because}"
                raise UnusableError("region-count", detail, path)
            if own.numbers is not None and usual.numbers is not None and own.numbers != usual.numbers:
                places = enumerate(zip(own.numbers, usual.numbers, strict=True), 1)
                place, (found, expected) = next(pair for pair in places if pair[1][0] != pair[1][1])
                detail = f"column {place} of {atlas} is region {found}, expected {expected}, {self.because}"
                raise UnusableError("region-names", detail, path)
        for atlas in self.atlases:
            usual = self.layouts.get(atlas, Layout())
            self.layouts[atlas] = Layout(data.regions[atlas], usual.numbers or data.numbers.get(atlas))

    def _usual(self, path: Path, atlas: str) -> Layout:
        """The columns that more than half of the subjects have.

        Raises:
            DataError: No columns are those of more than half.
        """
        fixed = self.fixed.get(atlas, Layout())
        counts: dict[int, list[str]] = defaultdict(list)
        for layout, names in self.votes[atlas].items():
            counts[layout.regions or 0] += names
        regions = fixed.regions if fixed.regions is not None else _majority(path, atlas, "regions", counts)
        columns = {
            layout.numbers: names
            for layout, names in self.votes[atlas].items()
            if layout.regions == regions and layout.numbers is not None
        }
        numbers = fixed.numbers
        if numbers is None and columns:
            numbers = _majority(path, atlas, "names of regions", columns)
        return Layout(regions, numbers)

    def _require_correlations(self, path: Path) -> None:
        """Refuse a source of something else than correlations as a whole.

        Raises:
            DataError: At least as many matrices show that they hold something else as do not.
        """
        others = [problem for problem in self.problems if problem.reason == "not-correlation"]
        if others and len(others) >= self.read:
            raise DataError(
                f"{path}: {len(others)} of {len(others) + self.read} subjects have matrices that hold no correlations, "
                f"such as '{others[0].case_id}': {others[0].detail} ({others[0].path}). {VALUES_ADVICE}"
            )

    def _require_common_atlases(self, path: Path) -> None:
        """An atlas that few subjects have must not cost all others, unless somebody asked for it.

        Raises:
            DataError: There is one.
        """
        for atlas, count in self.lacking.most_common(1):
            if count > len(self.subjects):
                raise DataError(
                    f"{path}: {count} subjects have no {atlas}, and only {len(self.subjects)} have all of "
                    f"{', '.join(self.atlases)}. Choose atlases with --atlas, once for each."
                )


def _majority(path: Path, atlas: str, what: str, found: Mapping[_Kind, list[str]]) -> _Kind:
    ranked = sorted(found.items(), key=lambda item: -len(item[1]))
    total = sum(len(names) for names in found.values())
    if 2 * len(ranked[0][1]) > total:
        return ranked[0][0]
    listed = "; ".join(f"{len(names)} as '{names[0]}'" for _, names in ranked[:5])
    if what == "regions":
        listed = "; ".join(f"{len(names)} have {count}, such as '{names[0]}'" for count, names in ranked[:5])
    raise DataError(
        f"{path}: no {what} of {atlas} are those of most subjects, so that nobody can say which are right: {listed}. "
        "Leave one kind out, and prepare again."
    )


def count_problems(problems: Sequence[Problem]) -> tuple[dict[str, int], dict[str, int]]:
    """Numbers of subjects by reason: left out, and kept in spite of it."""
    each = {(problem.severity, problem.reason, problem.case_id): None for problem in problems}
    errors = Counter(reason for severity, reason, _ in each if severity == "error")
    warnings = Counter(reason for severity, reason, _ in each if severity == "warning")
    return dict(errors.most_common()), dict(warnings.most_common())


def _no_subject(path: Path, problems: Sequence[Problem]) -> str:
    excluded, _ = count_problems(problems)
    counts = ", ".join(f"{count} {reason}" for reason, count in excluded.items())
    examples = {problem.reason: problem for problem in reversed(problems) if problem.severity == "error"}
    shown = "".join(f"\n  {problem}" for problem in list(examples.values())[::-1][:10])
    return f"No subject of {path} can be used ({counts or 'it has none'}); expected some. One of each kind:{shown}"
