"""A split that somebody else made, as its file spells it, and the same over the cases of a data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath

from medformer.crossval.plan import Fold, some
from medformer.data.case_names import CaseNames
from medformer.data.cases import Case
from medformer.errors import DataError, counted

_VALIDATION = ("val", "dev")
_TEST = "test"


@dataclass(frozen=True)
class GivenDivision:
    """One way in which cases are divided, such as a fold.

    Attributes:
        label: What is put before the name of a part, such as `"fold 3 "`; empty where there is one division only.
        parts: Names of cases by part, such as `train` and `val`.
        repeat: Which drawing it belongs to, from 0.
    """

    label: str
    parts: Mapping[str, tuple[str, ...]]
    repeat: int = 0

    @property
    def tested(self) -> str | None:
        """The part that numbers are about: that for testing, else that for validation; None without one such part."""
        for beginning in ((_TEST,), _VALIDATION):
            if found := [part for part in self.parts if part.casefold().startswith(beginning)]:
                return found[0] if len(found) == 1 else None
        return None

    def required_tested(self, source: str) -> str:
        """The same where there has to be one.

        Args:
            source: Of the split, for the message.

        Raises:
            DataError: The split does not say, or has several such parts.
        """
        if self.tested is None:
            raise DataError(
                f"{source}: {self.label or 'the split '}has the parts {', '.join(self.parts)}; expected one that "
                "begins with `test`, or else with `val`, which was tested. Rename the others, or join them."
            )
        return self.tested


@dataclass(frozen=True)
class GivenSplit:
    """A split as its file spells it.

    Attributes:
        source: The file, folder or name.
        form: What it is, in words.
        divisions: Such as the folds.
        assumed: The file lists the tested part of each fold alone; the others are taken to be trained on.
    """

    source: str
    form: str
    divisions: tuple[GivenDivision, ...]
    assumed: bool = False

    @property
    def title(self) -> str:
        """Its files without their folders."""
        return ", ".join(PurePath(part).name for part in self.source.split(", "))

    @property
    def folds(self) -> tuple[GivenDivision, ...]:
        """The divisions that are folds; where none is, all: a table may name published parts beside its folds."""
        return tuple(division for division in self.divisions if division.label) or self.divisions


@dataclass(frozen=True)
class BoundSplit:
    """A split over the cases of a data set.

    Attributes:
        split: The same with ids of cases in the place of names.
        unknown: Names of the file that no case has.
        unplaced: Ids of cases that no part has.
        doubled: Ids that two parts of one division have, with the parts.
    """

    split: GivenSplit
    unknown: tuple[str, ...]
    unplaced: tuple[str, ...]
    doubled: Mapping[str, str]

    @property
    def divisions(self) -> tuple[GivenDivision, ...]:
        """Of ids."""
        return self.split.divisions

    @property
    def notes(self) -> list[str]:
        """What does not fit, in sentences."""
        notes = []
        if self.unknown:
            notes.append(
                f"{counted(len(self.unknown), 'name')} of the split match no case of the data ({some(self.unknown)}); "
                "they are left out."
            )
        if self.unplaced:
            verb = "is" if len(self.unplaced) == 1 else "are"
            notes.append(
                f"{counted(len(self.unplaced), 'case')} of the data {verb} in no part of the split "
                f"({some(self.unplaced)})."
            )
        if self.doubled:
            first = next(iter(self.doubled))
            notes.append(
                f"{counted(len(self.doubled), 'case')} in two parts of one division, such as {first} "
                f"({self.doubled[first]})."
            )
        return [*notes, *_uneven_folds(self.split.folds)]

    def folds(self) -> tuple[Fold, ...]:
        """The folds: their tested parts, and all that came before them.

        Raises:
            DataError: One does not say which part was tested.
        """
        folds = []
        for index, division in enumerate(self.split.folds):
            tested = division.required_tested(self.split.source)
            test = division.parts[tested]
            learned = [name for part, names in division.parts.items() if part != tested for name in names]
            train = tuple(name for name in dict.fromkeys(learned) if name not in set(test))
            folds.append(Fold(index, train, (), test, division.repeat))
        return tuple(folds)


def bind(split: GivenSplit, cases: Sequence[Case]) -> BoundSplit:
    """Find the case of every name.

    Raises:
        DataError: No name is that of a case, or one may mean several.
    """
    known = CaseNames(cases)
    names = dict.fromkeys(name for division in split.divisions for names in division.parts.values() for name in names)
    found = {name: known.find(name) for name in names}
    unknown = tuple(name for name, case in found.items() if case is None)
    if len(unknown) == len(names):
        listed = f"it names {some(unknown, 3)}" if names else "it names none"
        raise DataError(
            f"No case of the data is in the split {split.source}: {listed}, and the data has "
            f"{some([case.id for case in cases], 3)}. Expected ids of the data or names of its files; check that the "
            "split is of these data."
        )
    divisions = []
    doubled: dict[str, str] = {}
    for division in split.divisions:
        parts = {
            part: tuple(dict.fromkeys(case for name in names if (case := found[name]) is not None))
            for part, names in division.parts.items()
        }
        times = Counter(case for ids in parts.values() for case in ids)
        for case, count in times.items():
            if count > 1 and case not in doubled:
                holders = [f"{division.label}{part}" for part, ids in parts.items() if case in ids]
                doubled[case] = " and ".join(holders)
        divisions.append(replace(division, parts=parts))
    placed = {case for division in divisions for ids in division.parts.values() for case in ids}
    unplaced = tuple(case.id for case in cases if case.id not in placed)
    return BoundSplit(replace(split, divisions=tuple(divisions)), unknown, unplaced, doubled)


def _uneven_folds(divisions: Sequence[GivenDivision]) -> list[str]:
    """Cases that some folds of a repeat test twice or never, although other folds have them."""
    notes = []
    for repeat in dict.fromkeys(division.repeat for division in divisions):
        folds = [division for division in divisions if division.repeat == repeat and division.tested]
        if len(folds) < 2:
            continue
        tested = Counter(name for fold in folds for name in fold.parts[fold.tested or ""])
        everyone = dict.fromkeys(name for fold in folds for ids in fold.parts.values() for name in ids)
        where = f" of repeat {repeat}" if len({division.repeat for division in divisions}) > 1 else ""
        for what, names in (
            ("more than one fold tests", [name for name, count in tested.items() if count > 1]),
            ("no fold tests", [name for name in everyone if name not in tested]),
        ):
            if names:
                notes.append(f"{counted(len(names), 'case')} that {what}{where} ({some(names)}).")
    return notes
