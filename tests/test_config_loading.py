from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medformer.config import SCHEMAS, PolypConfig, VolumeConfig
from medformer.config_loading import find_config, load_config, shipped_configs
from medformer.config_loading import override as spell
from medformer.config_problems import describe_keys, known_keys
from medformer.errors import ConfigError
from medformer.yaml_files import MAX_BYTES, dump_yaml


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return path


def failure(source: Path | str | None, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(source, overrides)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_without_a_source_the_defaults_hold() -> None:
    assert load_config(None) == PolypConfig()


def test_a_section_given_in_part_keeps_the_defaults_of_the_task(tmp_path: Path) -> None:
    for source, overrides in (
        (None, ["model.drop_path=0.3"]),
        (write(tmp_path, "c.yaml", "model: {drop_path: 0.3}"), []),
    ):
        config = load_config(source, overrides, model=VolumeConfig)
        assert config.model == VolumeConfig().model.model_copy(update={"drop_path": 0.3})
        assert config.training == VolumeConfig().training


def test_mixers_are_names_or_names_with_parameters(tmp_path: Path) -> None:
    given = ("pooling", {"name": "attention", "heads": 4})
    text = "model:\n  mixers: [pooling, {name: attention, heads: 4}]\n"
    for task, schema in SCHEMAS.items():
        assert load_config(write(tmp_path, f"{task}.yaml", text), model=schema).model.mixers == given
    assert load_config(None, ["model.mixers=[{name: attention, heads: 4}]"]).model.mixers == given[1:]
    assert load_config(None, ["model.mixers={name: attention, heads: 4}"]).model.mixers == given[1:]
    assert load_config(None, ["model.mixers=pooling"]).model.mixers == given[:1]
    assert "model.mixers[0]: got 3, expected text or keys and values" in failure(None, "model.mixers=[3]")
    assert "problems" not in failure(None, "model.mixers=[null]")
    assert "got [], expected a mixer for all stages, one for each, or null" in failure(None, "model.mixers=[]")
    assert "a section cannot be set at once" in failure(None, "model={name: meta_unet}")


@pytest.mark.parametrize("task", sorted(SCHEMAS))
def test_the_shipped_default_says_what_the_schema_says(task: str) -> None:
    assert load_config(f"{task}/default", model=SCHEMAS[task]) == SCHEMAS[task]()


@pytest.mark.parametrize("name", sorted(shipped_configs()))
def test_every_shipped_config_loads_and_survives_a_dump(name: str, tmp_path: Path) -> None:
    schema = SCHEMAS[name.partition("/")[0]]
    config = load_config(name, model=schema)
    again = write(tmp_path, "again.yaml", dump_yaml(config.model_dump(mode="json")))
    assert load_config(again, model=schema) == config


def test_a_dump_loads_back_equal_where_text_looks_like_other_types(tmp_path: Path) -> None:
    for text in ("1e3", "no", "010", "null", "2024-01-01", " x ", "a: b", "#1", "ü×\n", "~", "true", "[1]"):
        config = PolypConfig.model_validate({"data": {"manifest": text}, "training": {"lr": 1e-7, "minutes": 2.5}})
        assert load_config(write(tmp_path, "c.yaml", dump_yaml(config.model_dump(mode="json")))) == config


def test_the_file_nearest_to_the_user_wins(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", "seed: 1\ntraining: {epochs: 7, batch_size: 2}\naugment: {scales: [0.5, 1.0]}\n")
    write(tmp_path, "sub/middle.yaml", "extends: ../base.yaml\ntraining: {epochs: 8}\n")
    top = write(tmp_path, "top.yaml", "extends: sub/middle.yaml\naugment: {scales: [2.0]}\n")
    config = load_config(top, ["seed=9", "seed=10"])
    assert (config.seed, config.training.epochs, config.training.batch_size) == (10, 8, 2)
    assert config.augment.scales == (2.0,)


def test_extends_finds_shipped_configs_by_name(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, "mine.yaml", "extends: polyp/quick\nseed: 3\n"))
    assert config == load_config("polyp/quick", ["seed=3"])


def test_an_empty_file_and_an_empty_section_change_nothing(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, "empty.yaml", "# nothing\n")) == PolypConfig()
    assert load_config(write(tmp_path, "section.yaml", "training:\n  # epochs: 3\n")) == PolypConfig()


def test_numbers_follow_yaml_1_2(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, "c.yaml", "training: {lr: 3e-4}\nloss: {name: no}\n"))
    assert config.training.lr == 3e-4
    assert config.loss.name == "no"


