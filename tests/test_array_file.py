"""Arrays of other people are read as they are; what is damaged or dishonest is refused before memory is reserved."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medformer.array_file import ArrayFileError, NpzRows, map_npy, read_npy, read_npz

MATRIX = np.arange(12.0).reshape(3, 4)


def npy(array: np.ndarray, *, allow_pickle: bool = False) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=allow_pickle)
    return buffer.getvalue()


def archive(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return path


@pytest.mark.parametrize(
    "array",
    [
        MATRIX,
        MATRIX.astype(">f4"),
        np.asfortranarray(MATRIX),
        MATRIX.astype(np.float16),
        np.array(["a", "bc"]),
        np.zeros((0, 5)),
        np.float64(3),
        np.array([True, False]),
    ],
)
def test_arrays_are_read_as_numpy_wrote_them(array: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", array)
    np.savez_compressed(tmp_path / "a.npz", a=array, b=MATRIX)
    if array.size:
        np.testing.assert_array_equal(map_npy(tmp_path / "a.npy"), array)
    for found in (read_npy(tmp_path / "a.npy"), read_npz(tmp_path / "a.npz", {"a"}.__contains__)[0]["a"]):
        np.testing.assert_array_equal(found, array)
        assert found.dtype == array.dtype
    assert read_npz(tmp_path / "a.npz", {"a"}.__contains__)[1] == ["b"]


def lying(content: bytes) -> bytes:
    """A header of the same length that claims 10^12 rows."""
    return content.replace(b"(3, 4), }" + b" " * 12, b"(1000000000000, 4), }")


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda content: b"", "it is empty"),
    "lying": (lying, r"claims an array \(1000000000000, 4\) of 32000000000000 bytes, and 96 follow"),
    "cut off": (lambda content: content[:-1], "and 95 follow; it is cut off or damaged"),
    "too long": (lambda content: content + b"1", "and 97 follow"),
    "no array": (lambda content: b"PK text", "no array that NumPy wrote"),
    "header": (lambda content: content.replace(b"'descr': '<f8'", b"'descr': (((((("), "its header is damaged"),
    "complex": (lambda content: content.replace(b"<f8", b"<c8"), "it holds complex64"),
    "negative": (lambda content: content.replace(b"(3, 4)", b"(-3,4)"), "expected an array of numbers"),
    "objects": (lambda content: npy(np.array([{}, None], object), allow_pickle=True), "Python objects"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_array_is_refused_in_our_own_words(damage: str, tmp_path: Path) -> None:
    change, message = DAMAGES[damage]
    content = change(npy(MATRIX))
    assert content != npy(MATRIX)
    path = tmp_path / "a.npy"
    path.write_bytes(content)
    with pytest.raises(ArrayFileError, match=message):
        map_npy(path)
    with pytest.raises(ArrayFileError, match=message) as found:
        read_npy(path)
    assert "allow_pickle" not in str(found.value)
    if content:
        with pytest.raises(ArrayFileError, match=f"a: .*{message}"):
            read_npz(archive(tmp_path / "a.npz", a=content), {"a"}.__contains__)
        with pytest.raises(ArrayFileError, match=f"a: .*{message}"):
            NpzRows(archive(tmp_path / "a.npz", a=content), "a")


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npy")
    (tmp_path / "link.npy").symlink_to("nothing")
    (tmp_path / "folder.npy").mkdir()
    for name, message in (
        ("pipe", "is a named pipe"),
        ("link", "is a link to"),
        ("folder", "is a folder"),
        ("x", "does not exist"),
    ):
        with pytest.raises(ArrayFileError, match=message):
            read_npy(tmp_path / f"{name}.npy")
        with pytest.raises(ArrayFileError, match=message):
            read_npz(tmp_path / f"{name}.npy", bool)


def test_every_flipped_byte_of_an_archive_is_noticed_or_harmless(tmp_path: Path) -> None:
    sound = archive(tmp_path / "a.npz", a=npy(MATRIX)).read_bytes()
    refused = 0
    for place in range(len(sound)):
        content = bytearray(sound)
        content[place] ^= 0x41
        (tmp_path / "b.npz").write_bytes(content)
        try:
            arrays, _ = read_npz(tmp_path / "b.npz", {"a"}.__contains__)
        except ArrayFileError:
            refused += 1
            continue
        if "a" in arrays:
            np.testing.assert_array_equal(arrays["a"], MATRIX)
    assert refused > len(sound) / 2


def test_a_damaged_row_spoils_the_whole_table(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, a=np.arange(600.0).reshape(20, 30))
    content = bytearray(path.read_bytes())
    content[300] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArrayFileError, match="damaged"):
        NpzRows(path, "a")


def test_a_zip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    header = npy(np.zeros((1, 1), np.uint8))[:-1].replace(b"(1, 1), }" + b" " * 8, b"(1, 300000000), }")
    assert b"300000000" in header
    path = archive(tmp_path / "a.npz", a=header + bytes(300_000_000))
    assert path.stat().st_size < 2**20
    with pytest.raises(ArrayFileError, match=r"a would be 0\.3 GiB, more than 200 times .* zip bomb"):
        read_npz(path, {"a"}.__contains__)


def test_an_encrypted_archive_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.npz", a=npy(MATRIX))
    content = bytearray(path.read_bytes())
    for signature, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + place] |= 1
    path.write_bytes(content)
    with pytest.raises(ArrayFileError, match="a is encrypted"):
        read_npz(path, {"a"}.__contains__)


@pytest.mark.parametrize("point", [0x110000, 0xFFFFFFFF, 0xD800])
def test_a_text_of_characters_that_do_not_exist_is_refused(tmp_path: Path, point: int) -> None:
    np.save(tmp_path / "ids.npy", np.array(["ab", "cd"]))
    content = (tmp_path / "ids.npy").read_bytes()
    (tmp_path / "ids.npy").write_bytes(content[:-4] + point.to_bytes(4, "little"))
    with pytest.raises(ArrayFileError, match="characters that do not exist"):
        read_npy(tmp_path / "ids.npy")
