"""Segment or classify a volume with exported networks: the reference in NumPy, SciPy, nibabel and onnxruntime alone.

This file imports nothing of medformer, so that it can be copied beside the networks and read from top to bottom by
whoever builds the same into a product:

    python volume_runner.py recipe.json image.nii.gz labels.nii.gz
    python volume_runner.py recipe.json t1.nii.gz t2.nii.gz labels.nii.gz     # a file for each channel, or one 4-D file

`recipe.json` lies beside the `.onnx` files. Every step is there in the order in which it is done: intensities are
scaled, axes are turned, voxels are resampled, windows are cut and averaged, probabilities come back to the grid of the
image, and the label with the highest one is taken (of regions that overlap, each by itself). It keeps all probabilities
in memory, unlike `medformer volume predict`, whose label maps it gives.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import onnxruntime
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from numpy.typing import NDArray
from scipy import ndimage, sparse

FORMAT = "medformer-onnx-volumes/1"
LEAST_WEIGHT = 1e-3
"""Of a voxel in the corner of a window."""
GRID_TOLERANCE = 0.1
"""How far apart two files may put the same voxel, in voxels of the finest axis."""
_NOT_MM = ("meter", "micron")


class VolumeRunner:
    """The networks of a recipe.

    Args:
        recipe: A `recipe.json`, beside the `.onnx` files that it names.
        threads: Of onnxruntime; 0 for as many as there are cores.

    Raises:
        ValueError: The file is no recipe, or an `.onnx` file is not the one that it was written with.
    """

    def __init__(self, recipe: Path | str, threads: int = 0) -> None:
        path = Path(recipe)
        self.recipe: dict[str, Any] = json.loads(path.read_text("utf-8"))
        if self.recipe.get("format") != FORMAT:
            raise ValueError(f"{path} is no recipe: its format is {self.recipe.get('format')!r}, expected {FORMAT}.")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.sessions = []
        for network in self.recipe["networks"]:
            content = (path.parent / network["file"]).read_bytes()
            if hashlib.sha256(content).hexdigest() != network["sha256"]:
                raise ValueError(f"{network['file']} is not the file that {path} was written with. Copy both again.")
            session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
            self.sessions.append(session)

    def labels(self, paths: Sequence[Path | str]) -> NDArray[Any]:
        """Segment a volume: label values (X, Y, Z) on the grid of its first file, 0 for background."""
        values = [label["value"] for label in self.recipe["labels"]]
        regions, sums = self.recipe["regions"], self._on_source(paths)
        # Regions may overlap: each is where it is more likely than not, and a later one is written over an earlier one.
        best = np.float32(0.5) if regions else sums(0)
        winner = None
        for number, value in enumerate(values):
            total = sums(number if regions else number + 1)
            if winner is None:
                winner = np.zeros(total.shape, _smallest(max(values)))
            better = total > best
            winner[better] = value
            if not regions:
                best = np.maximum(best, total)
        assert winner is not None
        for value, rule in self.recipe["components"].items():
            if rule == "largest":
                keep_largest(winner, int(value))
        return winner

    def probability(self, paths: Sequence[Path | str]) -> float:
        """Classify a volume: the probability of class 1; a decision compares it with the recipe's `threshold`."""
        total = 0.0
        for network, session in zip(self.recipe["networks"], self.sessions, strict=True):
            image, _, _ = prepare(paths, network, self.recipe["orientation"])
            window = centered(image, network["patch"])
            total += network["weight"] * float(_answer(session, window[None])[0])
        return total

    def _on_source(self, paths: Sequence[Path | str]) -> Any:
        """A function from a class number to its probability on the source's grid, the mean over networks."""
        maps = []
        for network, session in zip(self.recipe["networks"], self.sessions, strict=True):
            image, turn, shape = prepare(paths, network, self.recipe["orientation"])
            maps.append((network["weight"] * self._windows(session, image, network["patch"]), turn, shape))

        def total(number: int) -> NDArray[np.float32]:
            found = None
            for probabilities, turn, shape in maps:
                turned = resample(probabilities[number], shape, order=1)
                back = nib.orientations.apply_orientation(turned, turn)
                found = back if found is None else found + back
            assert found is not None
            return np.ascontiguousarray(found)

        return total

    def _windows(
        self, session: onnxruntime.InferenceSession, image: NDArray[np.float32], patch: Sequence[int]
    ) -> NDArray[np.float32]:
        """Probabilities (K, X, Y, Z) of an image (C, X, Y, Z): overlapping windows, averaged with Gaussian weights."""
        missing = [max(side - size, 0) for size, side in zip(image.shape[1:], patch, strict=True)]
        before = [count // 2 for count in missing]
        lowest = image.min((1, 2, 3), keepdims=True)
        padded = np.broadcast_to(
            lowest, (len(image), *(size + more for size, more in zip(image.shape[1:], missing, strict=True)))
        ).copy()
        inside = tuple(slice(first, first + size) for first, size in zip(before, image.shape[1:], strict=True))
        padded[(slice(None), *inside)] = image
        trust = gaussian(patch)
        weights = np.zeros(padded.shape[1:], np.float32)
        classes = len(self.recipe["labels"]) + (0 if self.recipe["regions"] else 1)
        sums = np.zeros((classes, *padded.shape[1:]), np.float32)
        starts = [
            window_starts(size, side, self.recipe["overlap"])
            for size, side in zip(padded.shape[1:], patch, strict=True)
        ]
        corners = list(product(*starts))
        size = self.recipe["batch_size"]
        for first in range(0, len(corners), size):
            places = [
                tuple(slice(start, start + side) for start, side in zip(corner, patch, strict=True))
                for corner in corners[first : first + size]
            ]
            windows = np.stack([padded[(slice(None), *place)] for place in places])
            for place, found in zip(places, _answer(session, windows), strict=True):
                sums[(slice(None), *place)] += found * trust
                weights[place] += trust
        averaged = sums / weights
        return np.ascontiguousarray(averaged[(slice(None), *inside)])


def _answer(session: onnxruntime.InferenceSession, image: NDArray[np.float32]) -> NDArray[np.float32]:
    """What a network answers; no label is more likely than another where that is NaN, so that it is an error."""
    found: NDArray[np.float32] = session.run(None, {"image": image})[0]
    if not np.isfinite(found).all():
        raise ValueError("The network's answer is NaN or infinite. Its weights are damaged.")
    return found


def prepare(
    paths: Sequence[Path | str], network: Mapping[str, Any], orientation: str
) -> tuple[NDArray[np.float32], NDArray[Any], tuple[int, ...]]:
    """A volume as a network sees it.

    Returns:
        float32 (C, X, Y, Z); how its axes turn back to those of the file; and its shape before resampling.

    Raises:
        ValueError: There is another number of channels, or they do not lie on one grid.
    """
    arrays, affine = read(paths)
    if len(arrays) != len(network["intensity"]):
        names = ", ".join(map(str, paths))
        raise ValueError(f"{names}: got {len(arrays)} channel(s), expected {len(network['intensity'])}.")
    turn = ornt_transform(io_orientation(affine), axcodes2ornt(orientation))
    spacing = np.linalg.norm((affine @ inv_ornt_aff(turn, arrays[0].shape))[:3, :3], axis=0)
    channels = []
    for array, intensity in zip(arrays, network["intensity"], strict=True):
        turned = nib.orientations.apply_orientation(scale_intensity(array, intensity), turn)
        shape = tuple(
            max(1, round(size * float(old) / new))
            for size, old, new in zip(turned.shape, spacing, network["spacing"], strict=True)
        )
        channels.append(resample(turned, shape, order=3))
    return np.stack(channels), ornt_transform(axcodes2ornt(orientation), io_orientation(affine)), turned.shape


def read(paths: Sequence[Path | str]) -> tuple[list[NDArray[np.float32]], NDArray[np.float64]]:
    """The channels (X, Y, Z) of a volume and its affine: a file for each, or one file with a fourth axis.

    Raises:
        ValueError: A file cannot be used, or the channels do not lie on one grid.
    """
    arrays: list[NDArray[np.float32]] = []
    affine: NDArray[np.float64] = np.eye(4)
    shape: tuple[int, ...] = ()
    for path in paths:
        file = _open(path)
        array = np.asarray(file.dataobj, dtype=np.float64).astype(np.float32)
        array, own = array.reshape(*array.shape[:3], -1), file.affine
        # One bad voxel would spoil the mean, and with it every voxel.
        if bad := array.size - int(np.count_nonzero(np.isfinite(array))):
            raise ValueError(f"{path} holds {bad} voxels that are NaN or infinite. Correct the image at its source.")
        if not arrays:
            affine, shape = own, array.shape[:3]
        # The same box may be stored with axes that run in other directions.
        turn = ornt_transform(io_orientation(own), io_orientation(affine))
        own = own @ inv_ornt_aff(turn, array.shape[:3])
        array = nib.orientations.apply_orientation(array, turn)
        corners = np.array([(*corner, 1) for corner in product(*((0, size - 1) for size in shape))])
        apart = np.linalg.norm((corners @ (own - affine).T)[:, :3], axis=1).max()
        if array.shape[:3] != shape or apart > GRID_TOLERANCE * np.linalg.norm(affine[:3, :3], axis=0).min():
            raise ValueError(f"{path} does not lie on the grid of {paths[0]}. Resample one onto the other.")
        arrays += [np.ascontiguousarray(array[..., channel]) for channel in range(array.shape[3])]
    return arrays, affine


def _open(path: Path | str) -> Any:
    try:
        file: Any = nib.load(path)
    except (nib.filebasedimages.ImageFileError, nib.spatialimages.HeaderDataError) as error:
        raise ValueError(f"{path} cannot be read ({error}); expected a NIfTI file.") from error
    # Others do not say where left and right are.
    if not isinstance(file, nib.Nifti1Pair):
        raise ValueError(f"{path} is {type(file).__name__}; expected a NIfTI file. Convert it.")
    if file.ndim < 3 or file.get_data_dtype().kind not in "iuf" or file.header.get_xyzt_units()[0] in _NOT_MM:
        raise ValueError(
            f"{path} holds {file.shape} values of {file.get_data_dtype()} in {file.header.get_xyzt_units()[0]}; "
            "expected three axes of real numbers, in millimeters."
        )
    return file


def scale_intensity(array: NDArray[np.float32], intensity: Mapping[str, Any]) -> NDArray[np.float32]:
    """Make values comparable: by the image's own mean and deviation, or as CT by those of the training images."""
    if intensity["scheme"] == "ct":
        array = np.clip(array, intensity["low"], intensity["high"])
        mean, deviation = intensity["mean"], intensity["std"]
    else:
        mean, deviation = float(array.mean(dtype=np.float64)), float(array.std(dtype=np.float64))
    array = array - np.float32(mean)
    return array / np.float32(deviation) if deviation > 1e-6 * abs(mean) else array


def resample(array: NDArray[np.float32], shape: Sequence[int], order: int) -> NDArray[np.float32]:
    """Change the number of voxels of (X, Y, Z); the box that they fill stays where it is.

    Args:
        array: Voxels.
        shape: New number per axis.
        order: 1 for linear; 3 for cubic convolution (Keys 1981, a = -0.5). Both widen where an axis gets fewer voxels.
    """
    for axis, new in enumerate(shape):
        if array.shape[axis] != new:
            moved = np.moveaxis(array, axis, 0)
            made = weights_along(array.shape[axis], new, order) @ moved.reshape(len(moved), -1)
            array = np.moveaxis(made.reshape(new, *moved.shape[1:]), 0, axis)
    return np.ascontiguousarray(array, np.float32)


def weights_along(old: int, new: int, order: int) -> sparse.csr_matrix:
    """How much of each old voxel is in each new one along an axis, (new, old)."""
    widen = max(1.0, old / new)
    reach = widen * (1.0 if order == 1 else 2.0)
    center = (np.arange(new) + 0.5) * (old / new) - 0.5
    low = np.floor(center - reach).astype(np.int64) + 1
    taps = low[:, None] + np.arange(int(np.ceil(2.0 * reach)))
    away = np.abs(taps - center[:, None]) / widen
    if order == 1:
        weights = np.maximum(0.0, 1.0 - away)
    else:
        near = (1.5 * away - 2.5) * away * away + 1.0
        far = ((-0.5 * away + 2.5) * away - 4.0) * away + 2.0
        weights = np.where(away < 1.0, near, np.where(away < 2.0, far, 0.0))
    weights /= weights.sum(axis=1, keepdims=True)
    rows = np.repeat(np.arange(new), taps.shape[1])
    # Beyond the edge, the edge voxel is repeated.
    columns = np.clip(taps, 0, old - 1).ravel()
    return sparse.csr_matrix((weights.ravel(), (rows, columns)), (new, old)).astype(np.float32)


def window_starts(size: int, side: int, overlap: float) -> tuple[int, ...]:
    """First voxels of the windows along an axis: evenly stepped, the last one ends with the volume."""
    if side >= size:
        return (0,)
    step = max(int(side * (1.0 - overlap)), 1)
    return (*range(0, size - side, step), size - side)


def gaussian(patch: Sequence[int]) -> NDArray[np.float32]:
    """Trust in each voxel of a window: a Gaussian about its center, deviation an eighth of the side."""
    weights = np.ones((), np.float32)
    for side in patch:
        distance = np.arange(side, dtype=np.float32) - np.float32((side - 1) / 2)
        weights = weights[..., None] * np.exp(np.float32(-0.5) * (np.float32(8.0) * distance / np.float32(side)) ** 2)
    return np.maximum(weights, np.float32(LEAST_WEIGHT))


def centered(image: NDArray[np.float32], patch: Sequence[int]) -> NDArray[np.float32]:
    """The middle of an image (C, X, Y, Z), of the size of a patch; what lies outside has each channel's minimum."""
    window = np.broadcast_to(image.min((1, 2, 3), keepdims=True), (len(image), *patch)).copy()
    source, target = [], []
    for size, side in zip(image.shape[1:], patch, strict=True):
        start = (size - side) // 2
        low, high = max(0, start), min(size, start + side)
        source.append(slice(low, high))
        target.append(slice(low - start, high - start))
    window[(slice(None), *target)] = image[(slice(None), *source)]
    return window


def keep_largest(labels: NDArray[Any], value: int) -> None:
    """Set all components of a label but the largest to 0, in place; voxels that share a corner are connected."""
    parts, count = ndimage.label(labels == value, structure=np.ones((3, 3, 3), dtype=bool))
    if count > 1:
        sizes = np.bincount(parts.ravel())
        labels[(parts > 0) & (parts != 1 + int(np.argmax(sizes[1:])))] = 0


def _smallest(highest: int) -> Any:
    return next(kind for kind in (np.uint8, np.uint16, np.int32) if highest <= np.iinfo(kind).max)


def main(arguments: Sequence[str]) -> int:
    """Run the command of the module's description: 0 where it worked, 2 for wrong arguments, 3 for files of no use."""
    if len(arguments) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        runner = VolumeRunner(arguments[0])
        if runner.recipe["target"] == "classification":
            print(runner.probability(arguments[1:]))
            return 0
        *images, out = arguments[1:]
        # Whoever forgets the last argument names an image there.
        if not images or not out.endswith((".nii", ".nii.gz")) or Path(out).exists():
            message = f"The label map would go to {out}; expected images, and then a new file .nii or .nii.gz."
            print(message, file=sys.stderr)
            return 2
        labels, like = runner.labels(images), _open(images[0])
        header = like.header.copy()
        header.set_data_dtype(labels.dtype)
        header.set_slope_inter(1.0, 0.0)
        nib.save(nib.Nifti1Image(labels, like.affine, header), out)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
