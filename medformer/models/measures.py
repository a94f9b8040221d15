"""What is counted and timed of a mixer or network on this machine, for a list of what there is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from math import prod
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from medformer.config import AbideConfig, PolypConfig, VolumeConfig
from medformer.connectome.atlases import ATLASES
from medformer.models.backbone.mixers import MIXERS, make_mixer
from medformer.models.backbone.variants import count_parameters
from medformer.models.connectome.build import CONNECTOME_MODELS, build_connectome_model
from medformer.models.connectome.classifier import edge_count
from medformer.models.networks.build import NETWORKS, Target, build_network
from medformer.models.networks.grid import Grid
from medformer.models.timing import seconds
from medformer.registry import Entry

MIXER_CHANNELS, MIXER_SIDES = 64, (14, 28, 56)
"""What a mixer is measured with: its channels, and sides of square maps."""
NETWORK_SIDES = {2: (64, 128, 256), 3: (32, 64, 96)}
"""Sides of the images and volumes that a network is measured on, by dimensions."""
CONNECTOME_ATLASES = (("aal",), ("cc200",), ("aal", "cc200", "dos160"))
"""Atlases that a connectome model is measured on together."""
PATIENCE, PASSES = 1.0, 4
"""Seconds that a forward pass may take to be measured (one that would take longer is estimated), and how often it is
repeated as long as all passes together take no longer either."""


class _Pass(NamedTuple):
    """A forward pass to time: what it is called, and how large it is, in anything that its time grows with."""

    name: str
    model: nn.Module
    inputs: Any
    positions: int


def measure_mixer(name: str) -> dict[str, Any]:
    """Count the parameters of a token mixer in each number of dimensions, and time it on this machine's CPU.

    Returns:
        The numbers of parameters, and the milliseconds of a forward pass of one map of each size: square maps, or as
        many positions in a row for a mixer of sequences.
    """
    mixers = {dims: make_mixer(name, MIXER_CHANNELS, spatial_dims=dims, stage=1) for dims in _dimensions(MIXERS[name])}
    shown = 2 if 2 in mixers else min(mixers)
    sizes = [(side, side) if shown == 2 else (side * side,) for side in MIXER_SIDES]
    channels = f"{MIXER_CHANNELS} channels"
    return {
        f"parameters at {channels}": {f"{dims}-D": count_parameters(mixer) for dims, mixer in mixers.items()},
        f"milliseconds at {channels}": _milliseconds(_maps(mixers[shown], sizes, MIXER_CHANNELS)),
    }


def measure_network(name: str) -> dict[str, Any]:
    """Count a network's parameters and multiply-adds, and time it on this machine's CPU.

    It is the network that `model.name` alone makes of the defaults for frames (2-D) and volumes (3-D), on their
    backbones: for images of three channels and one logit, and volumes of one channel and two logits. It segments, if it
    can.

    Args:
        name: Of the table, or one that a pattern of it stands for. A pattern itself is measured by its example.

    Returns:
        For each number of dimensions the parameters, what trains deep supervision among them; and for each size the
        billions of multiply-adds in the convolutions and matrix products of a forward pass of one image, and its
        milliseconds.

    Raises:
        UnknownNameError: No network has that name; the nearest is given.
        ConfigError: A pattern stands for it, and it cannot be built.
    """
    entry = NETWORKS[name]
    measured: dict[str, Any] = {"measured": entry.example} if name == entry.name and entry.example else {}
    for dims, defaults, channels in ((2, PolypConfig().model, 3), (3, VolumeConfig().model, 1)):
        if dims not in _dimensions(entry):
            continue
        config = defaults.model_copy(update={"name": measured.get("measured", name), "weights": None})
        sizes = [(side,) * dims for side in NETWORK_SIDES[dims]]
        target: Target = "classification" if "segmentation" in entry.cannot else "segmentation"
        model = build_network(config, Grid(channels, dims - 1, sizes[-1]), target=target)
        on = "" if "model.mixers" in entry.cannot else f" on {config.backbone}"
        measured[f"parameters in {dims}-D{on}"] = count_parameters(model)
        measured[f"milliseconds in {dims}-D"] = _milliseconds(_maps(model, sizes, channels))
        measured[f"multiply-adds in {dims}-D, billions"] = _multiply_adds(model.to("meta"), sizes, channels)
    return measured


def measure_connectome_model(name: str) -> dict[str, Any]:
    """Count a connectome model's parameters on atlases of ABIDE, and time it for one subject on this machine's CPU.

    It is the model that `model.name` alone makes of the defaults, for a small atlas, a larger one, and the three
    that METAFormer reads.

    Args:
        name: As for `measure_network`.

    Raises:
        UnknownNameError: No model has that name; the nearest is given.
        ConfigError: A pattern stands for it, and it cannot be built.
    """
    entry = CONNECTOME_MODELS[name]
    measured: dict[str, Any] = {"measured": entry.example} if name == entry.name and entry.example else {}
    config = AbideConfig().model.model_copy(update={"name": measured.get("measured", name)})
    passes = []
    for atlases in CONNECTOME_ATLASES:
        regions = {atlas: ATLASES[atlas].regions for atlas in atlases}
        edges = {atlas: edge_count(count, False) for atlas, count in regions.items()}
        inputs = {atlas: torch.zeros(1, count) for atlas, count in edges.items()}
        passes.append(_Pass(", ".join(atlases), build_connectome_model(config, regions), inputs, sum(edges.values())))
    measured["parameters"] = {one.name: count_parameters(one.model) for one in passes}
    measured["milliseconds"] = _milliseconds(passes)
    return measured


def _dimensions(entry: Entry[Any]) -> list[int]:
    return [dims for dims in (1, 2, 3) if f"{dims}-D" not in entry.cannot]


def _multiply_adds(model: nn.Module, sizes: Sequence[Sequence[int]], channels: int) -> dict[str, float]:
    """Billions in a forward pass of one map of each size, on the meta device, where only shapes are computed."""
    found = {}
    for size in sizes:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, channels, *size, device="meta"))
        found[_shown(size)] = float(f"{counter.get_total_flops() / 2e9:.3g}")
    return found


def _maps(model: nn.Module, sizes: Sequence[Sequence[int]], channels: int) -> Iterator[_Pass]:
    for size in sizes:
        yield _Pass(_shown(size), model, torch.zeros(1, channels, *size), prod(size))


def _milliseconds(passes: Iterable[_Pass]) -> dict[str, float | str]:
    """Time each, the fastest of a few; they come smallest first, and what would take long is estimated."""
    found: dict[str, float | str] = {}
    per_position = 0.0
    for one in passes:
        expected = per_position * one.positions
        if expected > PATIENCE:
            found[one.name] = f"at least about {1000 * expected:,.0f}, not measured"
            continue
        model = one.model.eval()
        with torch.no_grad():
            took = [seconds(partial(model, one.inputs))]
            # The first pass also pays for what later ones find ready.
            while len(took) < PASSES and sum(took) < PATIENCE:
                took.append(seconds(partial(model, one.inputs)))
        per_position = min(took) / one.positions
        found[one.name] = round(1000 * min(took), 2)
    return found


def _shown(size: Sequence[int]) -> str:
    return " x ".join(map(str, size))
