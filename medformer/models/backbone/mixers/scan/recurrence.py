"""Linear recurrences along one axis, computed for all positions at once.

Both functions compute in the precision that they are given, and sum only logarithms of decays that are not positive,
so that nothing overflows.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK = 64
"""Positions that `state_space_scan` joins by a matrix product."""
_STEPS = 16
"""Positions that `linear_scan` follows one by one."""


def linear_scan(decay: Tensor, inputs: Tensor) -> Tensor:
    """Return `h_t = decay_t * h_(t-1) + inputs_t` for all t of axis 1, from `h_0 = 0`.

    In chunks of a few positions, and for all chunks at once: first the state that each would end with by itself, then a
    scan over these ends, and then position by position from the state that a chunk begins with. So every number is used
    twice whatever the length, while doubling (Hillis and Steele, 1986) copies the whole sequence `log2 T` times. The
    two shapes are `(B, T, ...)` and may differ where one of them broadcasts.
    """
    length, others = inputs.shape[1], [0, 0] * (inputs.dim() - 2)
    chunk = min(_STEPS, length)
    decays, added = (
        F.pad(part, [*others, 0, -length % chunk]).unflatten(1, (-1, chunk)).unbind(2) for part in (decay, inputs)
    )
    state = added[0]
    if chunk < length:
        factor, end = decays[0], state
        for step, new in zip(decays[1:], added[1:], strict=True):
            factor, end = step * factor, torch.addcmul(new, step, end)
        state = torch.addcmul(state, decays[0], F.pad(linear_scan(factor, end)[:, :-1], [*others, 1, 0]))
    states = [state]
    for step, new in zip(decays[1:], added[1:], strict=True):
        states.append(torch.addcmul(new, step, states[-1]))
    return torch.stack(states, 2).flatten(1, 2)[:, :length]


def state_space_scan(x: Tensor, log_decay: Tensor, write: Tensor, read: Tensor, chunk: int = CHUNK) -> Tensor:
    """Return `y_t = h_t read_t` of the states `h_t = exp(log_decay_t) h_(t-1) + x_t write_t'`, from `h_0 = 0`.

    In chunks (Dao and Gu, Transformers are SSMs, ICML 2024, section 6): inside a chunk as a masked product of
    positions, between chunks as a scan over their last states. Time grows with the length, memory with the length times
    the chunk.

    Args:
        x: Inputs `(B, T, H, P)` of H heads with P channels each.
        log_decay: `(B, T, H)`, not positive.
        write: `(B, T, N)`: how an input enters the N states of its channel.
        read: `(B, T, N)`: how they are read.
        chunk: Positions joined by a product.

    Returns:
        `(B, T, H, P)`.
    """
    length = x.shape[1]
    chunk = min(chunk, length)
    missing = -length % chunk
    if missing:
        # Zeros behind the last position write nothing.
        x, log_decay, write, read = (
            F.pad(part, [0, 0] * (part.dim() - 2) + [0, missing]) for part in (x, log_decay, write, read)
        )
    x, log_decay, write, read = (part.unflatten(1, (-1, chunk)) for part in (x, log_decay, write, read))
    between = _sums_between(log_decay.transpose(-1, -2))
    # (B, chunks, H, to, from): what a position of the chunk receives from one before it
    scores = (read @ write.transpose(-1, -2)).unsqueeze(2) * between.exp()
    inside = torch.einsum("bchts,bcshp->bcthp", scores, x)
    total = log_decay.cumsum(2)
    to_end = (total[:, :, -1:] - total).exp()
    last = torch.einsum("bcth,bcthp,bctn->bchpn", to_end, x, write)
    states = linear_scan(total[:, :, -1, :, None, None].exp(), last)
    before = F.pad(states[:, :-1], [0, 0] * 3 + [1, 0])
    carried = torch.einsum("bctn,bchpn,bcth->bcthp", read, before, total.exp())
    return (inside + carried).flatten(1, 2)[:, :length]


def _sums_between(steps: Tensor) -> Tensor:
    """Return sums of `steps` `(..., T)` over the positions after one up to another, `(..., to, from)`; -inf before it.

    Summed term by term, and not as a difference of running sums, which would lose digits.
    """
    length = steps.shape[-1]
    ones = torch.ones(length, length, dtype=torch.bool, device=steps.device)
    each = steps.unsqueeze(-1).expand(*steps.shape, length).masked_fill(~ones.tril(-1), 0.0)
    return each.cumsum(-2).masked_fill(~ones.tril(), -torch.inf)
