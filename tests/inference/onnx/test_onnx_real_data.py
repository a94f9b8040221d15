"""Real frames, connectomes and volumes of three sizes each get from ONNX what PyTorch gives."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from torch import nn

from medformer.config import ConnectomeModelConfig, PolypConfig
from medformer.config_loading import load_config
from medformer.connectome.columns import Columns, FeatureBlock
from medformer.connectome.pipeline import feature_pipeline
from medformer.data.cases import Case
from medformer.data.volumes.plan.volume_plan import Intensity, VolumePlan
from medformer.imaging.images import read_image
from medformer.inference.classification import Decision
from medformer.inference.onnx.connectomes import FoldOfConnectomes, write_connectomes
from medformer.inference.onnx.frames import write_frames
from medformer.inference.onnx.volumes import write_volumes
from medformer.inference.volumes.segmenter import VolumeSegmenter
from medformer.models.connectome.build import build_connectome_model
from medformer.tasks.polyp.predictor import make_segmenter, new_network

pytest.importorskip("onnxruntime")
pytestmark = [pytest.mark.real_data, pytest.mark.slow]


def test_frames(medformer_data: Path, tmp_path: Path) -> None:
    config = load_config("polyp/cpu", ["training.accelerator=cpu"], model=PolypConfig)
    segmenter = make_segmenter([new_network(config, 0, pretrained=False)], config, torch.device("cpu"))
    found: dict[tuple[int, ...], np.ndarray] = {}
    for folder in ("Kvasir-SEG", "CVC-ClinicDB", "CVC-300"):
        image = read_image(min((medformer_data / "polyp" / folder / "images").iterdir()))
        found[image.shape] = image
    assert len(found) == 3
    parity = write_frames(tmp_path / "net.onnx", segmenter, 0.5, found.values())["parity"]
    # Each in its own size, smaller and larger.
    assert len({tuple(row["size"]) for row in parity["compared"]}) == 9
    assert parity["max_difference"] < 5e-3 and parity["dice_difference"] < 0.005


def test_connectomes(medformer_data: Path, tmp_path: Path) -> None:
    blocks = (FeatureBlock("aal", "correlation", 116), FeatureBlock("ho", "correlation", 111))
    with np.load(medformer_data / "abide" / "abide_fc_697.npz") as cohort:
        connections = {block.atlas: cohort[f"fc_{block.atlas}"][:64].astype(np.float32) for block in blocks}
    rows = np.concatenate(list(connections.values()), axis=1)
    pipelines = {block.atlas: feature_pipeline(Columns(blocks), block.atlas, scale="deviation") for block in blocks}
    # Fitted on others than are compared.
    inputs = {name: steps.fit(rows[24:]).transform(rows[:24]) for name, steps in pipelines.items()}
    config = ConnectomeModelConfig(name="roi_metaformer")
    model = build_connectome_model(config, {block.atlas: block.regions for block in blocks}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # Read-outs that start at zero would hide everything before them.
            parameter.add_(0.05 * torch.randn_like(parameter))
        logits = model({name: torch.from_numpy(np.asarray(x, np.float32)) for name, x in inputs.items()})
    expected = torch.softmax(logits.double(), 1)[:, 1].numpy()
    assert expected.std() > 1e-3
    first = {name: block[:24] for name, block in connections.items()}
    fold = FoldOfConnectomes(pipelines, [model], Decision(0.5))
    parity = write_connectomes(tmp_path / "net.onnx", [fold], blocks, first, expected, threshold=0.5)["parity"]
    assert [row["subjects"] for row in parity["compared"]] == [1, 3, 20]
    assert parity["max_difference"] < 1e-4 and parity["other_decisions"] == 0


def test_volumes(medformer_data: Path, tmp_path: Path) -> None:
    """Of two plans whose spacing is not that of the scans; every scan is smaller than a window along an axis."""
    cases: dict[tuple[int, ...], Case] = {}
    for path in sorted((medformer_data / "volumes" / "Task04_Hippocampus" / "imagesTr").glob("hippocampus_*.nii.gz")):
        shape = nibabel.load(path).shape
        if len(set(shape)) == 3 and any(size % 2 for size in shape) and len(cases) < 3:
            cases.setdefault(shape, Case(path.stem, path))
    assert len(cases) == 3
    members: list[tuple[nn.Module, VolumePlan]] = []
    for spacing, patch in (((0.9, 1.2, 1.0), (48, 32, 24)), ((1.3, 1.0, 0.8), (40, 24, 32))):
        # Without a bias no class is more likely than the others.
        network = nn.Sequential(
            nn.Conv3d(1, 8, 3, padding=1, bias=False), nn.Tanh(), nn.Conv3d(8, 3, 3, padding=1, bias=False)
        )
        plan = VolumePlan(
            spacing=spacing,
            patch=patch,
            intensity=(Intensity(),),
            orientation="RAS",
            labels=((1, "Anterior"), (2, "Posterior")),
            strides=((1, 1, 1),),
            kernel_sizes=((3, 3, 3),),
            batch_size=2,
        )
        members.append((network.eval(), plan))
    recipe = write_volumes(tmp_path, VolumeSegmenter(members, flips=True), list(cases.values()))
    parity = recipe["parity"]
    assert parity["cases"] == "real" and parity["max_difference"] < 1e-5
    assert {tuple(row["size"]) for row in parity["compared"]} == set(cases)
    # The segmenter keeps sums of several plans in half precision.
    assert parity["dice_difference"] < 0.005 and max(row["other_voxels"] for row in parity["compared"]) < 2e-3
