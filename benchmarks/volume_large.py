"""Segments a synthetic CT of 512 x 512 x 800 voxels with 5 labels in a process limited to 6 GB (Linux).

python benchmarks/volume_large.py --json

Two networks, each in a process of its own that may not ask for more memory (RLIMIT_DATA: whatever is set aside counts,
used or not, and an allocation beyond the limit fails). The address space as a whole is printed, not limited: importing
torch maps 3 GB of library files, of which half a gigabyte is ever read.

* `meta_unet_fine`, the default network with random weights, at 1.5 mm: what a user's prediction costs.
* `reader`, which names voxels by their gray value, at the scan's own spacing: the largest grid there is, and its label
  map must equal the truth voxel by voxel.

Both label maps are read again from their files and compared with the scan's grid.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from machine import machine, peak_bytes
from numpy.typing import NDArray
from torch import Tensor, nn

from medformer.config import VolumeConfig
from medformer.data.volumes.plan.patch_size import fitted
from medformer.data.volumes.plan.volume_plan import Intensity, VolumePlan
from medformer.inference.export_table import Exports
from medformer.inference.volumes.export import export_volume
from medformer.inference.volumes.segmenter import VolumeSegmenter
from medformer.inference.volumes.windows import count_windows
from medformer.models.networks.build import build_network
from medformer.models.networks.grid import Grid

LABELS = tuple((value, f"Organ {value}") for value in range(1, 6))
SPACING = (0.78, 0.78, 1.0)
AIR, BODY, STEP = -1000, 0, 100
"""Gray values: outside, inside without a label, and between one label and the next."""

NOISE = 40
NETWORKS = {"meta_unet_fine": (1.5, 1.5, 1.5), "reader": SPACING}
PATCH = (96, 96, 96)


class Reader(nn.Module):
    """Names each voxel by the label whose gray value is nearest."""

    def __init__(self) -> None:
        super().__init__()
        values = torch.tensor([float(STEP * value) for value in range(len(LABELS) + 1)])
        self.values: Tensor
        self.register_buffer("values", values[:, None, None, None])

    def forward(self, x: Tensor) -> Tensor:
        return -(x - self.values).abs()


def truth(shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Five ellipsoids, one in the other along a slanted line."""
    labels = np.zeros(shape, np.uint8, order="F")
    axes = [np.linspace(-1, 1, size, dtype=np.float32) for size in shape]
    across = axes[0][:, None] ** 2, axes[1][None, :]
    for index, z in enumerate(axes[2]):
        for value, _ in LABELS:
            radius = 0.9 - 0.15 * value
            labels[:, :, index][across[0] + (across[1] - 0.3 * z) ** 2 + z**2 < radius**2] = value
    return labels


