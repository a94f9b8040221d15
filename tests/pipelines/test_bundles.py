"""`medformer export`: a bundle predicts what its run does, tells nothing of the cases, and is refused once changed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from bundles import files_of, folders_told, moved_bundle, private_names, told

from medformer.config import PolypConfig
from medformer.crossval.bundle import open_bundle, own_hash
from medformer.errors import CheckpointError
from medformer.files import read_json, write_json
from medformer.tasks.export_bundle import started_from
from medformer.tasks.trained import open_trained
from medformer.tensor_file import read_metadata

Medformer = Callable[..., Any]


@pytest.fixture(scope="module")
def bundle(finished: Path, medformer: Medformer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the finished run, far from it; not to be changed."""
    return moved_bundle(medformer, finished, tmp_path_factory.mktemp("bundles"))


@pytest.fixture
def own_bundle(bundle: Path, tmp_path: Path) -> Path:
    """A copy of the bundle, to be changed."""
    return Path(shutil.copytree(bundle, tmp_path / "bundle"))


def test_a_bundle_far_from_its_run_predicts_what_the_run_predicts(
    finished: Path, bundle: Path, data: Path, medformer: Medformer, tmp_path: Path
) -> None:
    for name in ("p000_f00.jpg", "p003_f01.jpg"):
        (tmp_path / "new").mkdir(exist_ok=True)
        shutil.copy(data.parent / "images" / name, tmp_path / "new" / name)
    for model, out in ((finished, "by_run"), (bundle, "by_bundle")):
        command = ("polyp", "predict", model, tmp_path / "new", "--out", tmp_path / out, "--probabilities", "npz")
        assert medformer(*command).code == 0
    by_run, by_bundle = tmp_path / "by_run", tmp_path / "by_bundle"
    names = sorted(file.relative_to(by_run) for file in files_of(by_run))
    assert len(names) >= 7
    assert names == sorted(file.relative_to(by_bundle) for file in files_of(by_bundle))
    for name in names:
        assert (by_run / name).read_bytes() == (by_bundle / name).read_bytes(), name


def test_a_bundle_tells_nothing_of_its_cases(finished: Path, bundle: Path) -> None:
    names = private_names(finished)
    assert {"p000_f00", str(finished), read_json(finished / "run.json")["manifest"]} <= names
    assert not told(files_of(bundle), names)
    assert told([finished / "oof.csv"], ["p000_f00"])
    assert read_metadata(bundle / "folds" / "0" / "model.safetensors") == {"task": "polyp", "purpose": "segmentation"}
    config = yaml.safe_load((bundle / "config.yaml").read_text("utf-8"))
    assert (config["data"]["manifest"], config["data"]["image_size"]) == ("", [32, 32])
    assert not [file for file in files_of(bundle) if file.suffix in (".png", ".jpg", ".csv", ".html")]


def test_a_bundle_says_what_it_is_and_how_well_it_did(finished: Path, bundle: Path, medformer: Medformer) -> None:
    content = read_json(bundle / "bundle.json")
    dice = read_json(finished / "metrics.json")["pooled"]["metrics"]["dice"]
    assert content["format"] == "medformer-bundle/1" and content["labels"] == {"1": "polyp"}
    assert content["evaluation"]["metrics"]["dice"] == {
        "value": dice["mean"],
        "low": dice["low"],
        "high": dice["high"],
    }
    assert (content["folds"], content["folds_of_run"], content["networks"]) == ([0, 1], 2, 2)
    assert content["made_by"] == open_trained(finished).made_by
    card = (bundle / "model_card.md").read_text("utf-8")
    for part in (
        f"{dice['mean']:.3f}",
        "was not tested as a whole",
        "not a medical device",
        "97,259 parameters, whose",
    ):
        assert part in card


def test_exporting_twice_gives_the_same_bytes(
    finished: Path, bundle: Path, medformer: Medformer, tmp_path: Path
) -> None:
    out = tmp_path / "bundle"
    assert medformer("export", finished, "--out", out).code == 0
    medformer("export", finished, "--out", out).refused(2, str(out), "--overwrite")
    assert medformer("export", finished, "--out", out, "--overwrite").code == 0
    assert (out / "bundle.json").read_bytes() == (bundle / "bundle.json").read_bytes()


def test_one_fold_can_be_exported(finished: Path, medformer: Medformer, data: Path, tmp_path: Path) -> None:
    assert medformer("export", finished, "--out", tmp_path / "one", "--fold", "1").code == 0
    trained = open_trained(tmp_path / "one")
    assert [folder.name for folder in trained.folders] == ["1"] and trained.known_cases is None
    assert "Fold 1 of 2" in (tmp_path / "one" / "model_card.md").read_text("utf-8")
    medformer("export", finished, "--out", tmp_path / "two", "--fold", "7").refused(2, "--fold 7", "0, 1")
    assert not (tmp_path / "two").exists()


def test_an_unfinished_run_is_exported_as_far_as_it_is_trained(
    own_run: Path, medformer: Medformer, tmp_path: Path
) -> None:
    (own_run / "folds" / "0" / "threshold.json").unlink()
    for name in ("oof.csv", "metrics.json"):
        (own_run / name).unlink()
    result = medformer("export", own_run, "--out", tmp_path / "bundle")
    assert result.code == 0, result.err
    assert "1 of 2 folds are trained" in result.out and "no results" in result.out
    assert read_json(tmp_path / "bundle" / "bundle.json")["evaluation"] is None
    assert "nothing is known of how well it does" in (tmp_path / "bundle" / "model_card.md").read_text("utf-8")
    medformer("export", own_run, "--out", tmp_path / "two", "--fold", "0").refused(
        2, "no trained fold", "give all, or 1"
    )


