"""Networks against linear models on ABIDE: every system on the same folds, with intervals, a corrected test and a null.

For each network: stratified folds grouped by person, repeated; features, pretraining, early stopping and threshold
learned inside each fold. Beside them the linear baselines, and the blend of the best network with a linear model, whose
weights are fixed beforehand. Then leave-one-site-out for two of them, and everything again on permuted labels.

    MEDFORMER_DATA=/path/to/data python benchmarks/abide_accuracy.py --out abide-run

Every part can be interrupted and is continued by the same command. Config values for all systems follow the flags:
`execution.executor=ray execution.workers=2` computes two folds at once, with the same numbers.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from blend import BlendLearner
from machine import machine

from medformer.config import AbideConfig
from medformer.config_loading import load_config
from medformer.crossval.checks.canary import within_fold_auc
from medformer.crossval.checks.permute import permuted_assignment
from medformer.crossval.compare.compare import adjust, compare_runs
from medformer.crossval.compare.result import Comparison
from medformer.crossval.plan import Plan, read_plan, write_plan
from medformer.crossval.run import runner
from medformer.crossval.run.begin.given_parts import draw
from medformer.crossval.run.collect import collect, read_oof, write_metrics
from medformer.crossval.run.contract import Learner
from medformer.crossval.run.directory import RunDirectory
from medformer.crossval.run.execute import Executor, LearnerJob, execute
from medformer.crossval.run.executors import build_executor
from medformer.data.connectomes.check import link_same_subject
from medformer.data.connectomes.cohort import read_cohort, write_cohort
from medformer.data.connectomes.prepare.cohort_preparation import prepare_cohort
from medformer.evaluation.summary import summarize
from medformer.files import read_json, write_json
from medformer.reporting.report import build_report
from medformer.seeds import derive_seed
from medformer.tasks.abide.learner import ConnectomeLearner
from medformer.tasks.abide.study import AbideStudy
from medformer.tasks.abide.task import AbideTask
from pipelines.console import make_reporter, say

SYSTEMS: dict[str, tuple[str, ...]] = {
    "metaformer_as_published": ("abide/as_published",),
    "metaformer_paper": ("abide/paper", "pretraining.enabled=false"),
    "metaformer_paper_pretrained": ("abide/paper",),
    "roi_metaformer": ("abide/default", "model.name=roi_metaformer"),
    "roi_metaformer_pretrained": ("abide/roi", "model.name=roi_metaformer"),
    "wide_roi_metaformer": ("abide/default",),
}
"""Every network: its shipped config, and what is changed of it."""

OURS = "roi_metaformer"
"""The default's network, without the linear model beside it."""

DEFAULT = "wide_roi_metaformer"
"""The default: that network beside a linear model. Its run also holds the linear baselines and the blend, on its
features and folds."""

BLEND = ("ridge_cc200",)
"""Linear models that are blended with `OURS`, chosen on the development half of the subjects."""

ON_FISHER_Z = ("ridge_cc200", "logistic_cc200", "svm_cc200", "ridge_all", "logistic_all", "svm_all", "stack")
"""Baselines that are repeated on Fisher's z; without that in their name they are on the features of `OURS`."""

DEFECTS = ("across_subjects", "swapped_arguments", "noise_at_test")
"""Defects of the released code that change what is predicted; each alone, on the corrected network, in one repeat."""

PERMUTED_LINEAR = ("ridge_all", "logistic_all", "svm_all", "stack")
"""Baselines that are repeated on permuted labels; the others are parts of them."""


PARTS = ("folds", "defects", "sites", "permuted")
"""Stratified folds, each defect alone, leave-one-site-out, permuted labels."""

_SHOWN = ("auc", "accuracy", "balanced_accuracy", "sensitivity", "specificity")


