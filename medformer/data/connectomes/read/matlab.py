"""Reading MATLAB files in a child process: a damaged file can end the process in which SciPy reads it.

One child reads file after file; it is started when the first is asked for, and again when a file has ended it.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medformer.array_file import ArrayFileError, require_file

SECONDS = 60.0
"""How long the reading of one file may take."""

MEMORY = 2**31
"""Bytes that the child may take beyond what it has before the first file."""

_CODE = "import sys; sys.path[:] = {path!r}; from {module} import _serve; _serve({memory})"


def read_mat(path: Path) -> NDArray[Any]:
    """Read the one square matrix of a `.mat` file (up to version 7).

    Raises:
        ArrayFileError: The file is damaged, is of version 7.3, or holds another number of square matrices.
    """
    require_file(path)
    return _child.read(path)


class _Child:
    """The process that reads."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        atexit.register(self._end)

    def read(self, path: Path) -> NDArray[Any]:
        with self._lock:
            process = self._started()
            timer = threading.Timer(SECONDS, process.kill)
            timer.start()
            try:
                assert process.stdin is not None and process.stdout is not None
                process.stdin.write(json.dumps(os.fsdecode(path.absolute())).encode() + b"\n")
                process.stdin.flush()
                answer = json.loads(process.stdout.readline())
                content = process.stdout.read(answer.get("bytes", 0))
            except (OSError, ValueError):
                self._end()
                raise ArrayFileError(
                    f"it is damaged: the process that read it ended, or took longer than {SECONDS:g} s"
                ) from None
            finally:
                timer.cancel()
        if "error" in answer:
            raise ArrayFileError(answer["error"])
        return np.frombuffer(content, answer["dtype"]).reshape(answer["shape"])

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            code = _CODE.format(path=sys.path, module=__name__, memory=MEMORY)
            self._process = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            )
        return self._process

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


_child = _Child()


def _serve(memory: int) -> None:
    """What the child does: for each line of its input, a path, one line about the result, and the numbers."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    import scipy.io  # noqa: F401

    _limit_memory(memory)
    for line in sys.stdin:
        try:
            matrix = np.ascontiguousarray(_square(json.loads(line)))
            note: dict[str, Any] = {"dtype": matrix.dtype.str, "shape": matrix.shape, "bytes": matrix.nbytes}
            content = matrix.tobytes()
        except NotImplementedError:
            note, content = {"error": "it is a file of MATLAB 7.3; save it with -v7"}, b""
        except ValueError as error:
            note, content = {"error": f"it is damaged, or no file of MATLAB ({error})"}, b""
        except _OtherContentError as error:
            note, content = {"error": str(error)}, b""
        except Exception as error:
            note, content = {"error": f"it is damaged, or no file of MATLAB ({type(error).__name__})"}, b""
        answers.write(json.dumps(note).encode() + b"\n" + content)
        answers.flush()


class _OtherContentError(Exception):
    """A sound file of something else."""


def _square(path: str) -> NDArray[Any]:
    from scipy.io import loadmat

    squares = {
        name: value
        for name, value in loadmat(path).items()
        if isinstance(value, np.ndarray) and value.ndim == 2 and value.shape[0] == value.shape[1] > 1
    }
    if len(squares) != 1:
        raise _OtherContentError(f"it holds {len(squares)} square matrices ({', '.join(squares)}); expected one")
    matrix = next(iter(squares.values()))
    if matrix.dtype.kind not in "biuf":
        raise _OtherContentError(f"found {matrix.dtype} {matrix.shape}; expected one square matrix of numbers")
    return matrix


def _limit_memory(beyond: int) -> None:
    """So that a header that claims 10^12 numbers ends as an error, and not the machine's work."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + beyond, resource.getrlimit(resource.RLIMIT_AS)[1]))
