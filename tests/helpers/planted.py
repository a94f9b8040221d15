"""The truth of a synthetic cohort that was written to a folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medformer.data.synthetic.abide import PLANTED_FILE, Planted
from medformer.errors import DataError
from medformer.files import read_json


def read_planted(folder: Path) -> Planted:
    """Read the truth of a written cohort.

    Raises:
        DataError: The folder holds none, or the file is not what `write_synthetic_abide` wrote.
    """
    path = Path(folder) / PLANTED_FILE
    try:
        content = read_json(path)
        edges = {}
        for name, size in content["sizes"].items():
            edges[name] = np.zeros(size, bool)
            edges[name][content["planted"][name]] = True
        pairs = tuple((str(first), str(second), float(sign)) for first, second, sign in content["pairs"])
        return Planted(float(content["effect"]), pairs, edges)
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; only synthetic cohorts know which edges were planted.") from error
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise DataError(f"{path} is not the truth of a synthetic cohort ({error}); write the cohort again.") from error
