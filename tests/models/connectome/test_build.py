from __future__ import annotations

from typing import Any

import pytest

from medformer.config import ConnectomeModelConfig
from medformer.errors import ConfigError, DataError, UnknownNameError
from medformer.models.connectome.build import (
    DEFECTS,
    active_defects,
    build_connectome_model,
    check_connectome_model,
)

REGIONS = {"aal": 7}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ConnectomeModelConfig(name="metaformer_papr"), "connectome model 'metaformer_papr'. Did you mean"),
        (ConnectomeModelConfig(mixer="atention"), "token mixer 'atention'. Did you mean 'attention'"),
        (ConnectomeModelConfig(name="metaformer_paper", defects=("across_subject",)), "Did you mean 'across_subjects'"),
    ],
)
def test_an_unknown_name_gets_the_nearest_known_one(config: ConnectomeModelConfig, message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        build_connectome_model(config, REGIONS)


def test_a_defect_of_another_architecture_is_refused() -> None:
    with pytest.raises(ConfigError, match="got across_subjects with roi_metaformer"):
        build_connectome_model(ConnectomeModelConfig(defects=("noise_at_test", "across_subjects")), REGIONS)


def test_defects_outside_the_model_go_with_any_model() -> None:
    outside = tuple(name for name, entry in DEFECTS.items() if entry.part != "model")
    build_connectome_model(ConnectomeModelConfig(defects=outside), REGIONS)


def test_as_published_implies_its_defects_and_the_others_none() -> None:
    published = ConnectomeModelConfig(name="metaformer_as_published", defects=("noise_at_test",))
    assert active_defects(published) == {"across_subjects", "swapped_arguments", "noise_at_test"}
    assert active_defects(ConnectomeModelConfig(name="metaformer_paper")) == frozenset()


def test_a_width_that_attention_cannot_have_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="the token mixer attention of stage 0: attention: got 40 channels"):
        build_connectome_model(ConnectomeModelConfig(mixer="attention", width=40), REGIONS)


def test_no_atlas_is_an_error_of_the_data() -> None:
    with pytest.raises(DataError, match="no atlas"):
        build_connectome_model(ConnectomeModelConfig(), {})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "metaformer_paper", "mixers": ("pooling",)}, r"no token mixers. Set model\.mixers=null"),
        ({"name": "metaformer_as_published", "block": "parallel"}, r"Set model\.block=sequential"),
    ],
)
def test_what_a_model_would_leave_out_of_account_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_connectome_model(ConnectomeModelConfig(**settings))
    check_connectome_model(ConnectomeModelConfig(mixers=("pooling",), block="parallel"))
    check_connectome_model(ConnectomeModelConfig(name="roi:meta_unet", mixers=("pooling",)))


def test_blocks_and_width_of_mlps_reach_the_networks_in_the_place_of_the_backbone() -> None:
    def shapes(**settings: object) -> dict[str, tuple[int, ...]]:
        config = ConnectomeModelConfig(name="roi:meta_unet", width=32).model_copy(update=settings)
        return {
            name: tuple(value.shape) for name, value in build_connectome_model(config, REGIONS).state_dict().items()
        }

    block = "encoder.backbone.backbone.stages.0.blocks.0"
    usual, wide = shapes(), shapes(mlp_ratio=3.0)
    assert 2 * wide[f"{block}.mlp.fc1.weight"][0] == 3 * usual[f"{block}.mlp.fc1.weight"][0]
    assert f"{block}.norm2.weight" in usual and f"{block}.norm2.weight" not in shapes(block="parallel")
    with pytest.raises(ConfigError, match=r"monai:unet does not support model.block: .*Leave it out"):
        shapes(name="roi:monai:unet", block="parallel")
