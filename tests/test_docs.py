"""What the documentation names exists: files, modules, commands and their options."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from pipelines.verbs import GROUPS

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FILES = [
    path.relative_to(ROOT).as_posix()
    for folder in ("medformer", "pipelines", "benchmarks", "tests")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in {".py", ".sh"}
]

_FENCED = re.compile(r"^```.*?\n(.*?)^```", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`\n]+(?:\n[^`\n]+)?)`")
_FILE = re.compile(r"[\w./-]*\w\.(?:py|sh)\b")
_MODULE = re.compile(r"\bmedformer(?:\.\w+)+")
_IMPORT = re.compile(r"from (medformer[\w.]*) import ([\w, ]+)")
_COMMAND = re.compile(r"(?<!import )\bmedformer ([a-z]+)(?: ([a-z]+))?([^#|;&\n]*)")
_OPTION = re.compile(r"(?<!\S)--[a-z-]+")


def code(page: Path) -> list[str]:
    """The code blocks of a page, and what it has in backticks; a command that goes on in the next line is one line."""
    text = page.read_text("utf-8").replace("\\\n", " ")
    blocks = _FENCED.findall(text)
    return [*blocks, *(span.replace("\n", " ") for span in _SPAN.findall(_FENCED.sub("", text)))]


def options(group: str, verb: str) -> set[str]:
    """The options of a verb, as a user writes them."""
    found = next(row for row in GROUPS[group][1] if row.name == verb)
    return {name for parameter in found.parameters for name in parameter.spelled.split("/")}


def wrong_commands(text: str) -> list[str]:
    """Commands in a piece of code whose verb or option is not in the table."""
    wrong = []
    for match in _COMMAND.finditer(text):
        first, second, rest = match.groups()
        group, verb = (first, second) if first in GROUPS else ("", first)
        if verb is None:
            continue
        if verb not in {row.name for row in GROUPS[group][1]}:
            wrong.append(match[0])
        else:
            wrong += [f"{match[0]}: {name}" for name in _OPTION.findall(rest) if name not in options(group, verb)]
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_exist(page: Path) -> None:
    named = {name for text in code(page) for name in _FILE.findall(text)}
    # A page may leave out the first folders of a path.
    missing = [name for name in sorted(named) if not any(f"/{path}".endswith(f"/{name}") for path in FILES)]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_modules_and_names_can_be_imported(page: Path) -> None:
    for text in code(page):
        imports = [(module, names) for module, names in _IMPORT.findall(text)]
        for module in {*_MODULE.findall(text), *(module for module, _ in imports)}:
            importlib.import_module(module)
        for module, names in imports:
            for name in names.split(","):
                assert hasattr(importlib.import_module(module), name.strip()), f"{module} has no {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_options_are_in_the_table_of_verbs(page: Path) -> None:
    assert not [wrong for text in code(page) for wrong in wrong_commands(text)]


def test_wrong_names_are_found() -> None:
    assert wrong_commands("medformer polyp prepair a --out b") == ["medformer polyp prepair a --out b"]
    assert wrong_commands("medformer reprot run") == ["medformer reprot run"]
    assert [found.split(": ")[1] for found in wrong_commands("medformer abide predict run new --outt b")] == ["--outt"]
    assert not wrong_commands("medformer abide crossval --data cohort --out run --no-baselines  # and more")
    assert any("medformer polyp predict polyp-run" in text for text in code(PAGES[0]))
    assert any("polyp-crossval" in text for text in code(ROOT / "docs" / "cluster.md"))
