"""Starting one network from another: which tensors fit as they are, which are adapted, and which stay as drawn.

Tensors are matched by name. Two networks of one architecture then differ only where they were built for something else:
other classes, channels, kernels or atlases.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from medformer.tensor_file import name_some


@dataclass(frozen=True)
class Parts:
    """What the parts along one axis of a tensor stand for, such as the rows of a head for classes.

    The parts are equally long. One whose name both networks know is taken; the others keep their first values.

    Attributes:
        axis: Of the tensor.
        own: Names of its parts, in order.
        other: The same in the network to start from.
    """

    axis: int
    own: tuple[str, ...]
    other: tuple[str, ...]

    def fit(self, value: Tensor, first: Tensor) -> tuple[Tensor, str] | None:
        """Put the parts of `value` where they belong in `first`; None where none does."""
        shared = [name for name in self.own if name in self.other]
        size, rest = divmod(first.shape[self.axis], len(self.own))
        alike = [n for axis, n in enumerate(first.shape) if axis != self.axis] == [
            n for axis, n in enumerate(value.shape) if axis != self.axis
        ]
        if not shared or rest or not alike or value.shape[self.axis] != size * len(self.other):
            return None
        if self.own == self.other:
            return value, ""
        filled = first.clone()
        for name in shared:
            part = value.narrow(self.axis, self.other.index(name) * size, size)
            filled.narrow(self.axis, self.own.index(name) * size, size).copy_(part)
        return filled, f"of {', '.join(self.own)}: {', '.join(shared)}"


@dataclass(frozen=True)
class Transfer:
    """What one network took from another.

    Attributes:
        taken: Names of the tensors that fitted as they were.
        adapted: How each of the others was made to fit, by name.
        left: Why each of those that keep their first values does, by name.
        unused: Names of tensors that the other network alone has.
        share: Of the parameters' values, those that were taken or adapted.
    """

    taken: tuple[str, ...]
    adapted: Mapping[str, str]
    left: Mapping[str, str]
    unused: tuple[str, ...]
    share: float

    def to_json(self) -> dict[str, Any]:
        """Everything but the names of what was simply taken, as plain data."""
        return {
            "taken": len(self.taken),
            "adapted": dict(self.adapted),
            "left": dict(self.left),
            "unused": list(self.unused),
            "share": round(self.share, 4),
        }

    def __str__(self) -> str:
        total = len(self.taken) + len(self.adapted) + len(self.left)
        adapted = name_some(f"{name} {how}" for name, how in self.adapted.items())
        left = name_some(f"{name}: {why}" for name, why in self.left.items())
        return (
            f"{len(self.taken)} of {total} tensors taken as they are, {adapted} adapted, {left} left at their first "
            f"values; {100 * self.share:.0f} % of the parameters are from there"
        )


def transfer(
    model: nn.Module,
    source: Mapping[str, Tensor],
    *,
    stems: Collection[str] = (),
    parts: Mapping[str, Parts] | None = None,
    unlike: Mapping[str, str] | None = None,
) -> Transfer:
    """Fill a network with the tensors of another, as far as they fit.

    A kernel over the input's channels (`stems`) that has another number of them gets the mean over the other's, scaled
    so that its response to equal channels is kept. A kernel that becomes 1 along an axis is summed over it, and one
    that was 1 is spread evenly, which keeps the response to what is constant along it; other sizes do not fit.

    Args:
        model: With its first values, which stay where nothing fits.
        source: Tensors of the other network by name.
        stems: Names of its tensors whose second axis is the input's channels.
        parts: Of the tensors whose parts along an axis have names.
        unlike: Why a tensor must not be taken although its shape may fit, by name.
    """
    parts, unlike = parts or {}, unlike or {}
    target = model.state_dict()
    filled: dict[str, Tensor] = {}
    adapted: dict[str, str] = {}
    left: dict[str, str] = {}
    for name, first in target.items():
        if name not in source:
            left[name] = "not there"
            continue
        if name in unlike:
            left[name] = unlike[name]
            continue
        value = source[name]
        fitted = parts[name].fit(value, first) if name in parts else _fit(value, first, stem=name in stems)
        if fitted is None:
            left[name] = (
                f"for {', '.join(parts[name].other)}"
                if name in parts and value.shape == first.shape
                else f"{tuple(value.shape)} there, {tuple(first.shape)} here"
            )
            continue
        filled[name] = fitted[0].to(first.dtype)
        if fitted[1]:
            adapted[name] = fitted[1]
    model.load_state_dict({**target, **filled})
    counts = {name: parameter.numel() for name, parameter in model.named_parameters()}
    from_there = sum(count for name, count in counts.items() if name in filled)
    return Transfer(
        taken=tuple(name for name in filled if name not in adapted),
        adapted=adapted,
        left=left,
        unused=tuple(name for name in source if name not in target),
        share=from_there / max(1, sum(counts.values())),
    )


def varying_axes(one: nn.Module, other: nn.Module) -> dict[str, int]:
    """Along which axis tensors of two networks differ in size, by name.

    Of two networks that were built for another number of the same thing, such as classes, these are the tensors that
    depend on it.
    """
    sizes = {name: tensor.shape for name, tensor in other.state_dict().items()}
    return {
        name: next(axis for axis, n in enumerate(tensor.shape) if n != sizes[name][axis])
        for name, tensor in one.state_dict().items()
        if name in sizes and len(sizes[name]) == tensor.dim() and sizes[name] != tensor.shape
    }


def _fit(value: Tensor, first: Tensor, *, stem: bool) -> tuple[Tensor, str] | None:
    if value.shape == first.shape:
        return value, ""
    if value.dim() != first.dim() or value.dim() < 3 or value.shape[0] != first.shape[0]:
        return None
    how = []
    channels = first.shape[1]
    if value.shape[1] != channels:
        if not stem:
            return None
        how.append(f"from {value.shape[1]} to {channels} channels")
        value = value.sum(1, keepdim=True).expand(-1, channels, *value.shape[2:]) / channels
    kernel = tuple(value.shape[2:])
    for axis in range(2, value.dim()):
        n = first.shape[axis]
        if value.shape[axis] == n:
            continue
        if n == 1:
            value = value.sum(axis, keepdim=True)
        elif value.shape[axis] == 1:
            value = value.expand(*(n if other == axis else -1 for other in range(value.dim()))) / n
        else:
            return None
    if kernel != tuple(first.shape[2:]):
        how.append(f"from kernel {' x '.join(map(str, kernel))} to {' x '.join(map(str, first.shape[2:]))}")
    return value.contiguous(), ", ".join(how)
