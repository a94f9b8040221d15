"""A network that sees labels in the image itself, and volumes to show it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medformer.data.volumes.plan.volume_plan import Intensity, VolumePlan

LABELS = ((3, "Ring"), (200, "Core"))
AS_IS = Intensity(scheme="ct", low=-1e6, high=1e6, mean=0.0, std=1.0)


class Oracle(nn.Module):
    """Answers, voxel by voxel, which of the given gray values it sees; counts its windows."""

    def __init__(self, values: Sequence[float] = (0, 3, 200), sharpness: float = 20.0) -> None:
        super().__init__()
        self.register_buffer("values", torch.tensor(values, dtype=torch.float32)[:, None, None, None])
        self.sharpness = sharpness
        self.windows = 0

    def forward(self, x: Tensor) -> Tensor:
        self.windows += len(x)
        return -self.sharpness * (x[:, :1] - self.values).abs()


def plan(**changes: object) -> VolumePlan:
    fields: dict[str, object] = {
        "spacing": (1.0, 1.0, 1.0),
        "intensity": (AS_IS,),
        "labels": LABELS,
        "patch": (8, 8, 8),
        "strides": ((1, 1, 1),),
        "kernel_sizes": ((3, 3, 3),),
        "batch_size": 2,
    }
    return VolumePlan(**{**fields, **changes})  # type: ignore[arg-type]


def labeled(shape: tuple[int, int, int], seed: int = 0) -> NDArray[np.uint8]:
    """Values 0, 3 and 200 in no order."""
    return np.random.default_rng(seed).choice(np.array([0, 3, 200], np.uint8), size=shape)


def balls(shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """A core of 200 in a ring of 3, off the center."""
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, size) for size in shape), indexing="ij"))
    radius = np.sqrt(((grid - 0.1) ** 2).sum(0))
    return np.where(radius < 0.35, 200, np.where(radius < 0.7, 3, 0)).astype(np.uint8)


def write_image(
    path: Path,
    array: NDArray[np.generic],
    affine: NDArray[np.float64] | None = None,
    *,
    dtype: type[np.generic] = np.int16,
    qform: int = 1,
    sform: int = 1,
) -> Path:
    affine = np.eye(4) if affine is None else affine
    image = nibabel.Nifti1Image(array.astype(dtype), affine)
    image.set_qform(affine, code=qform)
    image.set_sform(affine if sform else None, code=sform)
    nibabel.save(image, path)
    return path
