"""Compiling a network for the time of its training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from medformer.errors import ConfigError

_BACKEND = "inductor"


@contextmanager
def compiled(model: nn.Module, wanted: bool) -> Iterator[None]:
    """Let a network be compiled inside the block, if that is wanted; names and values of its tensors stay as they are.

    It is compiled when it is first called, and again for inputs of another size. Afterwards it is as before, so that
    what predicts or exports it has nothing to do with the compiler.

    Raises:
        ConfigError: It cannot be compiled here, such as without a C++ compiler.
    """
    if not wanted:
        yield
        return
    # Importing the compiler takes more than a second.
    from torch._dynamo.exc import TorchDynamoException

    model.compile(backend=_BACKEND)
    try:
        yield
    except TorchDynamoException as error:
        cause = getattr(error, "inner_exception", error)
        reason = next(iter(str(cause).strip().splitlines()), type(cause).__name__)
        raise ConfigError(
            f"training.compile=true: torch cannot compile {type(model).__name__} on this machine ({reason}). A CPU "
            "needs a C++ compiler such as g++, a GPU needs triton. Set training.compile=false, which computes the same "
            "but for rounding; with --resume the run goes on."
        ) from error
    finally:
        model._compiled_call_impl = None
