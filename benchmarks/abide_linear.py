"""Linear models of ABIDE: which inputs and penalties are best, on the development half of the subjects alone.

Every candidate is judged on the same folds of that half (by a hash of the person's id, see `abide_accuracy.py`), by the
share of pairs of a patient and a control of one fold that are in the right order. Linear models are fitted in the dual:
a step that is linear in the training rows (centering, regression of confounds) is a matrix that is applied to the
matrix of inner products, so that a candidate takes seconds.

    MEDFORMER_DATA=/path/to/data python benchmarks/abide_linear.py --out abide-run

`--half other` scores named candidates once on the other half: for what was chosen, after it was chosen.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from abide_accuracy import in_development, prepare
from numpy.typing import NDArray
from scipy.optimize import nnls
from sklearn.linear_model import LogisticRegression

from medformer.config import AbideConfig
from medformer.config_loading import load_config
from medformer.connectome.columns import Columns, FeatureBlock
from medformer.connectome.measures import to_matrices, to_triangle
from medformer.connectome.pipeline import SubjectScale
from medformer.connectome.tangent import TangentSpace
from medformer.crossval.plan import Plan
from medformer.crossval.run.begin.given_parts import draw
from medformer.files import write_json
from medformer.tasks.abide.study import AbideStudy
from medformer.tasks.abide.task import AbideTask
from pipelines.console import make_reporter, say

Array = NDArray[np.float64]
PENALTIES = (0.1, 0.3, 1.0, 3.0, 10.0)


@dataclass(frozen=True)
class Part:
    """A training part and the rows that are scored after it, as places in the half.

    Attributes:
        train: Places of the training rows.
        test: Places of the test rows.
        fold: Its number.
    """

    train: NDArray[np.int64]
    test: NDArray[np.int64]
    fold: int


@dataclass
class Half:
    """The subjects of one half, and their inner products under each input.

    Attributes:
        study: Of these subjects.
        parts: Of the folds, all repeats.
        y: +1 or -1, (n,).
    """

    study: AbideStudy
    parts: list[Part]
    y: Array

    def __post_init__(self) -> None:
        self.names = [case.id for case in self.study.cases]
        self._rows: dict[tuple[str, str], Array] = {}
        self._products: dict[tuple[str, str, int], Array] = {}

    def covariate(self, name: str) -> Array:
        """One covariate, (n,); sites as (n, sites) indicators."""
        if name == "site":
            sites = np.array([case.site for case in self.study.cases])
            return (sites[:, None] == np.unique(sites)).astype(np.float64)
        return np.array([case.covariate(name) for case in self.study.cases])[:, None]

    def products(self, atlas: str, measure: str, part: Part) -> Array:
        """Inner products of all subjects, (n, n), before anything is centered.

        Args:
            atlas: Which.
            measure: Of `MEASURES`, `log` or `power:<p>` of the correlation matrix, and `+subject` to standardize each
                subject's connections.
            part: The tangent space is that of its training rows.
        """
        learns = measure.startswith("tangent")
        fold = part.fold if learns else -1
        if (atlas, measure, fold) not in self._products:
            kind = measure.partition("+")[0]
            rows = self._tangent(atlas, part) if learns else self._measured(atlas, kind)
            scaled = SubjectScale(_plain())._apply(rows, rows[:, :0])
            self._products[atlas, kind, fold] = rows @ rows.T
            self._products[atlas, f"{kind}+subject", fold] = scaled @ scaled.T
        return self._products[atlas, measure, fold]

    def _measured(self, atlas: str, kind: str) -> Array:
        if (atlas, kind) not in self._rows:
            self._rows[atlas, kind] = self._compute(atlas, kind)
        return self._rows[atlas, kind]

    def _compute(self, atlas: str, kind: str) -> Array:
        store, row = self.study.data.store, self.study.data.store.rows
        name, _, power = kind.partition(":")
        if name not in ("fisher", "power", "log", "shrunk-root"):
            block = store.block(atlas, kind)
            return np.stack([block[row[name]] for name in self.names]).astype(np.float64)
        block = store.block(atlas, "correlation")
        edges = np.stack([block[row[one]] for one in self.names]).astype(np.float64)
        if name == "fisher":
            return np.arctanh(edges.clip(-0.999, 0.999))
        matrices = to_matrices(edges, store.atlases[atlas].regions)
        made = []
        for matrix in matrices:
            if name != "power":
                matrix = 0.9 * matrix + 0.1 * np.eye(len(matrix))
            values, vectors = np.linalg.eigh(matrix)
            values = np.log(values.clip(1e-6)) if name == "log" else values.clip(0.0) ** float(power or 0.5)
            made.append((vectors * values) @ vectors.T)
        return to_triangle(np.stack(made), diagonal=False)

    def _tangent(self, atlas: str, part: Part) -> Array:
        """Coordinates in the tangent space of the training rows, (n, d)."""
        block = self._measured(atlas, "tangent")
        space = TangentSpace(_plain()).fit(block[part.train])
        return space.transform(block)


def _plain() -> Columns:
    return Columns((FeatureBlock("any", "root", 3),))


def prepared(products: Array, part: Part, confounds: Array | None) -> Array:
    """Inner products after centering, and after the regression of confounds, that the training rows decide.

    The training rows then have a mean squared length of 1, as in the shipped baselines (`TrainingSpan`).
    """
    n, train = len(products), part.train
    step = np.eye(n)
    step[:, train] -= 1.0 / len(train)
    if confounds is not None:
        centered = confounds - confounds[train].mean(axis=0)
        # A site without training rows counts as the average site.
        unseen = (confounds[train].std(axis=0) == 0) & np.isin(confounds, (0.0, 1.0)).all(axis=0)
        centered[:, unseen] = 0.0
        step = step - centered @ np.linalg.pinv(centered[train]) @ step[train]
    found = step @ products @ step.T
    return found / (np.trace(found[np.ix_(train, train)]) / len(train))


def ridge(kernel: Array, part: Part, y: Array, penalty: float, weights: Array | None = None) -> tuple[Array, Array]:
    """Scores of the test rows, and those of the training rows by the model that leaves each out (closed form)."""
    train, own = part.train, kernel[np.ix_(part.train, part.train)]
    if weights is None:
        weights = np.ones(len(train))
    root = np.sqrt(weights / weights.mean())
    inner = root[:, None] * own * root
    inverse = np.linalg.inv(inner + penalty * np.eye(len(train)))
    # The intercept is free: it is profiled out of the weighted problem.
    ones, target = root, root * y[train]
    adjusted = inverse - np.outer(inverse @ ones, ones @ inverse) / (ones @ inverse @ ones)
    dual = adjusted @ target
    intercept = (ones @ inverse @ target) / (ones @ inverse @ ones)
    left_out = y[train] - dual / np.diag(adjusted) / root
    return kernel[np.ix_(part.test, train)] @ (root * dual) + intercept, left_out


def logistic(kernel: Array, part: Part, y: Array, strength: float) -> tuple[Array, Array]:
    """The same of a logistic regression with C = `strength`; its training rows are not scored."""
    own = kernel[np.ix_(part.train, part.train)]
    values, vectors = np.linalg.eigh(own)
    lengths = np.sqrt(np.where(values > 1e-12 * values[-1], values, 0.0))
    axes = vectors * np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    model = LogisticRegression(C=strength, max_iter=1000).fit(vectors * lengths, y[part.train])
    return model.decision_function(kernel[np.ix_(part.test, part.train)] @ axes), np.array([])


Score = Callable[[Half, Part], Array]
"""Scores of a part's test rows."""