def write_scan(path: Path, labels: NDArray[np.uint8]) -> None:
    """Write an int16 CT in which the labels can be told apart by their gray value, with an oblique affine."""
    generator = np.random.default_rng(0)
    scan = np.empty(labels.shape, np.int16, order="F")
    for index in range(labels.shape[2]):
        noise = generator.integers(-NOISE, NOISE + 1, labels.shape[:2], dtype=np.int16)
        scan[:, :, index] = BODY + STEP * labels[:, :, index].astype(np.int16) + noise
    scan[:8] = AIR
    turn = np.array([[0.995, -0.0998, 0.0], [0.0998, 0.995, 0.0], [0.0, 0.0, 1.0]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag((-SPACING[0], SPACING[1], SPACING[2]))
    image = nibabel.Nifti1Image(scan, affine)
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    nibabel.save(image, path)


def segment(scan: Path, out: Path, network: str, overlap: float) -> dict[str, Any]:
    """Segment and export in this process, and say what it took."""
    spacing = NETWORKS[network]
    patch, layout = fitted(PATCH, spacing)
    # The reader sees gray values, the network what it would see of a CT.
    mean, std = (0.0, 1.0) if network == "reader" else (100.0, 250.0)
    plan = VolumePlan(
        spacing=spacing,
        intensity=(Intensity("ct", low=-1000.0, high=1000.0, mean=mean, std=std),),
        labels=LABELS,
        patch=patch,
        strides=layout.strides,
        kernel_sizes=layout.kernel_sizes,
        batch_size=2,
    )
    torch.manual_seed(0)
    model: nn.Module = Reader()
    if network != "reader":
        model = build_network(
            VolumeConfig().model.model_copy(update={"name": network}),
            Grid(1, plan.classes, patch, spacing, plan.strides, plan.kernel_sizes),
        )
    start = time.perf_counter()
    result = VolumeSegmenter([(model, plan)], overlap=overlap, batch_size=1).segment(scan)
    segmented = time.perf_counter()
    export_volume(Exports(out), network, result, scan)
    grid = [round(n * own / wanted) for n, own, wanted in zip(result.array.shape, SPACING, spacing, strict=True)]
    return {
        "network": network,
        "windows": count_windows(grid, patch, overlap),
        "segment_s": round(segmented - start, 1),
        "export_s": round(time.perf_counter() - segmented, 1),
        "peak_resident_gb": round(peak_bytes("VmHWM") / 1e9, 2),
        "peak_address_space_gb": round(peak_bytes("VmPeak") / 1e9, 2),
    }


def limited(scan: Path, out: Path, network: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run `segment` in a process that may not take more than the limit."""
    command = [sys.executable, __file__, "--child", str(scan), str(out), network, "--limit", str(arguments.limit)]
    command += ["--threads", str(arguments.threads), "--overlap", str(arguments.overlap)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{network}: the process with {arguments.limit} GB failed (exit code {done.returncode}).")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def verify(out: Path, network: str, scan: Path, labels: NDArray[np.uint8]) -> dict[str, Any]:
    """Read the written label map with nibabel alone."""
    written, source = nibabel.load(out / "masks" / f"{network}.nii.gz"), nibabel.load(scan)
    same_grid = written.shape == source.shape and bool(np.array_equal(written.affine, source.affine))
    same = bool(np.array_equal(np.asarray(written.dataobj), labels)) if network == "reader" else None
    return {"type": str(written.get_data_dtype()), "same_grid": same_grid, "equals_truth": same}


def main() -> None:
    """Make the scan, segment it with each network, print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON only")
    parser.add_argument("--shape", type=int, nargs=3, default=(512, 512, 800), help="voxels of the scan")
    parser.add_argument("--limit", type=float, default=6.0, help="GB of memory")
    parser.add_argument("--overlap", type=float, default=0.5, help="of neighboring windows")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--networks", nargs="+", choices=tuple(NETWORKS), default=tuple(NETWORKS))
    parser.add_argument("--child", nargs=3, metavar=("SCAN", "OUT", "NETWORK"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.child:
        limit = int(arguments.limit * 1e9)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        scan, out, network = arguments.child
        print(json.dumps(segment(Path(scan), Path(out), network, arguments.overlap)))
        return
    results = []
    with tempfile.TemporaryDirectory() as folder:
        scan, out = Path(folder) / "scan.nii.gz", Path(folder) / "out"
        labels = truth(tuple(arguments.shape))
        write_scan(scan, labels)
        for network in arguments.networks:
            row = {**limited(scan, out, network, arguments), **verify(out, network, scan, labels)}
            results.append(row)
            if not arguments.json:
                print(
                    f"{network:<12}{row['windows']} windows in {row['segment_s']} s, export {row['export_s']} s, "
                    f"limit {arguments.limit} GB, peak {row['peak_resident_gb']} GB resident, "
                    f"{row['peak_address_space_gb']} GB address space; {row['type']}, on the scan's grid: "
                    f"{row['same_grid']}"
                    + ("" if row["equals_truth"] is None else f", equals the truth: {row['equals_truth']}"),
                    flush=True,
                )
    if arguments.json:
        settings = {"shape": list(arguments.shape), "limit_gb": arguments.limit, "overlap": arguments.overlap}
        print(json.dumps({"machine": machine(), **settings, "results": results}, indent=2))
    if not all(row["same_grid"] and row["equals_truth"] is not False for row in results):
        sys.exit("A label map does not lie on the scan's grid, or is not the truth.")


if __name__ == "__main__":
    main()
