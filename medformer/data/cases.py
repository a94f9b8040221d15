"""A case, in every task: what a table of cases says of one frame, volume or scan."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from medformer.errors import DataError
from medformer.files import digest, is_temporary, sha256
from medformer.foreground import Foreground
from medformer.missing import known

_TECHNICAL = re.compile(r".*sha256|linked")
"""Columns that are there for the program: no folds are balanced by them, and no table of covariates has them."""

LABEL = "label"
"""Column of a case's class."""


@dataclass(frozen=True)
class Case:
    """One row of a table of cases: a frame, a volume, or one scan of a connectome cohort.

    Attributes:
        id: Unique name.
        image: Absolute path of the picture; a folder for a DICOM series; None for a connectome, whose numbers lie in
            a feature store under the id.
        mask: Absolute path of the mask; None when there is none.
        group: Patient or sequence.
        site: Hospital or dataset; empty when not known.
        split: Part of a published split, such as `train` or `test`; empty when there is none.
        sha256: `image_hash` of the images; empty when not known.
        covariates: Every other column, as text.
        further: Absolute paths of further channels.
        label: Class of the whole case, 1 (positive) or 0; None when there is none or it is not known.
        foreground: Names of the values of a picture's mask that are foreground; empty where the mask itself tells.
    """

    id: str
    image: Path | None = None
    mask: Path | None = None
    group: str = ""
    site: str = ""
    split: str = ""
    sha256: str = ""
    covariates: Mapping[str, str] = field(default_factory=dict)
    further: tuple[Path, ...] = ()
    label: int | None = None
    foreground: Foreground = ()

    @property
    def images(self) -> tuple[Path, ...]:
        """Every channel, in order."""
        return self.further if self.image is None else (self.image, *self.further)

    @property
    def described(self) -> dict[str, str]:
        """The covariates that say something about the patient or the scan, and not about files."""
        return {name: value for name, value in self.covariates.items() if not _TECHNICAL.fullmatch(name)}

    def required_image(self) -> Path:
        """The picture of a case that cannot do without.

        Raises:
            DataError: There is none.
        """
        if self.image is None:
            raise DataError(f"Case '{self.id}' has no image, and this run needs one. Add it, or leave the case out.")
        return self.image

    def required_mask(self) -> Path:
        """The mask of a case that cannot do without.

        Raises:
            DataError: There is none.
        """
        if self.mask is None:
            raise DataError(f"Case '{self.id}' has no mask, and a segmentation run needs one. Add it, or leave it out.")
        return self.mask

    def required_label(self) -> int:
        """The class of a case that cannot do without.

        Raises:
            DataError: It is not known.
        """
        if self.label is None:
            raise DataError(
                f"Case '{self.id}' has '{self.covariates.get(LABEL, '')}' in the column `{LABEL}`; expected 1 "
                "(positive) or 0. Fill the column of the manifest, or leave the case out."
            )
        return self.label

    def covariate(self, name: str) -> float:
        """A covariate as a number; sex is 0 for F and 1 for M.

        Raises:
            DataError: It is not known of this case, or is not a number.
        """
        text = known(self.covariates.get(name, ""))
        if not text:
            raise DataError(
                f"The {name} of case '{self.id}' is not known, and this run needs it. Fill it in the manifest, "
                "leave the case out, or do without this covariate."
            )
        try:
            return {"F": 0.0, "M": 1.0}[text] if name == "sex" else float(text)
        except (KeyError, ValueError):
            expected = "M or F" if name == "sex" else "a number"
            raise DataError(f"The {name} of case '{self.id}' is '{text}'; expected {expected}.") from None


def is_test(split: str) -> bool:
    """Whether a part of a published split is for testing: `test`, `Test`, `test-external`."""
    return split.casefold().startswith("test")


class Dataset(Protocol):
    """The cases of a task, such as a `Manifest` of pictures or a `Cohort` of connectomes."""

    @property
    def path(self) -> Path:
        """The table of cases."""

    @property
    def root(self) -> Path:
        """Absolute folder that the table's paths start from."""

    @property
    def cases(self) -> tuple[Case, ...]:
        """Its rows, in the file's order."""

    @property
    def by_id(self) -> Mapping[str, Case]:
        """Cases by id."""

    def digest(self) -> str:
        """SHA-256 of what the cases say, not of where they lie."""


def image_hash(images: Sequence[Path]) -> str:
    """SHA-256 of a file's bytes; of several channels, and of a folder, one hash over those of the files.

    A folder's files count by content alone, in the order of their names.
    """
    if len(images) == 1 and not images[0].is_dir():
        return sha256(images[0])
    return digest([_folder_hashes(image) if image.is_dir() else sha256(image) for image in images])


def _folder_hashes(folder: Path) -> list[str]:
    files = sorted(file for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))
    return [sha256(file) for file in files if not is_temporary(file.name)]


def path_from(root: Path, path: Path) -> str:
    """Write a path for a table that others may see: relative to `root`, or the name alone where it lies elsewhere."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
