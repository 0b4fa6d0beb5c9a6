"""Tables that are shipped beside the modules that read them."""

from __future__ import annotations

import csv
from functools import cache
from importlib.resources import files


@cache
def read_table(package: str, name: str) -> tuple[dict[str, str], ...]:
    """Return the rows of a CSV table that is shipped in `package`, such as `__package__` of the module that asks."""
    text = (files(package) / name).read_text(encoding="utf-8")
    return tuple(csv.DictReader(text.splitlines()))
