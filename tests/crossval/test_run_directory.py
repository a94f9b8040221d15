from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from medformer.config import PolypConfig
from medformer.crossval.plan import PlanCase, write_plan
from medformer.crossval.plan.schemes import make_plan
from medformer.crossval.run import record
from medformer.crossval.run.directory import RunDirectory
from medformer.crossval.run.record import RunInfo, finish, session, start
from medformer.errors import ConfigError, DataError, InterruptedRun, ResourceError
from medformer.files import read_json, write_text
from medformer.names import file_stems
from medformer.yaml_files import read_yaml


@pytest.fixture
def finished(run: RunDirectory, info: RunInfo) -> RunDirectory:
    with session(run, info):
        write_text(run.fold(0) / "predictions.csv", "id\n")
    return run


def test_new_and_empty_folders_are_taken(tmp_path: Path) -> None:
    assert RunDirectory.create(tmp_path / "a" / "b").path.is_dir()
    assert not RunDirectory.create(tmp_path / "a" / "b").resumed


@pytest.mark.parametrize("flags", [{}, {"resume": True}, {"overwrite": True}])
def test_a_folder_of_the_users_is_never_touched(tmp_path: Path, flags: dict[str, bool]) -> None:
    write_text(tmp_path / "thesis.txt", "years of work")
    with pytest.raises(ConfigError, match=r"not empty \(thesis\.txt\)"):
        RunDirectory.create(tmp_path, **flags)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_resumed_run_says_that_the_code_changed(
    finished: RunDirectory, info: RunInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    with session(RunDirectory.create(finished.path, resume=True), info) as changes:
        assert changes == ""
    monkeypatch.setattr(record, "source_code", lambda: {"source_sha256": "f" * 64, "commit": ""})
    with session(RunDirectory.create(finished.path, resume=True), info) as changes:
        assert "to ffffffffffff" in changes
    assert finished.record()["notes"] == [changes]
    assert len(finished.record()["sessions"][0]["source_sha256"]) == 64


def test_a_run_of_another_task_is_not_resumed(finished: RunDirectory, info: RunInfo) -> None:
    run = RunDirectory.create(finished.path, resume=True)
    with pytest.raises(ConfigError, match=r"is a run of the task polyp\. Continue it with medformer polyp"):
        start(run, replace(info, task="abide", config={"other": 1}))


def test_a_foreign_run_json_is_not_ours(tmp_path: Path) -> None:
    write_text(tmp_path / "run.json", '{"scripts": 1}')
    with pytest.raises(ConfigError, match="not a run folder"):
        RunDirectory.create(tmp_path, overwrite=True)
    with pytest.raises(ConfigError, match="not a run folder"):
        RunDirectory.open(tmp_path)


def test_an_earlier_run_needs_resume_or_overwrite(finished: RunDirectory) -> None:
    with pytest.raises(ConfigError, match="--resume to continue it, --overwrite"):
        RunDirectory.create(finished.path)
    with pytest.raises(ConfigError, match="both"):
        RunDirectory.create(finished.path, resume=True, overwrite=True)
    assert RunDirectory.create(finished.path, resume=True).resumed
    assert finished.fold(0).is_dir()
    again = RunDirectory.create(finished.path, overwrite=True)
    assert not again.resumed
    assert again.fold(0).is_dir(), "the earlier run goes only when the new one can begin"
    again.clear()
    assert [path.name for path in finished.path.iterdir()] == [".lock"]


def test_overwrite_refuses_a_run_that_holds_other_files(finished: RunDirectory) -> None:
    write_text(finished.path / "notes.md", "mine")
    with pytest.raises(ConfigError, match=r"notes\.md.*nothing was deleted"):
        RunDirectory.create(finished.path, overwrite=True)
    assert finished.fold(0).is_dir()
    assert finished.run_json.is_file()


def test_overwrite_refuses_a_run_with_masks_of_no_case(finished: RunDirectory) -> None:
    write_text(finished.masks / "corrected" / "p1.png", "drawn by hand")
    with pytest.raises(ConfigError, match=r"masks/corrected/p1\.png.*nothing was deleted"):
        RunDirectory.create(finished.path, overwrite=True)
    assert (finished.masks / "corrected" / "p1.png").is_file()


@pytest.mark.parametrize(
    "name", ["folds/0/notes.txt", "explain/figure.png", "gallery/chosen.jpg", "canary/folds/a.docx"]
)
def test_overwrite_refuses_a_run_with_files_of_others_below_its_folders(finished: RunDirectory, name: str) -> None:
    for own in ("gallery/0123456789abcdef0123456789abcdef.jpg", "folds/0/error.txt", "explain/edges.csv"):
        write_text(finished.path / own, "")
    write_text(finished.path / name, "mine")
    with pytest.raises(ConfigError, match=rf"\({name}\).*nothing was deleted"):
        RunDirectory.create(finished.path, overwrite=True)
    (finished.path / name).unlink()
    RunDirectory.create(finished.path, overwrite=True).clear()
    assert [path.name for path in finished.path.iterdir()] == [".lock"]


def test_masks_of_the_cases_of_the_plan_are_ours(finished: RunDirectory) -> None:
    cases = [PlanCase(f"p{number} 10:22", f"g{number}") for number in range(8)]
    write_plan(finished.splits_json, make_plan(cases, folds=2, validation=0.25, seed=0))
    for stem in file_stems([case.id for case in cases]).values():
        write_text(finished.masks / f"{stem}.png", "")
        write_text(finished.path / "overlays" / "repeat-1" / f"{stem}.png", "")
        write_text(finished.canary.masks / f"{stem}.nii.gz", "")
    run = RunDirectory.create(finished.path, overwrite=True)
    run.clear()
    assert [path.name for path in finished.path.iterdir()] == [".lock"]


@pytest.mark.parametrize("error", [DataError("bad mask"), KeyboardInterrupt()])
def test_a_refused_run_leaves_nothing_and_an_interrupted_one_what_it_read(
    tmp_path: Path, finished: RunDirectory, error: BaseException
) -> None:
    new = tmp_path / "a" / "new"
    for path, flags in ((new, {}), (finished.path, {"overwrite": True})):
        before = sorted(finished.path.rglob("*"))
        run = RunDirectory.create(path, **flags)
        write_text(run.inventory / f"{'0' * 16}.000001.json", "{}")
        with pytest.raises(type(error)), run.unless_refused():
            raise error
        assert not run.lock.exists()
    refused = isinstance(error, DataError)
    assert new.exists() is not refused and (tmp_path / "a").exists() is not refused
    assert set(before) < set(finished.path.rglob("*"))
    if not refused:
        assert not RunDirectory.create(new).resumed


def test_a_folder_named_like_ours_is_not_taken_for_what_a_call_read(tmp_path: Path) -> None:
    write_text(tmp_path / "inventory" / "shelf.csv", "mine")
    with pytest.raises(ConfigError, match="not empty"):
        RunDirectory.create(tmp_path)


def test_overwrite_does_not_follow_links(finished: RunDirectory, tmp_path: Path) -> None:
    write_text(tmp_path / "elsewhere" / "keep.txt", "mine")
    finished.masks.symlink_to(tmp_path / "elsewhere")
    RunDirectory.create(finished.path, overwrite=True).clear()
    assert (tmp_path / "elsewhere" / "keep.txt").is_file()
    assert not finished.masks.exists()


def test_resume_needs_a_folder_but_not_a_started_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no folder"):
        RunDirectory.create(tmp_path / "typo", resume=True)
    # Killed before run.json was complete: only a temporary file is there.
    write_text(tmp_path / "run" / ".medformer-tmp-7-0123456789abcdef-run.json", "{")
    assert not RunDirectory.create(tmp_path / "run", resume=True).resumed


def test_out_may_not_be_a_file(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "")
    with pytest.raises(ConfigError, match="is a file"):
        RunDirectory.create(tmp_path / "file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_unwritable_parent(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ResourceError, match="may write"):
        RunDirectory.create(tmp_path / "run")


def test_out_below_a_file_is_a_resource_error(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "")
    with pytest.raises(ResourceError, match="Could not write"):
        RunDirectory.create(tmp_path / "file" / "run")


def test_a_live_process_keeps_others_out_and_a_dead_one_does_not(tmp_path: Path, info: RunInfo) -> None:
    code = (
        "import sys, time; from pathlib import Path; from medformer.crossval.run.directory import RunDirectory\n"
        f"RunDirectory.create(Path({str(tmp_path / 'run')!r})); print('held', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match=rf"written by process {other.pid} "):
            RunDirectory.create(tmp_path / "run")
        other.kill()
    run = RunDirectory.create(tmp_path / "run")
    assert read_json(run.lock)["pid"] == os.getpid()
    run.release()
    assert not run.lock.exists()


def test_another_host_is_believed_and_a_reused_number_is_not(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run")
    write_text(run.lock, json.dumps({"host": "elsewhere", "pid": 1, "started": "", "since": "yesterday"}))
    with pytest.raises(ConfigError, match=r"on elsewhere, since yesterday.*deleting"):
        RunDirectory.create(run.path)
    run.release()
    here = {**read_json(RunDirectory.create(tmp_path / "other").lock), "pid": os.getppid(), "process": "another"}
    write_text(run.lock, json.dumps(here))
    RunDirectory.create(run.path)
    write_text(run.lock, "")
    RunDirectory.create(run.path)


def test_run_json_tells_what_ran(finished: RunDirectory) -> None:
    record = read_json(finished.run_json)
    assert (record["state"], record["task"], record["seed"]) == ("done", "polyp", 7)
    (only,) = record["sessions"]
    assert only["command"][:3] == ["medformer", "polyp", "crossval"]
    assert {"python", "medformer", "numpy", "torch"} <= set(only["versions"])
    assert only["started"] <= only["finished"]
    assert "epochs: 2" in finished.config_yaml.read_text("utf-8")
    assert not finished.lock.exists()


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (InterruptedRun("stopped by Ctrl-C"), "interrupted", "stopped by Ctrl-C"),
        (KeyboardInterrupt(), "interrupted", "stopped by Ctrl-C or SIGTERM"),
        (DataError("case x is corrupt"), "failed", "case x is corrupt"),
        (ValueError("a bug"), "failed", "ValueError: a bug"),
    ],
)
def test_the_exit_state_follows_the_error(
    run: RunDirectory, info: RunInfo, error: BaseException, state: str, reason: str
) -> None:
    with pytest.raises(type(error)), session(run, info):
        raise error
    record = read_json(run.run_json)
    assert (record["state"], record["reason"]) == (state, reason)
    assert record["sessions"][0]["state"] == state


def test_a_resumed_run_appends_a_session_and_keeps_accepted_leaks(run: RunDirectory, info: RunInfo) -> None:
    start(run, replace(info, accepted_leaks=["a~b"]))
    again = RunDirectory.create(run.path, resume=True)
    start(again, replace(info, accepted_leaks=["c~d"]))
    finish(again, "done")
    record = read_json(run.run_json)
    assert [session["state"] for session in record["sessions"]] == ["running", "done"]
    assert record["accepted_leaks"] == ["a~b", "c~d"]


def test_resuming_with_another_config_lists_the_keys(finished: RunDirectory, info: RunInfo) -> None:
    again = RunDirectory.create(finished.path, resume=True)
    changed = {"seed": 8, "training": {"epochs": 2, "size": [64, 96]}, "data": {"workers": 4}, "extra": True}
    with (
        pytest.raises(ConfigError, match=r"\(extra: \(not set\) before, True now; seed: 7 before, 8 now\)"),
        session(again, replace(info, config=changed), may_differ=["data.workers"]),
    ):
        pass
    assert len(read_json(finished.run_json)["sessions"]) == 1
    assert not again.lock.exists()


def test_a_config_of_older_code_lacks_newer_keys(run: RunDirectory, info: RunInfo) -> None:
    now = PolypConfig().model_dump(mode="json")
    before = {**now, "training": {key: value for key, value in now["training"].items() if key != "encoder_lr"}}
    with session(run, replace(info, config=before)):
        pass
    with session(RunDirectory.create(run.path, resume=True), replace(info, config=now)):
        pass
    other = {**now, "training": {**now["training"], "encoder_lr": 0.5}}
    again = RunDirectory.create(run.path, resume=True)
    with (
        pytest.raises(ConfigError, match=r"\(training\.encoder_lr: 1\.0 before, 0\.5 now\)"),
        session(again, replace(info, config=other)),
    ):
        pass


def test_resuming_from_other_weights_names_the_key(run: RunDirectory, info: RunInfo) -> None:
    with session(run, replace(info, weights={"model.weights": "a", "pretraining.weights": "b"})):
        pass
    again = RunDirectory.create(run.path, resume=True)
    with (
        pytest.raises(ConfigError, match=r"weights that pretraining\.weights names are not those"),
        session(again, replace(info, weights={"model.weights": "a", "pretraining.weights": "c"})),
    ):
        pass
    assert not again.lock.exists()


def test_a_kill_before_the_config_was_written_is_healed(finished: RunDirectory, info: RunInfo) -> None:
    text = finished.config_yaml.read_text("utf-8")
    finished.config_yaml.unlink()
    with session(RunDirectory.create(finished.path, resume=True), info):
        assert finished.config_yaml.read_text("utf-8") == text
    finished.config_yaml.unlink()
    again = RunDirectory.create(finished.path, resume=True)
    with pytest.raises(ConfigError, match=r"config\.yaml does not exist"):
        start(again, replace(info, config={"seed": 8}))


def test_paths_in_tables_stay_inside(run: RunDirectory) -> None:
    assert run.relative(run.masks / "a.png") == "masks/a.png"
    with pytest.raises(DataError, match="outside"):
        run.relative(run.path / ".." / "other.png")


def test_a_value_that_looks_like_another_type_survives_the_run_folder(run: RunDirectory, info: RunInfo) -> None:
    written = {"manifest": "1e3", "site": "no", "lr": 1e-5}
    with session(run, replace(info, config=written)):
        pass
    assert read_yaml(run.config_yaml) == written
    with session(RunDirectory.create(run.path, resume=True), replace(info, config=written)):
        pass
