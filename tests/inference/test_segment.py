from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medformer.data.frames.transforms import normalize, resize_image
from medformer.errors import DataError, ResourceError
from medformer.inference.frames.segment import Segmenter

torch.set_num_threads(1)


class Brightness(nn.Module):
    """Logits proportional to the red channel, off-center so that flips matter."""

    def __init__(self, gain: float = 1.0, kernel: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 1, kernel, padding="same", bias=False)
        self.drop = nn.Dropout(0.5)
        nn.init.zeros_(self.conv.weight)
        with torch.no_grad():
            self.conv.weight[0, 0, 0, 0] = gain

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.conv(x))


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_probability_is_the_sigmoid_of_the_logits_at_the_networks_size() -> None:
    image = picture(16, 24)
    (probability,) = Segmenter([Brightness()], image_size=(16, 24), flips=False).predict([image])
    expected = 1 / (1 + np.exp(-normalize(image)[0]))
    assert probability.dtype == np.float32
    np.testing.assert_allclose(probability, expected, atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (17, 31), (64, 48), (300, 5)])
def test_every_image_size_comes_back_at_its_own_size(size: tuple[int, int]) -> None:
    (probability,) = Segmenter([Brightness(kernel=3)], image_size=(32, 48)).predict([picture(*size)])
    assert probability.shape == size
    assert 0.0 <= probability.min() <= probability.max() <= 1.0


def test_a_5000_pixel_image_comes_back_at_its_own_size() -> None:
    image = np.zeros((5000, 5000, 3), np.uint8)
    image[:2500] = 255
    (probability,) = Segmenter([Brightness(gain=9.0)], image_size=(32, 32), flips=False).predict([image])
    assert probability.shape == (5000, 5000)
    assert probability[:2400].min() > 0.9 and probability[2600:].max() < 0.1


def test_resizing_back_is_bilinear_about_pixel_centers() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    image[:, 2:] = 255
    model = Brightness(gain=50.0)
    (probability,) = Segmenter([model], image_size=(2, 2), flips=False).predict([image])
    np.testing.assert_allclose(probability, np.tile([0.0, 0.25, 0.75, 1.0], (4, 1)), atol=1e-6)


def test_flips_make_the_prediction_equivariant_to_flips() -> None:
    image = picture(24, 32)
    model = Brightness(kernel=3)
    segmenter = Segmenter([model], image_size=(24, 32), flips=True)
    plain, mirrored = segmenter.predict([image, image[::-1, ::-1]])
    np.testing.assert_allclose(plain[::-1, ::-1], mirrored, atol=1e-6)
    one_view = Segmenter([model], image_size=(24, 32), flips=False).predict([image, image[::-1, ::-1]])
    assert np.abs(one_view[0][::-1, ::-1] - one_view[1]).max() > 0.1


def test_an_ensemble_averages_probabilities_not_logits() -> None:
    image = picture(8, 8)
    first, second = Brightness(0.5), Brightness(-3.0)
    alone = [Segmenter([model], image_size=(8, 8), flips=False).predict([image])[0] for model in (first, second)]
    (both,) = Segmenter([first, second], image_size=(8, 8), flips=False).predict([image])
    np.testing.assert_allclose(both, (alone[0] + alone[1]) / 2, atol=1e-6)


def test_the_batch_size_does_not_change_the_answer() -> None:
    images = [picture(10 + i, 20 - i, seed=i) for i in range(5)]
    answers = [
        Segmenter([Brightness(kernel=3)], image_size=(16, 16), batch_size=size).predict(images) for size in (1, 2, 8)
    ]
    for one, two, eight in zip(*answers, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-6)
        np.testing.assert_allclose(one, eight, atol=1e-6)


def test_models_are_left_as_they_were_found() -> None:
    model = Brightness()
    model.train()
    model.conv.eval()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    segmenter = Segmenter([model], image_size=(8, 8))
    first, second = segmenter.predict([picture(8, 8)]), segmenter.predict([picture(8, 8)])
    assert model.training and model.drop.training and not model.conv.training
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    np.testing.assert_array_equal(first[0], second[0])  # dropout was off


def test_training_flags_come_back_even_after_an_error() -> None:
    model = Brightness()
    with torch.no_grad():
        model.conv.weight.fill_(float("nan"))
    model.train()
    with pytest.raises(DataError):
        Segmenter([model], image_size=(8, 8)).predict([picture(8, 8)])
    assert model.training


def test_nan_output_names_the_case_and_only_that_case() -> None:
    class Picky(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.where(x[:, :1].mean((1, 2, 3), keepdim=True) > 2.0, float("nan"), x[:, :1])

    images = [np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 255, np.uint8)]
    with pytest.raises(DataError, match=r"NaN or infinite for bright\. ") as caught:
        Segmenter([Picky()], image_size=(8, 8)).predict(images, ["dark", "bright"])
    assert "dark" not in str(caught.value)


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), picture(0, 4)],
)
def test_an_image_of_another_kind_is_refused_by_name(image: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"case-3: the image has shape .* expected RGB uint8"):
        Segmenter([Brightness()], image_size=(8, 8)).predict([image], ["case-3"])


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("can't allocate memory")])
def test_out_of_memory_gives_sizes_and_advice(error: Exception) -> None:
    class Greedy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise error

    with pytest.raises(ResourceError, match=r"2 image\(s\) at 8 x 12 px.*smaller inference.batch_size"):
        Segmenter([Greedy()], image_size=(8, 12)).predict([picture(8, 8)] * 2)


def test_other_runtime_errors_are_not_disguised() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("sizes of tensors must match")

    with pytest.raises(RuntimeError, match="sizes of tensors must match"):
        Segmenter([Broken()], image_size=(8, 8)).predict([picture(8, 8)])


def test_reduced_precision_stays_close() -> None:
    image = picture(16, 16)
    full, half = (
        Segmenter([Brightness(kernel=3)], image_size=(16, 16), precision=precision).predict([image])[0]
        for precision in ("32-true", "bf16-mixed")
    )
    assert half.dtype == np.float32
    np.testing.assert_allclose(full, half, atol=2e-2)


def test_a_large_image_is_reduced_by_area() -> None:
    image = picture(64, 64)
    (probability,) = Segmenter([Brightness()], image_size=(16, 16), flips=False).predict([image])
    small = 1 / (1 + np.exp(-normalize(resize_image(image, (16, 16)))[0]))
    assert abs(float(probability.mean()) - float(small.mean())) < 1e-3
