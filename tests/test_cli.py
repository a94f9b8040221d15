from __future__ import annotations

import errno
import inspect
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import typer

from medformer.config import SCHEMAS, VolumeConfig
from medformer.config_loading import load_config
from medformer.config_problems import known_keys
from medformer.errors import ConfigError, DataError, LeakageError, MedformerError, ResourceError
from pipelines import cli, work
from pipelines.cli import app
from pipelines.exits import guarded
from pipelines.verbs import GROUPS

VERBS = {f"{group} {verb.name}".strip(): verb for group, (_, verbs) in GROUPS.items() for verb in verbs}


COMMAND_LINE = typer.main.get_command(app)


def run(*arguments: str) -> int:
    return guarded(lambda: COMMAND_LINE(list(arguments), prog_name="medformer"))


def launch(*arguments: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; from pipelines.cli import main; sys.argv[0] = 'medformer'; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=600, check=False
    )


class Fake(ModuleType):
    """Stands for a module that the command line calls."""


class Calls(list[tuple[str, dict[str, Any]]]):
    """What the command line handed on; `error` is raised instead where it is set."""

    error: BaseException | None = None


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    made = Calls()

    def record(name: str) -> Callable[..., None]:
        def call(**given: Any) -> None:
            if made.error is not None:
                raise made.error
            made.append((name, given))

        return call

    for command, verb in VERBS.items():
        module, name = verb.function(command.split()[0])
        fake = sys.modules[module] if isinstance(sys.modules.get(module), Fake) else Fake(module)
        setattr(fake, name, record(name))
        monkeypatch.setitem(sys.modules, module, fake)
    return made


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from pipelines.cli import main\n"
        "sys.argv = ['medformer', '--help']\n"
        "try: main()\n"
        "except SystemExit as end: assert end.code == 0\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'yaml', 'PIL', 'monai', 'sklearn', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == 0, result.stderr
    assert "polyp" in result.stdout


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, medformer, pipelines; assert not {'torch', 'numpy', 'pydantic'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=600, check=False).returncode == 0


@pytest.mark.parametrize("command", [*GROUPS, *VERBS])
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*command.split(), "--help") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"Usage: medformer {command}".strip() in shown
    if command in VERBS:
        verb = VERBS[command]
        texts = [verb.summary, *verb.details.split("\n\n"), *(one.settings["help"] for one in verb.parameters)]
    else:
        texts = [verb.summary for verb in GROUPS[command][1]]
    assert all(text in shown for text in texts)


@pytest.mark.parametrize("command", VERBS)
def test_every_verb_gives_its_function_the_keywords_that_it_takes(command: str) -> None:
    verb = VERBS[command]
    module, name = verb.function(command.split()[0])
    given = {one.name for one in verb.parameters if not one.key and one.name != "overrides"}
    given |= {"task"} if verb.shared else set()
    taken = set(inspect.signature(getattr(import_module(module), name)).parameters)
    if "common" in taken:
        shared = work.predicting if verb.name == "predict" else work.evaluated
        parameters = inspect.signature(shared).parameters.values()
        taken = taken - {"common"} | {one.name for one in parameters if one.kind is one.KEYWORD_ONLY}
    # Only the demo has notes of its own on its data; a cohort has one target, and its groups are always known;
    # only volumes are read from folders, whose names tell groups; only frames have masks of colors and numbers;
    # scores of subjects are not continued.
    assert taken - {"notes", "resume", "ungrouped", "target", "group_pattern", "foreground"} <= given <= taken


@pytest.mark.parametrize("command", [name for name, verb in VERBS.items() if any(one.key for one in verb.parameters)])
def test_every_key_that_an_option_sets_is_in_the_schema(command: str) -> None:
    keys = {one.key for one in VERBS[command].parameters if one.key}
    assert keys <= set(known_keys(SCHEMAS[command.split()[0]]))


