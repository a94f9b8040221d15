from __future__ import annotations

from pathlib import Path

from medformer.crossval.run.executors.worker import LogReporter, WorkerLog


def test_lines_arrive_once_whole_and_in_order(tmp_path: Path) -> None:
    log, reporter = WorkerLog(tmp_path, "token"), LogReporter(tmp_path)
    assert log.new_lines() == []
    reporter.line("first\nof two")
    with open(tmp_path / "worker.log", "a", encoding="utf-8") as file:
        file.write("half a li")
    assert log.new_lines() == ["first of two"]
    assert log.new_lines() == []
    with open(tmp_path / "worker.log", "a", encoding="utf-8") as file:
        file.write("ne, größer\n")
    assert log.new_lines() == ["half a line, größer"]


def test_long_work_is_heard_of_now_and_then(tmp_path: Path) -> None:
    now = 0.0
    log, reporter = WorkerLog(tmp_path, "token"), LogReporter(tmp_path, interval=30.0, clock=lambda: now)
    reporter.start("epoch 1/3", 10)
    for step in range(8):
        now += 7.0
        reporter.advance(loss=step / 4)
    reporter.finish()
    reporter.advance()
    assert log.new_lines() == ["epoch 1/3 5/10, loss 1"]


def test_a_full_disk_does_not_stop_the_work(tmp_path: Path) -> None:
    LogReporter(tmp_path / "missing").line("nobody can hear this")
