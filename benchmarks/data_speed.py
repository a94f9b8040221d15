"""What it costs to bring a frame or a patch of a volume to the network, beside what users of other libraries write.

* Frames: CPU time of one frame, for reading, resizing, augmenting and normalizing, and from the kept pixels; beside
  albumentations with the same probabilities on what Pillow or OpenCV reads. Frames are scaled up from those of --data,
  since no larger ones may be there, and so are smoother than a camera's.
* Reduced decoding (JPEG draft mode, which is not used): time saved, and how far the pixels are from those of the full
  frame; with --run, how far the probabilities of a trained run are.
* Patches of volumes: CPU time of one patch with the default augmentation, and of one that is turned, scaled and bent
  for sure; beside MONAI's transforms on cases that its CacheDataset holds.
* Loader processes: frames per second, and CPU time of all processes per frame.

All sides run in turns in one process, one thread each; medians count.

MEDFORMER_DATA=... python benchmarks/data_speed.py --json
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

import albumentations as A
import cv2
import numpy as np
import torch
from albumentations.pytorch import ToTensorV2
from machine import machine
from monai import transforms as monai
from monai.data import CacheDataset
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from medformer.config import AugmentConfig, VolumeAugmentConfig
from medformer.data.cases import Case
from medformer.data.frames import store as frame_store
from medformer.data.frames.dataset import SegmentationDataset
from medformer.data.frames.store import FrameStore, read_frame
from medformer.data.frames.transforms import MEAN, STD, Augmentation, normalize, resize_image, resize_mask
from medformer.data.volumes.prepare.augment import VolumeAugmentation
from medformer.data.volumes.prepare.patches import cut_patch, draw_start
from medformer.data.volumes.prepare.prepare_case import PreparedCase
from medformer.evaluation.masks.overlap import dice
from medformer.files import write_json, write_text
from medformer.imaging.geometry import Axes, Geometry
from medformer.imaging.images import read_image
from medformer.imaging.mask_rule import read_mask
from medformer.imaging.volumes import read_volume
from medformer.interface.load import load
from medformer.tasks.bench.rounds import ratio, turns
from medformer.training.loader import BatchSource

Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]
SPACING = (1.0, 1.0, 1.0)


def source_frames(data: Path | None, number: int) -> Iterator[Pair]:
    """Frames (H, W, 3) and masks (H, W) of Kvasir-SEG, or blurred noise with a disk."""
    if data is None:
        noise = np.random.default_rng(0).integers(0, 256, (number, 288, 352, 3), dtype=np.uint8)
        mask = cv2.circle(np.zeros((288, 352), np.uint8), (200, 120), 60, 255, -1)
        yield from ((np.asarray(cv2.GaussianBlur(one, (0, 0), 3.0), np.uint8), mask) for one in noise)
        return
    folder = data / "polyp" / "Kvasir-SEG"
    for path in sorted((folder / "images").iterdir())[:number]:
        mask = next((folder / "masks").glob(f"{path.stem}.*"))
        yield np.asarray(Image.open(path).convert("RGB")), np.asarray(Image.open(mask).convert("L"))


def write_frames(folder: Path, pairs: Sequence[Pair], size: tuple[int, int] | None) -> list[Case]:
    """Write frames as JPEG and masks as PNG, scaled to rows x columns; None leaves them as they are."""
    folder.mkdir(parents=True)
    cases = []
    for number, (image, mask) in enumerate(pairs):
        picture, marked = Image.fromarray(image), Image.fromarray(mask)
        if size is not None:
            picture, marked = picture.resize(size[::-1], Image.Resampling.BICUBIC), marked.resize(size[::-1], 0)
        paths = folder / f"{number}.jpg", folder / f"{number}.png"
        picture.save(paths[0], quality=92)
        marked.save(paths[1])
        cases.append(Case(str(number), *paths))
    return cases


def peer_steps(side: int) -> A.Compose:
    """The default augmentation as users of albumentations write it: resized first, without antialiasing."""
    return A.Compose(
        [
            A.Resize(side, side),
            A.HorizontalFlip(p=0.5),
            A.VerticalFlip(p=0.5),
            A.Affine(scale=(0.75, 1.25), translate_percent=(-0.1, 0.1), rotate=(-30, 30), p=0.7),
            A.ColorJitter((0.7, 1.3), (0.7, 1.3), (0.7, 1.3), (-0.03, 0.03), p=0.7),
            A.GaussianBlur(blur_limit=0, sigma_limit=(0.4, 1.2), p=0.1),
            A.RandomRotate90(p=1.0),
            A.Normalize(MEAN, STD),
            ToTensorV2(),
        ]
    )


class PeerFrames(Dataset[dict[str, Any]]):
    """Frames as a user of segmentation-models-pytorch loads them."""

    def __init__(self, cases: Sequence[Case], side: int, reader: str) -> None:
        self.cases, self.steps, self.reader = cases, peer_steps(side), reader

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image, mask = str(self.cases[index].image), str(self.cases[index].mask)
        if self.reader == "Pillow":
            pair: Any = np.array(Image.open(image).convert("RGB")), np.array(Image.open(mask).convert("L"))
        else:
            pair = cv2.cvtColor(cv2.imread(image), cv2.COLOR_BGR2RGB), cv2.imread(mask, cv2.IMREAD_GRAYSCALE)
        made = self.steps(image=pair[0], mask=(pair[1] >= 128).astype(np.uint8))
        return {"image": made["image"], "mask": made["mask"][None].float()}


def per_item(
    calls: Mapping[str, Callable[[int], object]], items: int, rounds: int, peers: Sequence[str] = ()
) -> dict[str, Any]:
    """Median CPU time of each call, ms an item, and the ratio of ours to each peer over rounds, with its interval."""
    sides = {name: partial(_every, call, items) for name, call in calls.items()}
    seconds = turns(sides, rounds, time.process_time)
    found: dict[str, Any] = {"ms": {name: round(1e3 * median(each) / items, 3) for name, each in seconds.items()}}
    for peer in peers:
        own = {name: ratio(each, seconds[peer]) for name, each in seconds.items() if name.startswith("ours")}
        found[f"/ {peer}"] = {name: {k: round(v, 3) for k, v in one._asdict().items()} for name, one in own.items()}
    return found


def _every(call: Callable[[int], object], items: int) -> None:
    for index in range(items):
        call(index)


def frame_times(cases: list[Case], side: int, kept: Path, rounds: int) -> dict[str, Any]:
    """Cost of each step of a frame and of whole items; `first` reads the files, `kept` does not."""
    size = (side, side)
    augmentation, epochs = Augmentation(AugmentConfig()), count()
    store = FrameStore(kept, size, limit_gb=20.0)
    store.keep(cases)
    data = {
        "first": SegmentationDataset(cases, size, augmentation=augmentation, seed=0),
        "kept": SegmentationDataset(cases, size, augmentation=augmentation, seed=0, store=store),
    }
    images = [read_image(case.required_image()) for case in cases]
    masks = [read_mask(case.required_mask()) for case in cases]
    small = [read_frame(case, size) for case in cases]
    peers = {name: PeerFrames(cases, side, name) for name in ("Pillow", "OpenCV")}
    calls: dict[str, Callable[[int], object]] = {
        "decode image": lambda index: read_image(cases[index].required_image()),
        "decode mask": lambda index: read_mask(cases[index].required_mask()),
        "resize image": lambda index: resize_image(images[index], size),
        "resize mask": lambda index: resize_mask(masks[index], size),
        "augment": lambda index: augmentation(*small[index], next(epochs)),
        "normalize": lambda index: normalize(small[index][0]),
        "ours, first epoch": lambda index: data["first"][(next(epochs), index)],
        "ours, later epochs": lambda index: data["kept"][(next(epochs), index)],
        **{f"{name} + albumentations": peer.__getitem__ for name, peer in peers.items()},
    }
    return per_item(calls, len(cases), rounds, [f"{name} + albumentations" for name in peers])


def _draft(path: Path, side: int) -> NDArray[np.uint8]:
    """The frame decoded at the smallest size that is not below the network's."""
    with Image.open(path) as picture:
        picture.draft("RGB", (side, side))
        return np.asarray(picture.convert("RGB"))