@pytest.mark.parametrize(
    "command",
    [name for name, verb in VERBS.items() if {"resume", "overwrite"} <= {one.name for one in verb.parameters}],
)
def test_nothing_resumes_and_overwrites_at_once(calls: Calls, command: str) -> None:
    with pytest.raises(ConfigError, match="at most one"):
        cli.command(VERBS[command], command.split()[0])(resume=True, overwrite=True, out=Path("x"))
    assert calls == []


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out == "medformer 0.1.0\n"


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["polpy"], "'polyp'"),
        (["polyp", "trian"], "'train'"),
        (["polyp", "train", "--oot", "x"], "--out"),
        (["polyp", "train"], "--out"),
        (["polyp", "prepare", ".", "--out", "x", "--layout", "kvasi"], "'kvasir'"),
        (["polyp", "predict", ".", ".", "--out", "x", "--threshold", "2"], "--threshold"),
        (["polyp", "check", "nowhere.csv"], "nowhere.csv"),
        (["polyp", "train", "--out", "x", "training.epoch=3"], "'training.epochs'"),
        (["polyp", "crossval", "--out", "x", "--config", "polyp/quik"], "'polyp/quick'"),
        (["polyp", "train", "--out", "x", "--resume", "--overwrite"], "at most one"),
        (["compare", "."], "two or more"),
    ],
)
def test_usage_errors_return_2_and_hint(
    calls: Calls, capsys: pytest.CaptureFixture[str], arguments: list[str], hint: str
) -> None:
    assert run(*arguments) == 2
    message = capsys.readouterr()
    assert hint in message.err
    assert "Traceback" not in message.err
    assert message.out == ""
    assert calls == []


def test_train_hands_on_the_resolved_config(calls: Calls, tmp_path: Path) -> None:
    arguments = ["--config", "polyp/quick", "--data", "my #1.csv", "--accept-leak", "a", "--accept-leak", "b"]
    assert run("polyp", "train", *arguments, "--out", "run", "--resume", "seed=7", "training.epochs=2") == 0
    expected = load_config(
        "polyp/quick", ["data.manifest=my #1.csv", "seed=7", "training.epochs=2", "crossval.scheme=predefined"]
    )
    given = {
        "task": "polyp",
        "config": expected,
        "out": Path("run"),
        "resume": True,
        "overwrite": False,
        "accept": ["a", "b"],
    }
    assert calls == [("crossval", given)]


def test_crossval_reads_overrides_before_and_after_options(calls: Calls) -> None:
    assert run("polyp", "crossval", "seed=7", "--out", "run", "--overwrite") == 0
    name, given = calls[0]
    assert name == "crossval"
    assert given["config"].seed == 7
    assert (given["overwrite"], given["resume"], given["accept"]) == (True, False, [])


def test_the_flags_of_crossval_are_short_for_config_keys(calls: Calls) -> None:
    flags = ["--no-baselines", "--permute-labels", "--executor", "ray", "--address", "ray://head:10001"]
    flags += ["--gpus-per-fold", "0.5", "--devices", "2", "--strategy", "ddp"]
    assert run("polyp", "crossval", "--out", "run", *flags) == 0
    config = calls[0][1]["config"]
    assert (config.crossval.baselines, config.crossval.permute_labels) == (False, True)
    execution = config.execution
    assert (execution.executor, execution.address, execution.gpus_per_fold) == ("ray", "ray://head:10001", 0.5)
    assert (config.training.devices, config.training.strategy) == (2, "ddp")
    assert run("polyp", "crossval", "--out", "run", "crossval.baselines=false") == 0
    assert not calls[1][1]["config"].crossval.baselines


