"""The column of diagnoses: which of its values is the positive class, decided once for the whole column."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from medformer.errors import DataError

_WORDS: Mapping[str, int] = MappingProxyType(
    {
        **dict.fromkeys(("asd", "autism", "autistic", "patient", "patients", "case", "positive", "true", "yes"), 1),
        **dict.fromkeys(
            ("tc", "tdc", "td", "hc", "nc", "control", "controls", "healthy", "negative", "false", "no"), 0
        ),
    }
)
_NUMBERS: Mapping[str, Mapping[str, int]] = {"dx_group": {"1": 1, "2": 0}, "label": {"1": 1, "0": 0}}
_NAMES: Mapping[str, Mapping[int, str]] = {
    "dx_group": {1: "autism", 0: "control"},
    "label": {1: "positive", 0: "negative"},
}


@dataclass(frozen=True)
class Coding:
    """What the values of a column mean.

    Attributes:
        labels: 1 (positive) or 0 by text, in lower case.
        names: What the cohort calls the two classes.
    """

    labels: Mapping[str, int]
    names: Mapping[int, str]

    def label(self, text: str) -> int | None:
        """The class of a cell; None where it has none of the two."""
        return self.labels.get(_plain(text))

    @property
    def expected(self) -> str:
        """The values, for messages."""
        return " or ".join(self.labels)


def read_coding(
    column: str, cells: Iterable[str], path: str, *, positive: str | None = None, unlabelled: bool = False
) -> Coding:
    """Decide what the values of a column mean.

    Args:
        column: `dx_group`, where numbers are ABIDE's (1 autism, 2 control), or `label`, where they are 1 and 0.
        cells: Its values, empty where nothing is known.
        path: The table, for messages.
        positive: The value of the positive class, where the user names it; the one other value is the other class.
        unlabelled: Whether a column whose values mean nothing here is taken as it is.

    Raises:
        DataError: The values are not two classes that are known, so that one of them would be left out without a word.
    """
    given = {_plain(cell): cell for cell in reversed([cell for cell in cells if cell])}
    if positive is not None:
        others = [cell for text, cell in given.items() if text != _plain(positive)]
        if _plain(positive) not in given or len(others) != 1:
            raise DataError(
                f"{path}: the diagnoses are {_listed(given)}; with --positive {positive}, expected this value and one "
                "other. Correct --positive, or remove the rows of further diagnoses."
            )
        other = others[0]
        return Coding({_plain(positive): 1, _plain(other): 0}, {1: given[_plain(positive)], 0: other})
    if given and set(given) <= set(_WORDS):
        names = {label: next((given[text] for text in given if _WORDS[text] == label), "") for label in (1, 0)}
        coding = Coding(_WORDS, {label: name or _NAMES["label"][label] for label, name in names.items()})
    else:
        coding = Coding(_NUMBERS[column], _NAMES[column])
    found = {coding.labels[text] for text in given if text in coding.labels}
    if len(given) > 1 and len(found) < 2 and not unlabelled:
        raise DataError(
            f"{path}: the diagnoses are {_listed(given)}; expected {coding.expected}. Say which of the values is "
            "the positive class, with --positive VALUE, or correct the column."
        )
    return coding


def _plain(text: str) -> str:
    return text.strip().lower().removesuffix(".0")


def _listed(given: Mapping[str, str]) -> str:
    return ", ".join(f"'{cell}'" for cell in sorted(given.values())[:10]) or "all unknown"