def draft_times(cases: list[Case], side: int, rounds: int, run: str | None) -> dict[str, Any] | None:
    """What reduced decoding would save, and change."""
    paths = [case.required_image() for case in cases]
    if _draft(paths[0], side).shape == read_image(paths[0]).shape:
        return None
    size = (side, side)
    calls: dict[str, Callable[[int], NDArray[np.uint8]]] = {
        "full": lambda index: resize_image(read_image(paths[index]), size),
        "draft": lambda index: resize_image(_draft(paths[index], side), size),
    }
    apart = [np.abs(calls["full"](index).astype(int) - calls["draft"](index)) for index in range(len(paths))]
    found: dict[str, Any] = {
        **per_item(calls, len(paths), rounds),
        "gray values apart": {
            "mean": round(float(np.mean(apart)), 3),
            "99th percentile": int(np.percentile(apart, 99)),
            "most": int(np.max(apart)),
        },
    }
    if run is not None:
        model = load(run, task="polyp")
        pairs = [[model.predict(call(index)) for call in calls.values()] for index in range(len(paths))]
        found["probability apart, most"] = max(float(np.abs(a.probability - b.probability).max()) for a, b in pairs)
        found["Dice of the two masks"] = [round(dice(a.mask, b.mask), 4) for a, b in pairs]
    return found


