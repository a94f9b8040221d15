"""One reader for the JSON files that runs leave and people edit: a file has a type, and every fault is one error."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from medformer.errors import DamagedFileError, DataError, MedformerError, exhaustion
from medformer.files import read_json

T = TypeVar("T")

# Parts of a file that it may lack.
Names = Annotated[list[str], Field(default_factory=list)]
Rows = Annotated[list[dict[str, Any]], Field(default_factory=list)]
Table = Annotated[dict[str, Any], Field(default_factory=dict)]
Tables = Annotated[dict[str, dict[str, Any]], Field(default_factory=dict)]
Counts = Annotated[dict[str, int], Field(default_factory=dict)]

_SHOWN = 3


class Content(BaseModel):
    """Base of what a file must hold to be used; it may hold more."""

    model_config = ConfigDict(extra="allow")

    @property
    def plain(self) -> dict[str, Any]:
        """What the file holds, as plain data."""
        return self.model_dump(exclude_unset=True)

    @property
    def declared(self) -> dict[str, Any]:
        """What the type names of it, as plain data, and nothing else that the file holds."""
        known = {name: getattr(self, name) for name in type(self).model_fields}
        return {
            name: value.declared if isinstance(value, Content) else value
            for name, value in known.items()
            if value is not None
        }


def read_record(path: Path, kind: type[T], advice: str, *, error: type[DataError] = DataError) -> T:
    """Read a JSON file whose content has a type.

    Args:
        path: The file.
        kind: What it must hold: a `Content`, a dataclass, or plain types. Numbers must be finite.
        advice: A sentence that says what to do about a file that cannot be used.
        error: Kind of the error.

    Raises:
        DataError: The file is missing, cannot be read, is no JSON, or holds something else; names it and the faults.
        ResourceError: There is no permission to read it.
    """
    try:
        content = read_json(path, finite=True)
    except DamagedFileError as damage:
        raise error(f"{damage} {advice}") from None
    except OSError as problem:
        if (lack := exhaustion(problem)) is not None:
            raise lack from problem
        what = "is missing" if isinstance(problem, FileNotFoundError) else f"cannot be read ({problem.strerror})"
        raise error(f"{path} {what}. {advice}") from None
    return checked(content, kind, path, advice, error=error)


def checked(content: Any, kind: type[T], path: Path, advice: str, *, error: type[DataError] = DataError) -> T:
    """Give content of a file the type that it must have; see `read_record`."""
    try:
        return TypeAdapter(kind).validate_python(content)
    except ValidationError as faults:
        listed = [_fault(item) for item in faults.errors(include_url=False)]
        more = f"; and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
        raise error(f"{path} is damaged: {'; '.join(listed[:_SHOWN])}{more}. {advice}") from None
    except MedformerError as fault:
        # What a dataclass of ours checks by itself.
        raise error(f"{path} is damaged: {fault} {advice}") from None


def _fault(item: Any) -> str:
    where = ".".join(str(part) for part in item["loc"]) or "its content"
    if item["type"] == "missing":
        return f"'{where}' is missing"
    found = repr(item["input"])
    expected = item["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    if item["type"] in ("model_type", "dict_type", "dataclass_type"):
        expected = "keys and values"
    return f"'{where}' is {found if len(found) <= 40 else found[:37] + '...'}, expected {expected}"
