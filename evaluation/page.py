"""The report of a benchmark as a page of HTML, in the manner of the reports of reconstructions."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from emrecon import __version__
from emrecon.figures.reports.page import Markup, document, element, facts, joined, listing, safe, section, table
from emrecon.projectors.core.files import atomic_path
from emrecon.projectors.core.progress import in_words

from .records import Record
from .report import JSON, Report, as_json
from .sections import Cell, Interval, Picture, Section, Table, Text

HTML = "report.html"
_MOST_FAILURES = 20


def write_report(report: Report, folder: Path) -> tuple[Path, Path]:
    """Write both files into a folder, each whole or not at all, and return their paths.

    Raises OSError naming the file that cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    texts = {HTML: html_of(report), JSON: json.dumps(as_json(report), indent=1, allow_nan=False) + "\n"}
    for name, text in texts.items():
        with atomic_path(folder / name) as path:
            path.write_text(text, encoding="utf-8")
    return folder / HTML, folder / JSON


def html_of(report: Report) -> str:
    """Return the whole page; nothing in it comes from elsewhere, and no script runs."""
    return document(
        f"Benchmark: {report.suite.name}",
        Markup(f"<style>{STYLE}</style>"),
        _header(report),
        _key(report),
        _warnings(report),
        _contents(report),
        *(_section(one, i) for i, one in enumerate(report.sections)),
        section("Seconds and memory", _runs(report)),
        section("Provenance", *_provenance(report)),
        element("footer", f"Written by emrecon {__version__}. Not for clinical use."),
    )


def _header(report: Report) -> Markup:
    about = f"benchmark {report.suite.name}, size {report.options.size}, {report.date[:10]}"
    return element("header", element("h1", report.suite.title), element("p", about))


def _key(report: Report) -> Markup:
    seconds = sum(record.seconds for record in report.runs.values())
    peak = max((record.peak_memory for record in report.runs.values()), default=0)
    done, left = len(report.results), len(report.results.failed) + len(report.missing)
    cells = {
        "units with results": f"{done} of {done + left}",
        "work in all": in_words(seconds),
        "most memory of a unit": _bytes(peak),
        "trainings of a network": str(report.options.seeds),
        "emrecon": ", ".join(report.versions.get("emrecon", [__version__])),
    }
    return element(
        "div", *(element("div", element("span", k), element("strong", v)) for k, v in cells.items()), class_="key"
    )


def _warnings(report: Report) -> Markup:
    lines: list[object] = []
    failures = list(report.failed.items())
    lines += [joined((element("code", name), f" has no result: {why}")) for name, why in failures[:_MOST_FAILURES]]
    if len(failures) > _MOST_FAILURES:
        lines.append(f"{len(failures) - _MOST_FAILURES} more have no result, see report.json")
    if report.missing:
        lines.append(f"{len(report.missing)} units have not been run yet: {', '.join(report.missing[:8])}")
    changing = {package: known for package, known in report.versions.items() if len(known) > 1}
    lines += [f"units were run with several versions of {package}: {', '.join(v)}" for package, v in changing.items()]
    if len(report.machines) > 1:
        lines.append("units were run on several machines; seconds of different ones do not compare")
    if report.options.size != "full":
        lines.append("a small size, to see that everything works: its numbers rest on few scans")
    if not lines:
        return element("div", "No failures.", class_="warnings none")
    return element("div", element("h3", "To look at"), listing(lines, ""), class_="warnings")


def _contents(report: Report) -> Markup:
    links = [element("a", one.title, href=f"#part-{i}") for i, one in enumerate(report.sections)]
    return element("nav", listing(links, "contents"))


def _section(one: Section, number: int) -> Markup:
    return element("section", element("h2", one.title), *map(_part, one.parts), id=f"part-{number}")


def _part(part: Table | Picture | Text) -> Markup:
    if isinstance(part, Table):
        return _table(part)
    if isinstance(part, Picture):
        data = base64.b64encode(part.png).decode()
        image = Markup(f'<img alt="{safe(part.title)}" src="data:image/png;base64,{data}">')
        return element("figure", image, element("figcaption", element("strong", part.title), Markup(" "), part.note))
    return joined([*([element("h3", part.title)] if part.title else []), *(element("p", p) for p in part.paragraphs)])


