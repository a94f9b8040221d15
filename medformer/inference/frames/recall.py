"""Which training cases the memory of a network answers an image with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medformer.data.frames.transforms import normalize, resize_image
from medformer.inference.forward_passes import device_of, evaluating
from medformer.inference.frames.segment import Segmenter
from medformer.models.backbone.mixers.hopfield_memory import MemoryBank
from medformer.models.backbone.queries import Queries, recorded_queries
from medformer.models.precision import autocast

MOST = 3
"""Stored latents that are named of each bank."""


def recall(
    segmenter: Segmenter, image: NDArray[np.uint8], threshold: float, cases: Mapping[int, str]
) -> dict[str, Any]:
    """Say what the last memory of the first network retrieves for an image as it is, without flips.

    Args:
        segmenter: Of a fold; its network has a memory.
        image: RGB uint8 (H, W, 3).
        threshold: A position is marked where its probability is at least this.
        cases: Ids of stored cases by their number.

    Returns:
        `regions`, the latents that were retrieved most by the positions in what is marked, or by all of them where
        nothing is (`marked` is False): `case`, `kind` (its class), `place` as shares of height and width, mean
        `weight`.
        `scenes`: `case` and `weight`. Of each at most `MOST`; what is stored more than once counts together.
    """
    model = segmenter.models[0]
    device = device_of(model)
    batch = torch.from_numpy(normalize(resize_image(image, segmenter.image_size))[None]).to(device)
    with torch.inference_mode(), evaluating(model):
        with autocast(device, segmenter.precision), recorded_queries(model) as asked:
            marked = model(batch)[0, 0].float().sigmoid() >= threshold
        (region_bank, regions), (scene_bank, scenes) = (
            [(bank, queries) for bank, queries in asked.items() if (queries.places is None) == of_scenes][-1]
            for of_scenes in (False, True)
        )
        weights = _weights(region_bank, regions)[_inside(regions, marked)].mean(0)
        scene_weights = _weights(scene_bank, scenes).mean(0)
    return {
        "marked": bool(marked.any()),
        "regions": _most(
            {
                "case": cases[int(region_bank.cases[slot])],
                "kind": int(region_bank.classes[slot]),
                "place": [round(share, 4) for share in region_bank.places[slot].tolist()],
                "weight": float(weights[slot]),
            }
            for slot in torch.nonzero(weights).flatten().tolist()
        ),
        "scenes": _most(
            {"case": cases[int(scene_bank.cases[slot])], "weight": float(scene_weights[slot])}
            for slot in torch.nonzero(scene_weights).flatten().tolist()
        ),
    }


def _most(retrieved: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """What was retrieved most, of what is stored more than once together."""
    found: list[dict[str, Any]] = []
    for one in retrieved:
        same = next((other for other in found if {**other, "weight": 0} == {**one, "weight": 0}), None)
        if same is None:
            found.append(one)
        else:
            same["weight"] += one["weight"]
    most = sorted(found, key=lambda one: -one["weight"])[:MOST]
    return [{**one, "weight": round(one["weight"], 4)} for one in most]


def _weights(bank: MemoryBank, queries: Queries) -> Tensor:
    """How much of each slot each query retrieves, `(N, slots)`."""
    return bank.recall(queries.values[0])[1]


def _inside(queries: Queries, marked: Tensor) -> Tensor:
    """Which queries are in what is marked, or in the image where none is, `(N,)`."""
    assert queries.places is not None
    size = torch.tensor(marked.shape, device=queries.places.device)
    at = torch.minimum((queries.places * size).long(), size - 1)
    within = (queries.places < 1).all(1)
    chosen = within & marked[at[:, 0], at[:, 1]]
    return chosen if bool(chosen.any()) else within
