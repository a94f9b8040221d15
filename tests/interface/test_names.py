"""`import medformer`: cheap, with every name that it promises, and backbones by name."""

from __future__ import annotations

import ast
import doctest
import subprocess
import sys
from pathlib import Path

import pytest

import medformer as mf
from medformer.interface import backbones


def test_importing_the_package_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'numpy', 'pydantic', 'yaml'}"
    code = f"import sys, medformer; print(sorted({heavy} & set(sys.modules)), dir(medformer))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=True)
    assert ran.stdout.startswith("[] ") and "'load'" in ran.stdout


def test_every_name_is_there_and_type_checkers_see_the_same() -> None:
    assert all(getattr(mf, name) is not None for name in mf.__all__)
    assert dir(mf) == sorted([*mf.__all__, "__version__"])
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        mf.lode  # noqa: B018
    tree = ast.parse(Path(mf.__file__).read_text("utf-8"))
    guarded = next(node for node in tree.body if isinstance(node, ast.If))
    typed = {alias.name: node.module for node in guarded.body for alias in node.names}  # type: ignore[attr-defined]
    assert typed == mf._PLACE and sorted(typed) == sorted(mf.__all__)


def test_the_package_of_cross_validation_is_the_function_too() -> None:
    import medformer.crossval.run.outputs as outputs

    assert outputs is sys.modules["medformer.crossval.run.outputs"]
    with pytest.raises(mf.ConfigError, match=r"training\.epoch.*epochs"):
        mf.crossval("polyp", "polyps.csv", out="run", training={"epoch": 3})


def test_names_are_filtered_by_a_pattern() -> None:
    assert mf.list_mixers()[:3] == ["pooling", "identity", "random"] and mf.list_mixers("atten*") == ["attention"]
    assert "caformer_s18" in mf.list_backbones() and not [name for name in mf.list_backbones() if "<" in name]
    assert mf.list_backbones("convformer_?18") == ["convformer_s18"]
    with pytest.raises(mf.ConfigError, match="Did you mean 'caformer_s18'"):
        mf.create_backbone("caformer_s19")


def test_examples_of_backbones_run() -> None:
    found = doctest.testmod(backbones)
    assert found.attempted > 5 and not found.failed
