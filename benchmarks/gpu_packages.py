"""What `on_gpu.sh` needs on a machine that has torch and no network: wheels and data, in goes of at most 60 MB.

Without arguments it lists the packages, with the versions that are installed here. With `--out` it downloads their
wheels (this needs a network) and deals them out, with the data, to folders `1`, `2`, ... that can be carried one after
the other. On the other machine:

    pip install --no-index --no-deps --find-links wheels medformer's-packages   # each go's folder `wheels`
    cp -r go/data/. DATA                                                        # each go's folder `data`

python benchmarks/gpu_packages.py --data "$MEDFORMER_DATA" --out for-the-gpu
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

LIMIT = 60_000_000
THERE = ("torch",)
"""What the machine has, with everything that it needs itself."""
ALSO = ("pytest", "pytest-timeout")
"""What the tests need besides."""
DATA = (
    "polyp/Kvasir-SEG",
    "polyp/CVC-ClinicDB",
    "polyp/CVC-300",
    "volumes/Task04_Hippocampus",
    "abide/abide_fc_697.npz",
)


def needed(names: tuple[str, ...]) -> dict[str, str]:
    """Name and version of packages and of all that they need, without extras."""
    found: dict[str, str] = {}
    left = list(names)
    while left:
        name = left.pop().lower().replace("_", "-")
        try:
            package = distribution(name)
        except PackageNotFoundError:
            continue
        if name in found:
            continue
        found[name] = package.version
        wanted = (Requirement(line) for line in package.requires or ())
        left += [each.name for each in wanted if each.marker is None or each.marker.evaluate({"extra": ""})]
    return found


def main() -> None:
    """List, or download and deal out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder for the goes; without it, only the list is printed")
    parser.add_argument("--data", type=Path, default=os.environ.get("MEDFORMER_DATA"), help="folder of the data")
    parser.add_argument("--limit", type=int, default=LIMIT, help="bytes of a go")
    arguments = parser.parse_args()
    there = needed(THERE)
    pins = [
        f"{name}=={version.partition('+')[0]}"
        for name, version in sorted(needed(("medformer", *ALSO)).items())
        if name not in there and name != "medformer"
    ]
    print("\n".join(pins))
    if arguments.out is None:
        return
    if arguments.data is None:
        parser.error("no data: set MEDFORMER_DATA or give --data")
    fetched = arguments.out / "all"
    fetched.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "-d"]
    subprocess.run([*pip, str(fetched), *pins], check=True)
    files = {path: Path("wheels") / path.name for path in fetched.iterdir()}
    for name in DATA:
        place = arguments.data / name
        inside = [place] if place.is_file() else [path for path in place.rglob("*") if path.is_file()]
        files |= {path: Path("data") / path.relative_to(arguments.data) for path in inside}
    goes: list[int] = []
    for source, target in sorted(files.items(), key=lambda pair: -pair[0].stat().st_size):
        size = source.stat().st_size
        number = next((at for at, held in enumerate(goes) if held + size <= arguments.limit), len(goes))
        if number == len(goes):
            goes.append(0)
        goes[number] += size
        place = arguments.out / str(number + 1) / target
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, place)
    shutil.rmtree(fetched)
    for number, held in enumerate(goes, 1):
        print(f"{arguments.out / str(number)}: {held / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