def _scaled(volume: NDArray[Any], side: int, mode: str) -> NDArray[Any]:
    tensor = torch.from_numpy(volume)[None, None]
    scaled: NDArray[Any] = torch.nn.functional.interpolate(tensor, (side,) * 3, mode=mode)[0, 0].numpy()
    return scaled


def source_volumes(data: Path | None, number: int, side: int) -> list[tuple[NDArray[np.float32], NDArray[np.uint8]]]:
    """Hippocampus scans with their labels, or smooth noise, scaled to `side` voxels per axis; 0 leaves them."""
    made: list[tuple[NDArray[np.float32], NDArray[np.uint8]]] = []
    classes: Any
    for index in range(number):
        if data is None:
            image = np.random.default_rng(index).standard_normal((36, 50, 36)).astype(np.float32)
            classes = (np.indices(image.shape) - 18 < 6).all(0).astype(np.uint8)
        else:
            folder = data / "volumes" / "Task04_Hippocampus"
            path = sorted((folder / "imagesTr").glob("h*.nii.gz"))[index]
            image = np.asarray(read_volume(path).array, np.float32)
            classes = np.asarray(read_volume(folder / "labelsTr" / path.name).array, np.uint8)
        if side:
            image, classes = _scaled(image, side, "trilinear"), _scaled(classes, side, "nearest")
        made.append(((image - image.mean()) / image.std(), classes))
    return made


def monai_steps(patch: Axes, config: VolumeAugmentConfig) -> monai.Compose:
    """The same augmentation of MONAI's transforms, in the order of its tutorials."""
    both: dict[str, Any] = {"keys": ("image", "label"), "mode": ("bilinear", "nearest"), "padding_mode": "border"}
    angle = (np.pi / 6,) * 3
    return monai.Compose(
        [
            monai.SpatialPadd(("image", "label"), patch),
            monai.RandCropByPosNegLabeld(("image", "label"), "label", patch, pos=1, neg=2, num_samples=1),
            # Border values continue, as ours do where a case ends.
            monai.RandAffined(
                **both,
                prob=config.affine,
                rotate_range=angle,
                scale_range=(0.3,) * 3,
                spatial_size=patch,
                cache_grid=True,
            ),
            monai.Rand3DElasticd(**both, prob=config.elastic, sigma_range=(5, 7), magnitude_range=(50, 150)),
            *(monai.RandFlipd(("image", "label"), config.flip, axis) for axis in range(3)),
            monai.RandBiasFieldd("image", coeff_range=(-0.15, 0.15), prob=config.bias_field),
            monai.RandGaussianNoised("image", config.noise, std=0.2),
            monai.RandGaussianSmoothd("image", (0.4, 1.0), (0.4, 1.0), (0.4, 1.0), prob=config.blur),
            monai.RandScaleIntensityd("image", 0.25, config.brightness),
            monai.RandShiftIntensityd("image", 0.25, prob=config.brightness),
            monai.RandSimulateLowResolutiond("image", config.low_resolution, zoom_range=(0.5, 1.0)),
            monai.RandAdjustContrastd("image", config.gamma, (0.7, 1.5), retain_stats=True),
        ]
    )


