"""A small folder in the layout of the Preprocessed Connectomes Project."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

COLUMNS = "SUB_ID,FILE_ID,SITE_ID,DX_GROUP,AGE_AT_SCAN,SEX,func_mean_fd"
REGIONS: Mapping[str, int] = MappingProxyType({"small": 5, "tiny": 4})


class PcpFolder:
    """Writes subjects S_0, S_1, ... of the sites A and B."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.table = root / "Phenotypic_V1_0b_preprocessed1.csv"
        self.series = root

    @staticmethod
    def signals(seed: int, regions: int, length: int = 12) -> np.ndarray:
        """Time series (length, regions)."""
        return np.random.default_rng(seed).normal(size=(length, regions)).round(4)

    def write(
        self, subjects: int = 6, *, regions: Mapping[str, int] = REGIONS, place: str = "Outputs/cpac/filt_noglobal"
    ) -> Path:
        """Write table and series, and return the folder of the series."""
        rows = [f"{n},S_{n},{'AB'[n % 2]},{1 + n // 2 % 2},{10 + n},{1 + n % 2},0.{n + 1}" for n in range(subjects)]
        self.root.mkdir(parents=True, exist_ok=True)
        self.table.write_text("\n".join([COLUMNS, *rows]) + "\n")
        self.series = self.root / place
        for number in range(subjects):
            for atlas, count in regions.items():
                self.write_series(f"S_{number}", atlas, self.signals(number, count))
        return self.series

    def write_series(self, name: str, atlas: str, values: np.ndarray, numbers: Sequence[object] = ()) -> Path:
        """Write one series as the project does."""
        path = self.series / f"rois_{atlas}" / f"{name}_rois_{atlas}.1D"
        path.parent.mkdir(parents=True, exist_ok=True)
        header = "\t".join(f"#{number}" for number in numbers or range(1, values.shape[1] + 1))
        np.savetxt(path, values, "%.4f", delimiter="\t", header=header, comments="", newline="\r\n")
        return path

    def edit_table(self, old: str, new: str) -> None:
        """Change the phenotypic table."""
        text = self.table.read_text()
        assert old in text
        self.table.write_text(text.replace(old, new))


@pytest.fixture
def pcp(tmp_path: Path) -> PcpFolder:
    """A folder that is still to be written."""
    return PcpFolder(tmp_path / "abide")
