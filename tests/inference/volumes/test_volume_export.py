from __future__ import annotations

from pathlib import Path
from types import ModuleType

import nibabel
import numpy as np
import pytest
from PIL import Image

from medformer.data.cases import Case
from medformer.errors import ConfigError, DataError
from medformer.files import read_csv
from medformer.imaging.geometry import Geometry
from medformer.inference.export_table import Exports
from medformer.inference.volumes.export import columns, export_volume, volume_exports
from medformer.inference.volumes.label_map import LabelMap

NAMES = {3: "Ring", 200: "Core"}


def found(oracle: ModuleType, folder: Path, name: str = "a") -> tuple[LabelMap, Path]:
    labels = oracle.balls((12, 14, 16))
    affine = np.diag([-2.0, 1.0, 1.0, 1.0])
    path = oracle.write_image(folder / f"{name}.nii.gz", labels * 5, affine, qform=0, sform=3)
    return LabelMap(labels, Geometry(labels.shape, affine), NAMES, {3: 0.75}), path


def test_a_case_is_a_label_map_a_picture_and_a_row(oracle: ModuleType, tmp_path: Path) -> None:
    result, path = found(oracle, tmp_path)
    row = export_volume(Exports(tmp_path / "out"), "site/a", result, Case("a", path, None, "a"), source="in/a.nii.gz")
    written = nibabel.load(tmp_path / "out" / "masks" / "site" / "a.nii.gz")
    np.testing.assert_array_equal(np.asarray(written.dataobj), result.array)
    assert int(written.header["sform_code"]) == 3 and int(written.header["qform_code"]) == 0
    with Image.open(tmp_path / "out" / row["overlay"]) as picture:
        assert picture.size[0] > 384
    assert (*row, "image_sha256", "run_sha256") == columns(NAMES.values())
    assert row["shape"] == "12x14x16" and row["spacing_mm"] == "2x1x1"
    assert row["pred_ml:Core"] == pytest.approx(np.count_nonzero(result.array == 200) * 0.002)
    assert row["confidence:Ring"] == 0.75 and row["confidence:Core"] == ""
    assert row["mask"] == "masks/site/a.nii.gz" and row["dicom_seg"] == ""


def test_the_table_resumes_with_what_is_still_there(oracle: ModuleType, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with volume_exports(out, NAMES.values(), overlays=False) as export:
        for name in "abc":
            export.add(name, *found(oracle, tmp_path, name), source=f"{name}.nii.gz")
    (out / "masks" / "b.nii.gz").unlink()
    with volume_exports(out, NAMES.values(), overlays=False, resume=True) as export:
        assert [export.done(name) for name in "abc"] == [True, False, True]
        export.add("b", *found(oracle, tmp_path, "b"), source="b.nii.gz")
    assert {row["id"] for row in read_csv(out / "volumes.csv")} == {"a", "b", "c"}
    with pytest.raises(DataError, match="columns of an export"):
        volume_exports(out, ["Other"], resume=True)
    assert not volume_exports(out, NAMES.values(), overlays=True, resume=True).done("a"), "an overlay is wanted now"


def test_two_cases_do_not_share_files(oracle: ModuleType, tmp_path: Path) -> None:
    with volume_exports(tmp_path / "out", NAMES.values(), overlays=False) as export:
        export.add("a", *found(oracle, tmp_path), source="x/a.nii.gz")
        with pytest.raises(DataError, match=r"x/a\.nii\.gz.*same files"):
            export.add("A", *found(oracle, tmp_path), source="y/A.nii.gz")


def test_a_dicom_segmentation_needs_a_series(oracle: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="folder with a series"):
        export_volume(Exports(tmp_path / "out"), "a", *found(oracle, tmp_path), dicom_seg=True)
    assert not (tmp_path / "out").exists()


def test_an_id_stays_in_the_folder(oracle: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be exported"):
        export_volume(Exports(tmp_path / "out"), "../a", *found(oracle, tmp_path))


@pytest.mark.real_data
def test_a_series_gets_its_segmentation(oracle: ModuleType, medformer_data: Path, tmp_path: Path) -> None:
    from medformer.imaging.dicom import series_geometry
    from medformer.imaging.seg_frames import read_dicom_seg
    from medformer.imaging.volumes import read_volume
    from medformer.inference.volumes.segmenter import VolumeSegmenter

    series = next(path.parent for path in sorted((medformer_data / "volumes" / "hippocampus_dicom").rglob("*.dcm")))
    geometry = series_geometry(series)
    plan = oracle.plan(spacing=(1.3, 1.0, 1.0), patch=(24, 24, 24))
    grays = np.percentile(read_volume(series).array, (5, 50, 95)).tolist()
    result = VolumeSegmenter([(oracle.Oracle(grays), plan)]).segment(series)
    assert set(np.unique(result.array).tolist()) == {0, 3, 200}
    row = export_volume(Exports(tmp_path), "a", result, series, dicom_seg=True)
    np.testing.assert_array_equal(read_dicom_seg(tmp_path / row["dicom_seg"], geometry).array, result.array)
    written = nibabel.load(tmp_path / row["mask"])
    np.testing.assert_array_equal(np.asarray(written.dataobj), result.array)
    np.testing.assert_allclose(written.affine, geometry.affine, atol=1e-4)
