"""Run the PETRIC part of the suite `standards` alone, one unit after the other, and write its numbers and picture.

    EMRECON_NUM_THREADS=1 python benchmarks/petric.py WORK

WORK keeps the scans, their reference solutions and what is done already; delete a unit's folder to run it again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from _common import RESULTS, machine, machine_line, write_json

from emrecon.evaluation import Options, Results, Table
from emrecon.evaluation.standards.petric import petric_sections, petric_units

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "images" / "petric.png"


def main() -> None:
    """Run what is missing, print the tables, and write results and picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--size", choices=("quick", "full"), default="full")
    parser.add_argument("--only", nargs="*", default=[], help="parts of the names of units")
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/petric.json and the picture")
    chosen = parser.parse_args()
    options, done = Options(chosen.size), {}
    print(machine_line(machine()))
    for unit in petric_units(options):
        folder = chosen.work / unit.name
        kept = folder / "numbers.json"
        wanted = not chosen.only or any(part in f"{unit.name}/" for part in chosen.only)
        if wanted and not kept.exists() and all(needed in done for needed in unit.needs):
            folder.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(unit.run(folder)), encoding="utf-8")
            print("done:", unit.name, flush=True)
        if kept.exists():
            done[unit.name] = json.loads(kept.read_text(encoding="utf-8"))
    for section in petric_sections(Results(done, chosen.work), options):
        for part in section.parts:
            if isinstance(part, Table):
                print("\n" + part.title)
                for row in (part.columns, *part.rows):
                    print("| " + " | ".join("" if cell is None else str(cell) for cell in row) + " |")
            elif chosen.write and hasattr(part, "png"):
                PICTURE.write_bytes(part.png)
    if chosen.write:
        write_json(RESULTS / "petric.json", {"machine": machine(), "units": done})


if __name__ == "__main__":
    main()
