from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from medformer.config import PolypConfig
from medformer.config_loading import load_config
from medformer.crossval.plan import Fold
from medformer.data.manifest import Manifest
from medformer.errors import CheckpointError, ConfigError, ResourceError
from medformer.models.networks.pretrained import resolve_weights
from medformer.tasks.polyp.learner import make_objective
from medformer.tasks.polyp.study import PolypStudy
from medformer.training.optimizer import learning_rate_factor

TINY = ["model.backbone=poolformerv2_s12", "data.image_size=[64, 64]", "training.accelerator=cpu"]


def check_settings(name: str, overrides: Sequence[str] = ()) -> None:
    """Check a config as a run does, on a manifest without cases: nothing can be read."""
    study(overrides, name).check()


def study(overrides: Sequence[str], name: str = "polyp/default") -> PolypStudy:
    config = load_config(name, overrides, model=PolypConfig)
    return PolypStudy(config=config, data=Manifest(Path("nowhere.csv"), Path(), ()))


@pytest.mark.parametrize(
    ("override", "kind", "message"),
    [
        ("model.name=meta_polip", ConfigError, "Did you mean 'meta_polyp'"),
        ("model.name=smp:unet/resnet35", ConfigError, "encoder 'resnet35'"),
        ("model.backbone=poolformer_s13", ConfigError, "backbone 'poolformer_s13'"),
        ("loss.name=dicee", ConfigError, "Did you mean 'dice'"),
        ("model.weights=nowhere.safetensors", CheckpointError, "nowhere.safetensors"),
    ],
)
def test_a_wrong_setting_is_named_before_any_image_is_read(override: str, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        check_settings("polyp/default", [*TINY, override])


def test_a_missing_device_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(ResourceError, match="0 CUDA devices"):
        check_settings("polyp/default", [*TINY, "training.accelerator=cuda"])


def test_images_too_small_to_train_on_are_refused_with_their_size() -> None:
    settings = [*TINY, "data.image_size=[64, 32]", "training.batch_size=1", "augment.scales=[0.5, 1.0]"]
    with pytest.raises(ConfigError, match=r"one training image of 32 x 16 px, height x width .*Raise data.image_size"):
        check_settings("polyp/default", settings)


def test_one_training_image_is_refused_where_batch_norm_needs_two() -> None:
    settings = [*TINY, "model.name=smp:deeplabv3plus/resnet18"]
    study(settings).check()
    one, two = (Fold(0, tuple("ab")[:cases], (), ()) for cases in (1, 2))
    study(settings).check_training(two, None)
    with pytest.raises(ConfigError, match=r"one training image of 64 x 64 px.*smallest training part .* add patients"):
        study(settings).check_training(one, None)
    study([*TINY, "model.name=meta_unet"]).check_training(one, None)


def test_values_of_masks_are_numbers_ranges_or_colors() -> None:
    for given, found in (
        ("[1, 2]", ("1", "2")),
        ("'1,128-255'", ("1", "128-255")),
        ("[FF0000]", ("ff0000",)),
        ("[]", ()),
    ):
        assert study([*TINY, f"data.foreground={given}"]).config.data.foreground == found
    with pytest.raises(ConfigError, match=r"data\.foreground.*'red'; expected mask values such as 1"):
        study([*TINY, "data.foreground=[red]"])


def test_weights_for_a_network_without_an_encoder_are_refused(tmp_path: Path) -> None:
    settings = [*TINY, "model.name=monai:unet", f"model.weights={tmp_path / 'w.safetensors'}"]
    with pytest.raises(ConfigError, match=r"model\.weights=null"):
        check_settings("polyp/default", settings)


@pytest.mark.parametrize("name", ["meta_polyp", "smp:unet/resnet18"])
def test_what_can_be_trained_passes(name: str) -> None:
    check_settings("polyp/default", [*TINY, f"model.name={name}"])


def test_levels_of_random_weights_are_not_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"model\.frozen=1 keeps .* would be random.*medformer weights list"):
        check_settings("polyp/cpu", ["model.weights=null"])
    with pytest.raises(ConfigError, match="would be random"):
        check_settings("polyp/cpu", ["model.weights=null", "pretraining.enabled=true"])
    # What `auto` stands for where no weights are: none, and nothing is frozen.
    monkeypatch.setattr("medformer.models.networks.pretrained.choose_weights", lambda network: None)
    chosen = resolve_weights(load_config("polyp/cpu", model=PolypConfig).model)[0]
    assert (chosen.weights, chosen.frozen) == (None, 0)
    check_settings("polyp/cpu")


@pytest.mark.parametrize(
    ("override", "weights"),
    [("model.backbone=lite0_metaformer", "tf_efficientnet_lite0.in1k"), ("model.name=monai:unet", None)],
)
def test_auto_takes_the_weights_that_are_here_and_suit(override: str, weights: str | None) -> None:
    assert resolve_weights(load_config("polyp/cpu", [override], model=PolypConfig).model)[0].weights == weights


@pytest.mark.parametrize("name", ["polyp/default", "polyp/quick", "polyp/pranet_protocol", "polyp/cpu"])
def test_the_shipped_configs_can_be_trained(name: str) -> None:
    check_settings(name)


def test_the_recipe_of_pranet_is_the_published_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDFORMER_WEIGHTS", str(tmp_path))
    with pytest.raises(ConfigError, match=r"res2net50d\.in1k are not on this machine\. .*medformer weights get"):
        check_settings("polyp/pranet")
    check_settings("polyp/pranet", ["model.weights=null"])
    config = load_config("polyp/pranet", model=PolypConfig)
    objective, training = make_objective(config), config.training
    assert (objective.loss.name, objective.side_weight, objective.scales) == ("structure_legacy", 1.0, (0.75, 1, 1.25))
    assert (objective.visits, config.data.image_size, training.batch_size) == (3, (352, 352), 16)
    rates = [learning_rate_factor(s, training.warmup, schedule=training.lr_schedule) for s in (0.0, 0.5, 1.0)]
    assert (training.lr, training.epochs, rates) == (1e-4, 19, [1.0, 1.0, 1.0])
    assert (training.weight_decay, training.clip, training.clip_by, training.ema) == (0.0, 0.5, "value", 0.0)
    augment = config.augment
    assert not any((augment.flip, augment.rotate90, augment.affine, augment.color, augment.blur))
