"""Cross-validations: run one, read a finished one, compare several; and audit anybody's split."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from medformer.config_loading import override
from medformer.crossval.compare.choose import Better
from medformer.crossval.compare.compare import compare_scores
from medformer.crossval.compare.open import open_tables
from medformer.crossval.compare.pairs import Ungrouped
from medformer.crossval.compare.result import Comparison
from medformer.crossval.run import runner
from medformer.crossval.run.beside import BesideError
from medformer.crossval.run.collect import read_oof, tested_folds, verify_oof
from medformer.crossval.run.directory import RunDirectory
from medformer.crossval.splits.audit import SplitAudit
from medformer.crossval.splits.read import read_split
from medformer.errors import DataError
from medformer.evaluation.summary import headline
from medformer.interface.load import load
from medformer.interface.model import Model, require_one_of
from medformer.progress import LineReporter
from medformer.records import read_record
from medformer.reporting.report import build_report
from medformer.tasks import get_task
from medformer.tasks.settings import run_config
from medformer.tasks.split_audit import audit_data

Say = Callable[[str], object]
"""Receives lines about the progress, such as `print`."""


@dataclass(frozen=True)
class Run:
    """A cross-validation on disk.

    >>> import medformer as mf
    >>> found = mf.Run(run)
    >>> found.task, len(found.table) == found.metrics["pooled"]["n"]
    ('polyp', True)

    Attributes:
        path: Its folder.

    Raises:
        ConfigError: The folder is no run.
    """

    path: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", RunDirectory.open(Path(self.path)).path)

    @property
    def directory(self) -> RunDirectory:
        """Where each file of the run lies."""
        return RunDirectory.open(self.path)

    @property
    def task(self) -> str:
        """`polyp`, `abide` or `volume`."""
        return str(self.directory.record()["task"])

    @property
    def metrics(self) -> dict[str, Any]:
        """Every number of `metrics.json`.

        Raises:
            DataError: The file is missing or damaged, or the run tested nobody.
        """
        if not self.directory.metrics_json.is_file():
            tested_folds(self.directory)
        return read_record(self.directory.metrics_json, dict[str, Any], "Finish the run with resume=True.")

    @property
    def table(self) -> list[dict[str, Any]]:
        """The out-of-fold table, a row per case and repeat: each case predicted by a network that never saw it.

        Raises:
            DataError: The table is missing, damaged or was edited.
        """
        verify_oof(self.directory)
        return read_oof(self.directory.oof_csv)

    @property
    def report(self) -> Path:
        """The report, an HTML file.

        Raises:
            DataError: It was not written.
        """
        if not self.directory.report_html.is_file():
            raise DataError(f"{self.path} has no report. `medformer report {self.path}` writes it.")
        return self.directory.report_html

    def load(self, *, device: str = "auto") -> Model:
        """The ensemble of its folds (see `medformer.load`)."""
        return load(self.path, device=device)

    def __str__(self) -> str:
        if not self.directory.metrics_json.is_file():
            return f"{self.path}: no results (yet)"
        return f"{self.path}: {headline(self.metrics)}"


def crossval(
    task: Literal["polyp", "abide", "volume"],
    data: str | Path,
    /,
    *,
    out: str | Path,
    base: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    accept: str | Sequence[str] = (),
    write_report: bool = True,
    progress: Say | None = print,
    **config: Any,
) -> Run:
    """Cross-validate: check and audit the data, draw folds, train each, predict every case once, write the report.

    It is `medformer <task> crossval`, and `medformer <task> train` with `crossval={"scheme": "predefined"}`.

    Args:
        task: Which.
        data: What `--data` takes: a manifest, a cohort, or a folder of volumes.
        out: Folder of the run.
        base: A shipped config or a YAML file; the one that the command takes without it.
        resume: Continue what an interrupted call left in `out`.
        overwrite: Delete the run in `out` first.
        accept: Findings of the leakage audit to accept, by name.
        write_report: Write the report too.
        progress: Receives lines about the progress; None for silence.
        config: Config keys, as sections (`training={"epochs": 5}`, `data={"image_size": [352, 352]}`) or dotted
            (`**{"training.epochs": 5}`); `medformer info keys` lists them.

    Raises:
        ConfigError: A key or value that does not fit, or a folder that holds something.
        DataError: Cases cannot be used.
        LeakageError: A patient, file or picture is on both sides of a split.
        BesideError: The results are complete, and a baseline or check beside the model failed.
        MedformerError: See `docs/python.md`; what was finished stays on disk.
    """
    chosen, given = get_task(task), _flat(config)
    keys = {"target": given.pop("target", None), "data.manifest": Path(data)}
    overrides = [override(key, value) for key, value in given.items()]
    name = None if base is None else str(base)
    settings = run_config(task, name, overrides, keys, out=Path(out), resume=resume)
    failure = None
    try:
        run = runner.run(
            chosen,
            settings,
            Path(out),
            _Lines(progress),
            resume=resume,
            overwrite=overwrite,
            accept=_names(accept),
        )
    except BesideError as error:
        run, failure = error.run, error
    if write_report and run.oof_csv.exists():
        build_report(run.path)
    if failure is not None:
        raise failure
    return Run(run.path)


def compare(
    *tables: str | Path | Run,
    metric: str | None = None,
    direction: Literal["higher", "lower"] | None = None,
    shared_cases: bool = False,
    groups: str | Path | None = None,
    folds: str | Path | Sequence[str | Path] = (),
    ungrouped: Literal["error", "each"] = "error",
) -> list[Comparison]:
    """Compare each later run or table of scores with the first, case by case.

    It is `medformer compare`: differences, intervals over groups, tests over groups and folds.

    >>> import medformer as mf
    >>> found = mf.compare(run, run / "baselines" / "prior_mask")
    >>> found[0].metric, found[0].cases
    ('dice', 16)

    Args:
        tables: Runs, baselines inside a run, folders that `evaluate` wrote or nnU-Net's results, CSV tables of scores.
        metric: What to compare; Dice of masks and AUC of classes without it.
        direction: Which values of a metric that is not ours are better.
        shared_cases: Compare tables of different cases on those that all have.
        groups: CSV table of the patient or sequence of each case, for tables that do not say.
        folds: Files of a split, for tables that do not say which fold tested a case.
        ungrouped: Refuse cases without a known group, or take each for its own.

    Returns:
        One comparison for each table but the first, their p-values adjusted for their number.

    Raises:
        ConfigError: The tables cannot be compared, or fewer than two are given.
        DataError: A table is missing, damaged or was edited.
    """
    for name, value, options in (("direction", direction, Better), ("ungrouped", ungrouped, Ungrouped)):
        if value is not None:
            require_one_of(name, value, options)
    paths = [table.path if isinstance(table, Run) else Path(table) for table in tables]
    files = _files(folds)
    split = read_split(files) if files else None
    about = None if groups is None else Path(groups)
    return compare_scores(
        open_tables(paths, groups=about, folds=split),
        metric=metric,
        direction=direction,
        shared_only=shared_cases,
        ungrouped=ungrouped,
    )


def audit(
    data: str | Path,
    splits: str | Path | Sequence[str | Path] = (),
    *,
    task: Literal["polyp", "abide", "volume"] | None = None,
    group_pattern: str | None = None,
    accept: str | Sequence[str] = (),
    progress: Say | None = None,
) -> SplitAudit:
    """Look for leaks in a split that somebody made, and describe its balance; nothing is trained.

    It is `medformer audit`, but for a leak it raises nothing: `clean` says whether there is one, `audit.findings` lists
    them, and `raise_if_leaking()` raises `LeakageError`.

    >>> import medformer as mf
    >>> mf.audit(data, run / "splits.json").clean
    True

    Args:
        data: A manifest, a cohort, or a folder.
        splits: The split: a JSON file (splits_final.json of nnU-Net, splits.json of a run), a CSV table, a folder of
            lists, a published split by name, or lists of names, one for each part; that of the data without any.
        task: Of the data; found out unless given.
        group_pattern: Regular expression with one group, which finds the patient in the names of a folder's files.
        accept: Names of findings that are accepted.
        progress: Receives lines about the progress.

    Raises:
        ConfigError: Data or split are of no known kind, or a name to be accepted is none.
        DataError: They cannot be read, or do not belong together.
    """
    return audit_data(
        Path(data),
        _files(splits),
        task=task,
        group_pattern=group_pattern,
        accept=_names(accept),
        reporter=_Lines(progress),
    )


class _Lines(LineReporter):
    """Hands lines of progress on to a function."""

    def __init__(self, say: Say | None) -> None:
        super().__init__(interval=10.0)
        self._say = say

    def line(self, text: str) -> None:
        """Hand a sentence on."""
        if self._say is not None:
            self._say(text)


def _files(given: str | Path | Sequence[str | Path]) -> list[Path]:
    """One or several paths; a single text is one path, not its letters."""
    return [Path(path) for path in ([given] if isinstance(given, (str, Path)) else given)]


def _names(given: str | Sequence[str]) -> Sequence[str]:
    return [given] if isinstance(given, str) else given


def _flat(config: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Sections and keys as dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= _flat(value, f"{before}{key}.") if isinstance(value, Mapping) else {f"{before}{key}": value}
    return flat
