"""README's commands run as they are written, on small data under the names that README gives."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from dicom_series import write_dicom_series
from PIL import Image

from medformer.data.synthetic.abide import write_synthetic_abide
from medformer.data.synthetic.brain_volumes import write_synthetic_volumes

Medformer = Callable[..., Any]

TEXT = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
ROWS = [
    re.findall(r"`(medformer [^`]+)`", line)
    for line in TEXT.split("## My data is")[1].split("\n## ")[0].splitlines()
    if line.startswith("|") and "`medformer" in line
]
EXAMPLES = [
    [line.split("  #")[0] for line in block.splitlines()]
    for block in re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)
    if block.startswith("medformer")
]
SMALL = {
    "polyp": (
        "data.image_size=[32, 32]",
        "model.name=smp:linknet/tu-test_efficientnet",
        "training.epochs=2",
        "training.batch_size=4",
        "crossval.folds=2",
    ),
    "abide": ("model.width=8", "training.epochs=3", "crossval.folds=3", "crossval.validation=0.25"),
    "volume": (
        "plan.patch=[16, 16, 16]",
        "plan.batch_size=2",
        "training.epochs=1",
        "data.patches=1",
        "data.workers=0",
        "crossval.folds=2",
    ),
}
"""What makes a crossval of README take seconds."""


def kvasir(folder: Path) -> None:
    rng = np.random.default_rng(len(str(folder)))
    rows, columns = np.mgrid[:48, :64]
    for number in range(12):
        mask = (rows - rng.integers(12, 36)) ** 2 + (columns - rng.integers(16, 48)) ** 2 < rng.integers(50, 150)
        image = rng.integers(0, 160, (6, 8, 3)).repeat(8, 0).repeat(8, 1) + 90 * mask[..., None]
        for place, pixels in (("images", image), ("masks", 255 * mask)):
            (folder / place).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / place / f"{number}.png")


def pranet(folder: Path) -> None:
    for part, images, masks in (("TrainDataset", "image", "mask"), ("TestDataset/Kvasir", "images", "masks")):
        kvasir(folder / part)
        for old, new in (("images", images), ("masks", masks)):
            (folder / part / old).rename(folder / part / new)


def pcp(folder: Path) -> None:
    write_synthetic_abide(folder, subjects=24, regions={"coarse": 12}, sites=2, effect=3.0, volumes=60)


def fmriprep(folder: Path) -> None:
    rng = np.random.default_rng(0)
    labels = np.zeros((6, 6, 4), np.int16)
    labels[:3, :3], labels[3:, :3], labels[:3, 3:], labels[3:, 3:] = 1, 2, 3, 4
    nib.Nifti1Image(labels, np.diag([3.0, 3.0, 3.0, 1.0])).to_filename(folder.parent / "atlas.nii.gz")
    motion = [f"{kind}_{axis}" for kind in ("trans", "rot") for axis in "xyz"]
    motion = [f"{name}{ending}" for name in motion for ending in ("", "_derivative1", "_power2", "_derivative1_power2")]
    columns = [*motion, "csf", "white_matter", "cosine00", "global_signal", "framewise_displacement"]
    for subject in ("01", "02", "03", "04"):
        func = folder / f"sub-{subject}" / "func"
        func.mkdir(parents=True)
        values = rng.normal(1000, 10, (*labels.shape, 80)).astype(np.float32)
        scan = nib.Nifti1Image(values, np.diag([3.0, 3.0, 3.0, 1.0]))
        scan.to_filename(func / f"sub-{subject}_task-rest_space-MNI152NLin2009cAsym_desc-preproc_bold.nii.gz")
        table = pd.DataFrame(rng.standard_normal((80, len(columns))).round(4) ** 2, columns=columns)
        table.to_csv(func / f"sub-{subject}_task-rest_desc-confounds_timeseries.tsv", sep="\t", index=False)
    rows = "".join(f"sub-0{number}\t{1 + number % 2}\tA\n" for number in range(1, 5))
    (folder / "participants.tsv").write_text(f"participant_id\tdx_group\tsite\n{rows}")


def matrices(folder: Path) -> None:
    rng = np.random.default_rng(0)
    (folder / "mine").mkdir(parents=True)
    for number in range(1, 9):
        np.save(folder / "mine" / f"{number}.npy", np.corrcoef(rng.standard_normal((10, 60))))
    rows = "".join(f"{number},{1 + number % 2},A\n" for number in range(1, 9))
    (folder / "phenotypic.csv").write_text(f"SUB_ID,DX_GROUP,SITE_ID\n{rows}")


def scans(folder: Path) -> None:
    write_synthetic_volumes(folder, cases=6, spacing=12.0)
    for file in folder.glob("manifest*"):
        file.unlink()


def decathlon(folder: Path) -> None:
    scans(folder)
    (folder / "images").rename(folder / "imagesTr")
    (folder / "labels").rename(folder / "labelsTr")
    names = sorted(file.name for file in (folder / "imagesTr").iterdir())
    labels = {"0": "background", "1": "gray matter", "2": "white matter", "3": "lesion"}
    training = [{"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in names]
    (folder / "dataset.json").write_text(json.dumps({"modality": {"0": "MRI"}, "labels": labels, "training": training}))


def nnunet(folder: Path) -> None:
    decathlon(folder)
    for file in (folder / "imagesTr").iterdir():
        file.rename(file.with_name(file.name.replace(".nii", "_0000.nii")))
    names = ("background", "gray matter", "white matter", "lesion")
    content = {
        "channel_names": {"0": "MRI"},
        "labels": {name: value for value, name in enumerate(names)},
        "numTraining": 6,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(content))


def dicom(folder: Path) -> None:
    pytest.importorskip("pydicom")
    for number in range(3):
        write_dicom_series(folder / f"scan{number}", patient=f"P{number}", seed=number)


def medmnist(file: Path) -> None:
    rng = np.random.default_rng(0)
    content = {}
    for split, count in (("train", 4), ("val", 2), ("test", 2)):
        content[f"{split}_images"] = rng.integers(0, 256, (count, 5, 6, 7), dtype=np.uint8)
        content[f"{split}_labels"] = (np.arange(count) % 2).astype(np.uint8)[:, None]
    np.savez(file, **content)


def own_table(file: Path) -> None:
    kvasir(file.parent / "own")
    rows = "".join(f"{number},own/images/{number}.png,own/masks/{number}.png,p{number}\n" for number in range(12))
    file.write_text(f"id,image,mask,group\n{rows}")


def frames(folder: Path) -> None:
    kvasir(folder.parent / "other")
    shutil.move(folder.parent / "other" / "images", folder)


def new_scans(folder: Path) -> None:
    scans(folder.parent / "others")
    shutil.move(folder.parent / "others" / "images", folder)


DATA: Mapping[str, Callable[[Path], None]] = {
    "Kvasir-SEG": kvasir,
    "PraNet": pranet,
    "ABIDE_pcp": pcp,
    "derivatives": fmriprep,
    "matrices": matrices,
    "Task04_Hippocampus": decathlon,
    "Dataset004_Hippocampus": nnunet,
    "dicom": dicom,
    "scans": scans,
    "adrenalmnist3d.npz": medmnist,
    "cases.csv": own_table,
    "new_frames": frames,
    "new_scans": new_scans,
}
"""Everything that README's commands read, by the name it has there."""


def run(medformer: Medformer, folder: Path, commands: list[str]) -> None:
    for command in commands:
        words = shlex.split(command)[1:]
        for word in words:
            if word in DATA and not (folder / word).exists():
                DATA[word](folder / word)
        result = medformer(*words, *(SMALL[words[0]] if words[1] in ("crossval", "plan") else ()))
        assert result.code == 0, f"{command}\n{result.err}"


def test_the_table_and_the_examples_are_found() -> None:
    assert len(ROWS) == 11 and [len(commands) for commands in EXAMPLES] == [3, 3, 3]


@pytest.mark.parametrize("commands", ROWS, ids=lambda commands: shlex.split(commands[0])[3])
def test_the_table_of_data_works_as_written(
    medformer: Medformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, commands: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run(medformer, tmp_path, commands)


@pytest.mark.slow
@pytest.mark.parametrize("commands", EXAMPLES, ids=("frames", "connectomes", "volumes"))
def test_the_examples_work_as_written(
    medformer: Medformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, commands: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run(medformer, tmp_path, commands)
