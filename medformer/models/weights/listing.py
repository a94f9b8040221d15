"""What weights there are, as rows for people and programs."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import torch

from medformer.models.backbone.variants import VARIANTS, build_classifier, count_parameters, encoder_name
from medformer.models.weights.store import fetched_others, place_of, store_folder
from medformer.models.weights.table import WEIGHTS, Source

_BYTES = 4


def list_weights() -> list[dict[str, Any]]:
    """Return a row for each name of the table, and for each other one that was fetched.

    A row has `name`, the `backbones` of ours that take it, `network`, `megabytes` (of the file, or what its parameters
    will take; None where neither is known), `data`, `license`, `size` of the images, `origin`, `here` and `path`.
    """
    return [_row(name, source) for name, source in _known()]


def format_weights() -> Iterator[str]:
    """Give the lines of a table of these rows, and how to use and get them."""
    rows = list_weights()
    width, wide = max(len(row["name"]) for row in rows), max(len(row["backbones"][0]) for row in rows)
    yield f"{'name':<{width}}  {'backbone':<{wide}}     MB  here  license     trained on"
    for row in rows:
        size = "?" if row["megabytes"] is None else f"{row['megabytes']:.0f}"
        here = "yes" if row["here"] else "no"
        about = f"{here:<4}  {row['license']:<10}  {row['data']}, {row['size']} px"
        yield f"{row['name']:<{width}}  {row['backbones'][0]:<{wide}}  {size:>5}  {about}"
    yield ""
    yield "Use: model.weights=NAME. Fetch: medformer weights get NAME. Other names of timm's table can be fetched too."
    yield f"Fetched weights lie in {store_folder()}"


def backbones_for(network: str) -> list[str]:
    """Backbones of ours whose encoder is a network, by its name in timm."""
    named = [name for name in VARIANTS if "<" not in name and (encoder_name(name) or name) == network]
    return named if network in VARIANTS else [*named, f"timm:{network}"]


def _known() -> Iterator[tuple[str, Source]]:
    for name, entry in WEIGHTS.items():
        yield name, entry.part
    yield from fetched_others()


def _row(name: str, source: Source) -> dict[str, Any]:
    path = place_of(name, source)
    here = path.is_file()
    megabytes = path.stat().st_size / 1e6 if here else source.megabytes or _expected(source)
    return {
        "name": name,
        "backbones": backbones_for(source.network),
        "network": source.network,
        "megabytes": None if megabytes is None else round(megabytes, 1),
        "data": source.data,
        "license": source.license,
        "size": source.size,
        "origin": source.origin,
        "here": here,
        "path": str(path),
    }


def _expected(source: Source) -> float | None:
    """What the parameters of a network of ours take, in MB."""
    if source.network not in VARIANTS:
        return None
    return _parameters(source.network, source.classes) * _BYTES / 1e6


@cache
def _parameters(network: str, classes: int) -> int:
    with torch.device("meta"):
        return count_parameters(build_classifier(network, classes))
