"""How long ago the moments of the journal are."""

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