def test_an_option_replaces_an_override_and_an_override_the_file(calls: Calls, tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("extends: polyp/quick\nseed: 3\ntraining: {devices: 3}\n")
    arguments = ["--config", str(file), "--devices", "2", "training.devices=4", "seed=5"]
    assert run("polyp", "crossval", "--out", "run", *arguments) == 0
    config = calls[0][1]["config"]
    assert (config.training.devices, config.seed) == (2, 5)


def test_the_task_of_volumes_chooses_the_config(calls: Calls) -> None:
    assert run("volume", "crossval", "--out", "run") == 0
    assert run("volume", "train", "--out", "run", "--task", "classification") == 0
    assert run("volume", "plan", ".", "--memory", "500MB") == 0
    assert calls[0][1]["config"] == load_config("volume/default", model=VolumeConfig)
    expected = load_config("volume/classification", ["crossval.scheme=predefined"], model=VolumeConfig)
    assert calls[1][1]["config"] == expected
    planned = load_config("volume/default", ["data.manifest=.", "plan.memory=0.5"], model=VolumeConfig)
    assert calls[2] == ("plan", {"config": planned, "out": None, "overwrite": False})


@pytest.mark.parametrize(
    ("size", "gigabytes"),
    [
        ("8", 8.0),
        ("8.3GB", 8.3),
        ("500MB", 0.5),
        ("64m", 0.064),
        ("1TB", 1000.0),
        ("1.5t", 1500.0),
        ("8000000 kB", 8.0),
        ("1KiB", 1.024e-6),
        ("1MiB", 1.048576e-3),
        ("2gib", 2.147483648),
        ("1TiB", 1099.511627776),
    ],
)
def test_memory_is_a_size_in_any_common_unit(calls: Calls, size: str, gigabytes: float) -> None:
    assert run("volume", "plan", ".", "--memory", size) == 0
    assert calls[0][1]["config"].plan.memory == pytest.approx(gigabytes, rel=1e-15)


@pytest.mark.parametrize("size", ["0GB", "-8GB", "8PB", "8B", "8 giga", "GB", "8,5GB", ""])
def test_another_size_is_refused_with_the_units(calls: Calls, size: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("volume", "plan", ".", f"--memory={size}") == 2
    message = capsys.readouterr().err
    assert f"--memory {size}: expected a size above 0" in message
    assert all(unit in message for unit in ("kB", "MB", "GB", "TB", "KiB", "MiB", "GiB", "TiB"))
    assert not calls


def test_the_other_commands_hand_on_what_they_got(calls: Calls, tmp_path: Path) -> None:
    manifest = tmp_path / "m.csv"
    manifest.write_text("id\n")
    here = str(tmp_path)
    assert run("polyp", "prepare", here, here, "--out", "m.csv", "--group-pattern", "(a)", "--ungrouped", "each") == 0
    assert run("polyp", "check", str(manifest), "--accept-leak", "x", "--foreground", "1,2") == 0
    assert run("polyp", "predict", here, here, "--out", "o", "--probabilities", "npz", "--threshold", "0.25") == 0
    assert run("polyp", "evaluate", "--predictions", here, "--masks", here, "--out", "o") == 0
    assert run("demo", "--overwrite") == 0
    assert run("info", "--json") == 0
    assert run("report", here, "--share", "--methods") == 0
    assert run("export", here, "--out", "o", "--fold", "1") == 0
    assert run("compare", here, here, "--metric", "iou") == 0
    assert run("crossval", "status", here) == 0
    assert calls == [
        (
            "prepare",
            {
                "folders": [tmp_path, tmp_path],
                "out": Path("m.csv"),
                "layout": "auto",
                "split": None,
                "ungrouped": "each",
                "group_pattern": "(a)",
                "foreground": None,
                "site": [],
                "site_pattern": None,
                "link_duplicates": False,
                "overwrite": False,
            },
        ),
        (
            "check",
            {
                "task": "polyp",
                "data": manifest,
                "out": None,
                "accept": ["x"],
                "ungrouped": "error",
                "foreground": ("1", "2"),
            },
        ),
        (
            "predict",
            {
                "run": tmp_path,
                "images": [tmp_path],
                "out": Path("o"),
                "overwrite": False,
                "resume": False,
                "probabilities": "npz",
                "threshold": 0.25,
                "device": "auto",
            },
        ),
        (
            "evaluate",
            {
                "predictions": tmp_path,
                "masks": tmp_path,
                "out": Path("o"),
                "overwrite": False,
                "manifest": None,
                "groups": None,
                "group_pattern": None,
                "ungrouped": "unknown",
                "only_common": False,
                "threshold": 0.5,
                "foreground": None,
            },
        ),
        ("demo", {"out": Path("demo-run"), "overwrite": True, "resume": False}),
        ("info", {"names": [], "as_json": True}),
        ("report", {"run": tmp_path, "share": True, "methods": True, "subgroups": []}),
        (
            "export",
            {"run": tmp_path, "out": Path("o"), "fold": "1", "onnx": False, "no_hashes": False, "overwrite": False},
        ),
        (
            "compare",
            {
                "tables": [tmp_path, tmp_path],
                "out": None,
                "metric": "iou",
                "higher_is_better": False,
                "lower_is_better": False,
                "shared_cases": False,
                "groups": None,
                "folds": [],
                "ungrouped": "error",
            },
        ),
        ("status", {"run": tmp_path, "watch": None}),
    ]


@pytest.mark.parametrize("command", sorted(VERBS))
def test_a_help_page_names_values_as_a_user_does(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*command.split(), "--help") == 0
    page = capsys.readouterr().out
    assert not re.search(r"<(list\[|path|dir|file|str|int|float)", page), "types of Python"
    assert max(map(len, page.splitlines())) <= 80


def test_a_verb_without_its_task_is_told_the_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("predict", "run") == 2
    assert "medformer polyp|abide|volume predict" in capsys.readouterr().err
    assert run("polyp", "crosval") == 2
    assert "Did you mean 'crossval'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (DataError("mask 7 is empty"), 3, "error: mask 7 is empty\n"),
        (LeakageError("a.png is b.png"), 4, "error: a.png is b.png\n"),
        (ResourceError("no disk"), 5, "error: no disk\n"),
        (MedformerError("something"), 1, "error: something\n"),
        (KeyboardInterrupt(), 130, "error: Interrupted before"),
        (MemoryError(), 5, "error: Out of memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried 2 GiB\nmore"), 5, "(CUDA out of memory. Tried 2 GiB)"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 1 byte"), 5, "training.batch_size"),
        (OSError(errno.ENOSPC, "No space left on device", "/x/oof.csv"), 5, "/x/oof.csv"),
    ],
)
def test_an_error_that_the_user_can_correct_is_one_message_and_an_exit_code(
    calls: Calls, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, text: str
) -> None:
    calls.error = error
    assert run("demo") == code
    message = capsys.readouterr()
    assert message.err.startswith("error: ") and text in message.err
    assert message.err.count("\n") == 1
    assert message.out == ""


