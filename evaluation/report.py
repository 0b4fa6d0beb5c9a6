"""The report of a benchmark: one page of HTML that needs nothing else, and the same as JSON."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from emrecon import __version__

from .machine import machine, versions
from .records import Record, plain
from .running import described, results_of
from .sections import Interval, Picture, Section, Table, Text
from .suite import MissingUnitError, Options, Results, Suite, Unit

JSON, SCHEMA = "report.json", "emrecon benchmark 1"


@dataclass(frozen=True, eq=False)
class Report:
    """What a report holds.

    Args:
        runs : records of the units that were run.
        failed : why units, or the sections, have no result.
        missing : units that nobody has run yet.
    """

    suite: Suite
    options: Options
    sections: Sequence[Section]
    results: Results
    runs: Mapping[str, Record]
    failed: Mapping[str, str]
    missing: Sequence[str]
    date: str

    @property
    def data(self) -> dict[str, str]:
        """The digests of data, by the unit that gave them."""
        return {name: str(n["data_digest"]) for name, n in self.results.items() if "data_digest" in n}

    @property
    def versions(self) -> dict[str, list[str]]:
        """The versions that units were run with, of each package; several where the folder was used again."""
        found: dict[str, list[str]] = {}
        for record in self.runs.values():
            for package, version in record.versions.items():
                if version not in found.setdefault(package, []):
                    found[package].append(version)
        return {package: sorted(known) for package, known in found.items()} or {k: [v] for k, v in versions().items()}

    @property
    def machines(self) -> list[str]:
        """The machines that units were run on."""
        return sorted({record.machine for record in self.runs.values() if record.machine}) or [machine()]


def make_report(units: Sequence[Unit], folder: Path, suite: Suite, options: Options) -> Report:
    """Return the report of what is in a benchmark's folder.

    A section that misses a unit's numbers, or fails, is replaced by a text that says so.
    """
    results, runs = results_of(units, folder, suite, options)
    failed = dict(results.failed)
    missing = [unit.name for unit in units if unit.name not in results and unit.name not in failed]
    sections: list[Section] = []
    try:
        sections.extend(suite.sections(results, options))
    except MissingUnitError as error:
        sections.append(_incomplete(str(error)))
    except Exception as error:
        failed["sections of the report"] = f"{type(error).__name__}: {error}"
        sections.append(_incomplete(f"they could not be made: {error}"))
    date = datetime.now(UTC).isoformat(timespec="seconds")
    return Report(suite, options, sections, results, runs, failed, missing, date)


def as_json(report: Report) -> dict[str, Any]:
    """Return a report as JSON holds it.

    What varies from run to run is under "date" and "runs", in tables with "varies", and in numbers named "seconds" and
    "memory"; all else is the same whenever data, code and machine are. NaN and infinity are null.
    """
    return {
        "schema": SCHEMA,
        "suite": report.suite.name,
        "title": report.suite.title,
        "options": described(report.options),
        "emrecon": __version__,
        "versions": report.versions,
        "machines": report.machines,
        "data": report.data,
        "failed": dict(sorted(report.failed.items())),
        "missing": list(report.missing),
        "sections": [
            {"title": one.title, "parts": [part_as_json(part) for part in one.parts]} for one in report.sections
        ],
        "units": {name: plain(report.results[name]) for name in sorted(report.results)},
        "date": report.date,
        "runs": {
            name: {
                "seconds": round(record.seconds, 3),
                "peak_memory": record.peak_memory,
                "threads": record.threads,
                "digest": record.digest,
                "arguments": plain(record.arguments),
                "machine": record.machine,
                "versions": dict(record.versions),
            }
            for name, record in sorted(report.runs.items())
        },
    }


def part_as_json(part: Table | Picture | Text) -> dict[str, Any]:
    """Return a part of a section as JSON holds it; a picture as the digest of its bytes."""
    if isinstance(part, Table):
        rows = [[cell_as_json(cell) for cell in row] for row in part.rows]
        said = {"kind": "table", "title": part.title, "columns": list(part.columns), "rows": rows, "note": part.note}
        return said | ({"varies": True} if part.varies else {})
    if isinstance(part, Picture):
        digest = hashlib.sha256(part.png).hexdigest()[:16]
        return {"kind": "picture", "title": part.title, "note": part.note, "sha256": digest}
    return {"kind": "text", "title": part.title, "paragraphs": list(part.paragraphs)}


def cell_as_json(cell: Any) -> Any:
    """Return a cell as JSON holds it."""
    if isinstance(cell, Interval):
        return {name: plain(getattr(cell, name)) for name in ("value", "low", "high", "n")}
    value = plain(cell)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _incomplete(why: str) -> Section:
    return Section("Incomplete", [Text("Sections are missing", [f"The sections of this report are left out: {why}."])])
