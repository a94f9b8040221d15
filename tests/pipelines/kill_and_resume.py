"""Interrupts a polyp cross-validation again and again, resumes it, and compares it with an uninterrupted run.

    python tests/pipelines/kill_and_resume.py [--kills 5] [--seed 0] [--signals SIGKILL ...] [KEY=VALUE ...]

The uninterrupted run is a program of its own, and is measured. The interrupted one is continued in processes that are
forked from this one. Both have everything imported: signals then meet the work and not the imports. Moments are drawn
from the seed: seconds of processor time since the session began, out of what is left of an uninterrupted run, or, with
`--clock writes`, the number of the file that is just taking its name. Processor time is the same on an idle and on a
busy machine. KEY=VALUE changes the config, for example model.name=meta_polyp.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = "1"

FOLDS = 2
SETTINGS = (
    "--config",
    "polyp/quick",
    "data.image_size=[32, 32]",
    "model.name=smp:linknet/tu-mobilenetv3_small_050",
    "training.epochs=3",
    "training.batch_size=4",
    f"crossval.folds={FOLDS}",
)
# The first word of this script when it is to run a command to its end.
WHOLE = "whole"
# How often a signal comes while the command still reads its arguments and data, before it writes anything.
EARLY_SHARE = 0.15
COMPARED = ("oof.csv", "metrics.json", "splits.json", "masks/*", "folds/*/model.safetensors", "folds/*/threshold.json")


def main() -> int:
    """Do it, say what was done, and return 0 when the runs are equal."""
    options = _options()
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="kill-and-resume-") as name:
        folder = Path(name)
        manifest, whole, broken, log = (folder / part for part in ("data/manifest.csv", "whole", "broken", "log"))
        # Image libraries start threads, which a fork does not survive: this process only imports.
        _finish(_fork(lambda: _write_data(manifest.parent), log), log)
        common = ["polyp", "crossval", "--data", str(manifest), *SETTINGS, *options.overrides]
        timing = _uninterrupted([*common, "--out", str(whole)], whole, log)
        _import_everything()
        print(
            f"Without interruption: {timing['work']:.2f} s of work, {timing['rest']:.2f} s of it after the last fold."
        )
        interrupted = Interrupted([*common, "--out", str(broken)], broken, log, timing, draw)
        interrupted.run([signal.Signals[word] for word in options.signals], options.kills, options.clock)
        return _compare(whole, broken)


class Interrupted:
    """A run that is cut off again and again.

    Args:
        command: Arguments of `medformer`, without `--resume`.
        run: Its folder.
        log: Where a session's output goes.
        timing: What an uninterrupted run takes: seconds of `work` of the processor since its first file, those after
            the last fold (`rest`), and the number of `files` it leaves.
        draw: Draws the moments.
    """

    def __init__(self, command: list[str], run: Path, log: Path, timing: dict[str, float], draw: random.Random) -> None:
        self.command = command
        self.folder = run
        self.log = log
        self.timing = timing
        self.draw = draw

    def run(self, signals: list[signal.Signals], kills: int, clock: str) -> None:
        """Interrupt the run `kills` times with one signal after the other, then let it finish."""
        done = attempts = 0
        while done < kills:
            attempts += 1
            if attempts > 10 * kills:
                raise SystemExit(f"only {done} of {kills} signals came before the end of a session; try another seed")
            number = signals[done % len(signals)]
            resumed = "--resume" in self._arguments()
            # Twice the mean distance: the moments spread over the whole run.
            share = min(1.0, 2.0 / (kills - done + 1)) * self._left()
            when, code = self._at_write(number, share) if clock == "writes" else self._after_seconds(number, share)
            if code == 0:
                print(f"      A session ended before its signal, {when}; the run begins again.")
                # Signals are to meet work, of which a finished run has hardly any.
                shutil.rmtree(self.folder)
                continue
            done += 1
            _check_end(number, code, self.log)
            session = "resumed" if resumed else "new"
            print(f"{done:>4}. {number.name} {when} in a {session} session, after: {_last_line(self.log)}")
        _finish(_fork(lambda: _medformer(self._arguments()), self.log), self.log)

    def _arguments(self) -> list[str]:
        """Without a run.json there is nothing to resume yet."""
        return [*self.command, "--resume"] if (self.folder / "run.json").exists() else self.command

    def _left(self) -> float:
        """Share of the work that is still to do."""
        rest = self.timing["rest"] / self.timing["work"]
        return rest + (1.0 - rest) * (1.0 - _folds_done(self.folder) / FOLDS)

    def _at_write(self, number: signal.Signals, share: float) -> tuple[str, int]:
        """Let the session signal itself when the drawn file is about to take its name, or just has it."""
        target = self.draw.randint(1, max(1, round(share * self.timing["files"])))
        before = self.draw.random() < 0.5
        child = _fork(lambda: _medformer(self._arguments(), _signal_at_write(target, before, number)), self.log)
        return f"{'before' if before else 'after'} write {target}", _wait(child)

    def _after_seconds(self, number: signal.Signals, share: float) -> tuple[str, int]:
        early = self.draw.random() < EARLY_SHARE
        pause = self.draw.uniform(0.0, 0.3 if early else share * self.timing["work"])
        sessions = _sessions(self.folder)
        child = _fork(lambda: _medformer(self._arguments()), self.log)
        began, ended = _worked(child), None
        while not early and ended is None and _sessions(self.folder) == sessions:
            time.sleep(0.005)
            ended = _poll(child)
        if not early:
            began = _worked(child)
        while ended is None and _worked(child) < began + pause:
            time.sleep(0.005)
            ended = _poll(child)
        if ended is None:
            os.kill(child, number)
            ended = _wait(child)
        return f"{pause:.2f} s after its {'beginning' if early else 'first file'}", ended


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=5, help="how often to interrupt")
    parser.add_argument("--seed", type=int, default=0, help="decides the moments")
    parser.add_argument("--signals", nargs="+", default=["SIGKILL"], help="sent in turn: SIGKILL, SIGTERM, SIGINT")
    parser.add_argument("--clock", choices=("seconds", "writes"), default="seconds", help="what moments are drawn from")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="changes of the config")
    return parser.parse_intermixed_args()


def _uninterrupted(arguments: list[str], run: Path, log: Path) -> dict[str, float]:
    """Run and measure the command in an interpreter of its own, whose sets and dictionaries have another order."""
    with open(log, "wb") as said:
        child = subprocess.Popen([sys.executable, __file__, WHOLE, *arguments], stdout=said, stderr=said)
    ended = began = tested = None
    end = 0.0
    while ended is None:
        time.sleep(0.01)
        end = max(end, _worked(child.pid))
        if began is None and _sessions(run):
            began = end
        if tested is None and _folds_done(run) == FOLDS:
            tested = end
        ended = child.poll()
    if ended or began is None or tested is None:
        raise SystemExit(f"the uninterrupted run ended with {ended}:\n{log.read_text('utf-8')}")
    files = sum(file.is_file() for file in run.rglob("*"))
    return {"work": end - began, "rest": end - tested, "files": files}


def _import_everything() -> None:
    import segmentation_models_pytorch  # noqa: F401
    import sklearn.ensemble
    import sklearn.model_selection  # noqa: F401

    import pipelines.cli
    import pipelines.work  # noqa: F401
    from medformer.evaluation.statistics.resampling import DEFAULT
    from medformer.inference.baselines import frames

    # Few resamples, and a baseline that sees few pixels, take a fraction of the time; see `quick` in conftest.py.
    object.__setattr__(DEFAULT, "resamples", 200)
    frames._PIXELS_PER_CASE = 15


def _write_data(folder: Path) -> None:
    from medformer.data.synthetic.colonoscopy import write_synthetic_colonoscopy

    write_synthetic_colonoscopy(folder, groups=8, frames_per_group=2, size=(48, 64))


def _medformer(arguments: list[str], prepare: Callable[[], None] | None = None) -> None:
    from pipelines.cli import main

    if prepare is not None:
        prepare()
    sys.argv = ["medformer", *arguments]
    main()


def _signal_at_write(target: int, before: bool, number: signal.Signals) -> Callable[[], None]:
    """Return what makes this process signal itself at its `target`-th atomic write."""

    def prepare() -> None:
        replace, count = os.replace, 0

        def counted(source: Any, destination: Any) -> None:
            nonlocal count
            count += 1
            if count == target and before:
                os.kill(os.getpid(), number)
            replace(source, destination)
            if count == target and not before:
                os.kill(os.getpid(), number)

        os.replace = counted

    return prepare


def _fork(work: Callable[[], None], log: Path) -> int:
    """Run `work` in a copy of this process that writes to `log`; return its number."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        for stream in (1, 2):
            os.dup2(target, stream)
        work()
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    except KeyboardInterrupt:
        # After the command itself has ended.
        code = 130
    finally:
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _wait(child: int) -> int:
    """Wait for a process: its exit code, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _worked(child: int) -> float:
    """Return the seconds of the processor that a process has used, or where that is not known, those of the clock."""
    if sys.platform != "linux":
        return time.monotonic()
    with suppress(OSError):
        # The system's number of a process' clock; see clock_getcpuclockid(3).
        return time.clock_gettime((~child << 3) | 2)
    return 0.0


def _poll(child: int) -> int | None:
    ended, status = os.waitpid(child, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


def _finish(child: int, log: Path) -> None:
    code = _wait(child)
    if code:
        raise SystemExit(f"a session that nobody interrupted ended with {code}:\n{log.read_text('utf-8')}")


def _check_end(number: signal.Signals, code: int, log: Path) -> None:
    expected = -number if number is signal.SIGKILL else 130
    text = log.read_text("utf-8")
    if code != expected or "Traceback" in text:
        raise SystemExit(f"{number.name} ended a session with {code}, expected {expected} and no traceback:\n{text}")


def _sessions(run: Path) -> int:
    return len(_json(run / "run.json").get("sessions", ()))


def _folds_done(run: Path) -> int:
    return [_json(file).get("state") for file in run.glob("folds/*/fold.json")].count("done")


def _json(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text("utf-8"))) if file.exists() else {}


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text("utf-8").splitlines() if line and not line.startswith("error:")]
    return lines[-1] if lines else "nothing"


def _compare(whole: Path, broken: Path) -> int:
    names = sorted(str(file.relative_to(whole)) for pattern in COMPARED for file in whole.glob(pattern))
    different = [
        name
        for name in names
        if not (broken / name).exists() or (whole / name).read_bytes() != (broken / name).read_bytes()
    ]
    surplus = [str(file.relative_to(broken)) for file in broken.rglob(".*")]
    print(f"oof.csv is {'DIFFERENT' if 'oof.csv' in different else 'identical'}.")
    print(f"{len(names) - len(different)} of {len(names)} results are identical: {', '.join(COMPARED)}.")
    for name in different:
        print(f"different: {name}")
    for name in surplus:
        print(f"left behind: {name}")
    return 1 if different or surplus else 0


if __name__ == "__main__":
    if sys.argv[1:2] == [WHOLE]:
        _import_everything()
        _medformer(sys.argv[2:])
    raise SystemExit(main())
