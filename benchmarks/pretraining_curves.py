"""Does masked pretraining help, and how many labels does it take the place of? Learning curves on ABIDE.

In each fold, an encoder is pretrained on all training subjects without their labels; then a network learns from 50,
100, 200, 400 or all of them, each set a part of the next. Beside the curve that starts from first weights there is one
for each way of hiding: single connections, regions, whole atlases, at several rates. Ridge regression on the finest
atlas learns from the same subjects. Labels of the inner validation part decide nothing that is shown: AUC within folds.
Nothing is selected: every curve that was computed is in the table.

    MEDFORMER_DATA=/path/to/data python benchmarks/pretraining_curves.py --out curves

An interrupted run goes on with the same command.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from abide_accuracy import finish, fixed_plan, prepare
from machine import machine
from matplotlib.figure import Figure

from medformer.config import AbideConfig
from medformer.config_loading import load_config
from medformer.crossval.checks.canary import within_fold_auc
from medformer.crossval.compare.compare import adjust, compare_two
from medformer.crossval.compare.result import Comparison
from medformer.crossval.compare.scores import Scores, by_key, kind_of
from medformer.crossval.plan import Plan
from medformer.crossval.run.classes import ClassPredictor
from medformer.crossval.run.collect import read_oof
from medformer.crossval.run.contract import Context
from medformer.crossval.run.directory import RunDirectory
from medformer.files import write_json
from medformer.seeds import derive_seed
from medformer.tasks.abide.learner import ConnectomeLearner
from medformer.tasks.abide.study import AbideStudy
from medformer.tasks.abide.task import AbideTask
from pipelines.console import make_reporter, say

NONE, LINEAR = "first weights", "ridge, finest atlas"
WAYS: dict[str, tuple[str, ...]] = {
    NONE: ("pretraining.enabled=false",),
    **{
        f"{mask}, {ratio}": (f"pretraining.mask={mask}", f"pretraining.ratio={ratio}")
        for mask, ratio in (
            ("edges", 0.1),
            ("edges", 0.5),
            ("regions", 0.2),
            ("regions", 0.5),
            ("atlases", 0.3),
            ("atlases", 0.6),
        )
    },
}
"""What is hidden, and which share of it."""


def main() -> None:
    """Compute what is missing, draw the curves, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = os.environ.get("MEDFORMER_DATA")
    parser.add_argument("--data", type=Path, default=root, required=root is None, help="folder that holds abide/")
    parser.add_argument("--out", type=Path, required=True, help="folder for everything that is computed")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--sizes", type=int, nargs="+", default=[50, 100, 200, 400], help="beside all there are")
    parser.add_argument("--epochs", type=int, default=8, help="of pretraining")
    parser.add_argument("--only", action="append", choices=WAYS, help="only this way of hiding; repeatable")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("override", nargs="*", metavar="KEY=VALUE", help="config values for every network")
    arguments = parser.parse_args()
    prepare(arguments)
    plan = fixed_plan(arguments.out / "splits.json", open_study(arguments, WAYS[NONE]))
    sizes = [*sorted(arguments.sizes), min(len(fold.train) for fold in plan.folds)]
    runs: dict[str, dict[int, RunDirectory]] = {}
    for way in (LINEAR, NONE, *(way for way in arguments.only or WAYS if way != NONE)):
        study = open_study(arguments, WAYS[NONE if way == LINEAR else way])
        name = way.replace(", ", "-").replace(" ", "-")
        for size in sizes:
            run = RunDirectory(arguments.out / "runs" / name / str(size))
            count = None if size == sizes[-1] else size
            finish(run, plan, FewLabels(study, way, count, arguments.out / "encoders" / name))
            runs.setdefault(way, {})[size] = run
    content = {"machine": machine(), "subjects": len(plan.cases), "folds": len(plan.folds), **table_of(runs, plan)}
    write_json(arguments.out / "pretraining_curves.json", content)
    figure(content, arguments.out / "pretraining_curves.svg")
    say(json.dumps(content, indent=2) if arguments.json else markdown(content))


def open_study(arguments: argparse.Namespace, changes: Sequence[str]) -> AbideStudy:
    """The subjects under the config of a way of hiding."""
    given = [
        f"data.manifest={arguments.out / 'cohort' / 'manifest.csv'}",
        "model.name=roi_metaformer",
        f"pretraining.epochs={arguments.epochs}",
        f"crossval.folds={arguments.folds}",
        f"crossval.repeats={arguments.repeats}",
    ]
    config = load_config("abide/roi", [*given, *changes, *arguments.override], model=AbideConfig)
    return AbideTask().open(config, make_reporter())


