"""A small DICOM series that tests can bend."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SHAPE = (7, 5, 6)  # columns, rows, slices
SPACING = (0.8, 0.9, 2.5)
# Columns run to the left and a little down, rows to the back: oblique.
ORIENTATION = [0.96, 0.0, -0.28, 0.0, 1.0, 0.0]
ORIGIN = np.array([-20.0, 30.0, 12.5])

SeriesWriter = Callable[..., Path]


def stored() -> np.ndarray:
    return np.random.default_rng(3).integers(-900, 900, SHAPE).astype(np.int16)


@pytest.fixture
def write_series(tmp_path: Path) -> SeriesWriter:
    """Write slices in a shuffled order of names; `change(k, dataset)` may alter each, or leave it out with False."""
    pydicom = pytest.importorskip("pydicom")
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    def write(name: str = "series", change: Callable[[int, Any], bool | None] | None = None) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        study, series, frame = generate_uid(), generate_uid(), generate_uid()
        normal = np.cross(ORIENTATION[:3], ORIENTATION[3:])
        for k in range(SHAPE[2]):
            data = pydicom.Dataset()
            data.file_meta = pydicom.dataset.FileMetaDataset()
            data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = CTImageStorage
            data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
            data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = study, series, frame
            data.PatientID, data.Modality, data.SeriesDescription = "P1", "CT", "abdomen"
            data.InstanceNumber = k + 1
            data.Columns, data.Rows = SHAPE[:2]
            data.PixelSpacing = [SPACING[1], SPACING[0]]
            data.SliceThickness = SPACING[2]
            data.ImageOrientationPatient = ORIENTATION
            data.ImagePositionPatient = [f"{value:.6f}" for value in ORIGIN + k * SPACING[2] * normal]
            data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
            data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 1
            data.RescaleSlope, data.RescaleIntercept = 2, -1000
            data.PixelData = np.ascontiguousarray(stored()[:, :, k].T).tobytes()
            if change is None or change(k, data) is not False:
                data.save_as(folder / f"{(k * 5) % 7}.dcm", enforce_file_format=True)
        return folder

    return write
