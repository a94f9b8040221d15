"""New cases of any task: each that cannot be used is named once, and costs no other."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from medformer.data.cases import Case
from medformer.data.problems import LISTED, Problem
from medformer.errors import DataError
from medformer.progress import SilentReporter
from medformer.tasks.new_cases import LEAVE_OUT, TRY_AGAIN, Made, Request, require_all, unusable
from medformer.tasks.trained import Trained

HERE = Path("nowhere")


def predict(bad: int, good: int, *, late: int = 0) -> tuple[list[str], str, list[str]]:
    """What is said before the work and in the end, and the cases that are predicted."""
    said: list[str] = []
    request = Request(Trained(HERE, "polyp", None, (), ""), [], HERE, HERE, said.append, SilentReporter())
    problems = [Problem("list", "list.png", "bad-name")]
    names = [*(f"bad{n}" for n in range(bad)), *(f"good{n}" for n in range(good))]

    def read(case: Case) -> Sequence[Problem]:
        if case.id.startswith("bad"):
            raise DataError(f"{case.image} is broken")
        return [Problem(case.id, "", "outside-range", "dark")] if case.id == "good0" else []

    cases = [Case(name, Path(f"{name}.png")) for name in names]
    left = request.usable(cases, read, problems, noun="images")
    failed = [unusable(case, DataError(f"{case.image} vanished")) for case in left[:late]]
    with pytest.raises(DataError) as error:
        require_all(Made(len(names) + 1, problems, failed), "images", TRY_AGAIN)
    return said, str(error.value), [case.id for case in left]


def test_a_few_bad_cases_are_counted_first_and_named_in_the_end() -> None:
    said, message, left = predict(bad=2, good=3)
    assert left == ["good0", "good1", "good2"]
    assert said == [
        "warning: good0: outside-range: dark",
        "note: 3 of 6 images cannot be used; the others come first, and the end says why.",
    ]
    assert message.startswith("3 of 6 images cannot be used; the other 3 are done:\n  error: list: bad-name")
    assert message.count("bad0.png is broken") == 1 and message.endswith(f"\n{TRY_AGAIN}")


def test_many_bad_cases_are_each_named_at_once_and_counted_in_the_end() -> None:
    said, message, left = predict(bad=LISTED, good=2, late=1)
    for name in ("list.png", *(f"bad{n}.png is broken" for n in range(LISTED))):
        assert sum(name in line for line in said) == 1 and name not in message
    assert message.startswith("12 of 13 images cannot be used, as listed above; the other one is done:\n")
    assert re.findall(r"\w+\.png", message) == ["good0.png"] and left == ["good0", "good1"]


def test_where_nothing_can_be_used_the_work_does_not_begin() -> None:
    with pytest.raises(DataError, match=r"3 of 3 images cannot be used; nothing was written:(.|\n)*bad1.png") as error:
        predict(bad=2, good=0)
    assert str(error.value).endswith(LEAVE_OUT)


def test_without_a_bad_case_nothing_is_raised() -> None:
    require_all(Made(2, [Problem("a", "", "outside-range", "dark")]), "images", TRY_AGAIN)