def test_a_circle_of_extends_is_named(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", "extends: b.yaml\n")
    path = write(tmp_path, "b.yaml", "extends: a.yaml\n")
    message = failure(path)
    assert "circle" in message and "a.yaml" in message and "b.yaml" in message


@pytest.mark.parametrize(
    ("override", "field", "value"),
    [
        ("data.image_size=[96, 128]", ("data", "image_size"), (96, 128)),
        ("inference.threshold=0.3", ("inference", "threshold"), 0.3),
        ("inference.threshold=fit", ("inference", "threshold"), "fit"),
        ("training.minutes=null", ("training", "minutes"), None),
        ("training.minutes=2", ("training", "minutes"), 2.0),
        ("data.cache=2", ("data", "cache"), 2.0),
        ("data.cache=true", ("data", "cache"), 20.0),  # as earlier configs say it
        ("data.cache=false", ("data", "cache"), 0.0),
        ("data.workers=3", ("data", "workers"), 3),
        ("data.workers=auto", ("data", "workers"), "auto"),
        ("data.manifest=2024", ("data", "manifest"), "2024"),
        ("data.manifest=/data/run #2/a: b=c.csv", ("data", "manifest"), "/data/run #2/a: b=c.csv"),
        ("model.weights=null", ("model", "weights"), None),
        ("model.weights='null'", ("model", "weights"), "null"),
        ("model.name=smp:unet/resnet34", ("model", "name"), "smp:unet/resnet34"),
    ],
)
def test_overrides_are_typed(override: str, field: tuple[str, str], value: object) -> None:
    config = load_config(None, [override])
    assert getattr(getattr(config, field[0]), field[1]) == value


def test_numbers_of_numpy_are_numbers() -> None:
    given = {"training.epochs": np.int64(3), "training.lr": np.float32(0.5), "data.image_size": np.array([96, 128])}
    config = load_config(None, [spell(key, value) for key, value in given.items()])
    assert (config.training.epochs, config.training.lr, config.data.image_size) == (3, 0.5, (96, 128))


@pytest.mark.parametrize("override", ["training.epochs", "=3", "training..epochs=3", ".seed=1", "training.=3", ""])
def test_an_override_without_key_or_value_is_explained(override: str) -> None:
    assert "key=value" in failure(None, override)


def test_a_section_cannot_be_overridden_as_a_whole() -> None:
    assert "training.<key>=value" in failure(None, "training={epochs: 3}")
    assert "section" in failure(None, "training=3")


@pytest.mark.parametrize(
    ("text", "key", "near"),
    [
        ("training: {epoch: 3}", "training.epoch", "training.epochs"),
        ("epochs: 3", "epochs", "training.epochs' or 'pretraining.epochs"),
        ("trainning: {epochs: 3}", "trainning", "training"),
        ("model: {lr: 1.0}", "model.lr", "training.lr' or 'pretraining.lr"),
        ("sede: 1", "sede", "seed"),
        ("crossval: {fold: 3}", "crossval.fold", "crossval.folds"),
    ],
)
def test_an_unknown_key_comes_with_the_nearest(tmp_path: Path, text: str, key: str, near: str) -> None:
    path = write(tmp_path, "c.yaml", text)
    message = failure(path)
    assert f"Unknown key '{key}'. Did you mean '{near}'?" in message
    assert str(path) in message


def test_an_unknown_key_like_no_other_lists_the_known_ones() -> None:
    message = failure(None, "data.zzzzzz=1")
    assert "'data.zzzzzz'" in message and "image_size" in message


def test_a_dotted_key_in_a_file_is_told_to_nest(tmp_path: Path) -> None:
    assert "nest it below 'training:'" in failure(write(tmp_path, "c.yaml", "training.epochs: 3"))


def test_the_origin_in_a_chain_is_named(tmp_path: Path) -> None:
    base = write(tmp_path, "base.yaml", "training: {epochs: -1}\n")
    top = write(tmp_path, "top.yaml", "extends: base.yaml\nseed: 1\n")
    assert str(base) in failure(top)
    assert "override 'seed=x'" in failure(base, "training.epochs=1", "seed=x")


@pytest.mark.parametrize(
    ("override", "got", "expected"),
    [
        ("training.epochs=0", "got 0", "at least 1"),
        ("training.epochs=2.5", "got 2.5", "a whole number"),
        ("training.epochs=true", "got true", "a whole number"),
        ("training.lr=fast", 'got "fast"', "a number"),
        ("training.lr=.inf", "got inf", "a finite number"),
        ("training.lr=.nan", "got nan", "a finite number"),
        ("model.deep_supervision=1", "got 1", "true or false"),
        ("data.image_size=128", "got 128", "a list"),
        ("data.image_size=[128]", "got [128]", "at least 2 values"),
        ("data.image_size=[1, 2, 3]", "got [1, 2, 3]", "at most 2 values"),
        ("training.precision=fp16", 'got "fp16"', "'bf16-mixed'"),
        ("inference.threshold=2", "got 2", "at most 1 or 'fit'"),
        ("crossval.folds=1", "got 1", "at least 2"),
        ("task=abide", 'got "abide"', "'polyp'"),
    ],
)
def test_a_wrong_value_is_put_in_plain_words(override: str, got: str, expected: str) -> None:
    message = failure(None, override)
    assert message.startswith(override.split("=")[0])
    assert got in message and expected in message
    assert "pydantic" not in message and "\n" not in message


def test_all_problems_are_listed_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, "c.yaml", "training: {epochs: 0, lr: -1}\naugment: {flip: 3, scales: [1.0, x]}\n")
    message = failure(path)
    assert "4 problems" in message
    for key in ("training.epochs", "training.lr", "augment.flip", "augment.scales[1]"):
        assert f"  {key}: got" in message


