"""A small DICOM series, written by pydicom alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def write_dicom_series(folder: Path, *, patient: str = "P1", slices: int = 6, seed: int = 0) -> Path:
    """Write one axial CT series of 16 x 12 pixels, one file for each slice.

    Args:
        folder: Where to; created if missing.
        patient: Its id.
        slices: How many.
        seed: Of the pixels.
    """
    import pydicom
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    folder.mkdir(parents=True)
    uids = [generate_uid(entropy_srcs=[patient, str(seed), name]) for name in ("study", "series", "frame")]
    pixels = np.random.default_rng(seed).integers(0, 800, (slices, 12, 16)).astype(np.int16)
    for index in range(slices):
        data = pydicom.Dataset()
        data.file_meta = pydicom.dataset.FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = CTImageStorage
        name = generate_uid(entropy_srcs=[patient, str(seed), str(index)])
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = name
        data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = uids
        data.PatientID, data.PatientName, data.Modality, data.InstanceNumber = patient, patient, "CT", index + 1
        data.StudyDate = data.StudyTime = data.PatientBirthDate = data.PatientSex = ""
        data.AccessionNumber = data.ReferringPhysicianName = data.StudyID = ""
        data.Rows, data.Columns = pixels.shape[1:]
        data.PixelSpacing, data.SliceThickness = [1.5, 1.5], 2
        data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        data.ImagePositionPatient = [-10, -12, 2 * index]
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 1
        data.RescaleSlope, data.RescaleIntercept = 1, -200
        data.PixelData = pixels[index].tobytes()
        data.save_as(folder / f"{index:03}.dcm", enforce_file_format=True)
    return folder
