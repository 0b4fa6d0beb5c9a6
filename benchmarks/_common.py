"""What the benchmarks share: the line about the machine, and files of results."""

from __future__ import annotations

import json
import os
import platform
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from emrecon.evaluation.peers import peer_matrix

__all__ = ["RESULTS", "machine", "machine_line", "peer_matrix", "write_json"]
RESULTS = Path(__file__).resolve().parent / "results"
PACKAGES = ("emrecon", "numpy", "numba", "torch", "pytomography", "cupy-cuda12x", "cupy-cuda13x")


def machine() -> dict[str, Any]:
    """Return what a timing depends on: processor, cores, versions, load and date."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": _cpu_model(),
        "cores": cores,
        "load": [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: version for name in PACKAGES if (version := _version(name))},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def machine_line(about: dict[str, Any]) -> str:
    """Return `machine()` as one line of text."""
    versions = ", ".join(f"{name} {about[name]}" for name in ("python", *PACKAGES) if name in about)
    return f"{about['cpu']}, {about['cores']} cores; {versions}; {about['date']}"


def write_json(path: str | os.PathLike[str], values: dict[str, Any]) -> None:
    """Write values as indented JSON, making the folder."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or "unknown"
