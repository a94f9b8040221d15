"""The table of tasks."""

from __future__ import annotations

import sys

import pytest

from medformer.config import SCHEMAS
from medformer.errors import UnknownNameError
from medformer.tasks import get_task


@pytest.mark.parametrize("name", SCHEMAS)
def test_only_the_task_that_is_asked_for_is_imported(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for other in set(SCHEMAS) - {name}:
        # What stands as None among the modules cannot be imported.
        monkeypatch.setitem(sys.modules, f"medformer.tasks.{other}.study", None)
    assert get_task(name).name == name


def test_another_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"Unknown task 'volumes'. Did you mean 'volume'\? Known: abide, polyp"):
        get_task("volumes")
