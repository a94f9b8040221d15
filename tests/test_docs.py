"""What the documentation names exists: files, modules, commands and their options."""

from __future__ import annotations

import importlib
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from medformer.models.backbone.mixers import MIXERS, mixer_parameters
from medformer.models.backbone.variants import VARIANTS
from medformer.registry import Entry
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
_NAME = re.compile(r"\b(?:[A-Za-z]+_\w+|[A-Z][a-z]+[A-Z]\w+)\b")
_MEMBER = re.compile(r"\b([a-z_]+)\.([A-Z]\w+)")
NOWHERE = {"ReadWriteMany", "case_0000", "convnext_tiny", "my_mixer", "my_network", "by_age", "by_repeat", "by_sex"}
"""Names of Kubernetes, nnU-Net, timm and the reader, and keys that are put together of parts."""


def code(page: Path) -> list[str]:
    """The code blocks of a page, and what it has in backticks; a command that goes on in the next line is one line."""
    return [*blocks(page), *spans(page)]


def blocks(page: Path) -> list[str]:
    return _FENCED.findall(_text(page))


def spans(page: Path) -> list[str]:
    return [span.replace("\n", " ") for span in _SPAN.findall(_FENCED.sub("", _text(page)))]


def _text(page: Path) -> str:
    return page.read_text("utf-8").replace("\\\n", " ")


@cache
def words() -> set[str]:
    """Every word of our sources and configs, and all names of files; tests may hold wrong names and are left out."""
    sources = [ROOT / name for name in FILES if not name.startswith("tests/")]
    configs = [*(ROOT / "configs").rglob("*.yaml"), ROOT / "pyproject.toml"]
    found = {word for file in [*sources, *configs] for word in re.findall(r"[A-Za-z]\w+", file.read_text("utf-8"))}
    return found | {Path(name).stem for name in [*FILES, *map(str, configs)]} | set(VARIANTS) | NOWHERE


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


def stale_names(page: Path) -> list[str]:
    """Names in backticks (functions, classes, keys, modules) that neither our sources nor blocks of the page have."""
    text = " ".join(spans(page))
    found = set(_NAME.findall(text)) - words() - {name for block in blocks(page) for name in _NAME.findall(block)}
    for module, name in _MEMBER.findall(text):
        places = [ROOT / file for file in FILES if Path(file).stem == module]
        if module not in ("mf", "nn") and not any(
            re.search(rf"\b{name}\b", file.read_text("utf-8")) for file in places
        ):
            found.add(f"{module}.{name}")
    return sorted(found)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_in_backticks_stand_in_the_sources(page: Path) -> None:
    assert stale_names(page) == []


def test_wrong_names_are_found() -> None:
    assert wrong_commands("medformer polyp prepair a --out b") == ["medformer polyp prepair a --out b"]
    assert wrong_commands("medformer reprot run") == ["medformer reprot run"]
    assert [found.split(": ")[1] for found in wrong_commands("medformer abide predict run new --outt b")] == ["--outt"]
    assert not wrong_commands("medformer abide crossval --data cohort --out run --no-baselines  # and more")
    assert any("medformer polyp predict polyp-run" in text for text in code(PAGES[0]))
    assert any("polyp-crossval" in text for text in code(ROOT / "docs" / "cluster.md"))


def test_stale_names_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "`grid.PaddedNetwork` and `load_config`, but `padded.PaddedNetwork`, `NoSuchNetwork` and `no_such_key`."
    )
    assert stale_names(page) == ["NoSuchNetwork", "no_such_key", "padded.PaddedNetwork"]


def mixer_table() -> list[str]:
    """The table of docs/mixers.md, as the registry has it."""
    lines = ["| `name` | what it does | parameters | cost | sizes and limits |", "|---|---|---|---|---|"]
    for name, entry in MIXERS.items():
        fields = mixer_parameters(name).model_fields.items()
        parameters = ", ".join(f"`{key}: {json.dumps(field.default)}`" for key, field in fields)
        reasons: dict[str, list[str]] = {}
        for ability, reason in entry.cannot.items():
            reasons.setdefault(reason, []).append(ability)
        limits = [f"no {', '.join(abilities)}: {reason}" for reason, abilities in reasons.items()]
        about = f"{entry.description} ({entry.paper})" if entry.paper else entry.description
        cells = [f"`{name}`", about, parameters, entry.cost, ". ".join(filter(None, [entry.sizes, *limits]))]
        lines.append(f"| {' | '.join(cells)} |".replace("|  |", "| |"))
    return lines


def test_the_table_of_mixers_is_the_registry() -> None:
    """Copy what is expected into the page after a change of the registry."""
    lines = (ROOT / "docs" / "mixers.md").read_text("utf-8").splitlines()
    start = next(at for at, line in enumerate(lines) if line.startswith("| `name` |"))
    assert lines[start : lines.index("", start)] == mixer_table(), "\n" + "\n".join(mixer_table())


def test_the_mixer_of_the_example_works_in_every_dimension() -> None:
    source, row = (block for block in blocks(ROOT / "docs" / "mixers.md") if "NeighborGate" in block)
    made: dict[str, Any] = {"Entry": Entry}
    exec(source, made)
    entry = eval(row, made)
    for size in ((7,), (1, 6), (3, 4, 2)):
        x = torch.randn(2, 8, *size)
        assert entry.part(8, spatial_dims=len(size))(x).shape == x.shape
