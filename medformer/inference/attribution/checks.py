"""Checks of an explanation: whether the folds agree on it, and whether it depends on what the network learned."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from medformer.evaluation.statistics.ranks import midranks
from medformer.inference.attribution.integrated_gradients import Vectors, integrated_gradients
from medformer.seeds import derive_seed

LIMIT = 0.5
"""Rank correlation with the map of a network with random weights; above it, a map does not show what was learned."""


@dataclass(frozen=True)
class Stability:
    """How similarly the folds rank the edges.

    Attributes:
        folds: Number of folds.
        spearman: Mean rank correlation over pairs of folds; None with fewer than two folds.
        top: Number of leading edges that were compared.
        jaccard: Mean overlap of the leading edges over pairs of folds: common over either; None as above.
        chance: The overlap of leading edges drawn at random.
    """

    folds: int
    spearman: float | None
    top: int
    jaccard: float | None
    chance: float


@dataclass(frozen=True)
class RandomizationStage:
    """One step of the randomization.

    Attributes:
        name: The module that was reached; everything from the output down to it has random weights.
        share: Of the parameters that are random now.
        maps: Rank correlation of the edges' mean magnitudes with those of the trained network, over the edges that
            either network looks at.
        subjects: The same for each subject's magnitudes, averaged over subjects.
    """

    name: str
    share: float
    maps: float
    subjects: float


@dataclass(frozen=True)
class Randomization:
    """How the attributions change when the weights are made random, from the output to the input.

    Attributes:
        stages: In order; the last one has no learned weight left.
        inputs: Rank correlation of a subject's attributions with its distance from the reference alone, averaged over
            subjects: how much a network that learned nothing would still seem to explain.
        subjects: Number of explained subjects.
    """

    stages: tuple[RandomizationStage, ...]
    inputs: float
    subjects: int

    @property
    def passed(self) -> bool:
        """Whether the map of the random network differs from that of the trained one."""
        return self.stages[-1].maps <= LIMIT


def stability(vectors: NDArray[np.floating[Any]], top: int) -> Stability:
    """Compare the folds' rankings.

    Args:
        vectors: One row per fold, higher is more important, shape (folds, edges).
        top: How many leading edges to compare.
    """
    folds, edges = vectors.shape
    chance = (top / edges) / (2 - top / edges)
    if folds < 2:
        return Stability(folds, None, top, None, chance)
    ranks = midranks(vectors)
    pairs = list(combinations(range(folds), 2))
    leading = [set(leaders(vector, top).tolist()) for vector in vectors]
    return Stability(
        folds=folds,
        spearman=float(np.mean([_correlation(ranks[a], ranks[b]) for a, b in pairs])),
        top=top,
        jaccard=float(np.mean([len(leading[a] & leading[b]) / len(leading[a] | leading[b]) for a, b in pairs])),
        chance=chance,
    )


def leaders(vector: NDArray[np.floating[Any]], top: int) -> NDArray[np.intp]:
    """The indices of the `top` highest values, highest first; of equal ones the first."""
    return np.argsort(-vector, kind="stable")[:top]


def randomization_check(
    model: nn.Module,
    edges: Vectors,
    *,
    reference: Vectors,
    seed: int,
    stages: int = 6,
    steps: int = 16,
    device: torch.device | str = "cpu",
) -> Randomization:
    """Make a copy of the network random, layer by layer from the output, and explain it after each stage.

    The cascading randomization of Adebayo et al. (2018), "Sanity checks for saliency maps". Integrated gradients are
    multiplied by the subject's distance from the reference, so a single subject's map never becomes unrelated; the mean
    map, which is what is reported, has to.

    Args:
        model: The trained network; it is not changed.
        edges: Some subjects, by atlas (n, d).
        reference: By atlas (d,).
        seed: Of the random weights.
        stages: Most groups that its layers are divided into.
        steps: Points of the integral.
        device: Where the model is.

    Raises:
        DataError: Subjects and reference do not fit.
    """

    def explain(network: nn.Module) -> NDArray[np.float32]:
        found = integrated_gradients(network, edges, reference=reference, steps=steps, device=device)
        return np.abs(np.concatenate([found.values[atlas] for atlas in edges], axis=1))

    trained = explain(model)
    distance = np.abs(np.concatenate([edges[atlas] - reference[atlas] for atlas in edges], axis=1))
    randomized = copy.deepcopy(model)
    layers = _from_the_output(randomized)
    total = sum(parameter.numel() for parameter in randomized.parameters())
    done, found = 0, []
    for group in np.array_split(np.arange(len(layers)), min(stages, len(layers))):
        for index in group:
            name, layer = layers[index]
            _randomize(layer, derive_seed(seed, "randomization", name))
            done += sum(parameter.numel() for parameter in layer.parameters(recurse=False))
        now = explain(randomized)
        # What neither looks at, such as an atlas that a linear model leaves out, would make any two maps alike.
        seen = (trained != 0).any(0) | (now != 0).any(0)
        before, after = trained[:, seen], now[:, seen]
        found.append(
            RandomizationStage(
                layers[group[-1]][0], done / total, spearman(before.mean(0), after.mean(0)), _rows(before, after)
            )
        )
    return Randomization(tuple(found), _rows(trained, distance), len(trained))


def spearman(a: NDArray[np.floating[Any]], b: NDArray[np.floating[Any]]) -> float:
    """Rank correlation of two vectors; 0 when one is constant, or both are empty."""
    return _correlation(midranks(a), midranks(b)) if len(a) else 0.0


def _rows(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return float(np.mean([spearman(*pair) for pair in zip(a, b, strict=True)]))


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    a, b = a - a.mean(), b - b.mean()
    spread = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / spread if spread > 0 else 0.0


def _from_the_output(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The modules that hold parameters of their own or learn otherwise and can forget it, the last defined first.

    Modules are defined in the order in which they are used, except that parts side by side (one encoder per atlas) come
    one after the other.
    """
    own = [
        (name or "(top)", module)
        for name, module in model.named_modules()
        if any(True for _ in module.parameters(recurse=False)) or hasattr(module, "reset_parameters")
    ]
    return own[::-1]


def _randomize(layer: nn.Module, seed: int) -> None:
    """Draw a module's own parameters again, as before training, or else by permuting their entries."""
    children = {id(parameter) for child in layer.children() for parameter in child.parameters()}
    kept = [(parameter, parameter.detach().clone()) for parameter in layer.parameters() if id(parameter) in children]
    reset = getattr(layer, "reset_parameters", None) or getattr(layer, "_reset_parameters", None)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        if callable(reset):
            reset()
        else:
            for parameter in layer.parameters(recurse=False):
                order = torch.randperm(parameter.numel(), device="cpu").to(parameter.device)
                parameter.copy_(parameter.flatten()[order].view_as(parameter))
        for parameter, value in kept:
            parameter.copy_(value)
