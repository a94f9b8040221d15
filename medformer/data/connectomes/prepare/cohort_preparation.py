"""From a published layout to a cohort: one manifest, one feature store, and a list of the subjects that were left out.

`prepare_cohort` prepares what a run learns from. `read_new` prepares what a trained run predicts: labels and a table of
subjects need not be there, and atlases must be those that were trained on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from medformer.data.connectomes.cohort import (
    FEATURES,
    LABEL_NAMES,
    MANIFEST_FILE,
    PREPARATION_FILE,
    Cohort,
    read_cohort,
    write_cohort,
)
from medformer.data.connectomes.prepare.quality import Limits
from medformer.data.connectomes.prepare.reading import Layout, ReadSubjects, count_problems, read_subjects
from medformer.data.connectomes.read.folders import TableChoice, find_matrices, find_series
from medformer.data.connectomes.read.matrices import Values
from medformer.data.connectomes.read.npz import find_npz
from medformer.data.connectomes.read.regions import find_labels, read_labels
from medformer.data.connectomes.read.source import ConnectomeSource
from medformer.data.problems import Problem, write_problems
from medformer.errors import ConfigError, DataError
from medformer.files import file_fault, write_json
from medformer.progress import Reporter, SilentReporter

EXCLUSIONS_FILE = "exclusions.csv"


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
    positive: str | None = None,
    values: Values = "auto",
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
        positive: The diagnosis of the positive class, where it is none of the usual ones.
        values: What matrices hold.
        labels: A table of the regions' names by atlas; else `labels/<atlas>_labels.csv` of the folder, where there is
            one. See `medformer.data.connectomes.read.regions`.
        limits: Who is kept.
        missing_atlas: Whether a subject without one of the atlases is left out, or stops the preparation.
        reporter: Shows the progress.

    Raises:
        ConfigError: `values` is given for time series.
        DataError: There is nothing to read, the table is no such table, an atlas is not there, or no subject is left.
        ResourceError: The folder is not writable or the disk is full.
    """
    limits = limits or Limits()
    table = TableChoice(phenotype, positive)
    found = _find_source(source, atlases, pipeline, strategy, table, values)
    if found.content == "series" and values != "auto":
        raise ConfigError(f"--values {values} says what matrices hold, but {source} holds time series. Leave it out.")
    chosen = _chosen(source, found, atlases, "Choose among these, or fetch the others.")
    reporter = reporter or SilentReporter()
    for note in found.notes:
        reporter.line(f"note: {note}")
    read = read_subjects(
        found,
        source,
        out / FEATURES,
        chosen,
        asked=bool(atlases),
        labels={atlas: read_labels(path) for atlas, path in {**find_labels(source), **(labels or {})}.items()},
        limits=limits,
        missing_atlas=missing_atlas,
        reporter=reporter,
    )
    settings: dict[str, Any] = {"atlases": chosen, "pipeline": pipeline, "strategy": strategy, **asdict(limits)}
    if found.content == "correlation":
        del settings["pipeline"], settings["strategy"]
        settings["values"] = values
    return _write(found, out, read, settings)


def read_new(
    source: Path,
    *,
    atlases: Mapping[str, Layout],
    out: Path,
    pipeline: str | None = None,
    strategy: str | None = None,
    values: Values = "auto",
    reporter: Reporter | None = None,
) -> tuple[Cohort, tuple[Problem, ...]]:
    """Read the connectomes of new subjects, with or without labels; what raters of their quality said does not count.

    Args:
        source: What `prepare_cohort` takes, or a cohort that is prepared already. A phenotypic table, diagnoses in it,
            and rows for some subjects may be missing; rows without data are passed over.
        atlases: The columns of each atlas, as the model was trained on; other atlases of the source are not read.
        out: Folder for the manifest, the feature store and `exclusions.csv`; a prepared cohort is read where it is.
        pipeline: Of time series; the only one that is there when not given.
        strategy: Of time series; the only one that is there when not given.
        values: What matrices hold.
        reporter: Shows the progress.

    Returns:
        The cohort of all subjects that can be used, and a problem for each of the others: an atlas is missing, has
        other regions or another order, is not square, is not finite, or cannot be read. Warnings are listed too.

    Raises:
        DataError: There is nothing to read, an atlas is not there at all, or no subject can be used.
        ResourceError: The folder is not writable or the disk is full.
    """
    manifest = source / MANIFEST_FILE if source.is_dir() else source
    if manifest.name.endswith(".csv") and manifest.is_file():
        return _prepared_before(manifest, atlases)
    found = _find_source(source, tuple(atlases), pipeline, strategy, TableChoice(unlabelled=True), values)
    return read_found(found, source, atlases=atlases, out=out, reporter=reporter)


