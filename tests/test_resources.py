from __future__ import annotations

from pathlib import Path

import pytest

from medformer import files as resources
from medformer.errors import ResourceError


def test_a_clone_has_configs_and_manifests() -> None:
    assert (resources.configs_dir() / "polyp" / "default.yaml").is_file()
    assert resources.manifests_dir().is_dir()


def test_an_installed_package_carries_them_inside(tmp_path: Path) -> None:
    package = tmp_path / "site-packages" / "medformer"
    inside = package / "_resources" / "configs"
    inside.mkdir(parents=True)
    assert resources._find("configs", package) == inside


def test_a_stranger_beside_an_installed_package_is_not_taken(tmp_path: Path) -> None:
    package = tmp_path / "site-packages" / "medformer"
    package.mkdir(parents=True)
    (package.parent / "configs").mkdir()
    with pytest.raises(ResourceError, match="Install the package again"):
        resources._find("configs", package)
