"""The laws of associative memory, and which latents a bank keeps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from medformer.models.backbone.mixers import make_mixer
from medformer.models.backbone.mixers.hopfield_memory import EMPTY, MemoryBank, memory_banks
from medformer.models.backbone.queries import recorded_queries

CHANNELS = 6


def draw(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def bank_of(latents: Tensor, *, slots: int = 9, beta: float = 4.0, steps: int = 1, rate: float = 1.0) -> MemoryBank:
    bank = MemoryBank(CHANNELS, 2, slots, beta=beta, steps=steps, rate=rate).double()
    bank.store(latents, torch.zeros(len(latents), 2), [0] * len(latents), list(range(len(latents))))
    return bank


def test_one_stored_latent_is_retrieved_whatever_is_asked() -> None:
    latent = draw(1, CHANNELS)
    torch.testing.assert_close(bank_of(latent)(100 * draw(5, 3, CHANNELS, seed=1)), latent.expand(5, 3, -1))


def test_sharp_retrieval_gives_the_nearest_latent() -> None:
    latents, z = draw(7, CHANNELS), draw(20, CHANNELS, seed=1)
    nearest = torch.cosine_similarity(z[:, None], latents[None], dim=-1).argmax(1)
    torch.testing.assert_close(bank_of(latents, beta=1e6)(z), latents[nearest])


def test_flat_retrieval_gives_the_mean() -> None:
    latents = draw(7, CHANNELS)
    torch.testing.assert_close(bank_of(latents, beta=1e-9)(draw(2, CHANNELS, seed=1)), latents.mean(0).expand(2, -1))


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_each_refinement_takes_its_share_of_the_distance(steps: int) -> None:
    latent, z = draw(1, CHANNELS), draw(4, CHANNELS, seed=1)
    refined = bank_of(latent, steps=steps, rate=0.3)(z)
    torch.testing.assert_close(refined - latent, 0.7**steps * (z - latent))


def test_weights_add_up_to_1_and_empty_slots_have_none() -> None:
    z = draw(4, 5, CHANNELS)
    weights = bank_of(draw(3, CHANNELS)).recall(z)[1]
    assert weights.shape == (4, 5, 9)
    torch.testing.assert_close(weights.sum(-1), torch.ones(4, 5, dtype=torch.float64))
    assert not weights[..., 3:].any()


def test_an_empty_bank_leaves_queries_as_they_are() -> None:
    z = draw(4, CHANNELS)
    refined, weights = MemoryBank(CHANNELS, 1, 5, beta=8.0, steps=3, rate=0.5).double().recall(z)
    assert torch.equal(refined, z) and not weights.any()


def store_one_by_one(bank: MemoryBank, classes: Sequence[int]) -> None:
    for number, kind in enumerate(classes):
        bank.store(torch.full((1, CHANNELS), float(number)), torch.zeros(1, 2), [kind], [number])


@pytest.mark.parametrize("together", [1, 3, 50])
@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.95, 0.05), (0.7, 0.2, 0.1)])
def test_every_class_has_a_ring_of_its_own_and_the_rings_are_equally_long(
    shares: tuple[float, ...], together: int
) -> None:
    slots = 8
    bank = MemoryBank(CHANNELS, 2, slots, beta=1.0, steps=1, rate=1.0)
    drawn = torch.multinomial(torch.tensor(shares), 400, True, generator=torch.Generator().manual_seed(3)).tolist()
    for first in range(0, len(drawn), together):
        numbers = list(range(first, min(first + together, len(drawn))))
        latents = torch.tensor(numbers, dtype=torch.float32)[:, None].expand(-1, CHANNELS)
        bank.store(latents, torch.zeros(len(numbers), 2), [drawn[number] for number in numbers], numbers)
    counts = Counter(bank.classes.tolist())
    assert max(counts.values()) - min(counts.values()) <= 1 and sum(counts.values()) == slots
    for kind, count in counts.items():
        last = [number for number, other in enumerate(drawn) if other == kind][-count:]
        held = [
            number for number, other in zip(bank.cases.tolist(), bank.classes.tolist(), strict=True) if other == kind
        ]
        assert sorted(held) == last
    assert torch.equal(bank.latents[:, 0], bank.cases.float())


def test_a_class_alone_has_all_slots_and_gives_the_oldest_to_one_that_comes_later() -> None:
    bank = MemoryBank(CHANNELS, 2, 4, beta=1.0, steps=1, rate=1.0)
    store_one_by_one(bank, [0] * 6)
    assert sorted(bank.cases.tolist()) == [2, 3, 4, 5]
    store_one_by_one(bank, [1])
    assert sorted(zip(bank.classes.tolist(), bank.cases.tolist(), strict=True)) == [(0, 3), (0, 4), (0, 5), (1, 0)]


def test_forgetting_what_was_retrieved_changes_the_answer_and_forgetting_the_rest_does_not() -> None:
    latents, z = draw(5, CHANNELS), draw(1, CHANNELS, seed=1)
    bank = bank_of(latents, beta=1e5)
    refined, weights = bank.recall(z)
    retrieved = int(weights.argmax())
    bank.forget([slot for slot in range(5) if slot != retrieved])
    torch.testing.assert_close(bank(z), refined)
    assert bank.classes.tolist().count(EMPTY) == 8
    other = bank_of(latents, beta=1e5)
    other.forget([retrieved])
    assert not torch.allclose(other(z), refined)


def test_stored_latents_are_saved_and_no_gradient_reaches_them() -> None:
    mixer = make_mixer("hopfield_memory", CHANNELS, spatial_dims=2, stage=0)
    bank = memory_banks(mixer)["regions"]
    bank.store(torch.randn(2, CHANNELS), torch.rand(2, 2), [0, 1], [4, 5])
    assert "regions.latents" in mixer.state_dict() and "regions.latents" not in dict(mixer.named_parameters())
    mixer(torch.randn(1, CHANNELS, 4, 4)).sum().backward()
    assert bank.latents.grad is None
    assert all(parameter.grad is not None for parameter in mixer.parameters())


def test_a_global_bank_gates_every_token_and_a_local_one_answers_each() -> None:
    mixer = make_mixer({"name": "hopfield_memory", "kernel_size": 1}, CHANNELS, spatial_dims=1, stage=0).eval()
    banks = memory_banks(mixer)
    x = torch.randn(1, CHANNELS, 7)
    with torch.no_grad():
        before = mixer(x)
        banks["scenes"].store(3 * torch.randn(1, CHANNELS), torch.zeros(1, 1), [0], [0])
        gated = mixer(x)
        assert bool(((gated - before).abs() > 0).any(1).all())
        banks["regions"].store(torch.randn(1, CHANNELS), torch.zeros(1, 1), [0], [0])
        other = x.clone()
        other[..., 3] += 1
        with recorded_queries(mixer) as first:
            mixer(x)
        with recorded_queries(mixer) as second:
            mixer(other)
    changed = (first[banks["regions"]].values != second[banks["regions"]].values).any(-1)[0]
    assert changed.tolist() == [position == 3 for position in range(7)]
