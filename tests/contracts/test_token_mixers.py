"""Every registered token mixer keeps the contract: dimensions, kernels, stages, precisions, sizes and export."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature

import pytest
import torch
from torch import Tensor, nn

from medformer.errors import ConfigError
from medformer.models.backbone.blocks import init_fan_in
from medformer.models.backbone.layers import KernelSize
from medformer.models.backbone.mixers import MIXERS, make_mixer, mixer_parameters
from medformer.models.backbone.mixers.hopfield_memory import memory_banks
from medformer.models.backbone.variants import VARIANTS, build_backbone, encoder_name

CHANNELS = 32
SIZES: dict[int, list[tuple[int, ...]]] = {
    1: [(1,), (2,), (37,)],
    2: [(1, 1), (1, 5), (5, 3), (9, 16)],
    3: [(1, 1, 1), (2, 5, 3), (6, 6, 6)],
}
DIMENSIONS = [
    (name, dims) for name, entry in MIXERS.items() for dims in (1, 2, 3) if not {f"{dims}-D"} & entry.cannot.keys()
]
FIRST = {name: min(2, max(dims for known, dims in DIMENSIONS if known == name)) for name, _ in DIMENSIONS}
"""Dimensions in which a mixer is tried where one number of them is enough."""
KERNELS: list[KernelSize | None] = [None, 5, (1, 3, 5)]
CASES = [
    (name, dims, kernel if not isinstance(kernel, tuple) else kernel[:dims])
    for name, dims in DIMENSIONS
    for kernel in KERNELS
    if kernel is None or "kernel_size" in mixer_parameters(name).model_fields
]


def stages(name: str, *wanted: int) -> tuple[int, ...]:
    """All of them for a mixer that the stage makes a difference to, else the last."""
    return wanted if "stage" in signature(MIXERS[name].part).parameters else wanted[-1:]


def make(name: str, dims: int, stage: int = 3, kernel: KernelSize | None = None) -> nn.Module:
    torch.manual_seed(0)
    mixer = make_mixer(name, CHANNELS, spatial_dims=dims, stage=stage, kernel_size=kernel).eval()
    for bank in memory_banks(mixer).values():
        bank.store(torch.randn(5, CHANNELS), torch.rand(5, dims), [0, 1, 2, 0, 1], list(range(5)))
    return mixer


def sample(dims: int, size: Sequence[int], batch: int = 2) -> Tensor:
    return torch.randn(batch, CHANNELS, *size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("name", "dims", "kernel", "stage"), [(*case, stage) for case in CASES for stage in stages(case[0], 2, 3)]
)
def test_keeps_shape_and_passes_gradients(name: str, dims: int, kernel: KernelSize | None, stage: int) -> None:
    mixer = make(name, dims, stage, kernel)
    for size in SIZES[dims]:
        x = sample(dims, size).requires_grad_()
        y = mixer(x)
        assert y.shape == x.shape
        (gradient,) = torch.autograd.grad(y.square().sum(), x)
        assert bool(torch.isfinite(gradient).all())


@pytest.mark.parametrize(
    ("name", "dims", "stage"), [(*case, stage) for case in DIMENSIONS for stage in stages(case[0], 0, 1, 2, 3, 4)]
)
def test_every_stage_can_be_sized_without_memory(name: str, dims: int, stage: int) -> None:
    with torch.device("meta"):
        x = torch.empty(2, CHANNELS, *SIZES[dims][-1])
        assert make_mixer(name, CHANNELS, spatial_dims=dims, stage=stage)(x).shape == x.shape


@pytest.mark.parametrize(("name", "dims", "kernel"), CASES)
def test_low_precision_gives_nearly_the_same(name: str, dims: int, kernel: KernelSize | None) -> None:
    if "bf16" in MIXERS[name].cannot:
        pytest.skip(MIXERS[name].cannot["bf16"])
    mixer = make(name, dims, kernel=kernel)
    for size in SIZES[dims]:
        x = sample(dims, size)
        with torch.no_grad():
            full = mixer(x)
            with torch.autocast("cpu", torch.bfloat16):
                low = mixer(x).float()
        assert (low - full).norm() <= 0.02 * full.norm() + 1e-6


@pytest.mark.parametrize("name", list(MIXERS))
@pytest.mark.parametrize("scale", [1.0, 8.0, 64.0])
def test_float16_holds_large_activations_too(name: str, scale: float) -> None:
    """An activation above 255.9 has a square that float16 has no number for; a larger one has such products."""
    dims = FIRST[name]
    mixer = make(name, dims)
    mixer.apply(init_fan_in)
    x = scale * sample(dims, SIZES[dims][-1])
    with torch.no_grad():
        full = mixer(x)
    x.requires_grad_()
    with torch.autocast("cpu", torch.float16):
        low = mixer(x).float()
    assert (low.detach() - full).norm() <= 0.02 * full.norm()
    (gradient,) = torch.autograd.grad(low.mean() / scale**3, x)
    assert bool(torch.isfinite(gradient).all())


@pytest.mark.parametrize(("name", "dims", "kernel"), CASES)
def test_a_sample_does_not_depend_on_the_others(name: str, dims: int, kernel: KernelSize | None) -> None:
    mixer = make(name, dims, kernel=kernel)
    for size in SIZES[dims]:
        x = sample(dims, size)
        other = x.clone()
        other[1] = 100 * other[1] + 3
        with torch.no_grad():
            torch.testing.assert_close(mixer(x)[0], mixer(other)[0])


@pytest.mark.parametrize(("name", "dims"), DIMENSIONS)
def test_forward_changes_no_state(name: str, dims: int) -> None:
    mixer = make(name, dims).train()
    before = {key: value.clone() for key, value in mixer.state_dict().items()}
    attributes = {key for key in vars(mixer)}
    small, large = sample(dims, SIZES[dims][0]), sample(dims, SIZES[dims][-1])
    with torch.no_grad():
        first = mixer(large)
        mixer(small)
        torch.testing.assert_close(mixer(large), first)
    assert {key for key in vars(mixer)} == attributes
    for key, value in mixer.state_dict().items():
        assert torch.equal(value, before[key])


# A mixer is the same graph in every dimension: the slow tests export the others.
@pytest.mark.parametrize(
    ("name", "dims"),
    [pytest.param(*case, marks=pytest.mark.slow if case[1] != FIRST[case[0]] else ()) for case in DIMENSIONS],
)
def test_an_exported_mixer_computes_the_same(name: str, dims: int) -> None:
    if "export" in MIXERS[name].cannot:
        pytest.skip(MIXERS[name].cannot["export"])
    mixer = make(name, dims)
    for size in (SIZES[dims][0], SIZES[dims][-1])[dims > 1 :]:
        x = sample(dims, size)
        with torch.no_grad():
            torch.testing.assert_close(torch.export.export(mixer, (x,)).module()(x), mixer(x))


@pytest.mark.parametrize(("name", "dims"), DIMENSIONS)
def test_memory_layout_does_not_change_the_result(name: str, dims: int) -> None:
    mixer, x = make(name, dims), sample(dims, SIZES[dims][-1])
    with torch.no_grad():
        torch.testing.assert_close(mixer(x), mixer(x.movedim(1, -1).contiguous().movedim(-1, 1)))


@pytest.mark.parametrize("name", list(MIXERS))
def test_state_round_trips(name: str) -> None:
    dims = FIRST[name]
    mixer, x = make(name, dims), sample(dims, (9, 16)[:dims])
    torch.manual_seed(7)
    other = make_mixer(name, CHANNELS, spatial_dims=dims, stage=3).eval()
    other.load_state_dict(mixer.state_dict())
    with torch.no_grad():
        assert torch.equal(mixer(x), other(x))


@pytest.mark.parametrize("name", list(MIXERS))
def test_gradients_match_finite_differences(name: str) -> None:
    dims = FIRST[name]
    mixer = make(name, dims).double()
    x = sample(dims, (3, 2)[:dims], batch=1).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda t: mixer(t)[:, :2], (x,), atol=1e-6, fast_mode=True)


@pytest.mark.parametrize("name", list(MIXERS))
def test_every_parameter_has_a_default_and_a_wrong_one_is_explained(name: str) -> None:
    fields = mixer_parameters(name).model_fields
    given = {"name": name, **mixer_parameters(name)().model_dump(exclude_none=True)}
    make_mixer(given, CHANNELS, spatial_dims=FIRST[name], stage=3)
    for known in fields:
        with pytest.raises(ConfigError, match=f"{name} takes .*Unknown key '{known}x'. Did you mean '{known}'"):
            make_mixer({"name": name, f"{known}x": 1}, CHANNELS, spatial_dims=FIRST[name], stage=3)
        with pytest.raises(ConfigError, match=f"{name} takes .*{known}: got .*expected"):
            make_mixer({"name": name, known: {"no": "value"}}, CHANNELS, spatial_dims=FIRST[name], stage=3)
    with pytest.raises(ConfigError, match=f"{name} takes .*Unknown key 'stage'"):
        make_mixer({"name": name, "stage": 1}, CHANNELS, spatial_dims=FIRST[name], stage=3)


def test_every_mixer_says_how_its_cost_grows() -> None:
    assert [name for name, entry in MIXERS.items() if not entry.cost] == []


@pytest.mark.parametrize(("name", "entry"), MIXERS.items())
def test_what_a_mixer_cannot_do_is_refused_with_the_reason(name: str, entry: object) -> None:
    for ability, reason in MIXERS[name].cannot.items():
        assert reason.endswith(".")
        with pytest.raises(ConfigError, match=ability):
            MIXERS.require(name, ability)


def test_a_parameter_reaches_the_mixer() -> None:
    def attention(**parameters: object) -> nn.Module:
        return make_mixer({"name": "attention", **parameters}, CHANNELS, spatial_dims=1, stage=0).eval()  # type: ignore[dict-item]

    one, four = attention(), attention(heads=4)
    four.load_state_dict(one.state_dict())
    x = sample(1, (7,))
    with torch.no_grad():
        assert not torch.allclose(one(x), four(x))
        torch.testing.assert_close(attention(heads=1)(x).shape, x.shape)


def test_a_kernel_in_the_config_goes_before_the_kernel_of_the_stage() -> None:
    spec = {"name": "pooling", "kernel_size": [1, 5]}
    mixer = make_mixer(spec, CHANNELS, spatial_dims=2, stage=0, kernel_size=3)  # type: ignore[arg-type]
    assert mixer.kernel_size == (1, 5)
    with pytest.raises(ValueError, match="expected odd numbers"):
        make_mixer({"name": "pooling", "kernel_size": 4}, CHANNELS, spatial_dims=2, stage=0)


@pytest.mark.parametrize("name", MIXERS)
def test_a_number_that_would_fill_the_memory_is_refused(name: str) -> None:
    for key, field in mixer_parameters(name).model_fields.items():
        if "int" in str(field.annotation):
            with pytest.raises((ConfigError, ValueError), match=rf"{key}.*10000000.* at most| {name} .*10000000"):
                make_mixer({"name": name, key: 100_000_001}, 64, spatial_dims=FIRST[name], stage=1)


def reach(name: str, kernel: tuple[int, ...], size: int = 11) -> list[int]:
    """How far, along each axis, the result changes when the middle of a volume does; `size // 2` is all of it."""
    mixer = make_mixer(name, 8, spatial_dims=3, stage=0, kernel_size=kernel).double().eval()
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(1, 8, size, size, size, generator=generator, dtype=torch.float64)
    other = x.clone()
    other[..., size // 2, size // 2, size // 2] += 5.0
    with torch.no_grad():
        # A mixer whose last weights begin at 0 says nothing before they are others.
        for parameter in mixer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        touched = (mixer(x) != mixer(other)).any(1)[0].nonzero()
    # A mixer may give 0 for a kernel of one position.
    return [max(distances, default=0) for distances in (touched - size // 2).abs().T.tolist()]


@pytest.mark.parametrize(
    "name",
    [name for name, dims in DIMENSIONS if dims == 3 and "kernel_size" in mixer_parameters(name).model_fields],
)
def test_a_kernel_holds_for_its_own_axis_and_a_larger_one_reaches_further(name: str) -> None:
    """How far a kernel reaches is the mixer's own affair: half of it, a multiple (dilation), or all of the volume."""
    alone = {kernel: reach(name, (kernel,) * 3)[0] for kernel in (1, 3, 5)}
    for smaller, larger in ((1, 3), (3, 5)):
        assert alone[smaller] < alone[larger] or alone[smaller] == 11 // 2
    for kernel in ((1, 3, 3), (3, 1, 1), (3, 5, 1)):
        assert reach(name, kernel) == [alone[size] for size in kernel]


