"""The moments that the journal, the record and the lock note, and how long ago they are."""

from __future__ import annotations

from datetime import UTC, datetime


def age(moment: str, until: datetime | None = None) -> float | None:
    """Return the seconds from a moment in ISO form until another or now, not less than 0; None for anything else."""
    try:
        then = datetime.fromisoformat(moment)
    except ValueError:
        return None
    then = then if then.tzinfo else then.replace(tzinfo=UTC)
    return max(0.0, ((until or datetime.now(UTC)) - then).total_seconds())


def now() -> str:
    """This moment in ISO form, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
