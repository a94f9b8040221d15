"""A finished run as strangers may see it: stand-ins for names of cases, patients and sites; no pictures, no machines.

`case 1` is the first case of the plan, `site A` the first site in the order of the alphabet. What a table says of a
case stays, and so do small subgroups: whoever passes a report on looks whether a row tells somebody apart.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

from medformer.config import SCHEMAS
from medformer.config.sharing import without_places
from medformer.config_loading import load_config
from medformer.crossval.compare.result import Comparison
from medformer.crossval.plan import Plan, PlanCase
from medformer.missing import known
from medformer.models.weights.table import find_source
from medformer.names import stand_ins
from medformer.reporting.finished_run import FinishedRun, InnerRun
from medformer.yaml_files import dump_yaml

Record = Mapping[str, Any]

_OPEN = frozenset({"size", "age", "sex", "mean_fd", "label", "fold", "repeat"})
"""Columns whose values name nobody."""
HARMLESS = ("folder", "histories", "pretraining", "gates", "explanation", "volume_plans", "decisions", "components")
"""Parts of a finished run that are shared as they are; every other part is made anew."""
_UNKNOWN = "Not all cases that networks were trained on before this run are fully recorded."
_OF_RECORD = ("task", "seed", "state", "data_sha256", "weights", "pretrained", "parameters")
_OF_SESSIONS = ("started", "finished", "state", "device", "threads", "cpus", "versions")
_CHANGED = "The table of scores was changed after the run wrote it."
_UNTOLD = "the reason names cases or files; the run's own report has it."
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_LISTED = re.compile(r"(row\(s\) of the data) \(.*\) (are held out|have the split)")


@dataclass(frozen=True)
class SharedRun(FinishedRun):
    """A finished run whose names are stand-ins; `shared_run` makes it."""

    shared: ClassVar[bool] = True

    @property
    def name(self) -> str:
        return ""

    @cached_property
    def comparisons(self) -> tuple[Mapping[str, Comparison], Mapping[str, str]]:
        found, problems = super().comparisons
        # After a colon, a caution lists what a comparison left out, by its names.
        told = {
            name: replace(one, cautions=tuple(c for c in one.cautions if ": " not in c)) for name, one in found.items()
        }
        return told, dict.fromkeys(problems, _UNTOLD)

    @cached_property
    def edited(self) -> str:
        return _CHANGED if super().edited else ""


def shared_run(run: FinishedRun) -> SharedRun:
    """Return a run without names of cases, patients, sites, files, machines and people."""
    names = _StandIns(run)
    record, cohort, probe, audit = run.record, run.cohort, run.site_probe, run.audit
    changed: dict[str, Any] = {
        "record": {
            **{key: record[key] for key in _OF_RECORD if key in record},
            "reason": names.only_harmless(str(record.get("reason") or "")),
            "notes": list(filter(None, map(names.note, record.get("notes") or ()))),
            "accepted_leaks": [names.finding(str(name)) for name in record.get("accepted_leaks") or ()],
            "sessions": [{key: one[key] for key in _OF_SESSIONS if key in one} for one in record.get("sessions") or ()],
        },
        "config_text": _config_text(run),
        "metrics": names.parts(run.metrics),
        "rows": [names.row(row) for row in run.rows],
        "plan": names.plan(run.plan) if run.plan else None,
        "baselines": {name: names.inner(inner) for name, inner in run.baselines.items()},
        "failed_baselines": {
            name: names.only_harmless(reason) or _UNTOLD for name, reason in run.failed_baselines.items()
        },
        "canary": names.inner(run.canary) if run.canary else None,
        "starts": {fold: {**found, "what": "a network of another run"} for fold, found in run.starts.items()},
        "recalls": {fold: {"cases": list(map(names.recalled, found["cases"]))} for fold, found in run.recalls.items()},
        "audit": None,
        "site_probe": None,
        "cohort": None,
    }
    if audit is not None:
        changed["audit"] = {
            **{key: audit[key] for key in ("cases", "parts", "looked_for", "leaks") if key in audit},
            # What is not known of networks of before is said by the names of their runs.
            "unknown": [_UNKNOWN] if audit.get("unknown") else [],
            "findings": [
                {
                    **{key: finding.get(key) for key in ("kind", "score", "accepted")},
                    **{key: names.part(str(finding.get(key, ""))) for key in ("part_a", "part_b")},
                    "a": names.case(finding.get("a")),
                    "b": names.case(finding.get("b")),
                    "detail": names.only_harmless(str(finding.get("detail", ""))),
                }
                for finding in audit.get("findings", ())
            ],
            "accepted_but_not_found": [names.finding(str(name)) for name in audit.get("accepted_but_not_found", ())],
            "problems": [
                {**{key: problem.get(key) for key in ("severity", "reason")}, "id": names.case(problem.get("id"))}
                for problem in audit.get("problems", ())
            ],
        }
    if probe is not None:
        changed["site_probe"] = {
            **probe,
            "text": names.only_harmless(str(probe.get("text") or "")),
            "left_out": [names.site(site) for site in probe.get("left_out") or ()],
            "by_site": {names.site(site): part for site, part in (probe.get("by_site") or {}).items()},
        }
    if cohort is not None:
        unseen = cohort.get("unseen_sites") or {}
        changed["cohort"] = {
            **cohort,
            "exclusions": [],
            "unseen_sites": {names.site(site): count for site, count in unseen.items()},
        }
    return SharedRun(**{name: getattr(run, name) for name in HARMLESS}, **changed)


class _StandIns:
    """Which name stands for which.

    Args:
        run: With the names.
    """

    def __init__(self, run: FinishedRun) -> None:
        cases = run.plan.cases if run.plan else ()
        ids = [case.id for case in cases] + [str(row["id"]) for row in run.rows]
        groups = [case.group for case in cases] + [known(row.get("group")) for row in run.rows]
        sites = {case.site for case in cases} | set(run.sites) | set((run.cohort or {}).get("unseen_sites") or ())
        sites |= set((run.site_probe or {}).get("by_site") or ())
        self._cases = {name: f"case {number}" for number, name in enumerate(dict.fromkeys(ids), start=1)}
        self._groups = {name: f"group {number}" for number, name in enumerate(dict.fromkeys(filter(known, groups)), 1)}
        listed = sorted(filter(known, sites))
        self._sites = dict(zip(listed, stand_ins("site", len(listed)), strict=True))
        self._values = {
            name: _letters({known(case.covariates.get(name)) for case in cases})
            for name in {name for case in cases for name in case.covariates} - _OPEN
        }
        values = {value for column in self._values.values() for value in column}
        private = sorted({*self._cases, *self._groups, *self._sites, *values}, key=len, reverse=True)
        self._private = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, private)) or '(?!)'})(?!\w)")

    def case(self, name: object) -> str:
        """What stands for a case; files and folders among the problems of the data have one name."""
        return self._cases.get(str(name), "another")

    def site(self, name: object) -> str:
        """What stands for a site; what stands for none is as it was."""
        return self._sites.get(str(name), str(name) if not known(name) or name == "unknown" else "another site")

    def only_harmless(self, text: str) -> str:
        """A text of the run, or nothing where it names a case, a patient, a site or a file."""
        return "" if self._private.search(text) or re.search(r"[/\\]", text) else text

    def note(self, note: object) -> str:
        """A note of the run; those of earlier versions list held-out cases, which the plan does not know."""
        return self.only_harmless(_LISTED.sub(r"\1 \2", str(note)))

    def part(self, text: str) -> str:
        """A side of a split; networks of before are named by the folders of their runs."""
        return "a network of before" if " of " in text else self.only_harmless(text)

    def finding(self, name: str) -> str:
        """The name of a finding of the audit: `kind:a|b`, `kind:<site>`, `kind:*` or `group:<group>`."""
        kind, _, rest = name.partition(":")
        every = {**self._sites, **self._groups, **self._cases, "*": "*"}
        return (
            f"{kind}:{'|'.join(every.get(part, 'another') for part in ([rest] if rest in every else rest.split('|')))}"
        )

    def recalled(self, one: Record) -> dict[str, Any]:
        """What the memory retrieved for a case."""
        found = {
            key: [{**stored, "case": self.case(stored["case"])} for stored in one[key]] for key in ("regions", "scenes")
        }
        return {"id": self.case(one["id"]), "marked": one["marked"], **found}

    def row(self, row: Record) -> dict[str, Any]:
        """A row of a table of scores; it names no file."""
        found = {key: cell for key, cell in row.items() if key not in ("image", "mask", "truth")}
        for key, stand_in in (
            ("id", self._cases),
            ("group", self._groups),
            ("site", self._sites),
            *self._values.items(),
        ):
            if key in found and known(found[key]):
                found[key] = stand_in.get(known(found[key]), found[key])
        return found

    def parts(self, metrics: Record) -> dict[str, Any]:
        """The content of metrics.json."""
        found = dict(metrics)
        if "by_site" in found:
            found["by_site"] = {self.site(name): part for name, part in metrics["by_site"].items()}
        if "by_covariate" in found:
            found["by_covariate"] = {
                column: {self._values.get(column, {}).get(name, name): part for name, part in parts.items()}
                for column, parts in metrics["by_covariate"].items()
            }
        return found

    def inner(self, inner: InnerRun) -> InnerRun:
        """A baseline or the canary."""
        return replace(inner, metrics=self.parts(inner.metrics), rows=[self.row(row) for row in inner.rows])

    def plan(self, plan: Plan) -> Plan:
        """The fold plan."""

        def named(ids: Sequence[str]) -> tuple[str, ...]:
            return tuple(self._cases[name] for name in ids)

        return replace(
            plan,
            cases=tuple(map(self._plan_case, plan.cases)),
            folds=tuple(
                replace(fold, train=named(fold.train), validation=named(fold.validation), test=named(fold.test))
                for fold in plan.folds
            ),
        )

    def _plan_case(self, case: PlanCase) -> PlanCase:
        return PlanCase(
            self._cases[case.id],
            self._groups.get(case.group, case.group),
            site=self.site(case.site) if known(case.site) else "",
            label=case.label,
            covariates={
                name: self._values[name].get(known(value), value) if name in self._values else value
                for name, value in case.covariates.items()
            },
        )


def _letters(values: set[str]) -> dict[str, str]:
    """Stand-ins of a column's values; numbers stay, and a date is none."""
    words = sorted(value for value in values - {""} if not _NUMBER.fullmatch(value))
    return dict(zip(words, stand_ins("value", len(words)), strict=True))


def _config_text(run: FinishedRun) -> str:
    """The config without paths."""
    schema = SCHEMAS.get(str(run.record.get("task")))
    if schema is None or not run.config_text:
        return ""
    config = load_config(run.folder.config_yaml, [], model=schema)
    return dump_yaml(without_places(config, find_source).model_dump(mode="json"))
