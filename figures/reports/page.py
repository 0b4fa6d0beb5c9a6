"""Parts of a page of HTML: texts are escaped, pictures lie inside, and a style for the screen and for paper."""

from __future__ import annotations

import base64
import html
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..sheets import save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_KINDS = {"png": "image/png", "svg": "image/svg+xml"}
_DPI = 190


class Markup(str):
    """A text that is HTML already; every other text is escaped when it is put into a page."""

    __slots__ = ()


def safe(text: object) -> str:
    """Return a text for HTML: markup as it is, everything else escaped."""
    return text if isinstance(text, Markup) else html.escape(" ".join(str(text).split()), quote=True)


def element(tag: str, *content: object, **attributes: str) -> Markup:
    """Return an element; a keyword `class_` stands for `class`."""
    said = "".join(f' {name.rstrip("_")}="{html.escape(value, quote=True)}"' for name, value in attributes.items())
    return Markup(f"<{tag}{said}>{''.join(map(safe, content))}</{tag}>")


def joined(parts: Iterable[object]) -> Markup:
    """Return parts one after another."""
    return Markup("\n".join(map(safe, parts)))


def section(title: str, *content: object) -> Markup:
    """Return a section with its heading."""
    return element("section", element("h2", title), *content)


def facts(pairs: Iterable[tuple[str, object]]) -> Markup:
    """Return names with what they are, as a list of two columns."""
    rows = (joined((element("dt", name), element("dd", value))) for name, value in pairs)
    return element("dl", *rows)


def listing(lines: Iterable[object], class_: str = "plain") -> Markup:
    """Return lines as a list."""
    return element("ul", *(element("li", line) for line in lines), class_=class_)


def table(heads: Sequence[object], rows: Iterable[Sequence[object]], numbers_from: int = 1) -> Markup:
    """Return a table; columns from `numbers_from` on hold numbers, which stand at the right."""
    kinds = ["text" if i < numbers_from else "number" for i in range(len(heads))]
    top = element("tr", *(element("th", head, class_=kind, scope="col") for head, kind in zip(heads, kinds)))
    body = (element("tr", *(element("td", cell, class_=kind) for cell, kind in zip(row, kinds))) for row in rows)
    return element("table", element("thead", top), element("tbody", *body))


def picture(figure: Figure, says: str, kind: str = "png", class_: str = "") -> Markup:
    """Return a figure of matplotlib inside of the page, with its caption, which also stands for it in words."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"figure.{kind}"
        save(figure, path, dpi=_DPI)
        data = base64.b64encode(path.read_bytes()).decode()
    image = Markup(f'<img alt="{safe(says)}" src="data:{_KINDS[kind]};base64,{data}">')
    return element("figure", image, element("figcaption", says), class_=class_ or kind)


def document(title: str, *content: object) -> str:
    """Return a whole page."""
    head = joined(
        (
            Markup('<meta charset="utf-8">'),
            Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
            element("title", title),
            Markup(f"<style>{STYLE}</style>"),
        )
    )
    body = element("body", element("main", *content))
    return f'<!DOCTYPE html>\n<html lang="en">\n<head>\n{head}\n</head>\n{body}\n</html>\n'


STYLE = """
:root { --ink: #18232e; --soft: #566573; --rule: #dde4ea; --tint: #f4f7f9; --accent: #17577e; --warn: #8a4b08;
  --warn-tint: #fdf5ea; }
* { box-sizing: border-box; }
html { background: #e9eef2; }
body { margin: 0; color: var(--ink); font: 15px/1.5 "Source Sans 3", "Segoe UI", "Helvetica Neue", Arial, sans-serif;
  font-variant-numeric: tabular-nums; -webkit-text-size-adjust: 100%; }
main { max-width: 62rem; margin: 2rem auto; padding: 2.6rem 3.2rem 2rem; background: white;
  box-shadow: 0 1px 3px rgb(24 35 46 / 12%), 0 8px 28px rgb(24 35 46 / 8%); border-radius: 4px; }
header { border-bottom: 3px solid var(--accent); padding-bottom: 1rem; margin-bottom: 1.4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; font-weight: 600; letter-spacing: -.01em; margin: 0 0 .25rem; }
header p { margin: 0; color: var(--soft); }
header p.patient { color: var(--ink); font-weight: 600; margin-top: .3rem; }
h2 { font-size: 1.15rem; font-weight: 600; color: var(--accent); margin: 2.2rem 0 .8rem; padding-bottom: .3rem;
  border-bottom: 1px solid var(--rule); }
h3 { font-size: .95rem; font-weight: 600; margin: 1.3rem 0 .4rem; }
p { margin: .5rem 0; }
.key { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.4rem, 1fr)); gap: .7rem; margin: 0 0 1.2rem; }
.key div { background: var(--tint); border-radius: 4px; padding: .6rem .8rem; }
.key span { display: block; font-size: .78rem; color: var(--soft); }
.key strong { font-size: 1.08rem; font-weight: 600; line-height: 1.3; display: block; overflow-wrap: anywhere; }
.warnings { background: var(--warn-tint); border-left: 4px solid var(--warn); border-radius: 0 4px 4px 0;
  padding: .7rem 1.1rem; margin: 1.2rem 0; }
