from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.networks.nets import resnet18

from medformer.config import VolumeConfig
from medformer.config.shared import ModelConfig
from medformer.config_loading import load_config
from medformer.errors import ConfigError
from medformer.models.autoencoder import masked_autoencoder, spread
from medformer.models.backbone.variants import Classifier, count_parameters
from medformer.models.networks.build import CLASSIFIER, build_network
from medformer.models.networks.grid import Grid
from medformer.models.networks.kernel import KernelPath
from medformer.models.networks.meta_unet import MetaUNet
from medformer.tasks.volume.network import new_network, small_plan

STRIDES, KERNELS = ((2, 2, 1), (2, 2, 2), (2, 2, 2), (1, 1, 1)), ((3, 3, 1), (3, 3, 3), (3, 3, 3), (3, 3, 3))

CONFIG = VolumeConfig().model.model_copy(update={"backbone": CLASSIFIER})


def segmenter(name: str = "meta_unet", channels: int = 2, backbone: str = "convformer_v8") -> torch.nn.Module:
    torch.manual_seed(0)
    config = VolumeConfig().model.model_copy(update={"name": name, "backbone": backbone})
    return build_network(config, Grid(channels, 3, (32, 32, 16), (1, 1, 2.5), STRIDES, KERNELS))


def classifier(channels: int, classes: int = 2, config: ModelConfig = CONFIG) -> Classifier:
    grid = Grid(channels, classes, (28, 28, 28), strides=STRIDES, kernel_sizes=KERNELS)
    model = build_network(config, grid, target="classification")
    assert isinstance(model, Classifier)
    return model


@pytest.mark.parametrize("size", [(28, 28, 28), (17, 9, 5), (1, 1, 1)])
def test_a_classifier_takes_any_size(size: tuple[int, int, int]) -> None:
    model = classifier(2, classes=3).eval()
    x = torch.randn(2, 2, *size)
    with torch.no_grad():
        logits = model(x)
        torch.testing.assert_close(model(x[1:]), logits[1:], atol=1e-4, rtol=1e-4)
    assert logits.shape == (2, 3)


def test_a_classifier_has_the_encoder_of_the_segmentation_network() -> None:
    """So that masked pretraining serves both."""
    model = classifier(2)
    network = segmenter(backbone=CLASSIFIER)
    assert isinstance(network, MetaUNet)
    model.backbone.load_state_dict(network.backbone.state_dict())


def test_a_classifier_learns_the_size_of_a_shape_that_fills_little_of_the_image() -> None:
    """Averages over mostly empty images differ little; instance norm and a plain head learned nothing from them."""
    torch.manual_seed(0)
    model = classifier(1)
    distance = torch.stack(torch.meshgrid(*[torch.arange(16.0) - 7.5] * 3, indexing="ij")).square().sum(0).sqrt()

    def images(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        large = torch.randint(2, (count,))
        radius = 2.5 + 1.0 * large + 0.5 * torch.rand(count)
        return (distance < radius.view(-1, 1, 1, 1)).float().unsqueeze(1), large

    steps, optimizer = 40, torch.optim.AdamW(model.parameters(), lr=3e-4)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    for _ in range(steps):
        x, y = images(8)
        loss = torch.nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
    x, y = images(64)
    with torch.no_grad():
        assert (model.eval()(x).argmax(1) == y).float().mean() > 0.9


def test_instance_norm_is_refused_for_classes() -> None:
    with pytest.raises(ConfigError, match=r"convformer_v8 has instance norm.*model.backbone=convformer_c8"):
        classifier(1, config=VolumeConfig().model)


def test_segmentation_peers_do_not_classify() -> None:
    with pytest.raises(ConfigError, match=r"monai:unet.*segments only.*meta_unet"):
        classifier(1, config=ModelConfig(name="monai:unet"))


@pytest.mark.parametrize(
    ("size", "stem"),
    [
        ((33, 16, 16), {"conv1_t_size": 7, "conv1_t_stride": 2}),
        ((32, 32, 32), {"conv1_t_size": 3, "conv1_t_stride": 1, "no_max_pool": True}),
    ],
)
def test_resnet18_is_the_librarys_with_the_stem_for_the_size(size: tuple[int, int, int], stem: dict[str, Any]) -> None:
    published = resnet18(n_input_channels=2, num_classes=3, bias_downsample=False, **stem).eval()
    model = build_network(ModelConfig(name="monai:resnet18"), Grid(2, 3, size), target="classification").eval()
    assert count_parameters(model) == count_parameters(published)
    # The pooling of the stem has no weights, but decides how many positions the stages see.
    model.load_state_dict(
        {
            ("head" if key.startswith("fc.") else "backbone.network.") + key.removeprefix("fc"): value
            for key, value in published.state_dict().items()
        }
    )
    x = torch.randn(1, 2, *size)
    with torch.no_grad():
        torch.testing.assert_close(model(x), published(x))


def test_resnet18_stands_beside_a_kernel_machine_as_the_backbone_does() -> None:
    config = load_config("volume/classification", ["model.name=monai:resnet18"], model=VolumeConfig)
    plan = small_plan(config)
    model, x = new_network(config, plan, 0), torch.randn(2, 1, *plan.patch)
    assert isinstance(model, Classifier) and isinstance(model.wide, KernelPath)
    with torch.no_grad():
        assert torch.equal(model.classify(x), torch.zeros(2, 2)), "it starts from nothing"
        model.wide.bias.fill_(3.0)
        assert torch.allclose(model.eval()(x).diff(dim=1), torch.tensor(3.0), atol=1e-5)


@pytest.mark.parametrize("size", [(32, 32, 16), (13, 18, 5)])
def test_a_reconstruction_has_the_shape_of_the_volume(size: tuple[int, int, int]) -> None:
    with torch.no_grad():
        assert masked_autoencoder(segmenter())(torch.randn(2, 2, *size)).shape == (2, 2, *size)


def test_pretraining_trains_the_networks_own_encoder() -> None:
    network = segmenter()
    assert isinstance(network, MetaUNet)
    autoencoder, x = masked_autoencoder(network), torch.randn(2, 2, 16, 16, 8)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    optimizer = torch.optim.AdamW(autoencoder.parameters(), lr=1e-2)
    losses = []
    for _ in range(12):
        loss = (autoencoder(x) - x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        assert [key for key, p in autoencoder.named_parameters() if p.grad is None] == []
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    changed = {key for key, value in network.state_dict().items() if not torch.equal(value, before[key])}
    assert {key for key, _ in network.named_parameters() if key.startswith("backbone.")} == changed


def test_peers_are_not_pretrained() -> None:
    for peer in (segmenter("monai:unet", channels=1), classifier(1, config=ModelConfig(name="monai:resnet18"))):
        with pytest.raises(ConfigError, match=r"shared backbone.*meta_unet"):
            masked_autoencoder(peer)


def test_a_position_predicts_the_voxels_under_it() -> None:
    x = torch.arange(2 * 8 * 3 * 2).reshape(2, 8, 3, 2)
    assert torch.equal(spread(x, (2, 2)), torch.nn.functional.pixel_shuffle(x, 2))
    volume = spread(torch.arange(12).reshape(1, 12, 1, 1, 1), (1, 2, 3))
    assert torch.equal(volume, torch.arange(12).reshape(1, 2, 1, 2, 3))
