"""Signs of life: every rank beats in a store that all see, so that one that is lost ends the others with a message."""

from __future__ import annotations

import _thread
import os
import sys
import threading
import time
from contextlib import suppress
from typing import Any

_PERIOD = 0.5  # s between beats
_MISSED = 4 * _PERIOD  # s without a beat, after a connection broke, that tell who is lost
_GRACE = 10.0  # s for a process that waits inside of a collective until it is ended
_OVER = "emrecon/over"
_SPEAKER = "emrecon/speaker"
_FINISHED = "emrecon/finished"


class Watch(threading.Thread):
    """Beats for this rank and looks after the others: rank 0 after all, the others after rank 0.

    Args:
        store : a torch.distributed store of the group, of this thread alone.
        timeout : seconds without a beat after which a rank counts as lost.
    """

    def __init__(self, store: Any, rank: int, size: int, timeout: float) -> None:
        super().__init__(name="emrecon-ranks", daemon=True)
        self.store, self.rank, self.size, self.timeout = store, rank, size, timeout
        self.reason: str | None = None  # why the ranks end before their time
        self._leaving, self._lock = threading.Event(), threading.Lock()
        self._beats = 0
        self._beat()

    def run(self) -> None:
        """Beat, and look after the others, until this rank leaves or another one is lost."""
        met = dict.fromkeys(range(self.size) if self.rank == 0 else (0,), (b"", time.monotonic()))
        while not self._leaving.wait(_PERIOD):
            try:
                with self._lock:
                    self._beat()
                    over = self._said(_OVER)
                    met = {rank: self._met(rank, *known) for rank, known in met.items()}
                now = time.monotonic()
                late = [rank for rank, (_, at) in met.items() if now - at > self.timeout]
                if late and over is None:
                    over = f"{names(late, self.size)} gave no sign of life for {self.timeout:g} s"
                    self.declare(over)
            except Exception:
                over = "rank 0 or torchrun has ended: the store of the ranks is gone"
            if over is not None and not self._leaving.is_set():
                self._end(over)
                return

    def declare(self, reason: str) -> str:
        """Say why the ranks end, unless another rank has said it already; return what was said first."""
        with suppress(Exception), self._lock:
            return str(self.store.compare_set(_OVER, "", reason).decode())
        return reason

    def said(self, wait: float = 0.0) -> str | None:
        """Return what a rank has said about why all end, None where none has after `wait` seconds."""
        until = time.monotonic() + wait
        while True:
            with suppress(Exception), self._lock:
                found = self._said(_OVER)
                if found is not None or time.monotonic() >= until:
                    return found
            if time.monotonic() >= until:
                return None
            pause(0.05)

    def claim(self) -> bool:
        """Whether this rank is the one that says why all end: the first where it lives, or the first to ask."""
        if self.rank:
            pause(1.0)
        with suppress(Exception), self._lock:
            return bool(self.store.compare_set(_SPEAKER, "", str(self.rank)) == str(self.rank).encode())
        return self.rank == 1  # the store is gone with the first rank

    def lost(self) -> list[int]:
        """Return the ranks that have stopped beating; takes some seconds."""
        with suppress(Exception):
            with self._lock:
                before = [self._beat_of(rank) for rank in range(self.size)]
            pause(_MISSED)
            with self._lock:
                return [r for r in range(self.size) if r != self.rank and self._beat_of(r) == before[r]]
        return [0]  # whose store is gone

    def finish(self) -> None:
        """Leave: rank 0 tells the others that results are written, and they wait for that."""
        if self.rank == 0:
            with suppress(Exception), self._lock:
                self.store.set(_FINISHED, "1")
            pause(2 * _PERIOD if self.size > 1 else 0)  # the store may live in this process
            return
        while self.reason is None:
            try:
                with self._lock:
                    if self.store.check([_FINISHED]):
                        return
            except Exception:
                return  # rank 0 has ended, and its store
            pause(_PERIOD / 5)

    def leave(self) -> None:
        """Beat no longer."""
        self._leaving.set()

    def _end(self, reason: str) -> None:
        """End this process: by an interruption, or where it waits inside of a collective by force."""
        self.reason = reason
        _thread.interrupt_main()
        if not self._leaving.wait(_GRACE):
            if self.rank == min({*range(self.size)} - {*self.lost()}):
                sys.stderr.write(f"emrecon: {reason}; the other ranks have ended too\n")
                sys.stderr.flush()
            os._exit(1)

    def _beat(self) -> None:
        self._beats += 1
        self.store.set(f"emrecon/beat/{self.rank}", str(self._beats))

    def _beat_of(self, rank: int) -> bytes:
        key = f"emrecon/beat/{rank}"
        return bytes(self.store.get(key)) if self.store.check([key]) else b""

    def _met(self, rank: int, beat: bytes, at: float) -> tuple[bytes, float]:
        found = self._beat_of(rank)
        return (beat, at) if found == beat else (found, time.monotonic())

    def _said(self, key: str) -> str | None:
        return str(self.store.get(key).decode()) if self.store.check([key]) else None


def names(ranks: list[int], size: int) -> str:
    """Return ranks in words: "rank 2 of 4", "ranks 1, 2 of 4"."""
    return f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))} of {size}"


def pause(seconds: float) -> None:
    """Wait, also where a signal to end comes meanwhile: a rank that is lost is to be named first."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        with suppress(KeyboardInterrupt):
            time.sleep(left)