@pytest.mark.parametrize(
    "name", ["folds/0/model.safetensors", "folds/1/threshold.json", "config.yaml", "model_card.md"]
)
def test_a_bundle_is_refused_once_a_file_of_it_changed(
    name: str, own_bundle: Path, data: Path, medformer: Medformer, tmp_path: Path
) -> None:
    command = ("polyp", "predict", own_bundle, data.parent / "images" / "p000_f00.jpg", "--out", tmp_path / "out")
    content = (own_bundle / name).read_bytes()
    (own_bundle / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    medformer(*command).refused(3, name, "is not the file that was exported", "Copy the bundle again")
    (own_bundle / name).unlink()
    medformer(*command).refused(3, name, "does not exist")
    assert not (tmp_path / "out").exists()


def test_what_was_put_among_the_files_that_predict_is_refused(own_bundle: Path) -> None:
    for name in ("README.md", "folds/.DS_Store"):
        (own_bundle / name).write_bytes(b"of no effect")
    assert open_bundle(own_bundle).record.folds == [0, 1]
    (own_bundle / "folds" / "1" / "components.json").write_text("{}")
    with pytest.raises(
        CheckpointError, match=r"components\.json is no part of the bundle that was exported\. Remove it"
    ):
        open_bundle(own_bundle)


def test_a_record_that_was_edited_is_refused(own_bundle: Path, medformer: Medformer, tmp_path: Path) -> None:
    def predict(change: dict[str, object], *, hashed: bool) -> Any:
        content = read_json(own_bundle / "bundle.json") | change
        write_json(own_bundle / "bundle.json", content | ({"sha256": own_hash(content)} if hashed else {}))
        return medformer("polyp", "predict", own_bundle, own_bundle, "--out", tmp_path / "out")

    files = read_json(own_bundle / "bundle.json")["files"]
    predict({"license": "public domain"}, hashed=False).refused(3, "bundle.json", "was edited or damaged")
    predict({"files": {**files, "../run.json": "0"}}, hashed=True).refused(3, "outside of the bundle")
    predict({"files": files, "format": "medformer-bundle/2", "medformer": "9.0"}, hashed=True).refused(
        3, "format 2, which medformer 9.0 wrote", "Install the newer medformer"
    )
    predict({"format": "something/1"}, hashed=True).refused(3, "expected medformer-bundle/1")
    (own_bundle / "bundle.json").write_text("{")
    medformer("polyp", "predict", own_bundle, own_bundle, "--out", tmp_path / "out").refused(3, "bundle.json")


def test_commands_that_need_a_run_refuse_a_bundle(bundle: Path, medformer: Medformer, tmp_path: Path) -> None:
    medformer("export", bundle, "--out", tmp_path / "again").refused(2, "is a bundle already")
    medformer("abide", "predict", bundle, bundle, "--out", tmp_path / "out").refused(2, "a bundle of the task polyp")
    medformer("report", bundle).refused(2, "is a bundle", "folder of the run")


def test_a_table_that_was_edited_is_not_exported(own_run: Path, medformer: Medformer, tmp_path: Path) -> None:
    table = own_run / "oof.csv"
    table.write_text(table.read_text("utf-8").replace("0.", "0.9", 1), "utf-8")
    medformer("export", own_run, "--out", tmp_path / "bundle").refused(3, "oof.csv", "was changed")
    assert not (tmp_path / "bundle").exists()


def test_a_shared_report_names_nobody_and_the_run_can_still_be_replaced(
    own_run: Path, medformer: Medformer, tmp_path: Path
) -> None:
    result = medformer("report", own_run, "--share", "--methods")
    assert result.code == 0, result.err
    shared = [own_run / "report_share.html", own_run / "model_card_share.md"]
    assert not told([*shared, own_run / "methods.md"], private_names(own_run))
    page = shared[0].read_text("utf-8")
    assert "case 1" in page and "pictures of cases are left out" in page and "data:image" not in page
    assert "data:image" in (own_run / "report.html").read_text("utf-8")
    settings = ("polyp", "crossval", "--data", tmp_path / "none.csv", "--out", own_run, "--overwrite")
    medformer(*settings).refused(3, "none.csv")


def test_reports_and_cards_hold_no_folder(finished: Path) -> None:
    assert len({name for name in private_names(finished) if Path(name).is_absolute()}) >= 3
    assert not folders_told(finished)


def test_a_bundle_says_what_the_first_network_of_all_began_with() -> None:
    pretrained = {"name": "net.in1k", "data": "ImageNet-1k", "license": "apache-2.0"}
    tuned = PolypConfig.model_validate({"training": {"init_from": "run"}})
    named = "net.in1k (trained on: ImageNet-1k; license: apache-2.0)"
    assert started_from(tuned, {}) == "the network of another run"
    assert started_from(tuned, pretrained) == f"the network of another run, whose encoder had started from {named}"
    masked = PolypConfig.model_validate({"pretraining": {"enabled": True}})
    assert started_from(masked, pretrained).endswith(f"without labels, beginning with {named}")
    assert started_from(PolypConfig(), pretrained) == named