@dataclass(frozen=True)
class FewLabels:
    """Learns from some of a fold's training subjects, and pretrains on all of them (a `Learner`).

    Attributes:
        study: The subjects under the config of the way.
        way: Of hiding, or the linear model.
        count: How many subjects are learned from; None for all.
        encoders: Folder of the encoders, one for each fold.
    """

    study: AbideStudy
    way: str
    count: int | None
    encoders: Path

    def fit(self, context: Context) -> ClassPredictor:
        """Learn from the chosen subjects."""
        study, fold = self.study, context.fold
        count = len(fold.train) if self.count is None else self.count
        labels = {case.id: case.required_label() for case in study.cases}
        few = replace(context, fold=replace(fold, train=chosen(fold.train, labels, count, study.config.seed)))
        if self.way == LINEAR:
            finest = max(study.features.columns.blocks, key=lambda block: block.size)
            return study.baseline(f"ridge_{finest.atlas}").fit(few)
        if study.config.pretraining.enabled:
            folder = self.encoders / str(fold.index)
            whole = replace(context, folder=folder, resume=folder.is_dir())
            if not (folder / "pretraining.json").is_file():
                folder.mkdir(parents=True, exist_ok=True)
                ConnectomeLearner(study=study, features=study.features).pretrain(whole)
            pretraining = study.config.pretraining.model_copy(update={"weights": str(folder)})
            study = study.configured(study.config.model_copy(update={"pretraining": pretraining}))
        return ConnectomeLearner(study=study, features=study.features).fit(few)


def chosen(train: Sequence[str], labels: Mapping[str, int], count: int, seed: int) -> tuple[str, ...]:
    """The first `count` of one order of the training subjects, in which both classes are spread evenly."""
    drawn = np.random.default_rng(derive_seed(seed, "few labels", *sorted(train))).permutation(len(train))
    place: dict[str, float] = {}
    for label in set(labels.values()):
        members = [train[at] for at in drawn if labels[train[at]] == label]
        place |= {name: (rank + 0.5) / len(members) for rank, name in enumerate(members)}
    kept = set(sorted(train, key=lambda name: place[name])[:count])
    return tuple(name for name in train if name in kept)


def table_of(runs: Mapping[str, Mapping[int, RunDirectory]], plan: Plan) -> dict[str, Any]:
    """AUC within folds of each curve, and how much pretraining adds at each size, p corrected over all of them."""
    curves = {
        way: {size: within_fold_auc(read_oof(run.oof_csv)) for size, run in own.items()} for way, own in runs.items()
    }
    pairs = [(way, size) for way, own in runs.items() if way not in (NONE, LINEAR) for size in own]
    scores = {pair: _scores(runs[pair[0]][pair[1]], plan) for pair in [*pairs, *((NONE, size) for size in runs[NONE])]}
    made = [compare_two(scores[NONE, size], scores[way, size], names=(NONE, way)) for way, size in pairs]
    gains = {
        f"{way}; {size}": _gain(found) for (way, size), found in zip(pairs, adjust(made) if made else (), strict=True)
    }
    return {"curves": curves, "gains": gains}


def _scores(run: RunDirectory, plan: Plan) -> Scores:
    table, source = read_oof(run.oof_csv), str(run.oof_csv)
    return Scores(run.path, source, kind_of(table[0]), by_key(table, source), "", "abide", plan, plan.folds)


def _gain(found: Comparison) -> dict[str, Any]:
    """Over folds, as the curves are: scores of different folds need not have one scale."""
    test = found.fold_test
    assert test is not None, "a plan has two folds at least"
    return {"auc": test.difference, "low": test.low, "high": test.high, "p": test.p, "p_holm": test.p_holm}


def markdown(content: Mapping[str, Any]) -> str:
    """The curves as a Markdown table, with the intervals of what pretraining adds."""
    curves = content["curves"]
    sizes = list(next(iter(curves.values())))
    lines = ["| start | " + " | ".join(map(str, sizes)) + " |", "|---|" + "---|" * len(sizes)]
    for way, curve in curves.items():
        cells = []
        for size in sizes:
            gain = content["gains"].get(f"{way}; {size}")
            added = f" ({gain['auc']:+.3f}; {gain['low']:+.3f} to {gain['high']:+.3f})" if gain else ""
            cells.append(f"{curve[size]:.3f}{added}")
        lines.append(f"| {way} | " + " | ".join(cells) + " |")
    least = min((gain["p_holm"] for gain in content["gains"].values()), default=None)
    if least is not None:
        lines.append(f"Smallest p of {len(content['gains'])} differences, corrected (Holm): {least:.3f}")
    return "\n".join(lines)


def figure(content: Mapping[str, Any], path: Path) -> None:
    """Draw the curves."""
    drawing = Figure(figsize=(7, 4.5), layout="constrained")
    axes = drawing.subplots()
    for way, curve in content["curves"].items():
        style = {NONE: "k-o", LINEAR: "k--s"}.get(way, "-o")
        axes.plot(list(curve), list(curve.values()), style, markersize=4, linewidth=1.2, label=way)
    axes.set(xscale="log", xlabel="labeled training subjects", ylabel="AUC within folds")
    axes.set_xticks(sizes := list(next(iter(content["curves"].values()))), [str(size) for size in sizes])
    axes.minorticks_off()
    axes.axhline(0.5, color="gray", linewidth=0.8)
    axes.legend(title="pretraining: hidden, share", fontsize=8, frameon=False)
    drawing.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
