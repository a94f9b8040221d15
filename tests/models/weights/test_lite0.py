"""EfficientNet-Lite0 of the extra `imagenet`: the same as timm's own, and it knows what is in a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import nn

from medformer.config.shared import IMAGE_MEAN, IMAGE_STD, ModelConfig
from medformer.data.frames.transforms import normalize, resize_image
from medformer.errors import ConfigError
from medformer.models.backbone.renormalize import Renormalize
from medformer.models.networks.build import build_network
from medformer.models.networks.grid import Grid
from medformer.models.networks.pretrained import load_encoder, network_encoder
from medformer.models.weights.loading import load_features, read_weights, rename
from medformer.models.weights.store import find_weights
from medformer.tensor_file import write_tensors

NAME, NETWORK = "tf_efficientnet_lite0.in1k", "tf_efficientnet_lite0"
# Numbers of ImageNet-1k: all cats but the big ones, and what is around a coffee cup.
CATS, CUPS = range(281, 286), {504, 967, 968, 969}


@pytest.fixture(scope="module")
def classifier() -> nn.Module:
    network = timm.create_model(NETWORK, pretrained=False)
    network.load_state_dict(rename(read_weights(find_weights(NAME).path)))
    return network.eval()


@pytest.mark.parametrize(("picture", "classes"), [("chelsea.png", set(CATS)), ("coffee.png", CUPS)])
def test_it_says_what_pictures_show(classifier: nn.Module, picture: str, classes: set[int]) -> None:
    import skimage.data
    from PIL import Image

    image = np.asarray(Image.open(Path(skimage.data.__file__).with_name(picture)).convert("RGB"))
    source, renormalize = find_weights(NAME).source, Renormalize()
    renormalize.follow(source.mean, source.std)
    # As a network of ours is given a picture.
    given = torch.from_numpy(normalize(resize_image(image, (source.size, source.size))))[None]
    with torch.no_grad():
        best = int(classifier(renormalize(given)).argmax())
    assert best in classes


def test_renormalizing_gives_what_the_weights_were_trained_with() -> None:
    image = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    given = torch.from_numpy(normalize(image))[None]
    renormalize = Renormalize()
    assert torch.equal(renormalize(given), given)
    source = find_weights(NAME).source
    renormalize.follow(source.mean, source.std)
    expected = torch.from_numpy((image.astype(np.float32) - 127) / 128).permute(2, 0, 1)[None]
    torch.testing.assert_close(renormalize(given), expected, atol=1e-5, rtol=0)
    renormalize.follow(IMAGE_MEAN, IMAGE_STD)
    torch.testing.assert_close(renormalize(given), given, atol=1e-6, rtol=0)


def test_features_are_those_of_timm(classifier: nn.Module) -> None:
    features = timm.create_model(NETWORK, pretrained=False, features_only=True).eval()
    load_features(features, find_weights(NAME).path)
    x = torch.rand(1, 3, 65, 70)
    with torch.no_grad():
        last = classifier.get_submodule("blocks")(classifier.get_submodule("bn1")(classifier.conv_stem(x)))
        torch.testing.assert_close(features(x)[-1], last, atol=1e-5, rtol=0)


@pytest.mark.parametrize("encoder", [f"tu-{NETWORK}", f"timm-{NETWORK}"])
def test_a_peer_has_the_same_weights_and_sees_the_same_images(classifier: nn.Module, encoder: str) -> None:
    config = ModelConfig(name=f"smp:unet/{encoder}", weights=NAME)
    network = build_network(config, Grid(3, 1, (64, 64))).eval()
    load_encoder(network, config)
    part, trunk = network_encoder(network), classifier.get_submodule("blocks").state_dict()
    assert part is not None
    assert all(torch.equal(value, trunk[key]) for key, value in part.get_submodule("blocks").state_dict().items())
    pixels = torch.rand(1, 3, 64, 64)
    mean, std = (torch.tensor(each)[:, None, None] for each in (IMAGE_MEAN, IMAGE_STD))
    seen: list[torch.Tensor] = []
    network.network.encoder.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    network((pixels - mean) / std)
    torch.testing.assert_close(seen[0], pixels * 255 / 128 - 127 / 128, atol=1e-5, rtol=0)


def test_an_encoder_of_ours_has_the_maps_of_timm_also_when_the_pretrained_file_is_gone() -> None:
    config = ModelConfig(name="meta_unet", backbone="lite0_metaformer", weights=NAME)
    network = build_network(config, Grid(3, 1, (64, 64))).eval()
    load_encoder(network, config)
    features = timm.create_model(NETWORK, pretrained=False, features_only=True).eval()
    load_features(features, find_weights(NAME).path)
    again = build_network(config, Grid(3, 1, (64, 64))).eval()
    again.load_state_dict(network.state_dict())
    given = torch.randn(1, 3, 64, 64)
    backbone = again.get_submodule("backbone")
    with torch.no_grad():
        shown = backbone.get_submodule("renormalize")(given)
        for level, wanted in zip(backbone.get_submodule("encoder")(shown), features(shown), strict=True):
            torch.testing.assert_close(level, wanted, atol=1e-5, rtol=0)
        torch.testing.assert_close(again(given), network(given))
    pixels = given * torch.tensor(IMAGE_STD)[:, None, None] + torch.tensor(IMAGE_MEAN)[:, None, None]
    torch.testing.assert_close(shown, (pixels * 255 - 127) / 128, atol=1e-5, rtol=0)


def test_the_encoder_of_a_network_of_ours_comes_with_the_images_that_it_sees(tmp_path: Path) -> None:
    config = ModelConfig(name="meta_unet", backbone="lite0_metaformer", weights=NAME)
    source = build_network(config, Grid(3, 1, (64, 64)))
    load_encoder(source, config)
    own = tmp_path / "model.safetensors"
    write_tensors(own, source.state_dict(), {"task": "polyp", "purpose": "segmentation"})
    again = ModelConfig(name="meta_light", backbone="lite0_metaformer", weights=str(own))
    target = build_network(again, Grid(3, 2, (64, 64)))
    load_encoder(target, again)
    expected = source.get_submodule("backbone").state_dict()
    assert all(
        torch.equal(value, expected[key]) for key, value in target.get_submodule("backbone").state_dict().items()
    )
    peer = ModelConfig(name=f"smp:unet/tu-{NETWORK}", weights=str(own))
    with pytest.raises(ConfigError, match="--init-from RUN"):
        load_encoder(build_network(peer, Grid(3, 1, (64, 64))), peer)


def test_a_peer_without_weights_is_built_as_before() -> None:
    plain = build_network(ModelConfig(name=f"smp:unet/tu-{NETWORK}"), Grid(3, 1, (64, 64)))
    assert not any(isinstance(module, Renormalize) for module in plain.modules())


def test_weights_of_another_network_are_refused_by_name() -> None:
    config = ModelConfig(name="smp:unet/tu-resnet18", weights=NAME)
    network = build_network(config, Grid(3, 1, (64, 64)))
    with pytest.raises(
        ConfigError,
        match=r"of tf_efficientnet_lite0, and .*smp:unet/tu-resnet18.* resnet18\. .*by name: set model\.weights=null",
    ):
        load_encoder(network, config)
