"""What the scores rest on: edges, regions and networks, and whether that can be believed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from medformer.reporting.blocks import Block, Figure, Notice, Section, Table, Text, counted, interval, number, signed
from medformer.reporting.facts import Facts
from medformer.reporting.figures.brain import CLIP, edge_matrix, glass_brain
from medformer.reporting.figures.charts import curves
from medformer.reporting.figures.explanation import Explanation

TITLE = "What the scores rest on"
EDGES, REGIONS, PAIRS, DRAWN = 25, 15, 15, 30
AGREED = 0.5


def build(facts: Facts) -> Section | None:
    """Show the leading edges on the brain and in tables, after what speaks for and against believing them."""
    found = facts.explanation
    if found is None:
        return None
    about = found.about
    blocks: list[Block] = [
        Text(
            f"Integrated gradients split the score of each of {counted(about['subjects'], facts.noun)} that the "
            "network had not seen, as log odds, over the connections that went into it: what would be missing from "
            f"the score if a connection were as in the {about['reference']}. The contribution of a connection is its "
            "mean over the positive minus its mean over the negative ones. Above 0 it helps to tell the two apart, "
            "below 0 it misleads, and all of them add up to the difference of the mean log odds "
            f"({signed(about['separation'])})."
        ),
        *(Notice("warning", text) for text in _warnings(facts, found)),
        *_checks(found),
    ]
    for atlas in found.atlases:
        blocks.append(_brain(found, atlas))
    blocks += [_edges(found), _regions(found), *_networks(found), _matrix(found)]
    blocks.append(
        Text(
            "A connection that contributes is one that the network uses, which is not to say that it differs in the "
            "condition, let alone that it causes it: connections go along with each other, and the network may use "
            "one in place of another, or one that goes along with age, motion or the scanner."
        )
    )
    return Section("attribution", TITLE, blocks)


def _warnings(facts: Facts, found: Explanation) -> Iterator[str]:
    auc = facts.metrics["pooled"]["metrics"].get("auc")
    low = auc.get("low") if isinstance(auc, Mapping) else None
    if isinstance(low, (int, float)) and low <= 0.5:
        yield (
            f"The model is not clearly better than chance (AUC {number(auc['value'])}, 95% interval {interval(auc)}), "
            "so what follows says how it guesses, and nothing about the condition."
        )
    elif found.about["separation"] <= 0:
        yield "The positive cases do not score higher than the negative ones, so what follows shows how the model errs."
    complete = found.about["completeness"]
    if not complete["complete"]:
        yield (
            f"The contributions miss up to {100 * complete['largest_gap']:.0f}% of the scores that they should add up "
            f"to; {100 * complete['tolerance']:.0f}% are tolerated. Explain again with more steps."
        )
    random = found.about["randomization"]
    if random and not random["passed"]:
        yield ("A network with random weights gives nearly the same map, so the map does not show what was learned.")
    agreement = found.about["stability"]
    if agreement["spearman"] is None:
        yield "Only one fold could be explained: whether another one would rest on the same connections is not known."


def _checks(found: Explanation) -> list[Block]:
    agreement, random = found.about["stability"], found.about["randomization"]
    rows = []
    if agreement["spearman"] is not None:
        folds = counted(agreement["folds"], "fold")
        rows.append(
            [f"Rank correlation between {folds}, mean over pairs", number(agreement["spearman"]), "0 by chance"]
        )
        top = f"Overlap of the {agreement['top']:,} leading connections (shared, of those in either)"
        rows.append([top, number(agreement["jaccard"]), f"{number(agreement['chance'])} by chance"])
    if random:
        last = random["stages"][-1]
        limit = f"at most {number(random['limit'], 1)}"
        rows.append(
            ["Map of the network against that with random weights (rank correlation)", number(last["maps"]), limit]
        )
        single = f"The same for single subjects, mean over {random['subjects']}"
        rows.append([single, number(last["subjects"]), f"{number(random['inputs'])} from the inputs alone"])
    gap = found.about["completeness"]
    missing = "Share of the scores that the contributions miss, largest over folds"
    rows.append([missing, number(gap["largest_gap"], 4), f"at most {number(gap['tolerance'], 2)}"])
    blocks: list[Block] = [
        Table("Can the map be believed?", ["Check", "Found", "For comparison"], rows, sortable=False)
    ]
    if random:
        blocks.append(_randomization(random))
    if agreement["spearman"] is not None:
        blocks.append(
            Text("The folds share most of their training subjects; networks of different cohorts would agree less.")
        )
    return blocks


def _randomization(random: Mapping[str, Any]) -> Figure:
    stages = random["stages"]
    steps = [float(index) for index in range(len(stages) + 1)]
    lines: dict[str, tuple[Sequence[float], Sequence[float]]] = {
        "mean map": (steps, [1.0, *(stage["maps"] for stage in stages)]),
        "single subjects": (steps, [1.0, *(stage["subjects"] for stage in stages)]),
        "inputs alone": (steps, [random["inputs"]] * len(steps)),
    }
    path = ", ".join(f"{number(stage['maps'], 2)} with {100 * stage['share']:.0f}% of the weights" for stage in stages)
    svg = curves(
        "randomization",
        {"Likeness to the trained network's map": lines},
        xlabel="stages of random weights, from the output to the input",
    )
    alt = f"Rank correlation of the mean map with that of the trained network as weights become random: {path}."
    caption = (
        "A map of what was learned must change when the network forgets (Adebayo et al. 2018). Single maps keep some "
        "likeness, because each connection is weighed by how far the subject is from the reference."
    )
    return Figure(svg, alt, caption)


def _brain(found: Explanation, atlas: str) -> Block:
    """The leading edges between regions whose place is known."""
    places = found.coordinates(atlas)
    known = np.isfinite(places.sum(axis=1))
    every = [row for row in found.edges if row["atlas"] == atlas and row["i"] != row["j"] and row["contribution"] > 0]
    rows = [row for row in every if known[row["i"]] and known[row["j"]]][:DRAWN]
    if not rows:
        why = "where its regions are is not known" if not known.any() else "no connection contributes"
        return Text(f"{atlas} is not drawn on a brain, because {why}; the tables and the matrix below have it.")
    svg = glass_brain(
        f"brain-{atlas}", [(row["i"], row["j"], row["contribution"], row["slope"]) for row in rows], places
    )
    first = "; ".join(f"{row['name_i']} with {row['name_j']}" for row in rows[:5])
    raising = sum(row["slope"] > 0 for row in rows)
    alt = (
        f"The {len(rows)} leading connections of {atlas} on a glass brain; {raising} raise the score when stronger. "
        f"The first: {first}. The table below has more."
    )
    left_out = "" if known.all() else f" {counted(int((~known).sum()), 'region')} without a place cannot be shown."
    caption = (
        f"{atlas}: the {len(rows)} connections that contribute most, the thicker the more. Those that cross the "
        f"midline are only in the views from above and from behind.{left_out}"
    )
    return Figure(svg, alt, caption)


def _edges(found: Explanation) -> Table:
    whole = found.about["separation"]
    judged = found.about["stability"]
    rows = [
        [
            str(row["rank"]),
            row["atlas"],
            _region(row["name_i"], row["network_i"]),
            _region(row["name_j"], row["network_j"]),
            "raises the score" if row["slope"] > 0 else "lowers the score",
            signed(row["contribution"], 4),
            _share(row["contribution"], whole),
            f"{100 * row['top_folds']:.0f}%",
        ]
        for row in found.edges[:EDGES]
    ]
    header = ["Rank", "Atlas", "Region", "Region", "A stronger connection", "Contribution", "Share of all", "Folds"]
    caption = (
        f"The leading {len(rows)} of {counted(len(found.edges), 'connection')} (explain/edges.csv has all); Folds: the "
        f"share of {counted(judged['folds'], 'fold')} that have it among their leading {judged['top']:,}"
    )
    return Table(caption, header, rows, text_columns=5)


def _regions(found: Explanation) -> Table:
    rows = [
        [row["name"], row["network"] or "–", row["atlas"], signed(row["contribution"], 4), number(row["strength"], 4)]
        for row in found.regions[:REGIONS]
    ]
    caption = (
        f"The leading {len(rows)} of {counted(len(found.regions), 'region')} (explain/regions.csv has all): half of "
        "what each of its connections has. Strength counts every subject's contribution, whatever its sign"
    )
    return Table(caption, ["Region", "Network", "Atlas", "Contribution", "Strength"], rows, text_columns=3)


def _networks(found: Explanation) -> list[Block]:
    rows = [
        [
            f"{row['network_a']} – {row['network_b']}",
            row["atlas"],
            number(row["edges"]),
            signed(row["contribution"], 4),
            signed(1000 * row["contribution"] / row["edges"]),
        ]
        for row in found.networks[:PAIRS]
    ]
    if not rows:
        return [Text("The networks of the regions are not known, so connections were not added up by network.")]
    header = ["Networks", "Atlas", "Connections", "Contribution", "Per 1,000 connections"]
    caption = (
        f"The leading {len(rows)} of {counted(len(found.networks), 'pair')} of networks (explain/networks.csv has all)"
    )
    return [Table(caption, header, rows, text_columns=2)]


def _matrix(found: Explanation) -> Figure:
    matrices = {atlas: found.matrix(atlas, "contribution") for atlas in found.atlases}
    networks = {
        atlas: [row["network"] or "none" for row in found.regions_of(atlas)]
        for atlas, known in found.atlases.items()
        if known["networks"]
    }
    svg = edge_matrix("edges", matrices, networks, label="contribution (log odds)")
    parts = []
    for atlas in matrices:
        edges = [row for row in found.edges if row["atlas"] == atlas]
        helping = sum(row["contribution"] > 0 for row in edges)
        total = sum(row["contribution"] for row in edges)
        parts.append(f"{atlas} {signed(total)} in all, {100 * helping / len(edges):.0f}% of its connections above 0")
    alt = f"Contribution of every connection as a matrix of regions: {'; '.join(parts)}."
    ordered = " Regions of a network are side by side." if networks else ""
    caption = (
        "All connections: each pixel is one, in the row of one region and the column of the other. Blue helps, orange "
        f"misleads; the {100 - CLIP:.1f}% largest have the full shade.{ordered} Scattered pixels are mostly noise; "
        "look for blocks, rows and columns."
    )
    return Figure(svg, alt, caption)


def _region(name: str, network: str) -> str:
    return f"{name} ({network})" if network else name


def _share(value: float, whole: float) -> str:
    return f"{100 * value / whole:.1f}%" if whole > 0 else "–"
