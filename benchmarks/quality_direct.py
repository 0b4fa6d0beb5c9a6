"""Run the suite `direct`, or read its folder, and write its tables: JSON of results, and the tables of docs/direct.md.

    EMRECON_NUM_THREADS=1 python benchmarks/quality_direct.py DIR                 # runs what is missing, then writes
    EMRECON_NUM_THREADS=1 python benchmarks/quality_direct.py DIR --read          # writes what is there

DIR is the folder of `emrecon benchmark direct --out DIR`; either goes on where the other has stopped. Nothing is
written of the small size unless --out says where.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from _common import RESULTS, machine, machine_line, write_json

from emrecon.evaluation import SUITES, Interval, Options, Picture, Section, Table, Text
from emrecon.evaluation.report import as_json, make_report
from emrecon.evaluation.running import claim, run_units

ROOT = Path(__file__).resolve().parents[1]
PAGE, PICTURE = ROOT / "docs" / "direct.md", ROOT / "docs" / "images" / "direct_misfit.png"
BEGIN, END = "<!-- tables of benchmarks/quality_direct.py -->", "<!-- end of the tables -->"


def main() -> None:
    """Do what the options ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of `emrecon benchmark direct`")
    parser.add_argument("--read", action="store_true", help="run nothing")
    parser.add_argument("--size", choices=("quick", "full"), default="full")
    parser.add_argument("--work", type=Path, help="where samples are kept")
    parser.add_argument("--out", type=Path, help="a folder for results, page and picture, instead of the repository")
    chosen = parser.parse_args()
    suite, options = SUITES["direct"], Options(chosen.size, work=chosen.work)
    units = suite.units(options)
    print(machine_line(machine()))
    if not chosen.read:
        claim(chosen.folder, suite, options)
        for step in run_units(units, chosen.folder, suite, options):
            print(f"[{step.number}/{step.total}] {step.unit}: {step.state}", flush=True)
    report = make_report(units, chosen.folder, suite, options)
    for one in report.sections:
        print(markdown(one))
    if report.missing or report.failed:
        print(f"missing: {', '.join(report.missing) or 'none'}; failed: {', '.join(report.failed) or 'none'}")
    if chosen.size == "quick" and chosen.out is None:
        raise SystemExit("the small size says nothing about quality; --out writes its files elsewhere")
    found = as_json(report)
    kept = {
        name: found[name] for name in ("options", "emrecon", "versions", "machines", "missing", "failed", "sections")
    }
    results = RESULTS if chosen.out is None else chosen.out
    write_json(results / "quality_direct.json", {"machine": machine(), "date": found["date"], **kept})
    page, picture = (
        (PAGE, PICTURE) if chosen.out is None else (chosen.out / "direct.md", chosen.out / "direct_misfit.png")
    )
    with_tables(page, report.sections)
    for one in (part for section in report.sections for part in section.parts):
        if isinstance(one, Picture):
            picture.write_bytes(one.png)
    print(f"wrote {results / 'quality_direct.json'} and {page}")


def with_tables(page: Path, sections: list[Section] | tuple[Section, ...]) -> None:
    """Put the tables into a page, between its two marks; a page that is not there is made of the one of the library."""
    text = (page if page.exists() else PAGE).read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise SystemExit(f"{page} has no place for the tables: {BEGIN} ... {END}")
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    body = "\n\n".join(markdown(one) for one in sections)
    page.write_text(f"{before}{BEGIN}\n\n{body}\n\n{END}{after}", encoding="utf-8")


def markdown(section: Section) -> str:
    """Return a section as Markdown; its picture is that of the page."""
    lines = [f"### {section.title}"]
    for part in section.parts:
        if isinstance(part, Text):
            lines += list(part.paragraphs)
        elif isinstance(part, Picture):
            lines.append(f"![{part.title}](images/{PICTURE.name})\n\n{part.note}")
        else:
            lines.append(_table(part))
    return "\n\n".join(line for line in lines if line)


def _table(table: Table) -> str:
    rows = [list(table.columns), ["---"] * len(table.columns), *([_cell(cell) for cell in row] for row in table.rows)]
    body = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    return f"**{table.title}**\n\n{body}" + (f"\n\n{table.note}" if table.note else "")


def _cell(cell: object) -> str:
    if isinstance(cell, Interval):
        about = f" ({cell.low:.3g} to {cell.high:.3g})" if cell.is_bounded else ""
        return f"{cell.value:.3g}{about}"
    if isinstance(cell, float):
        return f"{cell:.3g}" if math.isfinite(cell) else ""
    return "" if cell is None else str(cell)


if __name__ == "__main__":
    main()