def read_found(
    found: ConnectomeSource,
    source: Path,
    *,
    atlases: Mapping[str, Layout],
    out: Path,
    reporter: Reporter | None = None,
) -> tuple[Cohort, tuple[Problem, ...]]:
    """Read the connectomes of new subjects from what `source` was found to be; see `read_new`."""
    limits = Limits(usable_only=False)
    advice = f"The model was trained on {', '.join(atlases)}; give data of all of these."
    chosen = _chosen(source, found, tuple(atlases), advice)
    read = read_subjects(
        found,
        source,
        out / FEATURES,
        chosen,
        asked=True,
        labels={},
        limits=limits,
        missing_atlas="exclude",
        reporter=reporter or SilentReporter(),
        trained=atlases,
    )
    made = _write(found, out, read, {"atlases": chosen, **asdict(limits)})
    return read_cohort(made.manifest, unlabelled="allow"), made.problems


def _prepared_before(manifest: Path, atlases: Mapping[str, Layout]) -> tuple[Cohort, tuple[Problem, ...]]:
    """A prepared cohort, whose preparation refused all data that cannot be used.

    Raises:
        DataError: It lacks an atlas, or has other regions or another order.
    """
    cohort = read_cohort(manifest, unlabelled="allow")
    for atlas, layout in atlases.items():
        found = cohort.store.atlas(atlas)
        if layout.regions not in (None, found.regions):
            raise DataError(
                f"{cohort.store.folder}: found {found.regions} regions for atlas '{atlas}', expected {layout.regions}, "
                "which the model was trained on"
            )
        if found.numbers is not None and layout.numbers is not None and found.numbers != layout.numbers:
            raise DataError(
                f"{cohort.store.folder}: the regions of atlas '{atlas}', or their order, are not those that the model "
                f"was trained on: found {', '.join(found.numbers[:5])}, ..., expected {', '.join(layout.numbers[:5])}, "
                "... Prepare the subjects with the same label volume."
            )
    return cohort, ()


def _find_source(
    path: Path,
    atlases: Sequence[str],
    pipeline: str | None,
    strategy: str | None,
    table: TableChoice,
    values: Values,
) -> ConnectomeSource:
    """Recognize the layout of a folder or file; see `prepare_cohort` and `read_new`.

    Raises:
        DataError: It is none that is known.
        ConfigError: A table is given for a file that has its own.
    """
    if path.suffix.lower() == ".npz":
        if table.path is not None:
            raise ConfigError(
                f"{path} holds its own labels, and --phenotype {table.path} would not be read; leave it out."
            )
        return find_npz(path, positive=table.positive, unlabelled=table.unlabelled, holds=values)
    if not path.is_dir():
        fault = file_fault(path) or "is a single file"
        raise DataError(f"{path} {fault}; expected a folder of time series or matrices, or an .npz file.")
    if next(path.rglob("*.1D"), None) is None:
        matrices = find_matrices(path, atlases=atlases, table=table, holds=values)
        if matrices is not None:
            return matrices
    return find_series(path, pipeline=pipeline, strategy=strategy, table=table)


def _write(source: ConnectomeSource, out: Path, read: ReadSubjects, settings: Mapping[str, Any]) -> Prepared:
    problems = (*source.problems, *read.problems)
    excluded, warnings = count_problems(problems)
    manifest = write_cohort(out, read.subjects)
    write_problems(out / EXCLUSIONS_FILE, problems)
    counts = {"kept": len(read.subjects), "excluded": excluded, "warnings": warnings}
    write_json(out / PREPARATION_FILE, {"settings": settings, **counts, LABEL_NAMES: dict(source.label_names)})
    return Prepared(manifest, len(read.subjects), problems, excluded, warnings)


def _chosen(path: Path, source: ConnectomeSource, atlases: Sequence[str], advice: str) -> tuple[str, ...]:
    lacking = [atlas for atlas in atlases if atlas not in source.atlases]
    if lacking:
        raise DataError(
            f"{path} holds no data of {', '.join(lacking)}; found the atlases {', '.join(source.atlases)}. {advice}"
        )
    return tuple(dict.fromkeys(atlases)) or source.atlases
