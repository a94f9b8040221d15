"""Trained weights on disk: `model.safetensors`, which says of itself what it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medformer.errors import CheckpointError
from medformer.tensor_file import (
    describe_difference,
    read_metadata,
    read_tensors,
    shapes,
    write_tensors,
)

__all__ = ["load_model", "read_metadata", "save_model"]


def save_model(path: Path, model: nn.Module, metadata: Mapping[str, Any]) -> None:
    """Write a model's weights and JSON-able metadata atomically.

    Args:
        path: A `.safetensors` file; an earlier one is replaced only by a complete new one.
        model: Its `state_dict` is written.
        metadata: What a reader needs to rebuild and trust the model: its config, the data's digest, the epoch.

    Raises:
        ResourceError: The disk is full or the folder not writable.
    """
    write_tensors(Path(path), model.state_dict(), metadata)


def load_model(path: Path, model: nn.Module, expected: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Load weights into a model of the same architecture and return the file's metadata.

    Args:
        path: A file that `save_model` wrote.
        model: Every tensor of it is replaced; nothing is changed when loading fails.
        expected: Metadata that must agree, such as `{"architecture": "meta_polyp/caformer_s18"}`.

    Raises:
        CheckpointError: The file is missing, damaged, a pickle, of another architecture, or holds NaN.
    """
    path = Path(path)
    tensors, metadata = read_tensors(path)
    # As it reads back: a tuple becomes a list.
    wanted = json.loads(json.dumps(dict(expected or {})))
    claims = [
        f"{key} is {metadata.get(key)!r}, expected {value!r}"
        for key, value in wanted.items()
        if metadata.get(key) != value
    ]
    difference = describe_difference(shapes(tensors), shapes(model.state_dict()))
    if claims or difference:
        raise CheckpointError(
            f"{path} does not fit this {type(model).__name__}: {'; '.join([*claims, *filter(None, [difference])])}. "
            "Choose the model section that the weights were trained with, or other weights."
        )
    for name, weight in model.named_parameters():
        if weight.is_floating_point() and not bool(torch.isfinite(tensors[name]).all()):
            raise CheckpointError(f"{path} holds NaN or infinity in '{name}', expected finite weights. Train again.")
    with torch.no_grad():
        for name, tensor in model.state_dict(keep_vars=True).items():
            tensor.copy_(tensors[name])
    return metadata
