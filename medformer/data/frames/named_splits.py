"""Published splits that ship with the package, as tables of dataset, file stem, part and group: names, never pixels."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from medformer.files import manifests_dir, read_csv
from medformer.registry import Entry, Registry

NAMED_SPLITS: Registry[str] = Registry(
    "named split",
    [
        Entry(
            "pranet",
            "pranet.csv",
            "1450 training pairs (Kvasir-SEG, CVC-ClinicDB) and five test sets; by frame, so ClinicDB's sequences leak",
            "Fan et al., PraNet, MICCAI 2020",
        ),
        Entry(
            "clinicdb-sequences",
            "clinicdb_sequences.csv",
            "CVC-ClinicDB by its 29 video sequences: train and test, and five folds; no sequence is on both sides",
            "Bernal et al., CMIG 2015 (frame ranges of the sequences)",
        ),
    ],
)

_ALIASES = {
    "kvasir": "Kvasir-SEG",
    "kvasirseg": "Kvasir-SEG",
    "clinicdb": "CVC-ClinicDB",
    "cvcclinicdb": "CVC-ClinicDB",
    "cvc612": "CVC-ClinicDB",
    "cvc300": "CVC-300",
    "cvct": "CVC-300",
    "colondb": "CVC-ColonDB",
    "cvccolondb": "CVC-ColonDB",
    "etis": "ETIS-LaribPolypDB",
    "etislarib": "ETIS-LaribPolypDB",
    "etislaribpolypdb": "ETIS-LaribPolypDB",
}

PUBLIC = frozenset(_ALIASES.values())
"""Canonical names of public data sets, which are the same wherever they lie."""


@dataclass(frozen=True)
class SplitRow:
    """What a named split says about one picture.

    Attributes:
        dataset: Canonical name of the dataset.
        stem: File name without its ending.
        split: `train` or `test`.
        group: Sequence within the dataset; empty when not known.
        fold: Fold of a k-fold division; empty when there is none.
    """

    dataset: str
    stem: str
    split: str
    group: str
    fold: str = ""


@dataclass(frozen=True)
class NamedSplit:
    """A published split."""

    name: str
    rows: Mapping[tuple[str, str], SplitRow]

    def find(self, dataset: str, stem: str) -> SplitRow | None:
        """Return the row of a picture, None when the split does not list it; the dataset may go by any known name."""
        return self.rows.get((canonical_dataset(dataset), stem))

    def dataset_of(self, stem: str, split: str) -> str | None:
        """Return the dataset whose `split` part has this stem; None when none has it, or several have."""
        found = {row.dataset for row in self.rows.values() if row.stem == stem and row.split == split}
        return found.pop() if len(found) == 1 else None

    def stems(self, dataset: str) -> list[str]:
        """Return the stems the split lists for a dataset."""
        return [stem for name, stem in self.rows if name == canonical_dataset(dataset)]


@cache
def named_split(name: str) -> NamedSplit:
    """Load a named split.

    Raises:
        UnknownNameError: No split has this name.
        ResourceError: The installation lacks its tables.
    """
    table = read_csv(manifests_dir() / NAMED_SPLITS[name].part)
    return NamedSplit(name, {(row["dataset"], row["stem"]): SplitRow(**row) for row in table})


def canonical_dataset(name: str) -> str:
    """Return the canonical name of a public dataset, or `name` itself when it is not known."""
    return _ALIASES.get(re.sub(r"[^a-z0-9]", "", name.lower()), name)
