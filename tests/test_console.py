from __future__ import annotations

import io
import sys

import pytest

from medformer.progress import Reporter, SilentReporter, duration
from pipelines import console
from pipelines.console import PlainReporter, RichReporter, make_reporter, say


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_plain_lines_are_rare_and_estimate_the_remaining_time() -> None:
    stream, clock = io.StringIO(), Clock()
    reporter = PlainReporter(stream, interval=10.0, clock=clock)
    reporter.start("epoch 1", 40)
    for _ in range(40):
        clock.now += 1.0
        reporter.advance(loss=0.25)
    reporter.finish()
    lines = stream.getvalue().splitlines()
    assert lines[0] == "epoch 1 10/40 after 10 s, about 30 s left, loss 0.25"
    assert lines[-1] == "epoch 1 40/40 in 40 s, loss 0.25"
    assert len(lines) == 5


def test_plain_lines_without_a_total_do_not_guess() -> None:
    stream, clock = io.StringIO(), Clock()
    reporter = PlainReporter(stream, interval=1.0, clock=clock)
    reporter.start("reading", None)
    clock.now = 3700.0
    reporter.advance(5)
    assert stream.getvalue() == "reading 5 after 1 h 1 min\n"


def test_a_start_ends_what_was_open_and_a_finish_may_come_twice() -> None:
    stream = io.StringIO()
    reporter = PlainReporter(stream, clock=Clock())
    reporter.finish()
    reporter.start("a", 1)
    reporter.start("b", 2)
    reporter.line("note")
    reporter.finish()
    reporter.finish()
    reporter.advance()
    assert stream.getvalue() == "a 0/1 in 0.0 s\nnote\nb 0/2 in 0.0 s\n"


def test_no_terminal_means_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(make_reporter(), PlainReporter)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert isinstance(make_reporter(), RichReporter)


def test_bars_show_label_and_numbers_and_are_closed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    reporter = RichReporter()
    reporter.start("fold [1]", 4)
    reporter.advance(2, loss=0.5)
    reporter.line("a line with [brackets]")
    console.stop()
    shown = capsys.readouterr().err
    assert "fold [1]" in shown and "2/4" in shown and "loss 0.5" in shown and "a line with [brackets]" in shown
    # The cursor comes back.
    assert shown.rstrip().endswith("\x1b[?25h") or "\x1b[?25l" not in shown
    reporter.finish()


def test_every_reporter_keeps_the_protocol() -> None:
    reporters: list[Reporter] = [SilentReporter(), PlainReporter(io.StringIO()), RichReporter()]
    for reporter in reporters:
        reporter.line("")
        reporter.finish()


def test_results_go_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    say("report.html")
    assert capsys.readouterr().out == "report.html\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0.0 s"),
        (3.24, "3.2 s"),
        (9.96, "10 s"),
        (59.6, "1 min"),
        (61.0, "1 min 1 s"),
        (3600.0, "1 h"),
        (3661.0, "1 h 1 min"),
        (3605.0, "1 h"),
        (200_000.0, "2 d 7 h"),
    ],
)
def test_a_duration_has_its_two_largest_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_names_of_files_cannot_control_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    say("a\x1b[2Jb")
    PlainReporter(sys.stdout).line("c\x1b[2Jd")
    assert capsys.readouterr().out == "a\\x1b[2Jb\nc\\x1b[2Jd\n"
