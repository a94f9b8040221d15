"""Small scans with label maps, written as files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from medformer.data.cases import Case

MakeCase = Callable[..., Case]


@pytest.fixture
def make_case(tmp_path: Path) -> MakeCase:
    """A function that writes a scan with a label map and gives its row of a manifest."""

    def make(
        name: str,
        image: NDArray[np.generic] | Sequence[NDArray[np.generic]],
        labels: NDArray[np.generic] | None = None,
        *,
        affine: NDArray[np.float64] | None = None,
        label_affine: NDArray[np.float64] | None = None,
    ) -> Case:
        affine = np.eye(4) if affine is None else affine
        channels = [image] if isinstance(image, np.ndarray) else list(image)
        paths = []
        for number, channel in enumerate(channels):
            paths.append(tmp_path / f"{name}_{number}.nii.gz")
            nib.Nifti1Image(channel, affine).to_filename(paths[-1])
        mask = None
        if labels is not None:
            mask = tmp_path / f"{name}_labels.nii.gz"
            nib.Nifti1Image(labels, affine if label_affine is None else label_affine).to_filename(mask)
        return Case(id=name, image=paths[0], further=tuple(paths[1:]), mask=mask, group=name)

    return make
