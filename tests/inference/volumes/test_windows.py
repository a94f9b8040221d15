from __future__ import annotations

import pytest
import torch
from monai.inferers.utils import sliding_window_inference
from torch import Tensor, nn

from medformer.inference.volumes import windows
from medformer.inference.volumes.windows import count_windows, fits_on, gaussian_weights, stream, window_starts

torch.set_num_threads(1)


def volume(*shape: int, channels: int = 1, seed: int = 0) -> Tensor:
    return torch.rand(channels, *shape, generator=torch.Generator().manual_seed(seed))


def network(channels: int = 1, classes: int = 3) -> nn.Module:
    torch.manual_seed(1)
    return nn.Conv3d(channels, classes, 3, padding=1).requires_grad_(False)


@pytest.mark.parametrize(
    ("size", "patch", "overlap", "expected"),
    [
        (10, 10, 0.5, (0,)),
        (7, 10, 0.5, (0,)),
        (11, 10, 0.5, (0, 1)),
        (20, 10, 0.5, (0, 5, 10)),
        (20, 10, 0.0, (0, 10)),
        (21, 10, 0.0, (0, 10, 11)),
        (4, 2, 0.99, (0, 1, 2)),
        (3, 1, 0.5, (0, 1, 2)),
    ],
)
def test_windows_start_where_they_must(size: int, patch: int, overlap: float, expected: tuple[int, ...]) -> None:
    assert window_starts(size, patch, overlap) == expected


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.8])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(
    ("shape", "patch"), [((20, 17, 23), (8, 8, 8)), ((8, 9, 30), (8, 6, 10)), ((12, 12, 12), (12, 12, 12))]
)
def test_it_is_monais_sliding_window(
    shape: tuple[int, int, int], patch: tuple[int, int, int], axis: int, overlap: float
) -> None:
    image, model = volume(*shape, channels=2), network(2)
    pieces = list(stream(image, model, patch=patch, overlap=overlap, batch_size=3, axis=axis))
    expected = sliding_window_inference(image[None], patch, 1, model, overlap=overlap, mode="gaussian")
    torch.testing.assert_close(torch.cat(pieces, dim=axis + 1), expected[0], atol=1e-5, rtol=1e-5)


def test_a_device_holds_the_maps_where_they_take_a_quarter_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fits_on(torch.device("cpu"), (1, 512, 512, 4000), 100, patch=(64, 64, 64), axis=2)
    monkeypatch.setattr(windows, "_free_memory", lambda device: 4.0 * 4 * (2 + 2 * 3 + 1) * 8 * 20 * 8)
    assert fits_on(torch.device("cuda"), (2, 5, 20, 900), 3, patch=(8, 8, 8), axis=2)
    assert not fits_on(torch.device("cuda"), (2, 5, 21, 900), 3, patch=(8, 8, 8), axis=2)
    assert not fits_on(torch.device("cuda"), (2, 5, 20, 900), 3, patch=(8, 8, 8), axis=1)


def test_windows_are_cut_where_they_are_predicted_and_pieces_come_back() -> None:
    image, moved = volume(9, 9, 9), []

    class Image(Tensor):
        """Notes where it is moved to."""

        def to(self, device: torch.device) -> Tensor:  # type: ignore[override]
            moved.append(device)
            return self.as_subclass(Tensor)

    pieces = stream(image.as_subclass(Image), network(), patch=(6, 6, 6), device=torch.device("cpu", 0))
    list(pieces)
    assert moved == [torch.device("cpu", 0)] * 2, "once for each place along the axis, not for each window"


@pytest.mark.parametrize("shape", [(1, 9, 9), (5, 20, 7), (1, 1, 1), (20, 3, 20)])
@pytest.mark.parametrize("axis", [0, 2])
def test_a_volume_smaller_than_the_window_is_padded_with_its_minimum(shape: tuple[int, int, int], axis: int) -> None:
    image, model = volume(*shape), network()
    pieces = list(stream(image, model, patch=(8, 8, 8), axis=axis))
    lowest = float(image.min())
    expected = sliding_window_inference(image[None], (8, 8, 8), 1, model, overlap=0.5, mode="gaussian", cval=lowest)
    torch.testing.assert_close(torch.cat(pieces, dim=axis + 1), expected[0], atol=1e-5, rtol=1e-5)


def test_the_whole_is_its_pieces() -> None:
    image, model = volume(9, 10, 40), network()
    pieces = list(stream(image, model, patch=(8, 8, 8)))
    assert len(pieces) > 4
    again = torch.cat(list(stream(image, model, patch=(8, 8, 8))), -1)
    assert again.shape[1:] == image.shape[1:]
    torch.testing.assert_close(again, torch.cat(pieces, -1), atol=0, rtol=0)


def test_every_window_is_seen_once_and_no_batch_is_larger_than_asked() -> None:
    batches: list[int] = []

    def predict(windows: Tensor) -> Tensor:
        batches.append(len(windows))
        return windows

    image = volume(20, 17, 23)
    torch.testing.assert_close(torch.cat(list(stream(image, predict, patch=(8, 8, 8), batch_size=4)), -1), image)
    assert sum(batches) == count_windows((20, 17, 23), (8, 8, 8), 0.5) == 4 * 4 * 5
    assert max(batches) == 4


def test_weights_fall_from_the_center_and_never_vanish() -> None:
    weights = gaussian_weights((9, 9, 9))
    assert weights.max() == weights[4, 4, 4] == 1
    assert weights.min() == pytest.approx(1e-3)
    assert gaussian_weights((1, 1, 1)).item() == 1


def test_a_network_of_another_size_is_named() -> None:
    with pytest.raises(ValueError, match=r"returned \(1, 1, 4, 4, 4\)"):
        list(stream(volume(8, 8, 8), lambda windows: windows[..., :4, :4, :4], patch=(8, 8, 8)))
