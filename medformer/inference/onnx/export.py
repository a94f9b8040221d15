"""Writing a graph as an ONNX file that was run once with onnxruntime, and the JSON file beside it.

A file is kept only if onnxruntime computes from it what PyTorch computes here. The JSON file says what goes in and out,
what it was written with, and how far the two were apart.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medformer.errors import ConfigError, DataError
from medformer.files import atomic_path, sha256, write_json

FORMAT = "medformer-onnx/1"
OPSET = 18
"""Of the files: that of 2022, which current runtimes have."""
MOST_BYTES = 2**31 - 2**26
"""Of the weights of a file, which holds less than 2 GiB with all that it says of them."""

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")

Arrays = Mapping[str, NDArray[Any]]
Run = Callable[[Arrays], NDArray[Any]]
"""One call of a graph: its inputs by name, to its output."""


@dataclass(frozen=True)
class Port:
    """An input or the output of a graph.

    Attributes:
        name: Its name.
        example: What it may be, for tracing; no dynamic axis has length 1.
        axes: Name of each dynamic axis; the others keep the example's length.
        meaning: What it holds, in words.
    """

    name: str
    example: Tensor
    axes: Mapping[int, str]
    meaning: str

    def described(self) -> dict[str, Any]:
        """As the JSON file has it."""
        shape = [self.axes.get(axis, size) for axis, size in enumerate(self.example.shape)]
        kind = str(self.example.dtype).removeprefix("torch.")
        return {"name": self.name, "type": kind, "shape": shape, "meaning": self.meaning}


def require_onnx() -> None:
    """Make sure that the packages are there.

    Raises:
        ConfigError: One is missing.
    """
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"ONNX needs {', '.join(missing)}, which is not installed. Install it with: pip install 'medformer[onnx]'."
        )


def write_graph(
    path: Path,
    graph: nn.Module,
    inputs: Sequence[Port],
    output: Port,
    check: Callable[[Run], dict[str, Any]],
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """Write `path` and, beside it, a JSON file of the same name, once the file computes what the graph computes.

    Args:
        path: A `.onnx` file.
        graph: In evaluation mode on the CPU; takes the inputs in their order, and gives one tensor.
        inputs: Its inputs.
        output: Its output.
        check: Compares what was written with our own prediction, and returns how far they are apart.
        about: What else the JSON file says.

    Returns:
        What the JSON file says.

    Raises:
        ConfigError: A package is missing, or the networks hold what ONNX cannot express or are too large for a file.
        DataError: The file computes something else; nothing is kept.
        ResourceError: It cannot be written.
    """
    require_onnx()
    size = sum(each.numel() * each.element_size() for each in (*graph.parameters(), *graph.buffers()))
    if size > MOST_BYTES:
        raise ConfigError(
            f"The weights of these networks take {size / 1e9:.3g} GB together; an ONNX file holds at most "
            f"{MOST_BYTES / 1e9:.3g} GB. Export one fold with --fold, or export them without --onnx."
        )
    model = _traced(graph, inputs, output)
    with atomic_path(path) as temporary:
        temporary.write_bytes(model.SerializeToString())
        parity = _computed(check, temporary, output.name)
        record = {
            "format": FORMAT,
            "file": path.name,
            "sha256": sha256(temporary),
            "opset": OPSET,
            "exporter": "torch.onnx.export with dynamo",
            "versions": {name: version(name) for name in ("torch", *_PACKAGES)},
            "inputs": [port.described() for port in inputs],
            "outputs": [output.described()],
            **about,
            "parity": parity,
        }
    write_json(path.with_suffix(".json"), record)
    return record


def runner(path: Path, output: str, threads: int = 0) -> Run:
    """Open a file with onnxruntime on the CPU.

    Args:
        path: The file.
        output: Which output to compute.
        threads: Of one call; 0 for as many as there are cores.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(arrays: Arrays) -> NDArray[Any]:
        return np.asarray(session.run([output], dict(arrays))[0])

    return run


def _traced(graph: nn.Module, inputs: Sequence[Port], output: Port) -> Any:
    """The graph as ONNX's own data."""
    shapes = tuple(dict(port.axes) for port in inputs)
    try:
        with torch.no_grad(), _plain_attention(), _quiet():
            program = torch.onnx.export(
                graph.eval(),
                tuple(port.example for port in inputs),
                dynamo=True,
                input_names=[port.name for port in inputs],
                output_names=[output.name],
                opset_version=OPSET,
                dynamic_shapes=(shapes,) if _takes_any_number(graph) else shapes,
                external_data=False,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise _refusal(error.__cause__ or error) from error
    assert program is not None
    return _without_places(program.model_proto)


def _computed(check: Callable[[Run], dict[str, Any]], path: Path, output: str) -> dict[str, Any]:
    try:
        return check(runner(path, output))
    except Exception as error:
        # The errors of onnxruntime have no class of their own to catch.
        if not type(error).__module__.startswith("onnxruntime"):
            raise
        raise _refusal(error) from error


def _refusal(error: BaseException) -> ConfigError:
    reason = next((line for line in str(error).splitlines() if line.strip()), "no reason given")
    return ConfigError(
        f"These networks cannot be exported to ONNX ({reason}). Export them without --onnx, or train a network "
        "for which `medformer info models` states no limit on ONNX."
    )


def _without_places(message: Any) -> Any:
    """Take away, at any depth, what the exporter notes of the source of each node: paths and lines of this machine."""
    for field, value in message.ListFields():
        if field.name in ("doc_string", "metadata_props"):
            message.ClearField(field.name)
        elif field.message_type is not None:
            for part in (value,) if hasattr(value, "ListFields") else value:
                _without_places(part)
    return message


def _takes_any_number(graph: nn.Module) -> bool:
    code = type(graph).forward.__code__
    return bool(code.co_flags & 0x04)


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Without the fused transformer layer, which is no operation of ONNX."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the exporter says of itself from the user, who gets one error or one file."""
    names = ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@dataclass
class Difference:
    """How far apart two predictions are, over several inputs.

    Attributes:
        limit: Largest difference of a probability that is accepted.
    """

    limit: float
    most: float = 0.0

    def add(self, found: NDArray[Any], expected: NDArray[Any]) -> float:
        """Compare one pair and return its largest difference.

        Raises:
            DataError: It is above the limit, or the shapes differ.
        """
        if found.shape != expected.shape:
            raise DataError(
                f"The exported network gives {found.shape}, expected {expected.shape}. Nothing was written; export "
                "without ONNX, and report this network."
            )
        largest = float(np.abs(found.astype(np.float64) - expected.astype(np.float64)).max(initial=0.0))
        # Negated, so that NaN fails as well.
        if not largest <= self.limit:
            raise DataError(
                f"The exported network's probabilities are up to {largest:.2g} off those of PyTorch; at most "
                f"{self.limit:g} is accepted. Nothing was written; export without ONNX, and report this network."
            )
        self.most = max(self.most, largest)
        return largest
