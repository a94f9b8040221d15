"""The formats that users hand over: how a small intact file of each is made, and which of our functions read it."""

from __future__ import annotations

import gzip
import io
import json
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


def _same(content: bytes) -> bytes:
    return content


def _stored(content: bytes, rng: random.Random) -> bytes:
    return content


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        make: Writes intact files to a folder, and returns those that are to be damaged.
        read: Everything that reads such a file; what it returns does not matter.
        text: Whether the file is text.
        slow: Whether making it takes seconds, so that quick tests leave it out.
        unpack: What is damaged, from the content of the file.
        pack: The content of the file, from what was damaged.
    """

    make: Callable[[Path], list[Path]]
    read: Callable[[Path], object]
    text: bool = False
    slow: bool = False
    unpack: Callable[[bytes], bytes] = _same
    pack: Callable[[bytes, random.Random], bytes] = _stored


def _generator() -> np.random.Generator:
    return np.random.default_rng(0)


# Pictures.


def _pictures(*endings: str, **settings: Any) -> Callable[[Path], list[Path]]:
    def make(folder: Path) -> list[Path]:
        from PIL import Image

        values = _generator().integers(0, 256, (24, 32, 3)).astype(np.uint8)
        mask = ((values[..., 0] > 120) * 255).astype(np.uint8)
        deep = _generator().integers(0, 65536, (24, 32)).astype(np.uint16)
        pictures = {"color": Image.fromarray(values), "mask": Image.fromarray(mask), "deep": Image.fromarray(deep)}
        pictures["palette"] = pictures["color"].quantize(16)
        made = []
        for ending in endings:
            for name, picture in pictures.items():
                if name == "deep" and ending not in (".png", ".tif"):
                    continue
                if name == "palette" and ending not in (".png", ".tif", ".bmp", ".gif"):
                    continue
                made.append(folder / f"{name}{ending}")
                exif = Image.Exif()
                exif[0x0112] = 6
                more = {"exif": exif} if name == "color" and ending in (".jpg", ".tif", ".png", ".webp") else {}
                picture.save(made[-1], **more, **settings)
        return made

    return make


def _read_picture(path: Path) -> None:
    from medformer.imaging.images import image_info, read_gray16, read_image
    from medformer.imaging.mask_rule import read_mask
    from medformer.imaging.masks import read_probability

    _all_of(path, read_image, image_info, read_mask, read_gray16, read_probability)


def _repaired_png(content: bytes, rng: random.Random) -> bytes:
    """Make the checksums right again, for half of the files: otherwise nothing behind them is ever read."""
    if rng.random() < 0.5:
        return content
    made, at = bytearray(content[:8]), 8
    while at + 12 <= len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        if at + 12 + length > len(content):
            break
        chunk = content[at + 4 : at + 8 + length]
        made += content[at : at + 4] + chunk + struct.pack(">I", zlib.crc32(chunk))
        at += 12 + length
    return bytes(made + content[at:])


# Volumes.


def _nifti(ending: str) -> Callable[[Path], list[Path]]:
    def make(folder: Path) -> list[Path]:
        import nibabel as nib

        made = []
        affine = np.array([[-2.0, 0, 0, 10], [0, 2, 0, -5], [0, 0, 3, 1], [0, 0, 0, 1]])
        for name, dtype, kind in (
            ("labels", np.uint8, nib.Nifti1Image),
            ("scan", np.int16, nib.Nifti1Image),
            ("real", np.float32, nib.Nifti2Image),
        ):
            image = kind(_generator().integers(0, 3, (7, 6, 5)).astype(dtype), affine)
            image.set_sform(affine, 1)
            image.set_qform(affine, 1)
            if name == "scan":
                image.header.set_slope_inter(2, -10)
            made.append(folder / f"{name}{ending}")
            image.to_filename(made[-1])
        return made

    return make


def _read_nifti(path: Path) -> None:
    from medformer.imaging.parcellation import read_parcellation
    from medformer.imaging.volumes import read_channels, read_geometry, read_labels, read_volume

    _all_of(path, read_volume, lambda one: list(read_channels(one)), read_geometry, read_labels, read_parcellation)


def _all_of(path: Path, *readers: Callable[[Path], object]) -> None:
    """Call every reader; a refusal by the first is passed on at the end, as others may not be meant for the file."""
    from medformer.errors import MedformerError

    refusal = None
    for place, read in enumerate(readers):
        try:
            read(path)
        except MedformerError as error:
            refusal = error if place == 0 else refusal
    if refusal is not None:
        raise refusal


def _unpack_gzip(content: bytes) -> bytes:
    return gzip.decompress(content)


def _pack_gzip(content: bytes, rng: random.Random) -> bytes:
    """Pack what was damaged; a third of the files are damaged in the stream as well."""
    packed = bytearray(gzip.compress(content, mtime=0))
    if rng.random() < 0.3:
        for _ in range(rng.choice((1, 3))):
            packed[rng.randrange(len(packed))] = rng.randrange(256)
    return bytes(packed[: rng.randrange(len(packed))] if rng.random() < 0.1 else packed)


def _series(folder: Path) -> list[Path]:
    from dicom_series import write_dicom_series

    for old in sorted((folder / "series").glob("*")):
        old.unlink()
    if (folder / "series").is_dir():
        (folder / "series").rmdir()
    return sorted(write_dicom_series(folder / "series", slices=4).iterdir())[:2]


def _read_slice(path: Path) -> None:
    from medformer.imaging.dicom import read_series, series_geometry
    from medformer.imaging.dicom_files import find_series

    _all_of(path.parent, read_series, find_series, series_geometry)


def _segmentation(folder: Path) -> list[Path]:
    from medformer.imaging.dicom import read_series
    from medformer.imaging.dicom_seg import write_dicom_seg

    _series(folder)
    shape = read_series(folder / "series").array.shape
    labels = _generator().integers(0, 3, shape).astype(np.uint8)
    write_dicom_seg(folder / "labels.dcm", labels, {1: "one", 2: "two"}, folder / "series")
    return [folder / "labels.dcm"]


def _read_segmentation(path: Path) -> None:
    from medformer.imaging.seg_frames import read_dicom_seg
    from medformer.imaging.volumes import read_geometry, read_labels

    geometry = read_geometry(path.parent / "series")
    _all_of(path, read_labels, lambda file: read_dicom_seg(file, geometry))


# Arrays and tables of connectomes.


def _correlations(regions: int = 6) -> np.ndarray:
    return np.corrcoef(_generator().standard_normal((regions, 40)))


def _npy(folder: Path) -> list[Path]:
    np.save(folder / "one.npy", _correlations())
    np.save(folder / "half.npy", _correlations().astype(np.float16))
    return [folder / "one.npy", folder / "half.npy"]


def _matlab(folder: Path) -> list[Path]:
    from scipy.io import savemat

    savemat(folder / "packed.mat", {"matrix": _correlations(), "note": "text"}, do_compression=True)
    savemat(folder / "plain.mat", {"matrix": _correlations()})
    savemat(folder / "old.mat", {"matrix": _correlations()}, format="4")
    return [folder / "packed.mat", folder / "plain.mat", folder / "old.mat"]


def _read_matrix(path: Path) -> None:
    from medformer.data.connectomes.read.matrices import as_edges, read_square

    as_edges(read_square(path).values)


def _matrix_text(folder: Path) -> list[Path]:
    np.savetxt(folder / "one.csv", _correlations(), "%.5f", delimiter=",")
    np.savetxt(folder / "two.txt", _correlations(), "%.5f")
    return [folder / "one.csv", folder / "two.txt"]


def _time_series(folder: Path) -> list[Path]:
    values = _generator().standard_normal((12, 5))
    np.savetxt(folder / "one.1D", values, "%.4f", delimiter="\t", header="#1\t#2\t#3\t#4\t#5", comments="")
    np.savetxt(folder / "two.1D", values, "%.4f")
    return [folder / "one.1D", folder / "two.1D"]


def _read_time_series(path: Path) -> None:
    from medformer.data.connectomes.read.files import read_series

    read_series(path)


def _cohort_npz(folder: Path) -> list[Path]:
    edges = np.stack([_correlations()[np.triu_indices(6, 1)]] * 8) * np.linspace(0.5, 0.9, 8)[:, None]
    ids, labels = np.array([f"s{k}" for k in range(8)]), np.arange(8) % 2
    np.savez_compressed(folder / "one.npz", ids=ids, label=labels, fc_mine=edges.astype(np.float32), age=np.arange(8.0))
    return [folder / "one.npz"]


def _read_cohort_npz(path: Path) -> None:
    from medformer.data.connectomes.read.npz import find_npz
    from medformer.data.connectomes.read.source import UnusableError

    source = find_npz(path)
    for candidate in source.candidates:
        try:
            source.read(candidate, source.atlases)
        except UnusableError:
            continue


def _medmnist(folder: Path) -> list[Path]:
    content: dict[str, np.ndarray] = {}
    for split, count in (("train", 4), ("val", 2), ("test", 2)):
        content[f"{split}_images"] = _generator().integers(0, 256, (count, 5, 4, 3)).astype(np.uint8)
        content[f"{split}_labels"] = (np.arange(count) % 2).astype(np.uint8)[:, None]
    np.savez(folder / "shapes.npz", **content)
    return [folder / "shapes.npz"]


def _read_medmnist(path: Path) -> None:
    import shutil

    from medformer.data.volumes.read.medmnist import write_medmnist

    shutil.rmtree(path.parent / "out", ignore_errors=True)
    write_medmnist(path, path.parent / "out")


def _probabilities(folder: Path) -> list[Path]:
    np.savez_compressed(folder / "map.npz", probability=_generator().random((6, 5)).astype(np.float32))
    return [folder / "map.npz"]


def _read_probabilities(path: Path) -> None:
    from medformer.imaging.masks import read_probability

    read_probability(path)


def _members(content: bytes, rng: random.Random) -> bytes:
    """Give a zip file right checksums again, member by member, for half of the files."""
    if rng.random() < 0.5:
        return content
    made = io.BytesIO()
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as damaged, zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as new:
            for member in damaged.infolist():
                # Without a look at the checksum.
                raw = damaged.fp.getvalue()[member.header_offset :]  # type: ignore[union-attr]
                begin = 30 + int.from_bytes(raw[26:28], "little") + int.from_bytes(raw[28:30], "little")
                data = raw[begin : begin + member.compress_size]
                new.writestr(member.filename, zlib.decompress(data, -15) if member.compress_type else data)
    except Exception:
        return content
    return made.getvalue()


# Tables.


def _table(name: str, header: str, rows: Iterable[str]) -> Callable[[Path], list[Path]]:
    def make(folder: Path) -> list[Path]:
        for ending, separator in ((".csv", ","), (".tsv", "\t")):
            text = "\n".join([header, *rows]) + "\n"
            (folder / f"{name}{ending}").write_text(text.replace(",", separator), "utf-8")
        return [folder / f"{name}.csv", folder / f"{name}.tsv"] if name == "phenotypic" else [folder / f"{name}.csv"]

    return make


_CASES = _table(
    "manifest",
    "id,image,mask,group,site,split,sha256,label,age",
    [f"c{k},images/{k}.png,masks/{k}.png,p{k // 2},A,train,{'0' * 64},{k % 2},{40 + k}" for k in range(6)],
)
_PEOPLE = _table(
    "phenotypic",
    "SUB_ID,FILE_ID,SITE_ID,DX_GROUP,AGE_AT_SCAN,SEX,func_mean_fd",
    [f"{50000 + k},S_{k},A,{1 + k % 2},{10 + k},{1 + k % 2},0.{k}" for k in range(6)],
)


def _read_cases(path: Path) -> None:
    from medformer.data.manifest import read_manifest

    read_manifest(path)


def _read_people(path: Path) -> None:
    from medformer.data.connectomes.read.phenotype import read_phenotype

    read_phenotype(path)


def _regions(folder: Path) -> list[Path]:
    (folder / "aal_labels.csv").write_text("index,name,x,y,z\n1,left,1,2,3\n2,right,-1,2,3\n")
    return [folder / "aal_labels.csv"]


def _read_regions(path: Path) -> None:
    from medformer.data.connectomes.read.regions import read_labels

    read_labels(path)


# Descriptions, configs and the files of a run.


def _dataset_json(folder: Path) -> list[Path]:
    training = [{"image": f"./imagesTr/a{k}.nii.gz", "label": f"./labelsTr/a{k}.nii.gz"} for k in range(3)]
    one = {"name": "x", "modality": {"0": "CT"}, "labels": {"0": "background", "1": "liver"}, "training": training}
    two = {
        "channel_names": {"0": "T1", "1": "T2"},
        "labels": {"background": 0, "edema": 1},
        "numTraining": 3,
        "file_ending": ".nii.gz",
        "dataset": {f"a{k}": {"images": [f"imagesTr/a{k}.nii.gz"], "label": f"labelsTr/a{k}.nii.gz"} for k in range(3)},
    }
    for name, content in (("msd", one), ("nnunet", two)):
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "dataset.json").write_text(json.dumps(content, indent=1))
    return [folder / name / "dataset.json" for name in ("msd", "nnunet")]


def _read_dataset_json(path: Path) -> None:
    from medformer.data.volumes.read.dataset_file import info_from_json
    from medformer.data.volumes.read.dataset_list import listed_cases, stated_count

    _all_of(path, info_from_json, listed_cases, stated_count)


def _config(folder: Path) -> list[Path]:
    text = "extends: polyp/quick\nseed: 3\nmodel:\n  mixers: [pooling, {name: attention, heads: 4}, pooling, pooling]\n"
    (folder / "own.yaml").write_text(f"{text}training:\n  epochs: 5\n  lr: 1e-3\ndata: {{image_size: [64, 64]}}\n")
    return [folder / "own.yaml"]


def _read_config(path: Path) -> None:
    from medformer.config import PolypConfig
    from medformer.config_loading import load_config

    load_config(path, [], model=PolypConfig)


def _tensors(folder: Path) -> list[Path]:
    import torch

    from medformer.tensor_file import write_tensors

    write_tensors(folder / "one.safetensors", {"a": torch.ones(3, 4), "b": torch.zeros(2)}, {"kind": "model", "n": [1]})
    return [folder / "one.safetensors"]


def _read_tensors(path: Path) -> None:
    from medformer.tensor_file import read_metadata, read_tensors

    _all_of(path, read_tensors, read_metadata)


def _weights(folder: Path) -> list[Path]:
    import torch

    from medformer.models.backbone.variants import build_backbone
    from medformer.tensor_file import write_tensors

    # The smallest there is has four million numbers; a tenth of its tensors is enough to reach the end of the reader.
    tensors = {name: value[:2].clone() for name, value in build_backbone("convformer_c8").state_dict().items()}
    torch.save(dict(list(tensors.items())[:20]), folder / "one.pth")
    torch.save(
        {"state_dict": dict(list(tensors.items())[:20])}, folder / "old.pth", _use_new_zipfile_serialization=False
    )
    write_tensors(folder / "one.safetensors", dict(list(tensors.items())[:20]), {})
    return [folder / "one.pth", folder / "old.pth", folder / "one.safetensors"]


def _read_weights(path: Path) -> None:
    from medformer.models.weights.loading import read_weights, rename

    rename(read_weights(path))


_OF_A_RUN = (
    "run.json",
    "config.yaml",
    "splits.json",
    "audit.json",
    "metrics.json",
    "oof.csv",
    "site_probe.json",
    "cohort.json",
)
_OF_A_FOLD = ("fold.json", "history.csv", "predictions.csv", "model.safetensors", "threshold.json", "plan.json")
_OF_A_FOLD += ("components.json", "columns.json", "trained_on.json", "pretraining.json", "features/coarse.safetensors")
_CHANGES: Mapping[str, tuple[str, ...]] = {
    "polyp": ("data.image_size=[32, 32]", "model.name=smp:linknet/tu-mobilenetv3_small_050", "training.batch_size=4"),
    "abide": ("model.width=8", "pretraining.epochs=1", "crossval.validation=0.25", "features.harmonize=combat"),
    "volume": ("plan.patch=[16, 16, 16]", "plan.batch_size=2", "data.patches=1", "data.workers=0"),
}


def _bundle(folder: Path) -> list[Path]:
    from medformer.config import PolypConfig
    from medformer.crossval.bundle import write_record
    from medformer.yaml_files import dump_yaml

    (folder / "config.yaml").write_text(dump_yaml(PolypConfig().model_dump(mode="json")), "utf-8")
    write_record(folder, {"task": "polyp", "folds": [0], "made_by": "0" * 64})
    return [folder / "bundle.json"]


def _hashed(content: bytes, rng: random.Random) -> bytes:
    """Half of what was damaged says of itself that it is whole."""
    from medformer.crossval.bundle import own_hash

    try:
        record = json.loads(content)
    except (ValueError, RecursionError):
        return content
    if not isinstance(record, dict) or rng.random() < 0.5:
        return content
    return json.dumps(record | {"sha256": own_hash(record)}).encode()


def _read_bundle(path: Path) -> None:
    from medformer.crossval.bundle import open_bundle

    open_bundle(path.parent)


def _run(task: str) -> Callable[[Path], list[Path]]:
    """Make a finished run of some seconds."""

    def make(folder: Path) -> list[Path]:
        import contextlib
        import shutil
        from unittest.mock import patch

        from medformer.config import SCHEMAS
        from medformer.config_loading import load_config
        from medformer.data.synthetic.abide import write_synthetic_abide
        from medformer.data.synthetic.brain_volumes import write_synthetic_volumes
        from medformer.data.synthetic.colonoscopy import write_synthetic_colonoscopy
        from pipelines import work
        from pipelines.abide import prepare_folder

        data, run = folder / "data", folder / "run"
        shutil.rmtree(run, ignore_errors=True)
        shutil.rmtree(data, ignore_errors=True)
        quiet = contextlib.redirect_stdout(io.StringIO())
        with (
            patch("medformer.reporting.report.build_report", lambda run: run),
            quiet,
            contextlib.redirect_stderr(io.StringIO()),
        ):
            if task == "polyp":
                manifest = write_synthetic_colonoscopy(data, groups=6, frames_per_group=2, size=(48, 64))
            elif task == "volume":
                manifest = write_synthetic_volumes(data, cases=6, spacing=12.0)
            else:
                write_synthetic_abide(data, subjects=24, regions={"coarse": 12}, sites=2, effect=3.0, volumes=60)
                manifest = prepare_folder(data, folder / "cohort", overwrite=True)
            changes = ["training.epochs=1", "crossval.folds=2", "crossval.baselines=false", f"data.manifest={manifest}"]
            name = {"polyp": "polyp/quick", "abide": "abide/roi", "volume": "volume/default"}[task]
            config = load_config(name, [*changes, *_CHANGES[task]], model=SCHEMAS[task])
            work.crossval(task=task, config=config, out=run, resume=False, overwrite=False)
        files = [run / name for name in _OF_A_RUN] + [run / "folds" / "0" / name for name in _OF_A_FOLD]
        return [file for file in files if file.is_file()]

    return make


def _read_run(task: str) -> Callable[[Path], None]:
    def read(path: Path) -> None:
        import torch

        from medformer.crossval.run.status import format_status, read_status
        from medformer.reporting.read_run import read_finished_run
        from medformer.tasks.abide.features import read_trained_on
        from medformer.tasks.trained import open_trained

        run = next(parent for parent in path.parents if parent.name == "run")

        def predictor(folder: Path) -> None:
            trained = open_trained(folder, task)
            trained.load(torch.device("cpu"))
            if task == "abide":
                read_trained_on(trained.folders[0])

        # The network takes longest, and tables do not matter to it.
        needs_network = path.suffix != ".csv" and path.name not in ("audit.json", "metrics.json", "site_probe.json")
        readers = (read_finished_run, lambda folder: format_status(read_status(folder)))
        _all_of(run, *readers, *((predictor,) if needs_network else ()))

    return read


# Splits and scores of others.

_SPLIT = _table(
    "split", "id,repeat,fold,part", [f"c{k},0,{f},{'val' if k % 2 == f else 'train'}" for f in (0, 1) for k in range(4)]
)
_SCORES = _table("scores", "id,dice,seconds,fold,group", [f"c{k},0.{k},{k},{k % 2},p{k}" for k in range(6)])


def _splits_final(folder: Path) -> list[Path]:
    ids = [f"c{k}" for k in range(4)]
    (folder / "splits_final.json").write_text(json.dumps([{"train": ids[:2], "val": ids[2:]}] * 2))
    (folder / "pairs.json").write_text(json.dumps({"ids": ids, "splits": [[[0, 1], [2]], [[2], [3]]]}))
    return [folder / "splits_final.json", folder / "pairs.json"]


def _lists(folder: Path) -> list[Path]:
    for part in ("train", "test"):
        (folder / f"{part}.txt").write_text("images/c1.png masks/c1.png\nc2\n")
    return [folder / "train.txt", folder / "test.txt"]


def _read_split(path: Path) -> None:
    from medformer.crossval.splits.given import bind
    from medformer.crossval.splits.read import read_split
    from medformer.data.cases import Case

    split = read_split([path.parent if path.suffix == ".txt" else path])
    bind(split, [Case(f"c{k}") for k in range(4)]).folds()


def _nnunet_summary(folder: Path) -> list[Path]:
    metrics = {"1": {"Dice": 0.5, "IoU": 0.3, "n_ref": 9, "n_pred": 8, "TP": 4, "FP": 4, "FN": 5, "TN": 9}}
    cases = [{"metrics": metrics, "prediction_file": f"/p/c{k}.nii.gz", "reference_file": ""} for k in range(3)]
    (folder / "dataset.json").write_text('{"labels": {"background": 0, "liver": 1}}')
    (folder / "summary.json").write_text(json.dumps({"metric_per_case": cases, "mean": {}}))
    return [folder / "summary.json", folder / "dataset.json"]


def _read_scores(path: Path) -> None:
    from medformer.crossval.compare.compare import compare_scores
    from medformer.crossval.compare.open import open_scores

    found = open_scores(path if path.suffix == ".csv" else path.parent)
    compare_scores([found, found], ungrouped="each")


FORMATS: Mapping[str, Format] = {
    "png": Format(_pictures(".png"), _read_picture, pack=_repaired_png),
    "jpeg": Format(_pictures(".jpg"), _read_picture),
    "tiff": Format(_pictures(".tif"), _read_picture),
    "tiff-packed": Format(_pictures(".tif", compression="tiff_lzw"), _read_picture),
    "bmp": Format(_pictures(".bmp"), _read_picture),
    "webp": Format(_pictures(".webp", lossless=True), _read_picture),
    "gif": Format(_pictures(".gif"), _read_picture),
    "ppm": Format(_pictures(".ppm"), _read_picture),
    "nii": Format(_nifti(".nii"), _read_nifti),
    "nii.gz": Format(_nifti(".nii.gz"), _read_nifti, unpack=_unpack_gzip, pack=_pack_gzip),
    "dicom": Format(_series, _read_slice),
    "dicom-seg": Format(_segmentation, _read_segmentation),
    "npy": Format(_npy, _read_matrix),
    "npz": Format(_cohort_npz, _read_cohort_npz, pack=_members),
    "npz-medmnist": Format(_medmnist, _read_medmnist, pack=_members),
    "npz-probabilities": Format(_probabilities, _read_probabilities, pack=_members),
    "mat": Format(_matlab, _read_matrix),
    "matrix-text": Format(_matrix_text, _read_matrix, text=True),
    "1D": Format(_time_series, _read_time_series, text=True),
    "phenotypic": Format(_PEOPLE, _read_people, text=True),
    "regions": Format(_regions, _read_regions, text=True),
    "manifest": Format(_CASES, _read_cases, text=True),
    "dataset.json": Format(_dataset_json, _read_dataset_json, text=True),
    "split-csv": Format(_SPLIT, _read_split, text=True),
    "split-json": Format(_splits_final, _read_split, text=True),
    "split-lists": Format(_lists, _read_split, text=True),
    "scores": Format(_SCORES, _read_scores, text=True),
    "nnunet-summary": Format(_nnunet_summary, _read_scores, text=True),
    "config": Format(_config, _read_config, text=True),
    "bundle.json": Format(_bundle, _read_bundle, text=True, pack=_hashed),
    "safetensors": Format(_tensors, _read_tensors),
    "weights": Format(_weights, _read_weights),
    **{f"run-{task}": Format(_run(task), _read_run(task), text=True, slow=True) for task in _CHANGES},
}