def _item(data: CacheDataset, index: int) -> object:
    return data[index % len(data)]


def patch_times(
    volumes: Sequence[tuple[NDArray[np.float32], NDArray[np.uint8]]], patch: Axes, rounds: int
) -> dict[str, Any]:
    """Cost of a patch with the default augmentation, and of one that is moved for sure and not changed otherwise."""
    repeats, found = 8, {}
    off = dict.fromkeys(VolumeAugmentConfig.model_fields, 0.0)
    settings = {
        "default": VolumeAugmentConfig(),
        "turned and scaled": VolumeAugmentConfig(**{**off, "affine": 1.0}),
        "turned, scaled and bent": VolumeAugmentConfig(**{**off, "affine": 1.0, "elastic": 1.0}),
    }
    cases, voxels = [], []
    for image, classes in volumes:
        geometry = Geometry((image.shape[0], image.shape[1], image.shape[2]), np.eye(4), True)
        lowest = np.array([image.min()], np.float32)
        cases.append(PreparedCase("", image[None], classes, np.eye(4), geometry, lowest))
        voxels.append({int(value): np.flatnonzero(classes == value) for value in np.unique(classes) if value})
    for name, config in settings.items():
        augmentation, seeds = VolumeAugmentation(config, SPACING), count()

        def ours(index: int, augmentation: VolumeAugmentation = augmentation, seeds: Iterator[int] = seeds) -> None:
            case, seed = cases[index % len(cases)], next(seeds)
            start = draw_start(np.random.default_rng(seed), case.shape, patch, voxels[index % len(cases)], 0.33)
            cut_patch(case, start, patch, augmentation, seed)

        items = [
            {"image": torch.from_numpy(image)[None], "label": torch.from_numpy(classes)[None]}
            for image, classes in volumes
        ]
        peer = CacheDataset(items, monai_steps(patch, config), progress=False)
        calls: dict[str, Callable[[int], object]] = {
            "ours": ours,
            "MONAI": partial(_item, peer),
        }
        found[name] = per_item(calls, repeats * len(cases), rounds, ["MONAI"])
    return found


