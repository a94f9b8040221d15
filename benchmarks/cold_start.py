"""What commands cost from a cold start: processor and wall time of whole processes, and of their imports alone.

    python benchmarks/cold_start.py --out cold_start.json
    python benchmarks/cold_start.py --out cold_start.json --also 'volume predict RUN SCAN --out {out}'

Every command runs in a process of its own, on `--threads` threads, in turns with the floors: Python alone,
`import torch`, and `import segmentation_models_pytorch`, which a U-Net of that library needs before it does anything.
`imports` is another process that imports what the command had imported when it ended, in the same order, and does
nothing else. A prediction is of one frame by the network that frames have by default, untrained, on three folds as a
run leaves them.

Times are medians over the rounds; `of torch` is the median over the rounds of the ratio of processor times to that of
`import torch` in the same round, which other work on the machine changes least.
"""

from __future__ import annotations

import argparse
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from machine import machine

from medformer.config import PolypConfig
from medformer.config_loading import load_config
from medformer.crossval.bundle import CONFIG_FILE, fold_folder, write_record
from medformer.data.synthetic.colonoscopy import write_synthetic_colonoscopy
from medformer.files import read_csv, write_json, write_text
from medformer.tasks.polyp.predictor import THRESHOLD_FILE, new_network
from medformer.tensor_file import write_tensors
from medformer.yaml_files import dump_yaml
from pipelines.console import make_reporter, say

TORCH = "import torch"
FLOORS = {
    "python": "pass",
    TORCH: TORCH,
    "import segmentation_models_pytorch": "import segmentation_models_pytorch",
}
_FOLDS = 3
_RUN = "import sys; sys.argv[0] = 'medformer'; from medformer.__main__ import main; main()"
# Modules in the order in which their imports began; those that a package makes up when it is used cannot be imported.
_LIST = """
import atexit, json, os, sys
begun = []
class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        begun.append(name)
sys.meta_path.insert(0, Finder)
place = os.environ["BENCHMARK_MODULES"]
atexit.register(lambda: open(place, "w").write(json.dumps([name for name in begun if name in sys.modules])))
"""
_IMPORT = """
import importlib, json, sys
from contextlib import suppress
for name in json.load(open(sys.argv[1])):
    with suppress(ImportError):
        importlib.import_module(name)
"""


class Spent(NamedTuple):
    """Seconds of one process."""

    cpu: float
    wall: float


def main() -> None:
    """Measure, print a table, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds, after one that warms the disk")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each process")
    parser.add_argument("--image", type=Path, help="a frame to segment; without one, a synthetic one of 576 x 720")
    parser.add_argument(
        "--also", action="append", default=[], metavar="COMMAND", help="another command; {out} stands for a new folder"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measured = measure(commands(Path(folder), arguments), Path(folder), arguments.rounds, arguments.threads)
    found = {"machine": machine(), "rounds": arguments.rounds, "threads": arguments.threads, "processes": measured}
    for name, row in measured.items():
        say(f"{name:<64}{row['cpu_s']:>7.2f} s CPU{row['wall_s']:>7.2f} s wall{row['of_torch']:>7.2f} of torch")
    if arguments.out is not None:
        write_json(arguments.out, found)


def commands(folder: Path, arguments: argparse.Namespace) -> dict[str, Sequence[str]]:
    """The commands to measure, by what the table calls them."""
    bundle = write_bundle(folder / "bundle")
    image = arguments.image
    if image is None:
        manifest = write_synthetic_colonoscopy(folder / "frames", groups=1, frames_per_group=1, size=(576, 720))
        image = manifest.parent / read_csv(manifest)[0]["image"]
    found: dict[str, Sequence[str]] = {
        "medformer --help": ["--help"],
        "medformer info": ["info"],
        "medformer polyp predict, one frame": ["polyp", "predict", str(bundle), str(image), "--out", "{out}"],
    }
    return {**found, **{f"medformer {command}": shlex.split(command) for command in arguments.also}}


def write_bundle(path: Path) -> Path:
    """Write the default network of frames, untrained, as a bundle of three folds; weights do not change its cost."""
    config = load_config("polyp/default", ["model.weights=null", "model.frozen=0"], model=PolypConfig)
    write_text(path / CONFIG_FILE, dump_yaml(config.model_dump(mode="json")))
    for fold in range(_FOLDS):
        place = fold_folder(path, fold)
        write_tensors(place / "model.safetensors", new_network(config, fold).state_dict(), {})
        write_json(place / THRESHOLD_FILE, {"threshold": 0.5})
    write_record(path, {"task": "polyp", "folds": list(range(_FOLDS)), "made_by": "0" * 64})
    return path


def measure(
    wanted: Mapping[str, Sequence[str]], folder: Path, rounds: int, threads: int
) -> dict[str, dict[str, float]]:
    """Run all processes in turns.

    Args:
        wanted: Arguments of each command.
        folder: For results, which are thrown away.
        rounds: How often, after a first round that is not counted and that lists the imports.
        threads: Of each process.

    Returns:
        Median seconds of each process, and its share of `import torch`.
    """
    processes = {name: ["-c", code] for name, code in FLOORS.items()}
    for number, (name, words) in enumerate(wanted.items()):
        modules = folder / f"{number}.json"
        run(["-c", _LIST + _RUN, *placed(words, folder)], threads, {"BENCHMARK_MODULES": str(modules)})
        processes |= {name: ["-c", _RUN, *words], f"  its imports ({name})": ["-c", _IMPORT, str(modules)]}
    spent: dict[str, list[Spent]] = {name: [] for name in processes}
    reporter = make_reporter()
    for _ in reporter.track(range(rounds), "rounds"):
        for name, words in processes.items():
            spent[name].append(run(placed(words, folder), threads))
    return {
        name: {
            "cpu_s": statistics.median(one.cpu for one in times),
            "wall_s": statistics.median(one.wall for one in times),
            "of_torch": statistics.median(one.cpu / torch.cpu for one, torch in zip(times, spent[TORCH], strict=True)),
        }
        for name, times in spent.items()
    }


def placed(words: Sequence[str], folder: Path) -> list[str]:
    """Arguments with a folder in the place of `{out}` that does not exist."""
    return [str(Path(tempfile.mkdtemp(dir=folder)) / "out") if word == "{out}" else word for word in words]


def run(words: Sequence[str], threads: int, more: Mapping[str, str] | None = None) -> Spent:
    """Run a Python process to its end.

    Raises:
        SystemExit: It failed.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), **(more or {})}
    # With it, the package's modules would be compiled in every process, where an installation keeps them compiled.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    began = time.perf_counter()
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen([sys.executable, *words], stdout=said, stderr=said, env=environment) as process,
    ):
        # The usage of this child alone, which `resource` adds up over all.
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.perf_counter() - began
        if process.returncode:
            said.seek(0)
            raise SystemExit(f"{shlex.join(words)} ended with {process.returncode}:\n{said.read().decode()}")
    return Spent(usage.ru_utime + usage.ru_stime, wall)


if __name__ == "__main__":
    main()
