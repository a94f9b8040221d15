"""Recurrences against their definition, step by step and as matrices."""

from __future__ import annotations

import pytest
import torch
from mambapy.mamba import MambaBlock, MambaConfig
from torch import Tensor, nn
from torch.nn import functional as F

from medformer.models.backbone.mixers import make_mixer
from medformer.models.backbone.mixers.scan.causal import CausalScan, DecisionConvFormer, DecisionMetaMamba
from medformer.models.backbone.mixers.scan.recurrence import linear_scan, state_space_scan
from medformer.models.backbone.mixers.scan.selective_scan import SelectiveScan

LENGTHS = [1, 2, 63, 64, 65, 200, 4096]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("length", LENGTHS)
def test_a_linear_scan_is_its_recurrence_at_lengths_1_to_4096(length: int) -> None:
    decay, inputs = torch.sigmoid(random(2, length, 1, seed=1)), random(2, length, 3, seed=2)
    state, right = torch.zeros(2, 3), []
    for t in range(length):
        state = decay[:, t] * state + inputs[:, t]
        right.append(state)
    torch.testing.assert_close(linear_scan(decay, inputs), torch.stack(right, 1), atol=1e-5, rtol=0)


def step_by_step(x: Tensor, log_decay: Tensor, write: Tensor, read: Tensor) -> Tensor:
    batch, length, heads, width = x.shape
    state, found = x.new_zeros(batch, heads, width, write.shape[-1]), []
    for t in range(length):
        state = state * log_decay[:, t, :, None, None].exp() + x[:, t, :, :, None] * write[:, t, None, None]
        found.append((state * read[:, t, None, None]).sum(-1))
    return torch.stack(found, 1)


