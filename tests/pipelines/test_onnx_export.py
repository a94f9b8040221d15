"""`export --onnx`: what leaves the run as ONNX predicts as the run does, and holds no names or places."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medformer.data.manifest import read_manifest
from medformer.errors import DataError
from medformer.files import read_json, sha256
from medformer.imaging.images import read_image
from medformer.inference.onnx.export import runner
from medformer.tasks import export_bundle
from medformer.tasks.trained import open_trained

pytest.importorskip("onnxruntime")


@pytest.mark.slow
def test_the_graph_of_all_folds_in_a_bundle_predicts_as_the_run(
    medformer: Callable[..., Any], finished: Path, data: Path, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    result = medformer("export", finished, "--out", bundle, "--onnx")
    assert result.code == 0, result.err
    assert "on validation cases" in result.out
    cases = read_manifest(data).cases
    images = [read_image(case.required_image()) for case in cases[:3]]
    found = runner(bundle / "onnx" / "polyp.onnx", "probability")({"image": np.stack(images)})
    expected = open_trained(finished).load(torch.device("cpu")).mapper.predict(images, ["a", "b", "c"])
    np.testing.assert_allclose(found, np.stack(expected), atol=1e-3)
    recorded = read_json(bundle / "bundle.json")
    assert (
        recorded["files"]["onnx/polyp.onnx"] == sha256(bundle / "onnx" / "polyp.onnx") == recorded["onnx"][0]["sha256"]
    )
    for file in (bundle / "onnx").iterdir():
        content = file.read_bytes()
        for secret in (
            str(finished.parent),
            str(data.parent),
            str(Path(__file__).parent.parent),
            *(c.id for c in cases),
        ):
            assert secret.encode() not in content


def test_it_is_said_why_made_up_cases_are_compared(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(_: object) -> None:
        raise DataError("frames.csv does not exist.")

    monkeypatch.setattr(export_bundle, "own_validation", gone)
    monkeypatch.setattr(export_bundle, "export_onnx", lambda *_: [])
    trained, notes = open_trained(finished), list[str]()
    assert export_bundle._onnx(trained, trained.folders, None, tmp_path, notes) == []  # type: ignore[arg-type]
    assert "made-up cases" in notes[0] and "frames.csv does not exist." in notes[0]
