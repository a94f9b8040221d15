"""MATLAB files are read in another process, which a damaged file may end."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from medformer.array_file import ArrayFileError
from medformer.data.connectomes.read import matlab
from medformer.data.connectomes.read.matlab import read_mat

MATRIX = np.corrcoef(np.random.default_rng(0).normal(size=(5, 30)))


def saved(path: Path, **content: object) -> Path:
    savemat(path, content, do_compression=True)
    return path


def test_the_one_square_matrix_is_read(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read_mat(saved(tmp_path / "a.mat", z=MATRIX, t=np.arange(7.0), name="x")), MATRIX)
    np.testing.assert_array_equal(read_mat(saved(tmp_path / "b.mat", z=MATRIX.astype("f4"))), MATRIX.astype("f4"))


def test_what_is_no_such_file(tmp_path: Path) -> None:
    (tmp_path / "text.mat").write_text("no matrix")
    (tmp_path / "hdf.mat").write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(400))
    (tmp_path / "empty.mat").touch()
    os.mkfifo(tmp_path / "pipe.mat")
    for name, message in (
        ("text", "is damaged, or no file of MATLAB"),
        ("hdf", "7.3; save it with -v7"),
        ("empty", "it is empty"),
        ("pipe", "is a named pipe"),
    ):
        with pytest.raises(ArrayFileError, match=message):
            read_mat(tmp_path / f"{name}.mat")
    with pytest.raises(ArrayFileError, match=r"2 square matrices \(a, b\)"):
        read_mat(saved(tmp_path / "two.mat", a=MATRIX, b=MATRIX))
    with pytest.raises(ArrayFileError, match="expected one square matrix of numbers"):
        read_mat(saved(tmp_path / "complex.mat", a=MATRIX * 1j))
    cut = saved(tmp_path / "cut.mat", a=MATRIX)
    cut.write_bytes(cut.read_bytes()[:-40])
    with pytest.raises(ArrayFileError, match="damaged"):
        read_mat(cut)


def test_a_child_that_dies_or_hangs_is_a_damaged_file_and_the_next_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = saved(tmp_path / "a.mat", z=MATRIX)
    read_mat(good)
    child = matlab._child._process
    assert child is not None
    os.kill(child.pid, signal.SIGSTOP)
    monkeypatch.setattr(matlab, "SECONDS", 0.2)
    with pytest.raises(ArrayFileError, match=r"longer than 0\.2 s"):
        read_mat(good)
    monkeypatch.undo()
    np.testing.assert_array_equal(read_mat(good), MATRIX)


def test_a_header_that_claims_more_than_the_memory_is_a_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    savemat(path, {"z": MATRIX})
    content = bytearray(path.read_bytes())
    place = content.index((5).to_bytes(4, "little") + (5).to_bytes(4, "little"))
    content[place : place + 8] = (10**6).to_bytes(4, "little") * 2
    path.write_bytes(content)
    with pytest.raises(ArrayFileError):
        read_mat(path)


@pytest.mark.slow
def test_mutants_end_as_errors_and_never_this_process(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    savemat(tmp_path / "plain.mat", {"z": MATRIX})
    saved(tmp_path / "packed.mat", z=MATRIX)
    for name in ("plain", "packed"):
        sound = (tmp_path / f"{name}.mat").read_bytes()
        for _ in range(500):
            content = bytearray(sound)
            for place in rng.integers(0, len(content), rng.integers(1, 4)):
                content[place] = rng.integers(256)
            (tmp_path / "m.mat").write_bytes(content)
            try:
                read_mat(tmp_path / "m.mat")
            except ArrayFileError:
                continue
