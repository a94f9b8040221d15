"""What columns of tables from elsewhere are called here."""

from __future__ import annotations

import re

from medformer.evaluation.metrics import CLASSES, MASKS

STRUCTURE = frozenset({"id", "fold", "repeat", "group", "site", "label", "score", "prediction", "threshold"})
"""Columns of a table that are no result."""

_ALIASES = {"dsc": "dice", "dice_score": "dice", "jaccard": "iou", "roc_auc": "auc"}


def canonical_column(name: str) -> str:
    """A column under the name that a table of ours has for it, such as `dice` for `DSC`; any other stays as it is."""
    head, colon, label = name.partition(":")
    plain = re.sub(r"[\s-]+", "_", head.strip().lower())
    plain = _ALIASES.get(plain, plain)
    return plain + colon + label if plain in {*STRUCTURE, *MASKS, *CLASSES} else name
