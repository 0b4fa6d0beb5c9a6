"""When the beds of one file began, which has one start for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from emrecon.projectors import Scan, WindowedScan, scan_seconds

from .notes import Notes


def one_after_another(
    beds: Sequence[Scan | WindowedScan], turns: Sequence[tuple[int, int]], path: Path, notes: Notes
) -> list[Scan | WindowedScan]:
    """Return beds whose starts follow one another where they were read from one file.

    Args:
        turns : (file, first rotation in it) of each bed.

    The rotations of a file are taken to follow one another without pauses, and a note says so.
    """
    found = list(beds)
    for file in sorted({file for file, _ in turns}):
        mine = sorted((turn, i) for i, (own, turn) in enumerate(turns) if own == file)
        after, assumed = 0.0, False
        for _, i in mine:
            bed = found[i]
            if bed.study is None or bed.study.start is None or bed.duration is None:
                break
            if after:
                start = bed.study.start + timedelta(seconds=after)
                found[i], assumed = replace(bed, study=replace(bed.study, start=start)), True
            after += scan_seconds(bed)  # type: ignore[arg-type]  # of which geometry and duration count
        if assumed:
            notes.add(
                path, f"{len(mine)} beds of one file, with one start, are taken to follow one another without pauses"
            )
    return found