def one(
    inputs: Sequence[tuple[str, str]],
    *,
    penalty: float | None = 1.0,
    strength: float | None = None,
    confounds: Sequence[str] = (),
    average: bool = False,
    choose: Literal["", "input", "weights"] = "",
    weigh: Callable[[Array], Array] | None = None,
    shrink: float = 0.0,
) -> Score:
    """A candidate.

    Args:
        inputs: Atlas and measure each.
        penalty: Of the ridge; None for the best of `PENALTIES` by the scores of left-out training rows.
        strength: C of a logistic regression, in the place of the ridge.
        confounds: Covariates whose linear effect on the connections is removed.
        average: Average the scores of models of single inputs, instead of one model whose inputs weigh the same.
        choose: By the scores of left-out training rows: one of the inputs or all in one (`input`), or what the score of
            each input weighs, not below 0 (`weights`).
        weigh: From time points to weights of training rows.
        shrink: Multiplies what a subject differs from the mean by T / (T + shrink), T its time points.
    """

    def score(half: Half, part: Part) -> Array:
        removed = np.hstack([half.covariate(name) for name in confounds]) if confounds else None
        kernels = [prepared(half.products(atlas, measure, part), part, removed) for atlas, measure in inputs]
        if shrink:
            points = np.array([TIMES[name] for name in half.names])
            share = points / (points + shrink)
            kernels = [share[:, None] * kernel * share for kernel in kernels]
        if choose == "input":
            kernels.append(np.mean(kernels, axis=0))
        elif not average:
            kernels = [np.mean(kernels, axis=0)]
        weights = weigh(np.array([TIMES[half.names[place]] for place in part.train])) if weigh else None
        found = []
        for kernel in kernels:
            kernel = kernel / (np.trace(kernel[np.ix_(part.train, part.train)]) / len(part.train))
            if strength is not None:
                found.append(logistic(kernel, part, half.y, strength))
                continue
            choices = PENALTIES if penalty is None else (penalty,)
            fits = [ridge(kernel, part, half.y, value, weights) for value in choices]
            found.append(min(fits, key=lambda fit: float(np.mean((fit[1] - half.y[part.train]) ** 2))))
        tested = np.stack([fit[0] for fit in found])
        if not choose:
            return tested.mean(axis=0)
        left_out = np.stack([fit[1] for fit in found])
        if choose == "input":
            return tested[np.argmin(((left_out - half.y[part.train]) ** 2).mean(axis=1))]
        return nnls(left_out.T, half.y[part.train])[0] @ tested

    return score