def test_pooling_leaves_padding_out_of_the_mean_in_every_dimension() -> None:
    for dims in (1, 2, 3):
        constant = torch.full((1, CHANNELS, *(4,) * dims), 2.5)
        torch.testing.assert_close(make("pooling", dims)(constant), torch.zeros_like(constant))


def test_pooling_in_3d_is_the_mean_over_the_cube() -> None:
    x = sample(3, (3, 3, 3))
    center = make("pooling", 3)(x)[:, :, 1, 1, 1]
    torch.testing.assert_close(center, x.flatten(2).mean(-1) - x[:, :, 1, 1, 1])


def test_random_mixing_stays_an_average_off_its_reference_size() -> None:
    mixer = make("random", 2)
    for size in ((7, 7), (11, 4), (1, 1), (16, 16)):
        matrix = mixer.matrix_for(size)
        assert matrix.shape == (size[0] * size[1],) * 2
        torch.testing.assert_close(matrix.sum(-1), torch.ones(len(matrix)))
        assert bool((matrix >= 0).all())
    assert not any(parameter.requires_grad for parameter in mixer.parameters())


def test_attention_refuses_channels_that_its_heads_do_not_divide() -> None:
    with pytest.raises(ValueError, match="got 40 channels, expected a multiple of 32"):
        make_mixer("attention", 40, spatial_dims=2, stage=0)
    with pytest.raises(ValueError, match="got 40 channels for 3 heads"):
        make_mixer({"name": "attention", "heads": 3}, 40, spatial_dims=2, stage=0)


