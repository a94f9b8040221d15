"""Damage that files suffer, made at random: flipped bytes, lost and doubled blocks, extreme numbers, runs of zeros."""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Callable

_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
_WORDS = (
    *(
        b"-1",
        b"0",
        b"1e999",
        b"-1e999",
        b"NaN",
        b"nan",
        b"inf",
        b"Infinity",
        b"99999999999999999999",
        b"1e-400",
        b"1_000",
    ),
    *(
        b"null",
        b"true",
        b"[]",
        b"{}",
        b'""',
        b"[" * 5000,
        b'{"a":' * 5000,
        b"9" * 5000,
        b"x" * 200_000,
        b"\x00",
        b"\xff",
    ),
    *(b'"', b"'", b",", b"\t", b"\n\n", b"\r", b":", b"- ", b"&a ", b"*a", b"!!python/object:x ", b"\xef\xbb\xbf"),
    *("é".encode(), "e\u0301".encode(), "\u202e".encode(), b"../../x", b"/etc/passwd", b"=1+1", b"#"),
)
"""What is put into text, in place of a number or anywhere."""

Edit = Callable[[bytearray, random.Random], None]


def _span(content: bytearray, rng: random.Random) -> tuple[int, int]:
    start = _place(content, rng)
    return start, min(len(content), start + rng.choice((1, 2, 4, 16, 100, 1000)))


def _place(content: bytearray, rng: random.Random) -> int:
    """A position; headers, which come first, more often than the rest."""
    size = len(content)
    return rng.randrange(min(size, 600) if rng.random() < 0.6 else size) if size else 0


def _flip(content: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 2, 8))):
        if content:
            content[_place(content, rng)] ^= 1 << rng.randrange(8) if rng.random() < 0.5 else rng.randrange(1, 256)


def _cut(content: bytearray, rng: random.Random) -> None:
    del content[rng.randrange(len(content) + 1) :]


def _lose(content: bytearray, rng: random.Random) -> None:
    start, end = _span(content, rng)
    del content[start:end]


def _double(content: bytearray, rng: random.Random) -> None:
    start, end = _span(content, rng)
    at = _place(content, rng)
    content[at:at] = content[start:end] * rng.choice((1, 1, 2, 50))


def _run(content: bytearray, rng: random.Random) -> None:
    start, end = _span(content, rng)
    content[start:end] = bytes([rng.choice((0, 0, 0, 255, 127))]) * (end - start)


def _extreme(content: bytearray, rng: random.Random) -> None:
    """Overwrite what may be a field of the header with a number at the edge of its range."""
    width, order = rng.choice((1, 2, 4, 8)), rng.choice("<>")
    whole = {1: "B", 2: "H", 4: "I", 8: "Q"}[width]
    top = 256**width - 1
    values = [struct.pack(order + whole, value) for value in (0, 1, top, top // 2, top // 2 + 1, rng.randint(0, top))]
    if width >= 4:
        real = {4: "f", 8: "d"}[width]
        values += [struct.pack(order + real, value) for value in (float("nan"), float("inf"), -1.0, 0.0, 1e30, 1e-30)]
    at = _place(content, rng)
    content[at : at + width] = rng.choice(values)


def _number(content: bytearray, rng: random.Random) -> None:
    """Replace a number of a text by an odd word."""
    found = list(_NUMBER.finditer(content))
    if found:
        start, end = rng.choice(found).span()
        content[start:end] = rng.choice(_WORDS)


def _word(content: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(content) + 1)
    content[at:at] = rng.choice(_WORDS)


_BINARY: tuple[Edit, ...] = (_flip, _flip, _cut, _lose, _double, _run, _extreme, _extreme, _extreme)
_TEXT: tuple[Edit, ...] = (_flip, _cut, _lose, _double, _run, _number, _number, _number, _word, _word)


def mutate(content: bytes, rng: random.Random, *, text: bool) -> bytes:
    """Return a damaged copy; the same generator gives the same one."""
    damaged = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        rng.choice(_TEXT if text else _BINARY)(damaged, rng)
    return bytes(damaged)
