"""Moments of the journal as spans of time that a reader has a feeling for."""

from __future__ import annotations

from datetime import UTC, datetime


def age(moment: str, now: datetime | None = None) -> float | None:
    """Return the seconds since a moment in ISO form, not less than 0; None for anything else."""
    try:
        then = datetime.fromisoformat(moment)
    except ValueError:
        return None
    then = then if then.tzinfo else then.replace(tzinfo=UTC)
    return max(0.0, ((now or datetime.now(UTC)) - then).total_seconds())


def duration(seconds: float) -> str:
    """Spell a span in its two largest units, e.g. `3 min 20 s`."""
    whole = round(seconds)
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    parts = []
    for name, size in units:
        count, whole = divmod(whole, size)
        if count:
            parts.append(f"{count} {name}")
        elif parts:
            break
        if len(parts) == 2:
            break
    return " ".join(parts) or "0 s"