FAMILIES = {
    name.partition("_")[0]: name for name in reversed(VARIANTS.examples()) if len(VARIANTS[name].part.depths) > 1
}


@pytest.mark.parametrize(
    ("name", "dims"),
    [(name, dims) for name in FAMILIES.values() for dims in (1, 2, 3) if f"{dims}-D" not in VARIANTS[name].cannot],
)
def test_every_family_gives_four_maps_in_every_dimension(name: str, dims: int) -> None:
    # Sizes do not depend on weights, and to draw them takes longer than all the rest.
    with torch.device("meta"):
        backbone = build_backbone(name, spatial_dims=dims, in_channels=1).eval()
    backbone.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in backbone.state_dict().values():
            tensor.zero_()
        maps = backbone(torch.zeros(1, 1, *(45, 64, 33)[:dims]))
        tiny = backbone(torch.zeros(1, 1, *(1,) * dims))
    assert tuple(m.shape[1] for m in maps) == backbone.channels == tuple(VARIANTS[name].part.channels)
    # 45 -> 11 -> 6 -> 3 -> 2 along the first axis: floor((n - 3) / 4) + 1, then ceil(n / 2). Whole patches, and steps
    # of 2, round up.
    part = VARIANTS[name].part
    first = part.strides[0] if part.strides else 4
    overlapping = part.transition in ("before", "bare") and not encoder_name(name)
    sizes = [11 if overlapping else -(-45 // first)]
    for _ in range(3):
        sizes.append(-(-sizes[-1] // 2))
    assert [m.shape[2] for m in maps] == sizes
    assert [tuple(m.shape[2:]) for m in tiny] == [(1,) * dims] * 4
    assert backbone.strides == tuple((first * step,) * dims for step in (1, 2, 4, 8))


@pytest.mark.parametrize("name", [name for name in VARIANTS.examples() if VARIANTS[name].cannot])
def test_what_a_backbone_cannot_do_is_refused_with_the_reason(name: str) -> None:
    for ability, reason in VARIANTS[name].cannot.items():
        with pytest.raises(ConfigError) as caught:
            asked = {"model.mixers": {"mixers": ("pooling",)}}.get(ability) or {"spatial_dims": int(ability[0])}
            build_backbone(name, **asked)
        assert str(caught.value) == f"The backbone {name} does not support {ability}: {reason}"
