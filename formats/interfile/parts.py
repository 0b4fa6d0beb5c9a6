"""Time frames and gates of an Interfile file: how many, in which order, and how long they were."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from emrecon.projectors import Frames
from emrecon.projectors.core.errors import FormatError

from .header import Header, count, number, numbers, one_of, positive, short

PART_OVERRIDES = ("frame", "gate", "frames", "gate_seconds", "nesting")

_GATES = ("number of time slots", "number of gates", "number of time windows")
_NESTING = {"gates": True, "gated": True, "gated spect": True, "gspect": True, "views": False, "spect": False}
_MOST = 10_000


@dataclass(frozen=True)
class Parts:
    """The parts of a file: n time frames, n gates, or a single one.

    kind : "frame" or "gate".  outer : whether all views of a part follow each other, else all parts of a view do.
    """

    kind: str = "frame"
    n: int = 1
    outer: bool = True

    def shape(self, part: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the file's values, of one part's."""
        if self.n == 1:
            return part
        return (self.n, *part) if self.outer else (part[0], self.n, *part[1:])

    def first(self, values: np.ndarray) -> np.ndarray:
        """Return values with the parts first."""
        if self.n == 1:
            return values[None]
        return values if self.outer else values.swapaxes(0, 1)

    def seconds(self, header: Header) -> np.ndarray | None:
        """Return how long each gate was measured in every view, None where the header does not say.

        The time of a view is shared equally by the gates unless each has its own.
        """
        own = header.get("gate_seconds", [], numbers, None)
        listed = header.every("image duration (sec)")
        if own is None and self.kind == "gate":
            each = [header.get("", [f"image duration (sec) [{i}]"], positive, None) for i in range(1, self.n + 1)]
            own = np.array(listed if len(listed) == self.n else each, object)
        if own is not None and all(value is not None for value in own):
            if len(own) != self.n:
                raise FormatError(f"{header.path}: gate_seconds= has {len(own)} entries for {self.n} gates")
            return np.array([positive(value) for value in own])
        view = header.get("duration", ["time per projection (sec)", "time per projection (sec) [1]"], positive, None)
        return None if view is None else np.full(self.n, view / self.n)


def parts_of(header: Header) -> Parts:
    """Return the parts that a header announces; FormatError where it does not say in which order gates are."""
    written = header.as_written()
    frames = written.get("frame", ["number of time frames"], count, 1)
    gates = written.get("gate", _GATES, count, 1)
    kind = header.plain("type of data")
    if ("gated" in kind or kind == "gspect") and not any(header.keys.get(key) for key in _GATES):
        raise FormatError(f"{header.path}: a gated file without the key `number of time slots`; edited by hand?")
    if max(frames, gates) > _MOST:
        raise FormatError(f"{header.path} announces {max(frames, gates)} time frames or gates; damaged header?")
    if frames > 1 and gates > 1:
        raise FormatError(
            f"{header.path}: {frames} time frames of {gates} gates in one file cannot be read; write one file each"
        )
    if gates == 1:
        return Parts("frame", frames)
    nesting = header.get("nesting", ["gated spect nesting outer level"], one_of(_NESTING), None)
    if nesting is None:
        raise FormatError(
            f"{header.path}: the header does not say how its {gates} gates follow each other (the key `GATED SPECT "
            'nesting outer level`); pass nesting="gates" for one gate after the other, or nesting="views" where every '
            "view holds all gates"
        )
    return Parts("gate", gates, nesting)


def one_part(header: Header, parts: Parts) -> int:
    """Return the index of the part that frame= or gate= chooses, or of the only one."""
    chosen = {name: header.get(name, [], count, None) for name in ("frame", "gate")}
    if parts.n == 1:
        wrong = next((name for name, value in chosen.items() if value not in (None, 1)), None)
        if wrong:
            raise FormatError(f"{header.path} holds a single {wrong}; there is no {wrong}={chosen[wrong]}")
        return 0
    wanted = chosen[parts.kind]
    if wanted is None or wanted > parts.n:
        reader = "read_dynamic" if parts.kind == "frame" else "read_gated"
        problem = "" if wanted is None else f"; there is no {parts.kind}={wanted}"
        raise FormatError(
            f"{header.path} holds {parts.n} {'time frames' if parts.kind == 'frame' else 'gates'}{problem}: {reader} "
            f"reads all of them, {parts.kind}=1 to {parts.n} one"
        )
    return wanted - 1


def frames_of(header: Header, n: int) -> Frames:
    """Return when n time frames were; raises FormatError where the header does not say it."""
    given = header.overrides.get("frames")
    if given is not None:
        frames = Frames.parse(given) if isinstance(given, str) else given
        if not isinstance(frames, Frames) or len(frames) != n:
            raise FormatError(f'{header.path}: frames= is {short(given)}, expected Frames, or "10x10,300" (s), of {n}')
        return frames
    written = header.as_written()
    durations = [written.get("frames", [f"image duration (sec) [{i}]"], positive) for i in range(1, n + 1)]
    keys = [f"image relative start time (sec) [{i}]" for i in range(1, n + 1)]
    if not any(header.keys.get(key) for key in keys):
        return Frames.from_durations(durations)
    return Frames(np.array([written.get("frames", [key], number) for key in keys]), np.array(durations))