TIMES: dict[str, float] = {}
"""Time points of each subject; read from the data, since a cohort of correlations does not hold them."""

ATLASES = ("aal", "cc200", "ho")


def candidates() -> Iterator[tuple[str, Score]]:
    """Everything that was tried, in words."""
    for measure in ("fisher", "root", "root+subject", "fisher+subject", "partial+subject", "log+subject"):
        for atlas in ATLASES:
            yield f"ridge, {atlas}, {measure}", one([(atlas, measure)])
        yield f"ridge, all in one, {measure}", one([(atlas, measure) for atlas in ATLASES])
        yield f"ridge, mean of atlases, {measure}", one([(atlas, measure) for atlas in ATLASES], average=True)
    for power in (0.25, 0.75):
        yield f"ridge, cc200, power {power}", one([("cc200", f"power:{power}+subject")])
        yield f"ridge, all in one, power {power}", one([(atlas, f"power:{power}+subject") for atlas in ATLASES])
    yield "ridge, cc200, root of shrunk", one([("cc200", "shrunk-root+subject")])
    best = [(atlas, "root+subject") for atlas in ATLASES]
    for penalty, said in ((1.0, ""), (None, ", penalty too")):
        chosen = "ridge, root+subject, an atlas or all in one by left-out rows"
        yield chosen + said, one(best, average=True, choose="input", penalty=penalty)
        weighed = "ridge, root+subject, atlases weighed by left-out rows"
        yield weighed + said, one(best, average=True, choose="weights", penalty=penalty)
    yield "logistic, mean of atlases, root+subject, C 4", one(best, average=True, strength=4.0)
    yield "ridge, aal and cc200, root+subject", one(best[:2])
    yield "ridge, cc200 and ho, root+subject", one(best[1:])
    for shown, inputs in (("cc200", best[1:2]), ("all in one", best)):
        for penalty in PENALTIES:
            yield f"ridge, {shown}, root+subject, penalty {penalty:g}", one(inputs, penalty=penalty)
        yield f"ridge, {shown}, root+subject, penalty by left-out rows", one(inputs, penalty=None)
        for strength in (0.4, 1.0, 4.0, 16.0):
            yield f"logistic, {shown}, root+subject, C {strength:g}", one(inputs, strength=strength)
        for confounds in (("site",), ("age", "sex"), ("mean_fd",), ("site", "age", "sex", "mean_fd")):
            removed = " and ".join(confounds)
            yield f"ridge, {shown}, root+subject, without {removed}", one(inputs, confounds=confounds)
        for words, weigh in (("T", lambda t: t), ("sqrt T", np.sqrt), ("T/(T+150)", lambda t: t / (t + 150))):
            yield f"ridge, {shown}, root+subject, rows weighed by {words}", one(inputs, weigh=weigh)
        for shrink in (50.0, 150.0, 500.0):
            yield f"ridge, {shown}, root+subject, deviations times T/(T+{shrink:g})", one(inputs, shrink=shrink)