def test_a_name_that_is_not_shipped_comes_with_the_nearest() -> None:
    assert "'polyp/quick'" in failure("polyp/quik")


def test_missing_file_and_folder_are_told_apart(tmp_path: Path) -> None:
    assert "does not exist" in failure(tmp_path / "none.yaml")
    (tmp_path / "folder.yaml").mkdir()
    assert "is not a file" in failure(tmp_path / "folder.yaml")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("seed: 1\ntraining: [1, 2\n", "line 3"),
        ("seed: 1\nseed: 2\n", "line 2"),
        ("- 1\n- 2\n", "a list"),
        ("just text\n", "a single value"),
        ("seed: !!python/object/apply:os.system [touch hacked]\n", "tags"),
        ("seed: !!python/name:os.system\n", "tags"),
        ("seed: !anything 3\n", "tags"),
        ("seed: &a 1\nloss: {name: *a}\n", "aliases"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n", "aliases"),
        ("[" * 20_000, "nested too deeply"),
        ("seed: " + "9" * 5000, "too many digits"),
        ("seed: 1\x00", "not allowed"),
        ("? [a, b]\n: 1\n", "unhashable"),
        ("seed: 1\n---\nseed: 2\n", "single document"),
        ("extends: [a, b]\n", "expected one name"),
        ("extends: nowhere\n", "nowhere"),
        ("extends: nowhere.yaml\n", "does not exist"),
        ("1: 2\n", "Unknown key '1'"),
    ],
)
def test_hostile_and_broken_yaml_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, word: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert word in failure(write(tmp_path, "bad.yaml", text))
    assert [file.name for file in tmp_path.iterdir()] == ["bad.yaml"]


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    assert "larger than" in failure(write(tmp_path, "big.yaml", "#" * (MAX_BYTES + 1)))


def test_a_file_that_is_not_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes(b"seed: \xff\xfe")
    assert "not UTF-8" in failure(tmp_path / "c.yaml")


def test_a_file_without_suffix_is_found(tmp_path: Path) -> None:
    path = write(tmp_path, "config", "seed: 5")
    assert find_config(path) == path
    assert load_config(path).seed == 5


def test_every_key_is_described_with_its_default() -> None:
    rows = describe_keys(PolypConfig)
    assert [row["key"] for row in rows] == list(known_keys(PolypConfig))
    assert all(row["description"] for row in rows)
    assert {row["key"]: row["default"] for row in rows}["training.epochs"] == PolypConfig().training.epochs


LARGE = [
    ("polyp", "crossval.repeats=1000000000"),
    ("polyp", "crossval.folds=1000000000"),
    ("polyp", "data.workers=1000000"),
    ("polyp", "data.image_size=[1000000, 352]"),
    ("polyp", "training.batch_size=1000000000"),
    ("polyp", "augment.scales=[100.0]"),
    ("abide", "members=1000000000"),
    ("abide", "model.width=1000000000"),
    ("volume", "plan.patch=[1000000, 8, 8]"),
    ("volume", "plan.batch_size=1000000000"),
]


@pytest.mark.parametrize(("task", "override"), LARGE)
def test_a_number_that_no_machine_can_take_is_refused(task: str, override: str) -> None:
    with pytest.raises(ConfigError, match=rf"{override.partition('=')[0]}.* expected a number of at most \d+"):
        load_config(None, [override], model=SCHEMAS[task])


URLS = [
    # What is left of a URL that was taken for a path.
    "data.manifest=https:/example.org/m.csv",
    "data.manifest=https://example.org/m.csv",
    "model.weights=s3://bucket/w.safetensors",
    "pretraining.extra=ftp://x/y",
]


@pytest.mark.parametrize("override", URLS)
def test_nothing_is_read_from_a_network(override: str) -> None:
    with pytest.raises(ConfigError, match="nothing is read from a network"):
        load_config(None, [override], model=SCHEMAS["polyp"])


def test_a_config_of_another_task_is_called_that() -> None:
    with pytest.raises(ConfigError, match=r"is a config of the task abide; this command reads those of polyp"):
        load_config("abide/default", model=SCHEMAS["polyp"])
