"""Seeds derived from (run, repeat, fold, purpose), so that nothing shares a random stream by accident."""

from __future__ import annotations

import hashlib


def derive_seed(run_seed: int, *purpose: str | int) -> int:
    """Return a 63-bit seed that depends on the run's seed and on every part of `purpose`.

    Example: `derive_seed(0, "repeat", 0, "fold", 3, "augment", epoch, case_id)`.
    """
    text = "\x1f".join([str(run_seed), *map(str, purpose)])
    return int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:8], "big") >> 1
