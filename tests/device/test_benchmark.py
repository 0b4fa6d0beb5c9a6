"""The script for a device runs from end to end on the emulated one, and reads what Nsight Compute prints."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from emulated_cupy import compiler

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
NCU = """==PROF== Connected to process 1
"ID","Process ID","Kernel Name","Metric Name","Metric Unit","Metric Value"
"0","1","look_into","dram__throughput.avg.pct_of_peak_sustained_elapsed","%","40.5"
"1","1","look_into","dram__throughput.avg.pct_of_peak_sustained_elapsed","%","41.5"
"1","1","look_into","gpu__time_duration.sum","nsecond","1,250"
"""


@pytest.mark.skipif(compiler() is None, reason="no C++ compiler to run the kernels on the host")
def test_the_script_runs_on_the_emulated_device(tmp_path):
    command = [sys.executable, "benchmarks/device.py", "--emulated", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "device.json").read_text())
    assert not [name for name, part in found.items() if isinstance(part, dict) and "failed" in part]
    assert all(row.get("repeats", True) for row in found["correctness"].values() if isinstance(row, dict))
    errors = [row[key] for row in found["correctness"].values() if isinstance(row, dict)
              for key in ("forward", "adjoint", "gradient") if key in row]  # fmt: skip
    assert max(errors) < 1e-5
    assert found["osem"]["of_a_pass"]["waits"] <= 3
    assert set(found["training"]) >= {"2-D", "3-D"}
    assert {row["goal"] for row in found["goals"]} >= {"SPECT 128^3 x 96 views, forward"}
    text = (tmp_path / "device.md").read_text()
    assert text.startswith("# emulated device")
    assert "say nothing about a device" in text


def test_counters_of_nsight_compute(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import device

    assert device.counters(NCU) == {"look_into": {"memory": 41.0, "time": 1250.0}}
    assert device.counters("nothing") == {}
    met = device.goals({"times": {"spect": {"forward_ms": 4.0}, "listmode": {"events_per_s": 9e7}}})
    assert [row["met"] for row in met] == [True, False]
    assert "| SPECT 128^3 x 96 views, forward | <= 4.6 ms | 4 | True |" in device.page(
        {"times": {"spect": {"forward_ms": 4.0}}}, False
    )
