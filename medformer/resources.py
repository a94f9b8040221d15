"""Where the shipped configs and manifests are: beside the packages in a clone, inside them in an installed wheel."""

from __future__ import annotations

from pathlib import Path

from medformer.errors import ResourceError

_PACKAGE = Path(__file__).resolve().parent


def configs_dir() -> Path:
    """Return the folder of the shipped YAML configs.

    Raises:
        ResourceError: The installation lacks it.
    """
    return _find("configs")


def manifests_dir() -> Path:
    """Return the folder of the shipped manifests and named splits.

    Raises:
        ResourceError: The installation lacks it.
    """
    return _find("data_manifests")


def _find(name: str, package: Path = _PACKAGE) -> Path:
    inside = package / "_resources" / name
    if inside.is_dir():
        return inside
    # Next to a wheel's packages stands whatever else is installed; only a source tree also has the project file.
    clone = package.parent
    if (clone / "pyproject.toml").is_file() and (clone / name).is_dir():
        return clone / name
    raise ResourceError(
        f"The folder '{name}' that ships with medformer is missing: looked for {inside} and {clone / name}. "
        "Install the package again, or run it from a complete clone."
    )
