"""One rule for ids of cases, and the names of the files that they give.

An id may hold what people write: spaces, colons, any script. A file name has to be one on every file system. So the
tables keep the id, and the name replaces what files cannot hold by percent codes (`10:22` becomes `10%3A22`), which
`urllib.parse.unquote` reads back; only a name that is too long is cut, and then ends in a hash.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable
from hashlib import sha256

from medformer.missing import is_missing

LONGEST_ID = 1000
"""Characters."""

_RESERVED = frozenset(
    {"CON", "PRN", "AUX", "NUL", *(f"{port}{number}" for port in ("COM", "LPT") for number in range(1, 10))}
)
_NEVER = frozenset('<>:"\\|?*%')
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyz0123456789._-/ ")
_ENDINGS = (".png", ".npz", ".nii.gz", ".dcm")
_LONGEST_PART = 180  # bytes, of the 255 that file systems allow: an ending and the name of a temporary file follow
_KEPT = 120
_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_NOT_IN_IDS = frozenset({"Cc", "Cs", "Zl", "Zp"})


def id_fault(identifier: str) -> str | None:
    """What is wrong with an id; None when nothing is."""
    if is_missing(identifier):
        return "the id is empty, or a word for what is not known; give every case its own"
    if len(identifier) > LONGEST_ID:
        return f"the id has {len(identifier)} characters; expected at most {LONGEST_ID}"
    if holds_controls(identifier):
        return (
            "the id holds a control character, a line end, or bytes that are not UTF-8; "
            "rename the file, or correct the id"
        )
    if "\\" in identifier or any(part in {"", ".", ".."} for part in identifier.split("/")):
        return "the id names the exported files, so it may not hold '\\', or empty, '.' or '..' parts between '/'"
    return None


def holds_controls(text: str) -> bool:
    """Whether a text holds what no table can keep: control characters, line ends, or bytes that are not UTF-8."""
    return any(unicodedata.category(character) in _NOT_IN_IDS for character in text)


def shown(text: str) -> str:
    """A text that a terminal may show: what could control it, or turn the order of letters, is written as a code."""
    return "".join(
        ascii(character)[1:-1]
        if character in _TURNING or (character not in "\n\t" and holds_controls(character))
        else character
        for character in text
    )


def file_stems(identifiers: Iterable[str], folder: str = "") -> dict[str, str]:
    """Name the files of cases, without ending and with forward slashes; different ids never share a file.

    Of ids that differ only in capital letters, or in how an accent is encoded, everything but plain lower-case letters
    is replaced, because many file systems do not tell them apart.

    Args:
        identifiers: The ids of all cases whose files lie side by side; they have no `id_fault`.
        folder: A folder to put before each name.
    """
    stems = {identifier: file_stem(identifier) for identifier in identifiers}
    times = Counter(_folded(stem) for stem in stems.values())
    before = f"{folder}/" if folder else ""
    return {
        identifier: before + (stem if times[_folded(stem)] == 1 else file_stem(identifier, plain=True))
        for identifier, stem in stems.items()
    }


def file_stem(identifier: str, *, plain: bool = False) -> str:
    """Name the file of one case, as `file_stems`; `plain` replaces everything but plain lower-case letters."""
    *folders, last = (_escaped(part, plain) for part in identifier.split("/"))
    return "/".join([*map(_not_a_file, folders), last])


def stand_ins(kind: str, count: int) -> list[str]:
    """Names that say nothing: `site A`, `site B`, ..., `site Z`, `site AA`."""
    return [f"{kind} {_letters(number)}" for number in range(count)]


def _letters(number: int) -> str:
    before, last = divmod(number, 26)
    return (_letters(before - 1) if before else "") + chr(ord("A") + last)


def _escaped(part: str, plain: bool) -> str:
    text = "".join(
        _code(character)
        if character in _NEVER or not character.isprintable() or (plain and character not in _PLAIN)
        else character
        for character in part
    )
    if text[0] == "." or text.split(".")[0].rstrip().upper() in _RESERVED:
        text = _code(text[0]) + text[1:]
    if text[-1] in ". ":
        text = text[:-1] + _code(text[-1])
    if len(text.encode("utf-8")) <= _LONGEST_PART:
        return text
    kept = text.encode("utf-8")[:_KEPT].decode("utf-8", "ignore")
    return f"{kept}~{sha256(part.encode('utf-8')).hexdigest()[:32]}"


def _not_a_file(folder: str) -> str:
    """A folder's name that no case's file can have: `a.png/b` beside `a`."""
    ending = next((ending for ending in _ENDINGS if folder.lower().endswith(ending)), "")
    dot = len(folder) - len(ending)
    return folder[:dot] + _code(".") + folder[dot + 1 :] if ending else folder


def _code(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8"))


def _folded(stem: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", stem).casefold())