def with_tangent() -> Iterator[tuple[str, Score]]:
    """Candidates that learn a tangent space in each fold, which takes minutes, and what they are compared with."""
    yield "ridge, cc200, root+subject", one([("cc200", "root+subject")])
    yield "ridge, all in one, root+subject", one([(atlas, "root+subject") for atlas in ATLASES])
    for measure in ("tangent", "tangent+subject"):
        for atlas in ATLASES:
            yield f"ridge, {atlas}, {measure}", one([(atlas, measure)])
        yield f"ridge, all in one, {measure}", one([(atlas, measure) for atlas in ATLASES])
        both = [(atlas, kind) for atlas in ATLASES for kind in ("root+subject", measure)]
        yield f"ridge, cc200, root and {measure}", one([("cc200", "root+subject"), ("cc200", measure)])
        yield f"ridge, all in one, root and {measure}", one(both)
        yield f"ridge, mean of inputs, root and {measure}", one(both, average=True)


def auc_within_folds(half: Half, score: Score, parts: Sequence[Part]) -> float:
    """Share of pairs of one fold in the right order."""
    won = pairs = 0.0
    for part in parts:
        values, truth = score(half, part), half.y[part.test]
        gaps = values[truth > 0][:, None] - values[truth < 0]
        won += float((gaps > 0).sum() + 0.5 * (gaps == 0).sum())
        pairs += gaps.size
    return won / pairs


def open_half(out: Path, development: bool, folds: int, repeats: int, seed: int) -> Half:
    """The subjects of a half with a plan of their own."""
    config = load_config(
        "abide/default",
        [
            f"data.manifest={out / 'cohort' / 'manifest.csv'}",
            f"crossval.folds={folds}",
            f"crossval.repeats={repeats}",
            f"seed={seed}",
        ],
        model=AbideConfig,
    )
    study = AbideTask().open(config, make_reporter())
    study = study.without([case for case in study.cases if in_development(case.group) != development])
    inventory = study.inspect(None, make_reporter())
    plan: Plan = draw(study, [study.plan_case(case, inventory[case.id]) for case in study.cases])
    place = {case.id: number for number, case in enumerate(study.cases)}
    parts = [
        Part(np.array([place[name] for name in fold.train]), np.array([place[name] for name in fold.test]), fold.index)
        for fold in plan.folds
    ]
    return Half(study, parts, np.array([2.0 * case.required_label() - 1.0 for case in study.cases]))


def main() -> None:
    """Score the candidates and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = os.environ.get("MEDFORMER_DATA")
    parser.add_argument("--data", type=Path, default=data, help="folder that holds abide/ (default: MEDFORMER_DATA)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the cohort and the table")
    parser.add_argument("--half", choices=("development", "other"), default="development")
    parser.add_argument("--folds", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tangent", action="store_true", help="the candidates with a tangent space instead")
    parser.add_argument("--only", action="append", default=[], help="a candidate by its words; repeatable")
    arguments = parser.parse_args()
    if arguments.data is None:
        parser.error("no data: set MEDFORMER_DATA or give --data")
    if arguments.half == "other" and not arguments.only:
        parser.error("--half other is for what was chosen: name it with --only")
    prepare(arguments)
    with np.load(arguments.data / "abide" / "abide_fc_697.npz") as content:
        TIMES.update(zip(map(str, content["file_id"]), content["n_timepoints"].astype(float), strict=True))
    half = open_half(arguments.out, arguments.half == "development", arguments.folds, arguments.repeats, seed=0)
    say(f"{len(half.names)} subjects, {len(half.parts)} folds")
    rows: list[dict[str, Any]] = []
    for words, score in with_tangent() if arguments.tangent else candidates():
        if arguments.only and words not in arguments.only:
            continue
        began = time.process_time()
        rows.append({"candidate": words, "auc": auc_within_folds(half, score, half.parts)})
        say(f"| {words} | {rows[-1]['auc']:.3f} | {time.process_time() - began:.0f} s")
    kind = "_tangent" * arguments.tangent
    write_json(arguments.out / f"abide_linear_{arguments.half}{kind}.json", rows)


if __name__ == "__main__":
    main()
