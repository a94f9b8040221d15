"""A finished run as its report sees it: what its files hold, and what follows from them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, TypeVar

from medformer.crossval.checks.canary import CanaryVerdict, canary_verdict
from medformer.crossval.compare.compare import adjust, compare_runs
from medformer.crossval.compare.result import Comparison
from medformer.crossval.plan import Plan
from medformer.crossval.run.collect import verify_oof
from medformer.crossval.run.directory import RunDirectory
from medformer.data.audit import SEEN
from medformer.data.volumes.plan.volume_plan import VolumePlan
from medformer.errors import DataError, MedformerError
from medformer.evaluation.metrics import Metric, table_of
from medformer.evaluation.table import group_names
from medformer.files import sha256
from medformer.inference.volumes.components import Components
from medformer.missing import known
from medformer.records import Content, Table, checked
from medformer.reporting.explanation import Explanation
from medformer.reporting.wording import label_title
from medformer.yaml_files import parse_yaml

T = TypeVar("T")

PRIOR = "prior_mask"
"""The baseline that predicts the average training mask. With permuted masks there is nothing else to learn."""

EMPTY_RULES = {"one": "both empty:\u00a01", "zero": "both empty:\u00a00", "nan": "both empty: left out"}
"""What two empty masks score, for the header of a column."""


class _Config(Content):
    model: Table
    training: Table
    features: Table
    pretraining: Table
    inference: Table


@dataclass(frozen=True)
class InnerRun:
    """Another model on the folds of the run: a baseline, or the canary with its permuted labels.

    Attributes:
        folder: Its folder.
        metrics: Its metrics.json.
        rows: Its oof.csv.
        decisions: Per fold, threshold.json; folds without one are left out.
    """

    folder: RunDirectory
    metrics: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    decisions: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class FinishedRun:
    """A run with results.

    Attributes:
        folder: The run folder.
        record: run.json.
        config_text: config.yaml as written.
        metrics: metrics.json, made by `medformer.evaluation.summary.summarize`.
        rows: oof.csv, numbers as numbers.
        plan: splits.json; None for a run without a plan.
        audit: audit.json; None when no audit was written.
        histories: Per fold, history.csv as columns of numbers; folds without one are left out.
        baselines: By name, those that have results.
        failed_baselines: By name, why a baseline that was begun has no results.
        canary: The same plan with permuted labels; None when it was not run.
        site_probe: site_probe.json; None when there is none.
        cohort: cohort.json; None when there is none.
        pretraining: Per fold, pretraining.json; folds without one are left out.
        starts: Per fold, start.json: the network that training started from; folds without one are left out.
        gates: Per fold, wide.json: the simple models beside the networks, and how much of each network is added;
            folds without one are left out.
        explanation: The tables that `explain` wrote; None when it was not run.
        volume_plans: Per fold, plan.json: how volumes are prepared for the network; folds without one are left out.
        decisions: Per fold, threshold.json: the threshold and where it is from; folds without one are left out.
        components: Per fold, components.json: which components of a label are kept; folds without one are left out.
        recalls: Per fold, recall.json: what the network's memory retrieved for some test cases; folds without one are
            left out.
    """

    folder: RunDirectory
    record: Mapping[str, Any]
    config_text: str
    metrics: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    plan: Plan | None
    audit: Mapping[str, Any] | None
    histories: Mapping[int, Mapping[str, Sequence[float]]]
    baselines: Mapping[str, InnerRun] = field(default_factory=dict)
    failed_baselines: Mapping[str, str] = field(default_factory=dict)
    canary: InnerRun | None = None
    site_probe: Mapping[str, Any] | None = None
    cohort: Mapping[str, Any] | None = None
    pretraining: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    starts: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    gates: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    explanation: Explanation | None = None
    volume_plans: Mapping[int, VolumePlan] = field(default_factory=dict)
    decisions: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    components: Mapping[int, Components] = field(default_factory=dict)
    recalls: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)

    shared: ClassVar[bool] = False
    """Whether names are stand-ins and pictures are left out (see `medformer.reporting.sharing`)."""

    @property
    def name(self) -> str:
        """The name of its folder; empty where it is shared."""
        return self.folder.path.resolve().name

    @cached_property
    def comparisons(self) -> tuple[Mapping[str, Comparison], Mapping[str, str]]:
        """The run compared with each baseline (B is the run), and why the other baselines cannot be compared."""
        found, problems = {}, {}
        for name, baseline in self.baselines.items():
            try:
                found[name] = compare_runs(baseline.folder, self.folder, name_a=name, name_b="the model")
            except MedformerError as error:
                problems[name] = str(error)
        return dict(zip(found, adjust(list(found.values())), strict=True)), problems

    @cached_property
    def canary_verdict(self) -> tuple[CanaryVerdict | None, str]:
        """The verdict of the canary, or the reason why there is none; the reason is empty when it was not run."""
        if self.canary is None:
            return None, ""
        prior = self.baselines.get(PRIOR)
        floor = None if prior is None or self.classification else prior.rows
        try:
            return canary_verdict([self.canary.rows], real=self.rows, floor=floor), ""
        except DataError as error:
            return None, str(error)

    @cached_property
    def classification(self) -> bool:
        """Whether cases are classified; otherwise they are segmented."""
        return "score" in self.rows[0]

    @cached_property
    def noun(self) -> str:
        """What a case is called."""
        return {"polyp": "image", "volume": "volume", "abide": "subject"}.get(str(self.record.get("task")), "case")

    @cached_property
    def positive(self) -> str:
        """What the positive class is called, such as `Positive (autism)`."""
        name = str(((self.cohort or {}).get("label_names") or {}).get("1") or "")
        return f"Positive ({name})" if name not in ("", "positive") else "Positive"

    @cached_property
    def target(self) -> str:
        """What is segmented."""
        return "labeled structure" if self.labels else "lesion"

    @cached_property
    def metric_table(self) -> Mapping[str, Metric]:
        """What the metrics of this run are called, which direction is better, and how they are written."""
        kind = "classification" if self.classification else "segmentation"
        return table_of({**self.metrics, "kind": kind})

    @cached_property
    def primary(self) -> Metric:
        """The metric that stands for the run where there is room for one."""
        return self.metric_table["auc" if self.classification else "dice"]

    def label(self, name: str) -> str:
        """Name a metric, with the rule for empty masks where that changes the number."""
        label = self.metric_table[name].label if name in self.metric_table else name
        return f"{label}{self.empty_rule}" if name in ("dice", "iou") else label

    def title(self, name: str) -> str:
        """Name a metric at the beginning of a sentence, or above a column."""
        label = self.label(name)
        return label[:1].upper() + label[1:]

    @cached_property
    def empty_rule(self) -> str:
        """The note beside every Dice and IoU, such as ` (both empty: 1)`; empty where the rule is not recorded."""
        policy = self.metrics.get("empty_policy")
        return f" ({EMPTY_RULES.get(policy, policy)})" if policy else ""

    @cached_property
    def pooled(self) -> Mapping[str, Any]:
        """The results of all test cases together."""
        return dict(self.metrics["pooled"])

    @cached_property
    def labels(self) -> Mapping[str, Any]:
        """The results of each named label; empty where cases have a single mask."""
        return dict(self.metrics.get("by_label") or {})

    @cached_property
    def label_titles(self) -> list[str]:
        """The labels as a reader sees them."""
        return [label_title(name) for name in self.labels]

    @cached_property
    def definitions(self) -> Mapping[str, Any]:
        """How metrics.json says that its numbers are computed."""
        return dict(self.metrics.get("definitions") or {})

    @cached_property
    def thresholded(self) -> bool:
        """Whether decisions were made at a threshold; label maps take the most probable label."""
        return any("threshold" in row for row in self.rows)

    @cached_property
    def chosen(self) -> str:
        """What the inner validation parts chose, such as `the epoch and the threshold`; empty where nothing."""
        learned, training = self.decisions.values(), self.config.get("training", {})
        found = {
            "the epoch": training.get("keep", "best") == "best",
            "the threshold": any(one.get("learned", one.get("from") != "config") for one in learned),
            "the calibration": any(not one["calibration"].get("reason") for one in learned if "calibration" in one),
            "which components are kept": any(one.cases for one in self.components.values()),
        }
        return " and ".join(what for what, so in found.items() if so)

    @cached_property
    def first_rows(self) -> Sequence[Mapping[str, Any]]:
        """One row per case: those of the first repeat."""
        first = min((row.get("repeat", 0) for row in self.rows), default=0)
        return [row for row in self.rows if row.get("repeat", 0) == first]

    @cached_property
    def cases(self) -> int:
        """Number of distinct cases."""
        return len({row["id"] for row in self.rows})

    @cached_property
    def folds(self) -> int:
        """Number of folds, over all repeats."""
        return len({row["fold"] for row in self.rows if "fold" in row})

    @cached_property
    def repeats(self) -> int:
        """How often the plan was drawn."""
        return len({row["repeat"] for row in self.rows if "repeat" in row}) or 1

    @cached_property
    def manifest_name(self) -> str:
        """The manifest without its folders, which name people and machines."""
        return re.split(r"[/\\]", str(self.record.get("manifest") or ""))[-1]

    @cached_property
    def scheme(self) -> str:
        """How the plan was drawn; empty for a run without a plan."""
        return self.plan.scheme if self.plan else ""

    @cached_property
    def left_out(self) -> str:
        """The column whose values were left out one at a time, such as the site; empty in other schemes."""
        return str(self.plan.settings.get("left_out") or "") if self.plan else ""

    @cached_property
    def left_out_values(self) -> Mapping[str, str]:
        """By the name of a fold, the value that it left out; empty in other schemes."""
        if self.plan is None or not self.left_out:
            return {}
        cases = {case.id: case for case in self.plan.cases}
        first = {str(fold.index): cases[fold.test[0]] for fold in self.plan.folds if fold.test}
        return {
            fold: known(case.site if self.left_out == "site" else case.covariates.get(self.left_out))
            for fold, case in first.items()
        }

    @cached_property
    def sites(self) -> list[str]:
        """Distinct known sites."""
        return sorted({known(row.get("site")) for row in self.rows} - {""})

    @cached_property
    def groups(self) -> int:
        """Number of distinct patients or sequences."""
        return len(set(group_names(self.first_rows)))

    @cached_property
    def config(self) -> dict[str, Any]:
        """config.yaml as values."""
        content = parse_yaml(self.config_text, str(self.folder.config_yaml)) or {}
        return checked(content, _Config, self.folder.config_yaml, "Restore the file from a copy.").plain

    @cached_property
    def session(self) -> Mapping[str, Any]:
        """The last session: the one that the results are from."""
        sessions = self.record.get("sessions") or [{}]
        return dict(sessions[-1])

    @cached_property
    def stale(self) -> bool:
        """Whether oof.csv was changed after metrics.json was computed from it."""
        recorded = self.metrics.get("source", {}).get("sha256")
        return recorded is not None and recorded != sha256(self.folder.oof_csv)

    @cached_property
    def edited(self) -> str:
        """Why oof.csv is not the table that the run wrote; empty when it is."""
        try:
            verify_oof(self.folder)
        except DataError as error:
            return str(error)
        return ""

    @cached_property
    def parameters(self) -> int:
        """Number of weights of the network of the first fold; 0 where a run of an earlier version did not note it."""
        return int(self.record.get("parameters") or 0)

    @cached_property
    def lacks_baselines(self) -> bool:
        """Whether the config asks for baselines and there are none, not even failed ones."""
        asked = self.config.get("crossval", {}).get("baselines", False)
        return bool(asked) and not self.baselines and not self.failed_baselines

    @cached_property
    def unmarked(self) -> int:
        """Number of cases with foreground on which nothing was marked."""
        return sum(row.get("pred_px") == 0 and row.get("truth_px") != 0 for row in self.first_rows)

    @cached_property
    def seen_before(self) -> int:
        """Number of findings that networks had seen before this run what is tested."""
        return sum(str(finding.get("kind", "")).startswith(SEEN) for finding in (self.audit or {}).get("findings", ()))

    @cached_property
    def seen_unknown(self) -> bool:
        """Whether networks began with one of which nobody can tell all that it had seen."""
        return bool((self.audit or {}).get("unknown"))

    @cached_property
    def empty_references(self) -> int:
        """Number of cases without foreground in the reference."""
        return sum(row.get("truth_px") == 0 for row in self.first_rows)
