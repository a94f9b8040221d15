from __future__ import annotations

from collections.abc import Iterator

import pytest

from medformer.progress import Reporter, SilentReporter


class Calls(Reporter):
    """Remembers what it was called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    def start(self, label: str, total: int | None) -> None:
        self.calls.append(("start", label, total))

    def advance(self, n: int = 1, **fields: float) -> None:
        self.calls.append(("advance", n, *fields.items()))

    def finish(self) -> None:
        self.calls.append(("finish",))


def test_a_loop_is_one_piece_of_work() -> None:
    reporter = Calls()
    for item in reporter.track("ab", "letters"):
        reporter.advance(0, code=ord(item))
    steps = [("advance", 0, ("code", 97)), ("advance", 1), ("advance", 0, ("code", 98)), ("advance", 1)]
    assert reporter.calls == [("start", "letters", 2), *steps, ("finish",)]


def test_a_total_is_given_or_unknown() -> None:
    for total in (3, None):
        reporter = Calls()
        assert list(reporter.track(iter("ab"), "letters", total)) == ["a", "b"]
        assert reporter.calls[0] == ("start", "letters", total)


@pytest.mark.parametrize("way", ["break", "return", "raise", "source"])
def test_the_work_ends_however_the_loop_is_left(way: str) -> None:
    reporter = Calls()

    def source() -> Iterator[int]:
        yield 1
        if way == "source":
            raise KeyError
        yield 2

    def work() -> None:
        for _ in reporter.track(source(), "work", 2):
            if way == "break":
                break
            if way == "return":
                return
            if way == "raise":
                raise KeyError

    if way in ("raise", "source"):
        with pytest.raises(KeyError):
            work()
    else:
        work()
    assert [call[0] for call in reporter.calls if call[0] != "advance"] == ["start", "finish"]


def test_silence_yields_everything() -> None:
    assert list(SilentReporter().track([1, 2], "numbers")) == [1, 2]
