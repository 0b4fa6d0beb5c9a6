"""The second part of the suite `learned`: the same methods where scans are not as in training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..tasks import CHANGES, Task
from .scoring import held_out_cases

USUAL = "as-trained"
WANTED = tuple(name for name in CHANGES if name != "no-lesions")
"""What changes, of all that a task has."""


@dataclass(frozen=True)
class Changed:
    """Test scans that differ from those of the training in one thing, or in none.

    Args:
        change : a name of `CHANGES`, None for the scans as they were trained for.
    """

    name: str
    title: str
    change: str | None = None

    def cases(self, task: Task, n: int) -> Iterator[Any]:
        """Yield the first n test scans; subjects are the same in every change."""
        return held_out_cases(task, n, change=self.change)


def changes_of(task: Task) -> Sequence[Changed]:
    """Return what can change in a task, the scans as trained first."""
    there = {change.name for change in task.changes}
    found = [Changed(name, CHANGES[name].title, name) for name in WANTED if name in there]
    return [Changed(USUAL, "as trained"), *found]