def test_a_folder_without_permission_is_named(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    calls.error = PermissionError(errno.EACCES, "Permission denied", "/data/frames")
    assert run("demo") == 5
    assert capsys.readouterr().err.startswith("error: No permission ([Errno 13] Permission denied: '/data/frames')")


@pytest.mark.parametrize("command", VERBS)
def test_an_interruption_names_resume_where_the_command_has_it_and_something_is_there(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupted(module: str) -> None:
        # As an import of a compiled package ends.
        raise ImportError(module) from KeyboardInterrupt()

    monkeypatch.setattr(cli, "import_module", interrupted)
    verb = VERBS[command]
    names = {one.name for one in verb.parameters}
    (tmp_path / "there").mkdir()
    for place in ("there", "missing"):
        given: dict[str, Any] = dict.fromkeys(names) | {"out": tmp_path / place}
        if "config" in names:
            given["overrides"] = []
        assert guarded(lambda given=given: cli.command(verb, command.split()[0])(**given)) == 130  # type: ignore[misc]
        message = capsys.readouterr().err
        assert message.startswith("error: Interrupted") and message.count("\n") == 1
        for words in ("--resume", "on disk"):
            assert (words in message) == ("resume" in names and place == "there"), message


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_closes_what_is_open_and_returns_130(number: signal.Signals, tmp_path: Path) -> None:
    code = (
        "import os, sys, signal, typer\n"
        "from pathlib import Path\n"
        "from pipelines import cli, exits\n"
        "@cli.app.command()\n"
        "def wait():\n"
        "    try:\n"
        f"        os.kill(os.getpid(), {int(number)})\n"
        "        signal.pause()\n"
        "    finally:\n"
        "        Path(sys.argv[1]).touch()\n"
        "main = typer.main.get_command(cli.app)\n"
        "raise SystemExit(exits.guarded(lambda: main(['wait'], prog_name='medformer')))"
    )
    closed = tmp_path / "closed"
    result = subprocess.run(
        [sys.executable, "-c", code, str(closed)], capture_output=True, text=True, timeout=600, check=False
    )
    assert result.returncode == 130, result.stderr
    assert result.stderr == "error: Interrupted before the command had finished.\n"
    assert closed.exists()


_PRESS = "import os, signal, sys, atexit, time\npress = lambda: os.kill(os.getpid(), signal.SIGINT)\n"
_SIGNALS = {
    "while importing": (
        "class Hook:\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == MODULE:\n"
        "            press(); time.sleep(60)\n"
        "sys.meta_path.insert(0, Hook())\n"
        "from pipelines.__main__ import main\n"
        "sys.argv = ['medformer', 'info']\n"
        "main()\n"
    ),
    "twice": (
        "from pipelines.exits import run_program\n"
        "def work():\n"
        "    try: press(); time.sleep(60)\n"
        "    finally: press(); time.sleep(60)\n"
        "run_program(work)\n"
    ),
    "while leaving": (
        "from pipelines.exits import run_program\n"
        "def leave(): press(); time.sleep(60)\n"
        "atexit.register(leave)\n"
        "def work(): press(); time.sleep(60)\n"
        "run_program(work)\n"
    ),
}


@pytest.mark.parametrize(
    ("when", "module"),
    [("while importing", "typer"), ("while importing", "pydantic"), ("twice", ""), ("while leaving", "")],
)
def test_ctrl_c_never_shows_a_traceback(when: str, module: str) -> None:
    code = f"MODULE = {module!r}\n{_PRESS}{_SIGNALS[when]}"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 130, result.stderr
    assert "Traceback" not in result.stderr and "KeyboardInterrupt" not in result.stderr


def test_the_former_signal_handler_comes_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert guarded(lambda: None) == 0
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_defect_keeps_its_traceback_and_asks_for_a_report(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    calls.error = ZeroDivisionError("x")
    assert run("demo") == 1
    message = capsys.readouterr().err
    assert "Traceback" in message and "ZeroDivisionError" in message
    assert "please report" in message.splitlines()[-1]


def test_a_real_process_returns_the_code() -> None:
    result = launch("polyp", "train", "--out", "x", "--config", "nowhere.yaml")
    assert result.returncode == 2
    assert result.stderr.startswith("error: Config nowhere.yaml does not exist.")
    assert "Traceback" not in result.stderr


def test_the_module_can_be_run_and_shows_its_help() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "pipelines.cli"], capture_output=True, text=True, timeout=600, check=False
    )
    assert "Usage: medformer" in result.stdout + result.stderr
    assert all(group in result.stdout + result.stderr for group in GROUPS)


def test_a_closed_pipe_is_not_a_defect() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    code = "from pipelines.exits import guarded; raise SystemExit(guarded(lambda: print('x' * 100_000)))"
    result = subprocess.run(
        [sys.executable, "-c", code], stdout=writing, stderr=subprocess.PIPE, text=True, timeout=600, check=False
    )
    os.close(writing)
    assert result.returncode == 141
    assert result.stderr == ""


def test_a_name_that_the_terminal_cannot_show_does_not_end_the_work() -> None:
    code = r"from pipelines.exits import guarded; raise SystemExit(guarded(lambda: print('\udcff.png ü')))"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=False, env=environment
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "\\udcff.png \\xfc\n"
