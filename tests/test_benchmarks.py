"""Benchmarks are not run by the tests; here at least everything that they import is there."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"


def imports(path: Path) -> list[tuple[str, str]]:
    """Module and name of each `from ... import ...` of a file."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.ImportFrom)]
    return [(str(node.module), alias.name) for node in nodes for alias in node.names]


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_imports(path: Path) -> None:
    ours = [(module, name) for module, name in imports(path) if module.split(".")[0] in ("medformer", "pipelines")]
    for module, name in ours:
        if not hasattr(importlib.import_module(module), name):
            importlib.import_module(f"{module}.{name}")
        assert not module.startswith("pipelines") or module == "pipelines.console", f"{path.name} imports {module}"
