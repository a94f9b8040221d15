"""What errors advise can be done: every option that a message names exists, in the commands that can show it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from pipelines.verbs import GROUPS

ROOT = Path(__file__).parents[1]

FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
OTHERS = {"--version", "--shm-size", "--logdir", "--check"}
"""Options of other programs, and of the command line as a whole."""

OPTIONS = {
    (group, verb.name): {
        spelled for parameter in verb.parameters if parameter.spelled for spelled in parameter.spelled.split("/")
    }
    for group, (_, verbs) in GROUPS.items()
    for verb in verbs
}
TRAINING = ("pretrain", "train", "crossval")
REACHED = {
    "medformer/data/volumes/read/layout": [("volume", verb) for verb in ("prepare", "check", "plan", *TRAINING)],
    "medformer/data/volumes/plan": [("volume", verb) for verb in ("plan", *TRAINING)],
    "medformer/data/manifest.py": [(task, verb) for task in ("polyp", "volume") for verb in ("check", *TRAINING)],
}
"""Commands that can show the messages of some files."""


def messages(file: Path) -> Iterator[tuple[int, str]]:
    """Every text in a file, whole where it has several parts, without docstrings and style sheets."""
    tree = ast.parse(file.read_text("utf-8"))
    described = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in described:
            yield node.lineno, node.value


@cache
def named() -> list[tuple[str, int, str, set[str]]]:
    found = []
    for folder in ("medformer", "pipelines"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            relative = file.relative_to(ROOT).as_posix()
            if relative.startswith("medformer/reporting"):
                continue
            for line, text in messages(file):
                if flags := set(FLAG.findall(text)) - OTHERS:
                    found.append((relative, line, text, flags))
    return found


def test_every_option_that_a_message_names_exists() -> None:
    every = set().union(*OPTIONS.values())
    unknown = [f"{file}:{line}: {flag}" for file, line, _, flags in named() for flag in flags - every]
    assert not unknown


def test_a_command_that_a_message_spells_out_has_its_options() -> None:
    spelled = re.compile(r"medformer (?:(polyp|abide|volume) )?(\w+)([^`.]*)")
    for file, line, text, _ in named():
        for group, verb, rest in spelled.findall(text):
            if (group, verb) in OPTIONS:
                assert set(FLAG.findall(rest)) <= OPTIONS[group, verb], f"{file}:{line}"


@pytest.mark.parametrize("place", REACHED)
def test_the_commands_that_show_a_message_have_its_options(place: str) -> None:
    wanted = {flag for file, _, _, flags in named() if file.startswith(place) for flag in flags}
    assert wanted
    for command in REACHED[place]:
        assert wanted <= OPTIONS[command], command