def parts(length: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    steps = F.softplus(random(2, length, 3, seed=4) - 3)
    decays = -torch.tensor([1.0, 4.0, 16.0]) * steps
    width = 8**-0.5
    return (
        random(2, length, 3, 4, seed=3) * steps.unsqueeze(-1),
        decays,
        width * random(2, length, 8, seed=5),
        width * random(2, length, 8, seed=6),
    )


@pytest.mark.parametrize("length", LENGTHS)
def test_a_scan_in_chunks_is_its_recurrence_at_lengths_1_to_4096(length: int) -> None:
    given = parts(length)
    torch.testing.assert_close(state_space_scan(*given), step_by_step(*given), atol=1e-5, rtol=0)


@pytest.mark.parametrize("length", [1, 5, 70])
def test_its_gradients_are_those_of_the_recurrence(length: int) -> None:
    given = [part.double().requires_grad_() for part in parts(length)]
    weights = random(2, length, 3, 4, seed=9).double()
    gradients = [
        torch.autograd.grad((scan(*given) * weights).sum(), given) for scan in (state_space_scan, step_by_step)
    ]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(
    ("width", "count"), [(64, 44_678), (128, 137_484), (256, 473_624), (320, 716_958), (512, 1_748_016)]
)
def test_the_selective_scan_has_the_published_parameters_in_one_dimension(width: int, count: int) -> None:
    with torch.device("meta"):
        mixer = make_mixer("selective_scan", width, spatial_dims=1, stage=0)
    assert sum(parameter.numel() for parameter in mixer.parameters()) == count


def test_the_selective_scan_is_a_quasiseparable_matrix() -> None:
    """Every entry written down: from the left, from the right, and what a position gives itself."""
    torch.manual_seed(0)
    mixer = SelectiveScan(8, spatial_dims=1, states=3).double()
    for parameter in mixer.parameters():
        nn.init.normal_(parameter, std=0.5)
    length = 9
    x = random(1, 8, length, seed=1).double()
    gate, scanned, steps = mixer.in_proj(x).split(mixer.split, 1)
    lines = F.silu(mixer.convs[0](scanned))[0]
    values, ahead, back = lines[:16], lines[16:22], lines[22:]
    size = F.softplus(steps[0] + mixer.step_bias[0].repeat(2)[:, None])
    rate = -mixer.log_decay[0].exp()
    factor = mixer.own(values[None])[0] + mixer.own_bias[:, None]
    matrix = torch.zeros(length, length, dtype=torch.float64)
    # There is one head of 16 channels, so that one matrix holds for all of them.
    for to in range(length):
        matrix[to, to] = factor[0, to]
        # The scan is shifted by one: what a position receives was read one position before it.
        for source in range(to):
            decay = (rate * size[0, source + 1 : to]).sum().exp()
            matrix[to, source] = size[0, source] * decay * (ahead[3:, to - 1] @ ahead[:3, source])
        for source in range(to + 1, length):
            decay = (rate * size[1, to + 1 : source]).sum().exp()
            matrix[to, source] = size[1, source] * decay * (back[3:, to + 1] @ back[:3, source])
    mixed = (values @ matrix.T)[None]
    normed = F.rms_norm(mixed.transpose(1, 2), (16,), mixer.norm, 1e-5).transpose(1, 2)
    torch.testing.assert_close(mixer(x), mixer.out_proj(normed * F.silu(gate)))


def test_along_several_axes_it_is_the_mean_of_the_axes() -> None:
    torch.manual_seed(0)
    both = SelectiveScan(8, spatial_dims=2, states=4).eval()
    x = random(2, 8, 5, 1)
    with torch.no_grad():
        # Nothing can run along the second axis, which has one position: with its own factor 0 it gives nothing.
        flipped = both(x.transpose(2, 3))
        assert flipped.shape == (2, 8, 1, 5)
        assert not torch.allclose(flipped.transpose(2, 3), both(x)), "each axis has weights of its own"
        both.convs[1] = both.convs[0]
        for name in ("step_bias", "log_decay"):
            getattr(both, name)[1] = getattr(both, name)[0]
        torch.testing.assert_close(both(x.transpose(2, 3)).transpose(2, 3), both(x))


def test_a_causal_scan_is_its_recurrence_and_has_the_published_parameters() -> None:
    torch.manual_seed(0)
    for width, count in ((64, 16_320), (128, 58_240)):
        assert sum(p.numel() for p in CausalScan(width).parameters()) == count
    scan = CausalScan(8, states=4)
    x = random(2, 8, 21)
    values, gate = scan.in_proj(x).chunk(2, 1)
    values = F.silu(scan.conv(F.pad(values, (3, 0))))
    steps, write, read = scan.parts(values).split(scan.split, 1)
    size = F.softplus(scan.step(steps) + scan.step_bias[:, None])
    state, found = torch.zeros(2, 8, 4), []
    for t in range(21):
        decay = (size[..., t, None] * -scan.log_decay.exp()).exp()
        state = decay * state + (size[..., t] * values[..., t]).unsqueeze(-1) * write[:, None, :, t]
        found.append((state * read[:, None, :, t]).sum(-1) + scan.own * values[..., t])
    right = scan.out_proj(torch.stack(found, -1) * F.silu(gate))
    torch.testing.assert_close(scan(x), right, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("length", [1, 21, 64])
def test_a_causal_scan_computes_what_mambapy_does(length: int) -> None:
    torch.manual_seed(0)
    theirs = MambaBlock(MambaConfig(d_model=20, n_layers=1, expand_factor=1, d_state=5))
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    order = (
        *("dt_proj.bias", "A_log", "D", "in_proj.weight", "conv1d.weight", "conv1d.bias"),
        *("x_proj.weight", "dt_proj.weight", "out_proj.weight"),
    )
    ours, state = CausalScan(20, states=5), theirs.state_dict()
    ours.load_state_dict(dict(zip(ours.state_dict(), [state[name] for name in order], strict=True)))
    x = random(2, 20, length)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x.transpose(1, 2)).transpose(1, 2), atol=1e-5, rtol=0)


def test_decision_convformer_filters_each_token_by_its_kind() -> None:
    torch.manual_seed(0)
    mixer = DecisionConvFormer(4)
    assert sum(p.numel() for p in mixer.parameters()) == 3 * 4 * (6 + 1)
    for length in (1, 2, 3, 7, 12):
        x = random(2, 4, length)
        whole = [F.conv1d(F.pad(x, (5, 0)), filter_.weight, filter_.bias, groups=4) for filter_ in mixer.filters]
        right = torch.stack([whole[t % 3][..., t] for t in range(length)], -1)
        torch.testing.assert_close(mixer(x), right)


@pytest.mark.parametrize("mixer", [DecisionConvFormer(16), DecisionMetaMamba(16)])
def test_decision_mixers_see_nothing_of_later_positions(mixer: nn.Module) -> None:
    x = random(1, 16, 20)
    other = x.clone()
    other[..., 11:] += 1
    with torch.no_grad():
        changed = (mixer(x) - mixer(other)).abs().amax(1)[0] > 1e-6
    assert not changed[:11].any() and changed[11:].all()


def test_the_window_of_decision_metamamba_has_the_published_parameters() -> None:
    for width, count in ((64, 24_576), (128, 98_304)):
        assert DecisionMetaMamba(width).local.weight.numel() == count
