"""What is known of the cases of a scored folder besides their masks: patient, site, sex, age, and mask values."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from medformer.data.case_names import CaseNames
from medformer.data.cases import Case
from medformer.data.group_table import groups_by_pattern, groups_of, listed_names
from medformer.data.manifest import Manifest, read_manifest
from medformer.errors import ConfigError, DataError
from medformer.foreground import Foreground

_EXPECTED = "paths of the masks below their folder, without the ending"
_DESCRIBED = ("age", "sex")


@dataclass(frozen=True)
class CaseSource:
    """Where a user says what is known of the cases.

    Attributes:
        groups: Table with `id` and `group`.
        manifest: Manifest of the masks, which also knows their sites, their foreground, and sex and age.
        group_pattern: Regular expression with one group, which finds the patient in the name of a mask.
        ungrouped: What cases are whose patient nobody knows: `each` its own group, or `unknown`, which allows no
            intervals, because all could be of one patient.
    """

    groups: Path | None = None
    manifest: Path | None = None
    group_pattern: str | None = None
    ungrouped: Literal["unknown", "each"] = "unknown"

    @cached_property
    def table(self) -> Manifest | None:
        """The manifest, read; a group that it lacks is its row's own only where the user says so.

        Raises:
            DataError: It cannot be read.
        """
        each: Literal["error", "each"] = "each" if self.ungrouped == "each" else "error"
        return None if self.manifest is None else read_manifest(self.manifest, ungrouped=each)

    def of(self, pairs: Sequence[tuple[str, Path, Path]]) -> ScoredCases:
        """What is known of scored cases.

        Args:
            pairs: Name, prediction and mask of each.

        Raises:
            ConfigError: Patients are named in two ways.
            DataError: A table cannot be read, or lacks a case.
        """
        given = [
            option
            for option, value in (
                ("--groups", self.groups),
                ("--manifest", self.manifest),
                ("--group-pattern", self.group_pattern),
            )
            if value is not None
        ]
        if len(given) > 1:
            raise ConfigError(f"Got {' and '.join(given)}; expected one of them to say whose a case is.")
        names = [name for name, _, _ in pairs]
        if self.table is not None:
            return _of_manifest(self.table, pairs)
        if self.group_pattern is not None:
            groups = groups_by_pattern(names, self.group_pattern)
        else:
            groups = groups_of(names, self.groups, _EXPECTED)
        groups = groups or ({name: name for name in names} if self.ungrouped == "each" else {})
        return ScoredCases({name: {"group": group} for name, group in groups.items()})


@dataclass(frozen=True)
class ScoredCases:
    """What is known of scored cases, by name.

    Attributes:
        columns: Cells that the table of scores gets.
        foreground: The values of a mask that are foreground, where the manifest tells.
    """

    columns: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    foreground: Mapping[str, Foreground] = field(default_factory=dict)

    def add_to(self, row: dict[str, Any]) -> dict[str, Any]:
        """A row of scores with what is known of its case, after its id."""
        known = self.columns.get(row["id"], {})
        return {"id": row["id"], **known, **row, **known}


def _of_manifest(manifest: Manifest, pairs: Sequence[tuple[str, Path, Path]]) -> ScoredCases:
    """The rows of a manifest, found by the file of the mask, else by name."""
    by_file = {os.path.realpath(case.mask): case for case in manifest.cases if case.mask is not None}
    named = CaseNames(manifest.cases)
    found: dict[str, Case] = {}
    missing = []
    for name, _, mask in pairs:
        case = by_file.get(os.path.realpath(mask))
        id_ = None if case else named.find(name)
        if case is None and id_ is None:
            missing.append(name)
        else:
            found[name] = case or manifest.by_id[str(id_)]
    if missing:
        raise DataError(
            f"{manifest.path} has no row for {len(missing)} of {len(pairs)} scored cases: {listed_names(missing)}. Its "
            f"ids are {listed_names(list(manifest.by_id))}; expected ids or mask files of the scored cases."
        )
    sites = any(case.site for case in found.values())
    described = [name for name in _DESCRIBED if any(case.covariates.get(name) for case in found.values())]
    columns = {
        name: {
            "group": case.group,
            **({"site": case.site} if sites else {}),
            **{column: case.covariates.get(column, "") for column in described},
        }
        for name, case in found.items()
    }
    return ScoredCases(columns, {name: case.foreground for name, case in found.items() if case.foreground})
