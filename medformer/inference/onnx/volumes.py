"""Networks on volumes as window networks, and the recipe that says what comes before and after them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn

from medformer.data.cases import Case
from medformer.data.network_inputs import ItemImages
from medformer.data.volumes.plan.volume_plan import VolumePlan
from medformer.data.volumes.prepare.deformation import centered_start, cut
from medformer.data.volumes.prepare.patches import WholeImages
from medformer.data.volumes.prepare.prepare_case import prepare_image
from medformer.errors import DataError
from medformer.evaluation.masks.overlap import dice
from medformer.files import write_json
from medformer.inference.classification import Decision, predict_scores
from medformer.inference.forward_passes import evaluating, mean_probability
from medformer.inference.onnx.export import Difference, Port, Run, write_graph
from medformer.inference.onnx.graphs import ScanGraph, Views
from medformer.inference.volumes.segmenter import VolumeSegmenter, group_members
from medformer.seeds import derive_seed

if TYPE_CHECKING:
    from medformer.inference.onnx.volume_runner import VolumeRunner

RECIPE = "recipe.json"
FORMAT = "medformer-onnx-volumes/1"
"""Of the recipe."""
TOLERANCE = 1e-3
"""Of the probabilities of a window."""
DICE_TOLERANCE = 0.005
"""Of label maps of whole volumes."""
SINGLE_VOXELS = 3
"""Of a label, which may differ whatever its Dice: rounding decides where two labels are as likely."""
BATCHES = (1, 2, 3)
"""Windows of the batches that are compared."""

_FLIPS = (-3, -2, -1)


def write_volumes(folder: Path, segmenter: VolumeSegmenter, cases: Sequence[Case] = ()) -> dict[str, Any]:
    """Write `recipe.json` and a window network for each group of networks that see the same windows.

    Args:
        folder: Where to.
        segmenter: Holds the networks, their plans, and how windows are joined.
        cases: Real ones, compared window by window and, where they are NIfTI files, as whole label maps; without them
            made-up windows are compared.

    Returns:
        What the recipe says.

    Raises:
        ConfigError: The networks hold what ONNX cannot express.
        DataError: The files compute something else; nothing is kept.
    """
    groups, flips = group_members(segmenter.members), _FLIPS if segmenter.flips else ()
    activation = torch.sigmoid if segmenter.plan.regions else partial(torch.softmax, dim=1)
    with _all_or_nothing(folder) as networks:
        for number, group in enumerate(groups, start=1):
            models, plan = [model.cpu() for model, _ in group], group[0][1]
            expect = partial(
                mean_probability,
                models,
                activation=activation,
                classes=plan.outputs,
                flips=flips,
                precision="32-true",
            )
            path = folder / (f"window-{number}.onnx" if len(groups) > 1 else "window.onnx")
            output = Port("probabilities", torch.zeros(2, plan.outputs, *plan.patch), {0: "batch"}, _classes(plan))
            weight = len(group) / len(segmenter.members)
            graph = Views(models, activation, flips)
            networks.append(_write_network(path, graph, plan, output, models, expect, cases, weight))
        plan = segmenter.plan
        recipe = {
            "labels": [{"value": value, "name": name} for value, name in plan.found],
            "regions": bool(plan.regions),
            "overlap": segmenter.overlap,
            "batch_size": segmenter.batch_size,
            "components": {str(value): rule for value, rule in segmenter.components.rules.items()},
        }
        # Mixed precision is further off than any fault of an export.
        check = partial(compare_label_maps, segmenter=replace(segmenter, precision="32-true"))
        return _write_recipe(folder, "segmentation", plan.orientation, networks, recipe, check, cases)


def write_classified_volumes(
    folder: Path,
    members: Sequence[tuple[nn.Module, VolumePlan, Decision]],
    threshold: float,
    cases: Sequence[Case] = (),
) -> dict[str, Any]:
    """Write `recipe.json` and the networks of folds that classify whole volumes; see `write_volumes`.

    Args:
        folder: Where to.
        members: The network of each fold, its plan, and its calibration.
        threshold: A volume is positive where its probability is at least this.
        cases: Real ones to compare.
    """
    groups = group_members(members)
    with _all_or_nothing(folder) as networks:
        for number, group in enumerate(groups, start=1):
            plan, models = group[0][1], [model.cpu() for model, _, _ in group]
            graph = ScanGraph([(model, decision) for model, _, decision in group])
            path = folder / (f"scan-{number}.onnx" if len(groups) > 1 else "scan.onnx")
            output = Port("probability", torch.zeros(2), {0: "batch"}, "of class 1")
            weight = len(group) / len(members)
            networks.append(_write_network(path, graph, plan, output, models, graph, cases, weight))
        check = partial(compare_scores, members=members)
        orientation = members[0][1].orientation
        return _write_recipe(folder, "classification", orientation, networks, {"threshold": threshold}, check, cases)


@contextmanager
def _all_or_nothing(folder: Path) -> Iterator[list[dict[str, Any]]]:
    """Collect the networks of a recipe; should anything go wrong, what was written of them is removed."""
    networks: list[dict[str, Any]] = []
    try:
        yield networks
    except BaseException:
        names = [network["file"] for network in networks]
        for name in (RECIPE, *names, *(str(Path(name).with_suffix(".json")) for name in names)):
            (folder / name).unlink(missing_ok=True)
        raise


def _write_recipe(
    folder: Path,
    target: str,
    orientation: str,
    networks: Sequence[dict[str, Any]],
    more: dict[str, Any],
    check: Callable[[VolumeRunner, Sequence[Case]], dict[str, Any]],
    cases: Sequence[Case],
) -> dict[str, Any]:
    """Write the recipe, let the runner compute whole volumes by it, and add how far these are from our own."""
    content = {"format": FORMAT, "target": target, "orientation": orientation, "networks": list(networks)} | more
    write_json(folder / RECIPE, content)
    from medformer.inference.onnx.volume_runner import VolumeRunner

    # The runner reads no DICOM.
    files = [case for case in cases if not any(path.is_dir() for path in case.images)]
    try:
        checked = check(VolumeRunner(folder / RECIPE), files)
    except (ValueError, OSError) as error:
        raise DataError(
            f"The runner of the exported networks cannot read a validation case: {error} Nothing was written; correct "
            "this file, or export without ONNX."
        ) from error
    content["parity"] = {
        "cases": "real" if cases else "synthetic",
        "max_difference": max(row.get("max_difference", 0.0) for row in (*networks, *checked["compared"])),
        **checked,
    }
    write_json(folder / RECIPE, content)
    return content


def compare_label_maps(runner: VolumeRunner, cases: Sequence[Case], segmenter: VolumeSegmenter) -> dict[str, Any]:
    """How far the runner's label maps are from the segmenter's: share of other voxels, and of each label the Dice.

    Raises:
        DataError: Too far.
    """
    compared: list[dict[str, Any]] = []
    for case in cases:
        expected = segmenter.segment(case)
        found = runner.labels(case.images)
        worst = 0.0
        for value, name in expected.labels.items():
            one, other = found == value, expected.array == value
            off = 1.0 - dice(one, other)
            worst = max(worst, off)
            if off > DICE_TOLERANCE and np.count_nonzero(one != other) > SINGLE_VOXELS:
                raise DataError(
                    f"Case '{case.id}': the exported networks give {name} with a Dice of {1.0 - off:.3f} to PyTorch's; "
                    f"at least {1.0 - DICE_TOLERANCE:g} is accepted. Nothing was written; export without ONNX, and "
                    "report this."
                )
        share = float(np.mean(found != expected.array))
        compared.append({"size": list(found.shape), "dice_difference": worst, "other_voxels": share})
    return {
        "tolerance": DICE_TOLERANCE,
        "dice_difference": max((row["dice_difference"] for row in compared), default=None),
        "compared": compared,
    }


def compare_scores(
    runner: VolumeRunner, cases: Sequence[Case], members: Sequence[tuple[nn.Module, VolumePlan, Decision]]
) -> dict[str, Any]:
    """How far the runner's probabilities of whole volumes are from those that the folds' networks give.

    Raises:
        DataError: Too far.
    """
    difference = Difference(TOLERANCE)
    compared = []
    for case in cases:
        each = []
        for model, plan, decision in members:
            prepared = prepare_image(case, plan)
            images = ItemImages(WholeImages({case.id: prepared}, plan, [case.id]))
            each.append(decision.probabilities(predict_scores([model], images, ids=[case.id])))
        largest = difference.add(np.array([runner.probability(case.images)]), np.mean(each, axis=0))
        compared.append({"size": list(prepared.source.shape), "max_difference": largest})
    return {"tolerance": TOLERANCE, "compared": compared}


def _write_network(
    path: Path,
    graph: nn.Module,
    plan: VolumePlan,
    output: Port,
    models: Sequence[nn.Module],
    expect: Callable[[Tensor], Tensor],
    cases: Sequence[Case],
    weight: float,
) -> dict[str, Any]:
    """Write one network and return its entry of the recipe."""
    channels = len(plan.intensity)
    image = torch.zeros(2, channels, *plan.patch)

    def check(run: Run) -> dict[str, Any]:
        difference = Difference(TOLERANCE)
        rows = []
        source = cycle(windows_of(cases, plan)) if cases else made_up_windows(plan)
        for size, windows in zip(BATCHES, source, strict=False):
            batch = np.stack(windows[:size])
            with torch.inference_mode(), evaluating(*models):
                expected = expect(torch.from_numpy(batch)).numpy()
            found = run({"image": batch})
            row = {"windows": len(batch), "max_difference": difference.add(found, expected)}
            if expected.ndim > 1:
                regions = bool(plan.regions)
                pairs = zip(_each_class(found, regions), _each_class(expected, regions), strict=True)
                row["dice_difference"] = max(1.0 - dice(one, other) for one, other in pairs)
            rows.append(row)
        return {
            "tolerance": TOLERANCE,
            "max_difference": difference.most,
            "compared": rows,
            "cases": "real" if cases else "synthetic",
        }

    port = Port("image", image, {0: "batch"}, "a window on the plan's grid, intensities scaled as the recipe says")
    record = write_graph(path, graph, [port], output, check, {"task": "volume", "networks": len(models)})
    return {
        "file": path.name,
        "sha256": record["sha256"],
        "max_difference": record["parity"]["max_difference"],
        "weight": weight,
        "spacing": list(plan.spacing),
        "patch": list(plan.patch),
        "intensity": [asdict(channel) for channel in plan.intensity],
    }


def windows_of(cases: Sequence[Case], plan: VolumePlan) -> Iterator[list[NDArray[np.float32]]]:
    """Three windows (C, *patch) of each case: at its middle, and a quarter of a window to either side."""
    for case in cases:
        prepared = prepare_image(case, plan)
        middle = centered_start(prepared.shape, plan.patch)
        found = []
        for part in (0.0, -0.25, 0.25):
            start = tuple(first + int(part * side) for first, side in zip(middle, plan.patch, strict=True))
            found.append(cut(prepared.image, (start[0], start[1], start[2]), plan.patch, prepared.lowest))
        yield found


def made_up_windows(plan: VolumePlan) -> Iterator[list[NDArray[np.float32]]]:
    """Windows of smooth noise with mean 0 and deviation 1, always the same."""
    generator = np.random.default_rng(derive_seed(0, "windows"))
    while True:
        found = []
        for _ in BATCHES:
            noise = generator.standard_normal((len(plan.intensity), *plan.patch))
            smooth = ndimage.gaussian_filter(noise, (0.0, 2.0, 2.0, 2.0))
            found.append(((smooth - smooth.mean()) / smooth.std()).astype(np.float32))
        yield found


def _each_class(probabilities: NDArray[Any], regions: bool) -> Iterator[NDArray[np.bool_]]:
    """Where each class but the background is the most probable one; where each region is more likely than not."""
    if regions:
        return (probabilities[:, number] > 0.5 for number in range(probabilities.shape[1]))
    classes = probabilities.argmax(1)
    return (classes == number for number in range(1, probabilities.shape[1]))


def _classes(plan: VolumePlan) -> str:
    names = [name for _, name in plan.found]
    return f"each by itself of {', '.join(names)}" if plan.regions else f"of background, {', '.join(names)}"
