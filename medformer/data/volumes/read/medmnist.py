"""MedMNIST's 3-D sets, which are arrays in one `.npz` file, as volumes with a manifest.

Yang et al., "MedMNIST v2", Scientific Data 2023. The arrays have no voxel sizes and no orientation; 1 mm and RAS are
written. Every sample counts as a patient.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
from nibabel.nifti1 import Nifti1Image
from numpy.typing import NDArray

from medformer.array_file import ArrayFileError, read_npz
from medformer.data.cases import Case, image_hash
from medformer.data.manifest import write_manifest
from medformer.data.volumes.read.dataset_file import DatasetInfo, write_info
from medformer.errors import DataError
from medformer.files import write_bytes
from medformer.progress import Reporter, SilentReporter

SPLITS = ("train", "val", "test")

_EXPECTED = "expected MedMNIST's arrays <split>_images (n, X, Y, Z) and <split>_labels (n, 1) for train, val and test"


def write_medmnist(npz: Path, folder: Path, *, reporter: Reporter | None = None) -> Path:
    """Write each sample as a NIfTI file, its class (0 or 1) in the manifest's column `label`, and its split.

    Args:
        npz: Such as `adrenalmnist3d.npz`.
        folder: Gets `images/`, `manifest.csv` and its sidecar.
        reporter: Receives one step per sample.

    Returns:
        The manifest.

    Raises:
        DataError: It is not such a file, or has other classes than 0 and 1.
        ResourceError: The folder is not writable or the disk is full.
    """
    samples = [(split, *sample) for split in SPLITS for sample in enumerate(zip(*_part(npz, split), strict=True))]
    cases = []
    for split, index, (image, label) in (reporter or SilentReporter()).track(samples, "writing"):
        name = f"{split}_{index:05}"
        path = folder / "images" / f"{name}.nii.gz"
        # Without the time, so that writing again gives the same hashes.
        write_bytes(path, gzip.compress(Nifti1Image(image, np.eye(4)).to_bytes(), mtime=0))
        cases.append(
            Case(
                id=name,
                image=path,
                group=name,
                site=npz.stem,
                split=split,
                sha256=image_hash([path]),
                label=int(label),
            )
        )
    manifest = folder / "manifest.csv"
    write_manifest(manifest, cases)
    write_info(manifest, DatasetInfo((), ("image",), "case is patient"))
    return manifest


def _part(npz: Path, split: str) -> tuple[NDArray[np.uint8], NDArray[np.integer]]:
    wanted = (f"{split}_images", f"{split}_labels")
    try:
        arrays, others = read_npz(npz, wanted.__contains__)
    except ArrayFileError as error:
        raise DataError(f"{npz} cannot be read ({error}); {_EXPECTED}. Download it again.") from None
    lacking = [name for name in wanted if name not in arrays]
    if lacking:
        found = ", ".join([*arrays, *others]) or "no arrays"
        raise DataError(f"{npz} lacks {' and '.join(lacking)}; found {found}; {_EXPECTED}. Download it again.")
    images, labels = (arrays[name] for name in wanted)
    if (
        images.ndim != 4
        or images.dtype != np.uint8
        or labels.ndim == 0
        or labels.size != len(images)
        or labels.dtype.kind not in "iu"
    ):
        raise DataError(
            f"{npz}: {split}_images is {images.dtype} {images.shape} and {split}_labels {labels.dtype} {labels.shape}; "
            f"{_EXPECTED}."
        )
    labels = labels.reshape(-1)
    if not np.isin(labels, (0, 1)).all():
        values = ", ".join(str(value) for value in np.unique(labels))
        raise DataError(f"{npz} has the classes {values}; expected 0 and 1. Only two classes are supported.")
    return images, labels
