"""The notebooks run from their first to their last cell, and hold no outputs."""

from __future__ import annotations

import ast
import importlib
import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest

import medformer as mf

_FOLDER = Path(__file__).parents[2] / "notebooks"
BOOKS = ("connectomes", "polyp", "volumes")


def code_of(name: str) -> list[str]:
    """The code cells of a notebook."""
    book = json.loads((_FOLDER / f"{name}.ipynb").read_text("utf-8"))
    assert book["nbformat"] == 4 and len({cell["id"] for cell in book["cells"]}) == len(book["cells"])
    cells = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    assert cells and not any(cell["outputs"] or cell["execution_count"] for cell in cells)
    return ["".join(cell["source"]) for cell in cells]


def test_there_is_one_for_each_task() -> None:
    assert tuple(sorted(path.stem for path in _FOLDER.glob("*.ipynb"))) == BOOKS


@pytest.mark.parametrize("name", BOOKS)
def test_what_a_notebook_names_is_there(name: str) -> None:
    nodes = list(ast.walk(ast.parse("\n".join(code_of(name)))))
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("medformer"):
            assert all(hasattr(importlib.import_module(node.module), alias.name) for alias in node.names)
    of_mf = [node for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)]
    used = {node.attr for node in of_mf if isinstance(node.value, ast.Name) and node.value.id == "mf"}
    assert {"crossval", "load"} <= used <= set(mf.__all__)


# One shows in every run of the tests that they work; the others take as long.
_RUN = [pytest.param(name, marks=pytest.mark.slow) for name in BOOKS]


@pytest.mark.parametrize("name", _RUN)
def test_a_notebook_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(code_of(name)):
        exec(compile(cell, f"{name}.ipynb, code cell {number}", "exec"), names)
    plt.close("all")
