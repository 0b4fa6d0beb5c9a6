"""What a notebook shows of an object: a small table, with a drawing beside it; nothing of a patient's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape

import numpy as np

_TABLE = "border-collapse:collapse;font-size:90%"
_NAME = "text-align:left;vertical-align:top;padding:1px 10px 1px 0;color:#666;font-weight:normal"
_VALUE = "text-align:left;vertical-align:top;padding:1px 0;white-space:pre-line"


def html_table(title: str, rows: Mapping[str, object], drawing: str = "") -> str:
    """Return a table of names and values as HTML, with a drawing (SVG) beside it.

    Args:
        rows : what is None or "" is left out; numbers and lists are shortened, and all text is escaped.
    """
    shown = {name: _text(value) for name, value in rows.items() if value is not None}
    body = "".join(
        f'<tr><th style="{_NAME}">{escape(name)}</th><td style="{_VALUE}">{escape(text)}</td></tr>'
        for name, text in shown.items()
        if text
    )
    table = f'<table style="{_TABLE}"><caption style="text-align:left"><b>{escape(title)}</b></caption>{body}</table>'
    if not drawing:
        return f"<div>{table}</div>"
    return f'<div style="display:flex;gap:16px;align-items:flex-start">{table}{drawing}</div>'


def brief_range(values: object) -> str:
    """Return the smallest and the largest of some numbers, or the one that they all are."""
    array = np.asarray(values, float).ravel()
    if not array.size:
        return ""
    low, high = float(array.min()), float(array.max())
    return f"{low:.5g}" if math.isclose(low, high, rel_tol=1e-6, abs_tol=1e-9) else f"{low:.5g} to {high:.5g}"


def brief_array(values: object) -> str:
    """Return a number as it is, of an array on the host its shape and range, of one elsewhere its shape."""
    shape = tuple(getattr(values, "shape", ()))
    if not shape:
        return f"{float(values):.6g}"  # type: ignore[arg-type]  # a number, or an array of one
    sizes = " x ".join(map(str, shape))
    return f"{sizes}, {brief_range(values)}" if isinstance(values, np.ndarray) else sizes


def _text(value: object) -> str:
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (float, np.floating)):
        return f"{value:.6g}"
    if isinstance(value, (tuple, list)):
        return " x ".join(map(_text, value))
    return str(value)