.warnings h3 { margin: 0 0 .3rem; color: var(--warn); }
.warnings ul { margin: 0; padding-left: 1.1rem; }
.warnings.none { background: var(--tint); border-color: var(--rule); color: var(--soft); }
dl { display: grid; grid-template-columns: minmax(6.5rem, max-content) 1fr; gap: .28rem 1rem; margin: .4rem 0; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
ul.plain { list-style: none; margin: .4rem 0; padding: 0; }
ul.plain li { padding: .16rem 0; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; margin: .6rem 0; font-size: .92rem; }
th { font-weight: 600; color: var(--soft); font-size: .84rem; vertical-align: bottom;
  border-bottom: 1.5px solid #b9c5cf; }
th, td { padding: .34rem .6rem; }
th:first-child, td:first-child { padding-left: 0; min-width: 6.2rem; }
th:last-child, td:last-child { padding-right: 0; }
tbody td { border-bottom: 1px solid var(--rule); }
.text { text-align: left; overflow-wrap: anywhere; }
.number { text-align: right; white-space: nowrap; }
th.number { white-space: normal; }
figure { margin: .9rem 0 1.3rem; text-align: center; }
figure img { max-width: 100%; height: auto; }
figcaption { color: var(--soft); font-size: .86rem; margin-top: .35rem; }
.half { display: grid; grid-template-columns: minmax(0, 1.15fr) minmax(0, 1fr); gap: 1.6rem; align-items: start; }
.half.equal { grid-template-columns: repeat(2, minmax(0, 1fr)); }
.half figure { margin-top: 0; }
code, .digest { font-family: "JetBrains Mono", Consolas, "Liberation Mono", monospace; font-size: .84em; }
pre { font-family: "JetBrains Mono", Consolas, "Liberation Mono", monospace; font-size: .84rem; line-height: 1.45;
  background: var(--tint); border-radius: 4px; padding: .7rem .9rem; white-space: pre-wrap; overflow-wrap: anywhere;
  margin: .5rem 0; }
.digest { overflow-wrap: anywhere; }
.small { font-size: .86rem; color: var(--soft); }
footer { margin-top: 2.2rem; border-top: 1px solid var(--rule); padding-top: .7rem; color: var(--soft);
  font-size: .84rem; }
@media (max-width: 44rem) { main { margin: 0; padding: 1.4rem; border-radius: 0; } .half { grid-template-columns: 1fr; }
  dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: .4rem; } }
@page { size: A4; margin: 15mm 15mm 16mm; }
@media print {
  html { background: white; }
  body { font-size: 9.6pt; line-height: 1.4; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  main { max-width: none; margin: 0; padding: 0; box-shadow: none; border-radius: 0; }
  h1 { font-size: 17pt; }
  .key { grid-template-columns: repeat(5, 1fr); }
  .key strong { font-size: 10.5pt; }
  h2 { margin-top: 1.3rem; break-after: avoid; }
  h3 { break-after: avoid; }
  figure, .key, .warnings, tr, dl, pre { break-inside: avoid; }
  thead { display: table-header-group; }
  .half { grid-template-columns: 1.15fr 1fr; }
  .half.equal { grid-template-columns: 1fr 1fr; }
  .new-page { break-before: page; }
  .ortho img { max-height: 105mm; }
}
"""