def _cpu_seconds() -> float:
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def loader_times(
    cases: list[Case], side: int, kept: Path, workers: Sequence[int], batches: int
) -> list[dict[str, Any]]:
    """Frames per second and CPU time per frame, by the number of loader processes; nothing is trained beside them."""
    size, rows = (side, side), []
    store = FrameStore(kept, size, limit_gb=20.0)
    store.keep(cases)
    many = cases * -(-8 * batches // len(cases))
    ours = SegmentationDataset(many, size, augmentation=Augmentation(AugmentConfig()), seed=0, store=store)
    peer = PeerFrames(many, side, "OpenCV")

    def by_us(number: int) -> None:
        source = BatchSource(ours, 8, seed=0, workers=number, pin=False)
        for _ in source.batches(0, 0):
            pass
        source.close()

    def by_peer(number: int) -> None:
        for _ in DataLoader(peer, 8, num_workers=number):
            pass

    for number in workers:
        for name, call in (("ours, later epochs", by_us), ("OpenCV + albumentations", by_peer)):
            began, spent = time.perf_counter(), _cpu_seconds()
            call(number)
            seconds, spent = time.perf_counter() - began, _cpu_seconds() - spent
            rate = round(len(many) / seconds, 1)
            rows.append(
                {"side": name, "workers": number, "frames/s": rate, "cpu ms": round(1e3 * spent / len(many), 3)}
            )
    return rows


def measure(arguments: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Everything, as plain data."""
    data = Path(os.environ["MEDFORMER_DATA"]) if os.environ.get("MEDFORMER_DATA") else None
    pairs = list(source_frames(data, arguments.items))
    sizes: list[Any] = [None, *(tuple(map(int, size.split("x"))) for size in arguments.sizes)]
    found: dict[str, Any] = {"frames": {}, "draft": {}, "patches": {}}
    cases: list[Case] = []
    for size in sizes:
        label = "as they are" if size is None else f"{size[0]} x {size[1]}"
        cases = write_frames(scratch / label, pairs, size)
        found["frames"][label] = frame_times(cases, arguments.side, scratch / "kept", arguments.rounds)
        for side in sorted({arguments.side, arguments.side // 2, 128}):
            drafted = draft_times(cases, side, arguments.rounds, arguments.run if side == arguments.side else None)
            if drafted is not None:
                found["draft"][f"{label}, to {side} px"] = drafted
    for side, extent in ((0, 40), (arguments.patch * 5 // 3, arguments.patch)):
        volumes = source_volumes(data, min(4, arguments.items), side)
        found["patches"][f"{extent} voxels per axis"] = patch_times(volumes, (extent,) * 3, arguments.rounds)
    found["loaders"] = loader_times(cases, arguments.side, scratch / "kept", arguments.workers, arguments.batches)
    return {"real data": data is not None, **found}


def main() -> None:
    """Measure and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON only")
    parser.add_argument("--out", type=Path, help="folder for the JSON and the table")
    parser.add_argument("--sizes", nargs="*", default=["576x720", "1070x1350"], metavar="ROWSxCOLUMNS")
    parser.add_argument("--side", type=int, default=352, help="rows and columns of the network's input, px")
    parser.add_argument("--patch", type=int, default=96, help="voxels per axis of the larger patch")
    parser.add_argument("--workers", nargs="+", type=int, default=[0, 1, 2], help="numbers of loader processes")
    parser.add_argument("--items", type=int, default=8, help="frames of each size")
    parser.add_argument("--batches", type=int, default=16, help="of 8 frames, for each number of loader processes")
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds; the median counts")
    parser.add_argument("--run", help="a run on frames, for the effect of reduced decoding")
    parser.add_argument("--tiny", action="store_true", help="only see that everything runs")
    arguments = parser.parse_args()
    if arguments.tiny:
        arguments.sizes, arguments.patch, arguments.items, arguments.batches, arguments.rounds = (
            ["720x720"],
            24,
            1,
            1,
            1,
        )
    # A nearly full disk should change no number.
    frame_store.SPARE = 0.0
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as scratch:
        found = measure(arguments, Path(scratch))
    names = ("albumentations", "opencv-python-headless", "pillow")
    about = {**machine(), **{name: version(name) for name in names}}
    settings = {key: value for key, value in vars(arguments).items() if key not in ("json", "out")}
    content = {"machine": about, "settings": settings, **found}
    if arguments.out is not None:
        write_json(arguments.out / "data_speed.json", content)
        write_text(arguments.out / "data_speed.txt", table(content) + "\n")
    print(json.dumps(content, indent=2) if arguments.json else table(content))


def table(content: dict[str, Any]) -> str:
    """The results, a line for each number."""
    lines: list[str] = []

    def add(value: Any, *path: str) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                add(inner, *path, str(key))
        elif path[0] == "loaders":
            for row in value:
                what = f"{row['side']}, {row['workers']} loader processes"
                lines.append(f"{row['frames/s']:>12} frames/s, {row['cpu ms']:>7} ms each  {what}")
        else:
            lines.append(f"{value!s:>12}  {' | '.join(path)}")

    for part in ("frames", "draft", "patches", "loaders"):
        add(content[part], part)
    return "\n".join(lines)


if __name__ == "__main__":
    main()