def main() -> None:
    """Run what is not done yet, and print the tables."""
    arguments = parse()
    prepare(arguments)
    began = time.monotonic()
    parts = arguments.part or PARTS
    out = arguments.out
    if "folds" in parts:
        for name in arguments.only or SYSTEMS:
            run_system(name, arguments, out / "runs" / name, baselines=name == DEFAULT)
        if not arguments.only:
            blend(arguments)
            fisher_z(arguments)
    for defect in ("", *DEFECTS) if "defects" in parts else ():
        changes = ["crossval.repeats=1", f"model.defects=[{defect}]"]
        run_system("metaformer_paper", arguments, out / "defects" / (defect or "none"), changes=changes)
    if "sites" in parts:
        for name in (OURS, DEFAULT, "metaformer_paper"):
            changes = ["crossval.scheme=leave-one-site-out", "crossval.repeats=1"]
            run_system(name, arguments, out / "sites" / name, changes=changes, baselines=name == DEFAULT)
    if "permuted" in parts:
        permuted(arguments)
    content = {
        "machine": machine(),
        "seconds": round(time.monotonic() - began),
        "subjects": len(read_cohort(out / "cohort").cases),
        "folds": table_of(out / "runs"),
        "sites": table_of(out / "sites"),
        "development": halves(out / "runs"),
        "defects": defect_table(out),
        "permuted": permuted_table(out / "permuted"),
    }
    write_json(out / "abide_accuracy.json", content)
    say(json.dumps(content, indent=2) if arguments.json else markdown(content))


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = os.environ.get("MEDFORMER_DATA")
    parser.add_argument("--data", type=Path, default=data, help="folder that holds abide/ (default: MEDFORMER_DATA)")
    parser.add_argument("--out", type=Path, required=True, help="folder for everything that is computed")
    parser.add_argument("--folds", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--permutations", type=int, default=10)
    parser.add_argument("--permutation-folds", type=int, default=2)
    parser.add_argument("--part", action="append", choices=PARTS, help="only this part; repeatable")
    parser.add_argument("--only", action="append", choices=SYSTEMS, help="of the part `folds` only this system")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("override", nargs="*", metavar="KEY=VALUE", help="config values for every system")
    arguments = parser.parse_args()
    if arguments.data is None:
        parser.error("no data: set MEDFORMER_DATA or give --data")
    return arguments


def prepare(arguments: argparse.Namespace) -> None:
    """Prepare the cohort once; subjects whose connectomes show one brain get one group."""
    folder = arguments.out / "cohort"
    if not (folder / "manifest.csv").is_file():
        prepare_cohort(arguments.data / "abide" / "abide_fc_697.npz", folder, reporter=make_reporter())
        write_cohort(folder, link_same_subject(read_cohort(folder))[0])


def study_of(name: str, arguments: argparse.Namespace, changes: Sequence[str] = ()) -> AbideStudy:
    """The subjects under the config of a system."""
    source, *own = SYSTEMS[name]
    protocol = [f"crossval.folds={arguments.folds}", f"crossval.repeats={arguments.repeats}"]
    given = [f"data.manifest={arguments.out / 'cohort' / 'manifest.csv'}", *own, *protocol, *changes]
    config = load_config(source, [*given, *arguments.override], model=AbideConfig)
    return AbideTask().open(config, make_reporter())


def run_system(
    name: str, arguments: argparse.Namespace, out: Path, *, changes: Sequence[str] = (), baselines: bool = False
) -> None:
    """Cross-validate a system, with a report of its own."""
    if not (out / "report.html").is_file():
        config = study_of(name, arguments, [*changes, f"crossval.baselines={str(baselines).lower()}"]).config
        runner.run(AbideTask(), config, out, make_reporter(), resume=out.is_dir())
        say(f"Report: {build_report(out)}")


def blend(arguments: argparse.Namespace) -> None:
    """Blend our network with linear models: equal weights, threshold from inner validation cases."""
    run, network = (RunDirectory.open(arguments.out / "runs" / name) for name in (DEFAULT, OURS))
    members = [network, *(run.baseline(name) for name in BLEND)]
    learner = BlendLearner(study_of(OURS, arguments), members)
    finish(run.baseline("blend"), read_plan(run.splits_json), learner)


def fisher_z(arguments: argparse.Namespace) -> None:
    """The linear models on what most of the literature gives them: Fisher's z of correlations, not standardized."""
    run = RunDirectory.open(arguments.out / "runs" / DEFAULT)
    study = study_of(DEFAULT, arguments, ["data.measure=correlation", "features.scale=none"])
    for name in ON_FISHER_Z:
        finish(run.baseline(f"{name}_fisher_z"), read_plan(run.splits_json), study.baseline(name))


def permuted(arguments: argparse.Namespace) -> None:
    """Repeat every system on permuted labels, on folds of their own; pretraining, which sees no label, is done once."""
    folder = arguments.out / "permuted"
    folds = [f"crossval.folds={arguments.permutation_folds}", "crossval.repeats=1"]
    studies = {name: study_of(name, arguments, folds) for name in SYSTEMS}
    plan = fixed_plan(folder / "splits.json", next(iter(studies.values())))
    for number in range(-1, arguments.permutations):
        giver = permuted_assignment(plan.cases, derive_seed(plan.seed, "permutation", number))
        for name, study in studies.items():
            truth, part = RunDirectory(folder / "real" / name), RunDirectory(folder / str(number) / name)
            with build_executor(study.config.execution) as executor:
                if number < 0:
                    finish(truth, plan, ConnectomeLearner(study=study, features=study.features), executor)
                    continue
                given = study.relabelled(giver, part.path)
                learner = ConnectomeLearner(study=given, features=given.features, encoders=truth)
                finish(part, plan, learner, executor)
                for weights in part.path.glob("folds/*/**/model.safetensors"):
                    weights.unlink()
                for linear in PERMUTED_LINEAR if name == DEFAULT else ():
                    finish(RunDirectory(folder / str(number) / linear), plan, given.baseline(linear), executor, number)


def fixed_plan(path: Path, study: AbideStudy) -> Plan:
    """Folds that several runs share, drawn once and balanced by the true labels, as a user's folds would be."""
    if not path.is_file():
        inventory = study.inspect(None, make_reporter())
        write_plan(path, draw(study, [study.plan_case(case, inventory[case.id]) for case in study.cases]))
    return read_plan(path)


def finish(
    part: RunDirectory, plan: Plan, learner: Learner, executor: Executor | None = None, seed: int | None = None
) -> None:
    """Run a learner on a plan and write its table and numbers, if that is not done; the seed is the config's."""
    if not part.metrics_json.is_file():
        part.path.mkdir(parents=True, exist_ok=True)
        reporter = make_reporter()
        seed = learner.study.config.seed if seed is None else seed
        execute(plan, LearnerJob(learner, part, seed, reporter), part, reporter, executor)
        collect(part, plan)
        write_metrics(part, summarize)


def table_of(folder: Path) -> list[dict[str, Any]]:
    """Every model on one plan: numbers with intervals, and how it differs from the best linear baseline if they ran."""
    runs = {path.name: RunDirectory(path) for path in sorted(folder.glob("*")) if (path / "metrics.json").is_file()}
    linear = runs[DEFAULT].baselines if DEFAULT in runs else {}
    runs |= linear
    numbers = {name: read_json(run.metrics_json)["pooled"]["metrics"] for name, run in runs.items()}
    candidates = [name for name in linear if name not in ("blend", "covariates")]
    best = max(candidates, key=lambda name: numbers[name]["auc"]["value"], default="")
    others = [name for name in runs if best and name != best]
    made = adjust([compare_runs(runs[best], runs[name], name_a=best, name_b=name) for name in others])
    found: Mapping[str, Comparison] = dict(zip(others, made, strict=True))
    return [
        {
            "model": name,
            "linear": name in candidates,
            "best_linear": name == best,
            **{key: numbers[name][key] for key in _SHOWN},
            "minutes": minutes(run),
            **(against(found[name]) if name in found else {}),
        }
        for name, run in runs.items()
    ]


def halves(folder: Path) -> list[dict[str, Any]]:
    """AUC within folds on the subjects that settings were chosen on, and on all others."""
    if not (folder / DEFAULT / "oof.csv").is_file():
        return []
    held = RunDirectory(folder / DEFAULT).baselines
    runs = {path.name: RunDirectory(path) for path in sorted(folder.glob("*")) if (path / "oof.csv").is_file()}
    rows = []
    for name, run in (runs | dict(held)).items():
        table = read_oof(run.oof_csv)
        parts = {
            half: within_fold_auc(
                [row for row in table if in_development(str(row["group"])) == (half == "development")]
            )
            for half in ("development", "other")
        }
        rows.append({"model": name, **parts})
    return rows


def in_development(group: str) -> bool:
    """Whether settings were chosen on this person."""
    return int(hashlib.sha256(f"medformer-dev:{group}".encode()).hexdigest(), 16) % 2 == 0


def defect_table(out: Path) -> list[dict[str, Any]]:
    """What each published defect does to the AUC, alone; those of the evaluation on the system as published."""
    rows = []
    for defect in DEFECTS:
        with_, without = (RunDirectory(out / "defects" / name) for name in (defect, "none"))
        if with_.metrics_json.is_file() and without.metrics_json.is_file():
            found = compare_runs(without, with_, name_a="without", name_b=defect)
            rows.append({"defect": defect, "without": found.value_a, "with": found.value_b, **against(found)})
    published = RunDirectory(out / "runs" / "metaformer_as_published")
    if published.metrics_json.is_file():
        numbers = {key: part["value"] for key, part in read_json(published.metrics_json)["pooled"]["metrics"].items()}
        hard = {"without": numbers["auc"], "with": numbers["balanced_accuracy"]}
        recall = {"without": numbers["sensitivity"], "with": numbers["specificity"]}
        rows += [{"defect": "hard_label_auc", **hard}, {"defect": "control_positive (sensitivity)", **recall}]
    return rows


def against(comparison: Comparison) -> dict[str, Any]:
    """How a model differs in AUC from the best linear baseline."""
    folds = comparison.fold_test
    return {
        "difference": comparison.difference,
        "low": comparison.low,
        "high": comparison.high,
        "p": comparison.p,
        "p_holm": comparison.p_holm,
        "fold_difference": folds and folds.difference,
        "p_folds": folds and folds.p,
    }


def minutes(run: RunDirectory) -> float | None:
    """Time spent in the folds' trainings; None for what is not trained by gradient descent."""
    seconds = 0.0
    for path in run.path.glob("folds/**/history.jsonl"):
        seconds += sum(json.loads(line)["seconds"] for line in path.read_text().splitlines())
    return round(seconds / 60, 1) or None


def permuted_table(folder: Path) -> list[dict[str, Any]]:
    """Mean AUC within folds over the permutations, per model."""
    found: dict[str, list[float]] = {}
    for path in sorted(folder.glob("[0-9]*/*/oof.csv")):
        found.setdefault(path.parent.name, []).append(within_fold_auc(read_oof(path)))
    return [
        {"model": name, "permutations": len(values), "auc": float(np.mean(values)), "sd": float(np.std(values, ddof=1))}
        for name, values in found.items()
        if len(values) > 1
    ]


def markdown(content: Mapping[str, Any]) -> str:
    """The tables as Markdown."""
    lines = []
    for title, key in (("Stratified folds", "folds"), ("Leave one site out", "sites")):
        if content[key]:
            lines += [f"{title}, {content['subjects']} subjects", "", *_rows(content[key]), ""]
    if content["development"]:
        lines += ["| model | AUC within folds, development half | other half |", "|---|---|---|"]
        lines += [
            f"| {row['model']} | {row['development']:.3f} | {row['other']:.3f} |" for row in content["development"]
        ]
        lines += [""]
    if content["defects"]:
        lines += ["| defect | without | with | difference (95 %) |", "|---|---|---|---|"]
        for row in content["defects"]:
            known = f"{row['difference']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})" if "low" in row else ""
            lines.append(f"| {row['defect']} | {row['without']:.3f} | {row['with']:.3f} | {known} |")
        lines += [""]
    if content["permuted"]:
        lines += ["| model | permutations | AUC within folds, mean (SD) |", "|---|---|---|"]
        lines += [
            f"| {row['model']} | {row['permutations']} | {row['auc']:.3f} ({row['sd']:.3f}) |"
            for row in content["permuted"]
        ]
    return "\n".join(lines)


def _rows(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [
        "| model | AUC (95 %) | accuracy (95 %) | AUC against the best linear model | p | p, folds |",
        "|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: -row["auc"]["value"]):
        known = f"{row['difference']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})" if "p" in row else ""
        difference = "(it)" if row["best_linear"] else known
        p, p_folds = (f"{row[key]:.3f}" if row.get(key) is not None else "" for key in ("p", "p_folds"))
        shown = [
            f"{row[key]['value']:.3f} ({row[key]['low']:.3f}-{row[key]['high']:.3f})" for key in ("auc", "accuracy")
        ]
        lines.append(f"| {row['model']} | {' | '.join(shown)} | {difference} | {p} | {p_folds} |")
    return lines


if __name__ == "__main__":
    main()
