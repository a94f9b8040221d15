"""How a command ends: with an exit code, and with one clear sentence where the user can do something about it.

0 done, 1 a defect of medformer, 2 usage or config, 3 bad data, 4 leakage, 5 resources, 130 interrupted.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

import medformer
from medformer.errors import InterruptedRun, MedformerError, exhaustion
from medformer.names import shown

DEFECT = 1
# What a shell reports for a program that wrote into a closed pipe.
CLOSED_PIPE = 128 + 13


def run_program(command: Callable[[], object]) -> NoReturn:
    """Run `command` and leave the program with its exit code, at once where Ctrl-C comes while it leaves."""
    code = InterruptedRun.exit_code
    with suppress(KeyboardInterrupt):
        code = guarded(command)
    signal.signal(signal.SIGINT, lambda number, frame: os._exit(code))
    raise SystemExit(code)


def guarded(command: Callable[[], object]) -> int:
    """Run `command` and return the exit code; what the user can repair is one line on standard error."""
    for stream in (sys.stdout, sys.stderr):
        # A file name that the terminal cannot show must not end the work.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        with interruptible():
            with _sigterm_as_ctrl_c():
                command()
            sys.stdout.flush()
        return 0
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else 0 if exit_.code is None else DEFECT
    except MedformerError as error:
        return _fail(error)
    except BrokenPipeError:
        # The interpreter flushes standard output once more at its end, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED_PIPE
    except Exception as error:
        resource = exhaustion(error)
        if resource is not None:
            return _fail(resource)
        _stop_progress()
        traceback.print_exc()
        print(
            f"error: medformer {medformer.__version__} failed unexpectedly. This is a defect: please report it "
            "with the lines above and the command.",
            file=sys.stderr,
        )
        return DEFECT


@contextmanager
def interruptible(continued: Path | None = None) -> Iterator[None]:
    """Make of Ctrl-C inside of the block an error that says what holds for this command.

    Args:
        continued: The folder that `--resume` continues, of a command that has this option.

    Raises:
        InterruptedRun: Ctrl-C came, or an error that it caused: imports of compiled packages make errors of their own
            of it.
    """
    try:
        yield
    except (MedformerError, BrokenPipeError):
        raise
    except BaseException as error:
        if not _caused_by(error, KeyboardInterrupt):
            raise
        if continued is not None and continued.is_dir():
            raise InterruptedRun(
                "Interrupted. What was finished is on disk; the same command with --resume continues from there."
            ) from None
        raise InterruptedRun("Interrupted before the command had finished.") from None


@contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """Let a scheduler's SIGTERM unwind the command as Ctrl-C does, so that what is open is closed and recorded.

    A training handles both signals by itself while it runs (`medformer.training.signals`).
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    # Only the main thread may set handlers, and a handler that another program part has set stays.
    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if ours:
        signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _fail(error: MedformerError) -> int:
    _stop_progress()
    print(shown(f"error: {error}"), file=sys.stderr)
    return error.exit_code


def _caused_by(error: BaseException | None, kind: type[BaseException]) -> bool:
    while error is not None and not isinstance(error, kind):
        error = error.__cause__ or error.__context__
    return error is not None


def _stop_progress() -> None:
    console = sys.modules.get(f"{__package__}.console")
    if console is not None:
        console.stop()
