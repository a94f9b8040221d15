"""`medformer info`: short by default, details by name, and all of it as JSON."""

from __future__ import annotations

import json

import pytest

from medformer.config import SCHEMAS
from medformer.config_problems import known_keys
from medformer.errors import ConfigError
from medformer.models import measures
from medformer.models.backbone.mixers import MIXERS
from medformer.models.backbone.variants import VARIANTS
from medformer.tasks import catalog
from medformer.tasks.catalog import SECTIONS, collect_info
from pipelines.info import info


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sections are listed without measuring every part of them."""
    for name in ("mixers", "models", "connectome_models"):
        section = SECTIONS[name]._replace(measure=lambda part: {"milliseconds": {f"{part}, 64 x 64": 1.5}})
        monkeypatch.setitem(SECTIONS, name, section)  # type: ignore[arg-type]
    monkeypatch.setattr(catalog, "variant_counts", lambda name: dict.fromkeys(("classifier", "features_2d"), len(name)))


def shown(capsys: pytest.CaptureFixture[str], *names: str) -> str:
    info(names=names, as_json=False)
    return capsys.readouterr().out


@pytest.mark.parametrize("columns", [80, 120])
def test_the_overview_has_one_line_for_each_section_and_none_is_too_long(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = shown(capsys).splitlines()
    assert len(lines) < 30 and max(map(len, lines)) <= columns
    for section in [*SECTIONS, catalog.KEYS]:
        assert len([line for line in lines if line.startswith(f"{section} ")]) == 1, section
    assert next(line for line in lines if line.startswith("backbones ")).split()[1] == str(
        len(SECTIONS["backbones"].names)
    )


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize("columns", [80, 120])
def test_sections_keys_and_names_are_wrapped_to_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    for names in (("keys", "volume"), ("configs",), ("backbones",), ("models", "mixers", "losses"), ("caformer_s18",)):
        assert max(map(len, shown(capsys, *names).splitlines())) <= columns, names


@pytest.mark.usefixtures("unmeasured")
def test_a_section_lists_its_names_and_a_task_its_keys(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "mixers")
    assert [name for name in MIXERS if f"  {name} " not in text] == []
    text = shown(capsys, "keys", "abide")
    assert [key for key in known_keys(SCHEMAS["abide"]) if f"  {key} " not in text] == []
    some = shown(capsys, "keys", "abide", "training.")
    assert "training.epochs" in some and "model.name" not in some
    assert "A first look on a CPU" in shown(capsys, "configs")


@pytest.mark.usefixtures("unmeasured")
def test_mixers_and_networks_are_listed_with_their_cost_limits_and_measures(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    lines = [line.strip() for line in shown(capsys, "mixers").splitlines()]
    assert {"cost: 4 N C^2 + 2 N^2 C", "cannot: 2-D, 3-D", "milliseconds: attention, 64 x 64: 1.5"} <= {*lines}
    lines = [line.strip() for line in shown(capsys, "models").splitlines()]
    for row in SECTIONS["models"].rows():
        assert f"milliseconds: {row['name']}, 64 x 64: 1.5" in lines
    assert "sizes: padded to multiples of 8" in lines and any(line.startswith("cannot: 1-D, 3-D, ") for line in lines)


def test_a_name_is_explained_wherever_it_stands(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    text = shown(capsys, "attention")
    assert "global self-attention" in text and "heads (default null)" in text and "square of the positions" in text
    assert "4 N C^2" in text and "2-D: 16,384" in text and "56 x 56: " in text, "cost, parameters and time"
    with monkeypatch.context() as patch:
        patch.setattr(measures, "NETWORK_SIDES", {2: (8, 16), 3: (8, 16)})
        text = shown(capsys, "smp:unet/resnet18")
        assert "any segmentation-models-pytorch network" in text and "2-D  14,328,209" in text
        assert "billions  8 x 8: " in text and "milliseconds in 2-D  8 x 8: " in text
    assert "features_2d: 1,844,482" in shown(capsys, "timm:<name>"), "of the example"
    with pytest.raises(ConfigError, match="nosuch"):
        shown(capsys, "timm:nosuch")
    text = shown(capsys, "training.epochs")
    assert all(f"{task}: training.epochs" in text for task in SCHEMAS)
    assert "26,341,656" in shown(capsys, "caformer_s18")
    assert shown(capsys, "dice").count("losses of") == 2, "one name of two sections is explained twice"


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("mixer",), "Did you mean 'mixers'"),
        (("training.epoch",), "Did you mean 'training.epochs'"),
        (("keys", "polip"), "Did you mean 'polyp'"),
        (("keys", "polyp", "nothing"), "no config key that begins with nothing"),
    ],
)
def test_what_nothing_is_called_gets_the_nearest_name(names: tuple[str, ...], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        info(names=names, as_json=False)


@pytest.mark.usefixtures("unmeasured")
def test_json_is_everything_and_takes_no_names(capsys: pytest.CaptureFixture[str]) -> None:
    info(names=(), as_json=True)
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(json.dumps(collect_info()))
    assert printed.keys() == {"version", "packages", *SECTIONS, catalog.KEYS}
    counts = {row["name"]: row["parameters"]["classifier"] for row in printed["backbones"]}
    assert counts == {name: len(entry.example or name) for name, entry in VARIANTS.items()}
    with pytest.raises(ConfigError, match="prints everything"):
        info(names=("mixers",), as_json=True)
