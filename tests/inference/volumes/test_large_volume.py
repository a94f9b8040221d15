"""The benchmark of large scans on a smaller one, in a process of its own with less memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[3] / "benchmarks" / "volume_large.py"


@pytest.mark.slow
def test_a_scan_is_segmented_in_little_memory() -> None:
    command = [sys.executable, str(BENCHMARK), "--json", "--shape", "256", "256", "200", "--networks", "reader"]
    done = subprocess.run([*command, "--limit", "1.6", "--overlap", "0"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["results"]
    assert row["equals_truth"] and row["same_grid"] and row["type"] == "uint8"
    # Six classes of this scan alone are 0.31 GB as float32; libraries take about half a gigabyte.
    assert row["peak_resident_gb"] < 1.2
