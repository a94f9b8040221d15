"""Blocks that are computed a second time in the backward pass, which takes time and saves memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def run_block(block: nn.Module, x: Tensor, recompute: bool) -> tuple[Tensor, Tensor]:
    """Return what a block makes of a map; with `recompute`, activations are computed again when they are needed.

    Weights, gradients and the statistics of batch norms become what they become without.
    """
    out: tuple[Tensor, Tensor]
    if recompute:

        def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
            return nullcontext(), _statistics_kept(block)

        out = checkpoint(block, x, use_reentrant=False, context_fn=contexts)
    else:
        out = block(x)
    return out


@contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    """Let no batch norm of a block count a batch that it has counted already."""
    norms = [part for part in block.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    # With a momentum of 0 they read and write what they did before, which the second computation must do.
    before = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    counts = [count.clone() if count is not None else None for _, _, count in before]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for (norm, momentum, tracked), count in zip(before, counts, strict=True):
            norm.momentum = momentum
            if tracked is not None and count is not None:
                tracked.copy_(count)
