"""The folder that holds everything a run knows, and the care taken before writing into it or clearing it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from medformer.crossval.plan import some
from medformer.crossval.run.entries import ENTRIES, foreign_exports, foreign_kinds, visible
from medformer.crossval.run.lock import acquire, release
from medformer.errors import ConfigError, DataError, InterruptedRun, MedformerError, ResourceError, write_advice
from medformer.files import is_temporary, require_writable
from medformer.records import Content, Names, Rows, Table, read_record

FORMAT = "medformer-run/1"

RECALL = "recall.json"
"""In the folder of a fold whose network has a memory: what it retrieved for some of the test cases."""

_RESTORE = "Restore the file from a copy, or start a new run in another folder."


class RunRecord(Content):
    """What run.json holds. A run of an earlier version may lack some of it."""

    format: str
    task: str = ""
    config_sha256: str = ""
    data_sha256: str = ""
    manifest: str = ""
    data_root: str = ""
    accepted_leaks: Names
    notes: Names
    pretrained: Table
    parameters: int = 0
    state: str = ""
    reason: str = ""
    sessions: Rows


class RunDirectory:
    """Where each file of a run lives.

    Use `create` for a folder to write into and `open` for a finished one.

    Attributes:
        path: The folder.
        resumed: Whether an earlier session already wrote here.
        run_json: Versions, device, seeds, hashes, command, times, exit state.
        config_yaml: The resolved config.
        splits_json: The frozen fold plan.
        audit_json: The leakage and data audit.
        oof_csv: One row per case per repeat: the source of every number.
        oof_sha256: Hash of the out-of-fold table as the run wrote it.
        held_out_csv: Manifest of the test rows, which no fold has seen.
        metrics_json: Every number, computed from the out-of-fold table alone.
        masks: Exported masks.
        report_html: The offline report.
        gallery: The pictures of the report, for writing it again without the data.
        model_card_md: The model card.
        report_share_html: The report without names and pictures of cases.
        model_card_share_md: The model card that belongs to it.
        methods_md: Methods, tables of results and the checklist, for a paper.
        folds: The folder of fold folders.
        site_probe_json: How well the site can be predicted from what the model is given.
        cohort_json: Who is in the cohort, who was left out of it and why (connectome task).
        explain: What the networks' scores rest on (connectome task).
        start: The network of another run that training starts from, and where it is from (fine-tuning).
        seen_json: What tells the cases of the plan apart from those of other runs, and what its networks saw before.
        inventory: What one pass over every file found, so that a resumed run reads nothing unchanged.
        extra_inventory: The same of the unlabeled cases that pretraining may see.
        cache: Prepared data, which can be made again; removed once the run is done.
        lock: Present while a process writes here.
    """

    def __init__(self, path: Path, *, resumed: bool = False) -> None:
        self.path = Path(path)
        self.resumed = resumed
        self.run_json = self.path / "run.json"
        self.config_yaml = self.path / "config.yaml"
        self.splits_json = self.path / "splits.json"
        self.audit_json = self.path / "audit.json"
        self.oof_csv = self.path / "oof.csv"
        self.oof_sha256 = self.path / "oof.sha256"
        self.held_out_csv = self.path / "held_out.csv"
        self.metrics_json = self.path / "metrics.json"
        self.masks = self.path / "masks"
        self.report_html = self.path / "report.html"
        self.gallery = self.path / "gallery"
        self.model_card_md = self.path / "model_card.md"
        self.report_share_html = self.path / "report_share.html"
        self.model_card_share_md = self.path / "model_card_share.md"
        self.methods_md = self.path / "methods.md"
        self.folds = self.path / "folds"
        self.site_probe_json = self.path / "site_probe.json"
        self.cohort_json = self.path / "cohort.json"
        self.explain = self.path / "explain"
        self.start = self.path / "start"
        self.seen_json = self.path / "seen.json"
        self.inventory = self.path / "inventory"
        self.extra_inventory = self.path / "inventory-extra"
        self.cache = self.path / "cache"
        self.lock = self.path / ".lock"
        self._made: list[Path] = []

    @classmethod
    def create(cls, path: Path, *, resume: bool = False, overwrite: bool = False) -> RunDirectory:
        """Make the folder ready to be written into, and hold it until `release`.

        Args:
            path: A folder that is missing or empty, or an earlier run's folder with `resume` or `overwrite`.
            resume: Continue the run found there.
            overwrite: The run found there is to be deleted, by `clear`. Files that no run writes are never deleted.

        Raises:
            ConfigError: The folder holds something and neither flag fits it, or another process writes there.
            ResourceError: The folder cannot be made or cleared.
        """
        path = Path(path)
        if resume and overwrite:
            raise ConfigError("Got both --resume and --overwrite. Use one: continue the run, or delete it.")
        require_writable(path)
        if path.exists() and not path.is_dir():
            raise ConfigError(f"--out {path} is a file; expected a folder to be created. Choose another name.")
        if resume and not path.is_dir():
            raise ConfigError(f"--resume: there is no folder {path}. Check --out, or start a run without --resume.")
        run = cls(path)
        run._made = [place for place in (path, *path.absolute().parents) if not place.exists()]
        try:
            if visible(path) and not run.is_run():
                raise ConfigError(
                    f"--out {path} is not empty ({some(visible(path))}) and is not a run folder (no run.json of "
                    "ours): it is neither resumed nor overwritten. Choose a new or empty folder."
                )
            if run.is_run() and not (resume or overwrite):
                raise ConfigError(
                    f"--out {path} already holds a run. Add --resume to continue it, --overwrite to delete it and "
                    "start again, or choose another folder."
                )
            path.mkdir(parents=True, exist_ok=True)
            acquire(run.lock)
            run._sweep()
            if overwrite:
                run._require_own()
            run.resumed = run.is_run() and not overwrite
        except OSError as error:
            run.release()
            raise ResourceError(f"Cannot prepare {path}: {error.strerror or error}. {write_advice(error)}.") from error
        except MedformerError:
            run.release()
            raise
        return run

    @classmethod
    def open(cls, path: Path) -> RunDirectory:
        """Open an existing run for reading.

        Raises:
            ConfigError: The folder is not a run folder.
            DataError: Its run.json is damaged.
        """
        run = cls(Path(path), resumed=True)
        if not run.path.is_dir():
            raise ConfigError(f"There is no run folder {path}. Give the folder that a run wrote with --out.")
        if (run.path / "bundle.json").is_file() and not run.is_run():
            raise ConfigError(
                f"{path} is a bundle, which predicts and holds no table and no cases. Give the folder of the run that "
                "it was exported from."
            )
        if not run.is_run():
            raise ConfigError(f"{path} is not a run folder: it has no run.json written by medformer. Check the path.")
        return run

    def record(self) -> dict[str, Any]:
        """Read run.json; what it lacks is empty.

        Raises:
            DataError: It is missing or damaged.
        """
        return read_record(self.run_json, RunRecord, _RESTORE).model_dump()

    def is_run(self) -> bool:
        """Whether the folder holds a run.json of ours.

        Raises:
            DataError: It holds a run.json that is cut off or cannot be read, so that nobody can tell.
        """
        if not self.run_json.is_file():
            return False
        content = read_record(self.run_json, object, _RESTORE)
        return isinstance(content, dict) and str(content.get("format", "")).startswith("medformer-run/")

    def release(self) -> None:
        """Let other processes write here; does nothing when this process does not hold the folder."""
        release(self.lock)

    @contextmanager
    def unless_refused(self) -> Iterator[None]:
        """What comes before a new run is begun: where it fails, no trace of it stays, and an earlier run does.

        After an interruption, what was read of the files is kept, so that it need not be read again.
        """
        try:
            yield
        except BaseException as error:
            if not self.resumed:
                if not (self.run_json.exists() or isinstance(error, (KeyboardInterrupt, InterruptedRun))):
                    for cache in (self.inventory, self.extra_inventory):
                        shutil.rmtree(cache, ignore_errors=True)
                self.release()
                with suppress(OSError):
                    for place in self._made:
                        place.rmdir()
            raise

    def clear(self) -> None:
        """Delete an earlier run, its run.json last so that a half-cleared folder is still recognized.

        What was read of the files stays, because the next run reads the same.

        Raises:
            ConfigError: The folder also holds files that no run writes; nothing is deleted then.
            ResourceError: Something cannot be deleted.
        """
        self._require_own()
        kept = {self.lock, self.inventory, self.extra_inventory}
        try:
            for entry in sorted(self.path.iterdir(), key=lambda item: item.name == "run.json"):
                if entry in kept:
                    continue
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                else:
                    entry.unlink()
        except OSError as error:
            raise ResourceError(f"Could not delete the earlier run in {self.path}: {error}.") from error

    def _require_own(self) -> None:
        """Refuse to delete what no run writes: other names at the top, masks of no case, other kinds of files below.

        Raises:
            ConfigError: There is such a file.
        """
        foreign = [name for name in visible(self.path) if name not in ENTRIES]
        for part in (self, self.canary):
            inside = part.path.relative_to(self.path)
            names = (*foreign_exports(part.path, self.splits_json), *foreign_kinds(part.path))
            foreign += [(inside / name).as_posix() for name in names]
        if foreign:
            raise ConfigError(
                f"--overwrite: {self.path} also holds files that no run writes ({some(foreign)}). Move them elsewhere "
                "or choose another folder; nothing was deleted."
            )

    def _sweep(self) -> None:
        """Delete the temporary files that writes cut off by a kill left behind, so that nobody takes them for masks."""
        for file in self.path.rglob(".*"):
            if is_temporary(file.name) and file.is_file():
                file.unlink()

    def relative(self, path: Path) -> str:
        """Return `path` relative to the folder, with forward slashes, for use in tables.

        Raises:
            DataError: The path lies outside the folder.
        """
        try:
            return Path(path).resolve().relative_to(self.path.resolve()).as_posix()
        except ValueError as error:
            raise DataError(
                f"{path} lies outside the run folder {self.path}; a run's tables only name its own files."
            ) from error

    @property
    def canary(self) -> RunDirectory:
        """The same plan on permuted labels: `folds/`, `oof.csv` and `metrics.json` like the run's own."""
        return RunDirectory(self.path / "canary", resumed=True)

    def baseline(self, name: str) -> RunDirectory:
        """A baseline on the same plan: `folds/`, `oof.csv` and `metrics.json` like the run's own."""
        return RunDirectory(self.path / "baselines" / name, resumed=True)

    @property
    def baselines(self) -> dict[str, RunDirectory]:
        """The baselines that have an out-of-fold table, by name."""
        found = sorted(path.parent.name for path in self.path.glob("baselines/*/oof.csv"))
        return {name: self.baseline(name) for name in found}

    def fold(self, index: int) -> Path:
        """The folder of one fold: history.csv, model.safetensors, resume state, predictions.csv, fold.json."""
        return self.folds / str(index)
