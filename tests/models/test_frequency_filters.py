"""Frequency filters against dense matrices of their kernels, and at other sizes than theirs."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from medformer.models.backbone.blocks import initialize
from medformer.models.backbone.frequency_filters import FrequencyFilters, Keeps
from medformer.models.backbone.mixers.frequency.learned_filters import DynamicFilter, GlobalFilter
from medformer.models.backbone.variants import build_backbone, count_parameters

GRIDS = [(6,), (5,), (6, 5), (5, 4), (3, 2, 4), (2, 4, 3)]
MAPS = {1: [(1,), (4,), (13,)], 2: [(1, 3), (4, 9), (12, 5)], 3: [(1, 1, 1), (4, 3, 5)]}
HEAD = 3_104_744


def make(
    grid: tuple[int, ...], count: int = 3, *, keeps: Keeps = "kernel", wrap: bool = True, shared: bool = False
) -> FrequencyFilters:
    torch.manual_seed(0)
    return FrequencyFilters(
        count, shared=shared, spatial_dims=len(grid), stage=0, grid=grid, keeps=keeps, wrap=wrap
    ).double()


def sample(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def every(ranges: list[range]) -> Tensor:
    return torch.cartesian_prod(*(torch.tensor(list(numbers)) for numbers in ranges)).view(-1, len(ranges))


def dense(filters: FrequencyFilters, size: tuple[int, ...]) -> Tensor:
    """The matrix of each filter, `(filters, positions, positions)`: circulant, or with zeros around the map.

    Kernels come from the spectra by the sum that defines the inverse transform: a frequency counts twice where its
    mirror image is not in the half spectrum.
    """
    grid = torch.tensor(filters.grid)
    offsets = every([range(-(n // 2), n - n // 2) for n in filters.grid])
    waves = every([*(range(n) for n in filters.grid[:-1]), range(filters.grid[-1] // 2 + 1)])
    angles = 2 * math.pi * (offsets / grid.double()) @ waves.double().T
    alone = (waves[:, -1] == 0) | (2 * waves[:, -1] == grid[-1])
    real, imaginary = (filters.spectra * torch.where(alone, 1.0, 2.0)[:, None]).unbind(-1)
    kernels = (real @ angles.cos().T - imaginary @ angles.sin().T) / grid.prod()

    places, extent = every([range(n) for n in size]), torch.tensor(size)
    sources = places[:, None] - offsets
    inside = torch.ones(sources.shape[:2]) if filters.wrap else ((sources >= 0) & (sources < extent)).all(-1)
    steps = torch.tensor([math.prod(size[axis + 1 :]) for axis in range(len(size))])
    columns = (sources % extent * steps).sum(-1).expand(len(kernels), -1, -1)
    matrix = torch.zeros(len(kernels), len(places), len(places), dtype=torch.float64)
    return matrix.scatter_add(2, columns, kernels[:, None] * inside)


@pytest.mark.parametrize("wrap", [True, False])
@pytest.mark.parametrize("grid", GRIDS)
def test_a_filter_is_the_dense_matrix_of_its_kernel_on_any_map(grid: tuple[int, ...], wrap: bool) -> None:
    for size in (grid, *MAPS[len(grid)]):
        filters, x = make(grid, wrap=wrap), sample(2, 3, *size)
        expected = torch.einsum("cpq,bcq->bcp", dense(filters, size), x.flatten(2)).view_as(x)
        torch.testing.assert_close(filters(x), expected)


@pytest.mark.parametrize("grid", [(6,), (5, 4), (2, 4, 3)])
def test_a_dynamic_filter_is_a_mixture_of_dense_matrices_for_each_sample_and_channel(grid: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    mixer = DynamicFilter(8, spatial_dims=len(grid), stage=0, filters=3, grid=grid).double()
    x = sample(2, 8, *grid)

    def star(t: Tensor) -> Tensor:
        return torch.relu(t) ** 2

    first, _, last = mixer.routing
    logits = star(x.flatten(2).mean(-1) @ first.weight.T) @ last.weight.T
    shares = torch.softmax(10 * logits.view(2, 3, 16), dim=1)
    with torch.no_grad():
        # Shares that differ clearly.
        last.weight.mul_(10)
    hidden = star(torch.einsum("oc,bcp->bop", mixer.pwconv1.weight, x.flatten(2)))
    filtered = torch.einsum("bkc,kpq,bcq->bcp", shares, dense(mixer.filters, grid), hidden)
    expected = torch.einsum("oc,bcp->bop", mixer.pwconv2.weight, filtered).view_as(x)
    torch.testing.assert_close(mixer(x), expected)


def test_a_global_filter_has_one_for_each_of_its_channels() -> None:
    torch.manual_seed(0)
    mixer, x = GlobalFilter(4, spatial_dims=2, stage=0, grid=(5, 4)).double(), sample(2, 4, 5, 4)
    hidden = torch.relu(torch.einsum("oc,bcp->bop", mixer.pwconv1.weight, x.flatten(2))) ** 2
    filtered = torch.einsum("cpq,bcq->bcp", dense(mixer.filters, (5, 4)), hidden)
    torch.testing.assert_close(mixer(x), torch.einsum("oc,bcp->bop", mixer.pwconv2.weight, filtered).view_as(x))


@pytest.mark.parametrize("keeps", ["kernel", "frequencies"])
@pytest.mark.parametrize("grid", GRIDS)
def test_on_the_size_they_are_made_for_the_learned_numbers_are_used_as_they_are(
    grid: tuple[int, ...], keeps: Keeps
) -> None:
    filters = make(grid, keeps=keeps)
    whole, spectra = filters.spectra_for(grid)
    assert whole == grid and torch.equal(spectra.flatten(1, -2), filters.spectra)


@pytest.mark.parametrize(("grid", "size", "times"), [((6,), (4,), 5), ((5, 4), (3, 7), 2), ((2, 4, 3), (3, 1, 2), 2)])
def test_a_kept_kernel_filters_a_repeated_map_into_the_repeated_result(
    grid: tuple[int, ...], size: tuple[int, ...], times: int
) -> None:
    filters, x = make(grid), sample(2, 3, *size)
    repeats = (1, 1, *[times] * len(size))
    torch.testing.assert_close(filters(x.repeat(repeats)), filters(x).repeat(repeats))


def picture(size: tuple[int, ...], highest: tuple[int, ...]) -> Tensor:
    """A map `(1, 3, *size)` of waves with at most so many cycles along each axis, the same picture at every size."""
    positions = every([range(n) for n in size]) / torch.tensor(size, dtype=torch.float64)
    waves = every([range(-n, n + 1) for n in highest]).double()
    amplitudes, phases = sample(3, len(waves)), sample(3, len(waves)) * 9
    shown = torch.stack([torch.cos(2 * math.pi * positions @ waves.T + phase) for phase in phases])
    return torch.einsum("cpw,cw->cp", shown, amplitudes).view(1, 3, *size)


@pytest.mark.parametrize("size", [(6,), (5,), (6, 4), (5, 6), (3, 4, 2)])
@pytest.mark.parametrize("learned_on_the_finer", [False, True])
def test_kept_frequencies_do_the_same_to_a_picture_in_another_resolution(
    size: tuple[int, ...], learned_on_the_finer: bool
) -> None:
    """What both sizes can show; of an even number of positions the highest frequency has no phase in the coarser."""
    fine = tuple(2 * n for n in size)
    filters = make(fine if learned_on_the_finer else size, keeps="frequencies")
    highest = tuple((n - 1) // 2 if learned_on_the_finer else n // 2 for n in size)
    every_other = (..., *[slice(None, None, 2)] * len(size))
    torch.testing.assert_close(filters(picture(fine, highest))[every_other], filters(picture(size, highest)))


def test_kept_frequencies_take_away_those_beyond_the_learned_ones_and_never_look_across_the_highest() -> None:
    filters = make((6, 6), keeps="frequencies")
    along = torch.arange(12).double() * 2 * math.pi / 12
    beyond = torch.cos(4 * along)[:, None].expand(1, 3, 12, 12)
    torch.testing.assert_close(filters(beyond), torch.zeros_like(beyond))
    with torch.no_grad():
        # Three rows below zero frequency stand behind the others; one of them alone is learned.
        filters.spectra.zero_().view(3, 6, 4, 2)[:, 4] = 1.0
    _, spectra = filters.spectra_for((9, 12))
    assert [row for row in range(9) if float(spectra[:, row, 1:3].detach().abs().max()) > 1e-9] == [7]


@pytest.mark.parametrize("keeps", ["kernel", "frequencies"])
@pytest.mark.parametrize("wrap", [True, False])
def test_half_precision_is_transformed_in_single_precision(keeps: Keeps, wrap: bool) -> None:
    filters, x = make((6, 5), keeps=keeps, wrap=wrap).float(), sample(2, 3, 7, 5).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        low = filters(x)
    assert low.dtype == torch.bfloat16
    assert torch.equal(low, filters(x.float()).bfloat16())


@pytest.mark.parametrize("keeps", ["kernel", "frequencies"])
def test_what_a_mixer_does_at_another_size_can_be_exported_and_followed_without_memory(keeps: Keeps) -> None:
    filters, x = make((6, 5), keeps=keeps, wrap=False), sample(2, 3, 7, 4)
    with torch.no_grad():
        torch.testing.assert_close(torch.export.export(filters, (x,)).module()(x), filters(x))
    assert filters.to("meta")(x.to("meta")).shape == x.shape


def test_without_wrapping_a_border_does_not_see_the_opposite_one() -> None:
    x = torch.zeros(1, 3, 12, 9, dtype=torch.float64)
    x[..., 0, 0] = 1.0
    for keeps in ("kernel", "frequencies"):
        touched = {wrap: make((6, 5), keeps=keeps, wrap=wrap)(x)[..., -1, -1].abs().min() for wrap in (True, False)}
        assert touched[True] > 1e-6 and touched[False] < 1e-12


@pytest.mark.parametrize("shared", [True, False])
def test_first_weights_for_training_from_scratch_keep_the_variance(shared: bool) -> None:
    filters = make((8, 8), 4, shared=shared)
    initialize(filters, "fan_in")
    x = sample(4, 4, 16, 16)
    y = filters(x, torch.full((4, 4, 4), 0.25) if shared else None)
    assert 0.7 < float(y.detach().std() / x.std()) < 1.4


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("dfformer_s18", 27_219_628),
        ("dfformer_s36", 42_505_912),
        ("dfformer_m36", 61_675_896),
        ("dfformer_b36", 109_546_296),
        ("cdfformer_s18", 27_088_768),
        ("cdfformer_s36", 42_125_914),
        ("cdfformer_m36", 60_793_050),
        ("cdfformer_b36", 107_925_594),
        ("gfformer_s18", 26_535_112),
    ],
)
def test_encoders_have_the_published_number_of_parameters(name: str, counts: int) -> None:
    with torch.device("meta"):
        assert count_parameters(build_backbone(name)) == counts


@pytest.mark.parametrize(
    ("parameters", "with_head"),
    [
        ({"grid": 64}, 30_341_652),
        ({"grid": 88}, 30_406_500),
        ({"grid": [96, 96]}, 30_432_756),
        ({"grid": 128}, 30_559_572),
        ({"filters": 2}, 28_526_004),
        ({"reduction": 8}, 28_333_716),
    ],
)
def test_parameters_of_the_mixer_change_the_count_as_published(
    parameters: dict[str, int | list[int]], with_head: int
) -> None:
    with torch.device("meta"):
        backbone = build_backbone("dfformer_s18", mixers=[{"name": "dynamic_filter", **parameters}])
    assert count_parameters(backbone) + HEAD == with_head


def test_shared_filters_stay_small_in_3d() -> None:
    sizes = [DynamicFilter(8, spatial_dims=3, stage=stage).filters.spectra.numel() for stage in range(4)]
    assert sizes == [59_904, 8_064, 1_152, 144]