def _table(part: Table) -> Markup:
    together = [_common_n([row[i] for row in part.rows]) for i in range(len(part.columns))]
    heads = [
        name if n is None else joined((name, element("small", f" n = {n}"))) for name, n in zip(part.columns, together)
    ]
    digits = [_digits([row[i] for row in part.rows]) for i in range(len(part.columns))]
    rows = [[_cell(cell, n is None, d) for cell, n, d in zip(row, together, digits)] for row in part.rows]
    numbers_from = next((i for i in range(len(part.columns)) if any(not _is_text(row[i]) for row in part.rows)), 1)
    note = [element("p", part.note, class_="small")] if part.note else []
    scrolled = element("div", table(heads, rows, numbers_from), class_="wide")
    return joined([element("h3", part.title), scrolled, *note])


def _is_text(cell: Cell) -> bool:
    return cell is None or isinstance(cell, str)


def _common_n(cells: Sequence[Cell]) -> int | None:
    """How many observations all intervals of a column rest on, None where they differ."""
    found = {cell.n for cell in cells if isinstance(cell, Interval)}
    return found.pop() if len(found) == 1 else None


def _digits(cells: Sequence[Cell]) -> int:
    """How many decimals a column has: three figures of its median."""
    sizes = [abs(c.value if isinstance(c, Interval) else c) for c in cells if isinstance(c, (float, Interval))]
    sizes = sorted(size for size in sizes if math.isfinite(size) and size > 0)
    if not sizes:
        return 3
    return min(6, max(0, 2 - math.floor(math.log10(sizes[len(sizes) // 2]))))


def _cell(cell: Cell, with_n: bool, digits: int) -> object:
    if cell is None:
        return ""
    if isinstance(cell, Interval):
        n = f" n = {cell.n}" if with_n else ""
        limits = f" [{_number(cell.low, digits)}, {_number(cell.high, digits)}]" if cell.is_bounded else ""
        return joined((_number(cell.value, digits), element("small", limits + n)))
    if isinstance(cell, (bool, str)):
        return str(cell)
    return _number(cell, digits)


def _number(value: float, digits: int) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    if not math.isfinite(value):
        return "not known" if math.isnan(value) else ("∞" if value > 0 else "-∞")
    if value and (abs(value) >= 1e6 or abs(value) < 0.5 * 10.0**-digits):
        return f"{value:.2e}"
    return f"{value:,.{digits}f}"


def _bytes(n: int) -> str:
    return f"{n / 2**30:.1f} GB" if n >= 2**30 else f"{n / 2**20:.0f} MB"


def _runs(report: Report) -> Markup:
    """What each group of units took."""
    groups: dict[str, list[Record]] = {}
    for name, record in report.runs.items():
        groups.setdefault(name.partition("/")[0], []).append(record)
    rows = [
        (name, len(them), in_words(sum(r.seconds for r in them)), _bytes(max(r.peak_memory for r in them)))
        for name, them in groups.items()
    ]
    detail = [
        (name, in_words(record.seconds), _bytes(record.peak_memory), record.threads or "")
        for name, record in sorted(report.runs.items(), key=lambda pair: -pair[1].seconds)
    ]
    whole = table(["units", "number", "work", "most memory"], rows)
    each = table(["unit", "work", "most memory", "threads"], detail)
    return joined((whole, element("details", element("summary", "Every unit"), each)))


def _provenance(report: Report) -> Iterator[Markup]:
    options = report.options
    yield facts(
        [
            ("suite", report.suite.name),
            ("size", options.size),
            ("seeds", f"{options.seeds} trainings of each network"),
            ("methods", ", ".join(options.methods) or "all of the suite"),
            ("machine", joined(element("div", line) for line in report.machines)),
            ("versions", ", ".join(f"{package} {' and '.join(known)}" for package, known in report.versions.items())),
            ("date", report.date),
        ]
    )
    if report.data:
        yield element("h3", "Digests of the data")
        yield facts((name, element("span", digest, class_="digest")) for name, digest in report.data.items())
    yield element(
        "p",
        "Intervals are of 95 %. report.json, beside this page, holds all numbers, those of each subject too.",
        class_="small",
    )


STYLE = """
main { max-width: 78rem; }
td small, th small { color: var(--soft); font-weight: 400; white-space: nowrap; }
.wide { overflow-x: auto; }
.wide table { width: auto; min-width: 60%; }
tbody tr:hover { background: var(--tint); }
nav ul.contents { list-style: none; display: flex; flex-wrap: wrap; gap: .3rem 1.3rem; padding: 0; margin: 1rem 0 0; }
nav a { color: var(--accent); text-decoration: none; border-bottom: 1px solid var(--rule); }
figcaption strong { color: var(--ink); font-weight: 600; }
details { margin: .8rem 0; } summary { cursor: pointer; color: var(--accent); }
@media print { .wide { overflow: visible; } nav { display: none; } }
"""
