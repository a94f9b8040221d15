"""What an installed wheel brings: one package, the command line and the data inside of it."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[1]


def python(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, timeout=600, check=False
    )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages that holds what the wheel does."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    built = python("-m", "hatchling", "build", "-t", "wheel", "-d", str(folder), folder=_ROOT)
    assert built.returncode == 0, built.stderr
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "packages")
    return folder / "packages"


def test_no_name_can_collide(installed: Path) -> None:
    names = {entry.name for entry in installed.iterdir() if not entry.name.endswith(".dist-info")}
    assert names == {"medformer"}


_LOOK = """
import medformer, medformer._pipelines.verbs as verbs
from importlib.util import find_spec
from medformer.config_loading import shipped_configs
from medformer.files import manifests_dir
assert "polyp/default" in shipped_configs() and manifests_dir().is_dir()
calls = [verb.function(group)[0] for group, (_, row) in verbs.GROUPS.items() for verb in row]
assert calls and all(name.startswith("medformer._pipelines.") and find_spec(name) for name in calls), calls
assert find_spec("pipelines") is None and find_spec("configs") is None
print(medformer.__file__)
from medformer.__main__ import main
main()
"""


def test_the_command_line_and_the_configs_are_found_inside(installed: Path) -> None:
    (about,) = installed.glob("*.dist-info")
    assert "medformer = medformer.__main__:main" in (about / "entry_points.txt").read_text("utf-8")
    # Without `site`, the environment's link to this clone is not followed.
    places = [str(installed), sysconfig.get_paths()["purelib"], sysconfig.get_paths()["platlib"]]
    start = f"import sys; sys.path[:0] = {places!r}; sys.argv = ['medformer', '--version']\n"
    ran = python("-I", "-S", "-c", start + _LOOK, folder=installed)
    assert ran.returncode == 0 and str(installed) in ran.stdout and "medformer 0." in ran.stdout, ran.stderr


def test_the_package_runs_as_a_program() -> None:
    ran = python("-m", "medformer", "--version", folder=_ROOT)
    assert ran.returncode == 0 and ran.stdout.startswith("medformer "), ran.stderr
