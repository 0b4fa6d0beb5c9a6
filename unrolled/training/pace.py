"""How fast a training is, which part of its time goes into waiting for data, and batches that are made ahead."""

from __future__ import annotations

import contextvars
import queue
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import torch

Item = TypeVar("Item")

_LONG = 0.1  # s between looks whether anybody still wants the batches


class Pace:
    """Samples, and seconds of waiting for them and of learning from them, since the last record.

    Args:
        n_ranks : processes that take as many samples each.
    """

    def __init__(self, n_ranks: int = 1) -> None:
        self.n_ranks = n_ranks
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        self.samples, self.waited, self.worked = 0, 0.0, 0.0

    def timed(self, batches: Iterable[Item]) -> Iterator[Item]:
        """Yield the batches; the time until each is there is waiting, and what happens to it until the next is work."""
        batches = iter(batches)
        while True:
            began = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            finally:
                self.waited += time.perf_counter() - began
            yield batch

    def after_step(self, batch: object, seconds: float) -> None:
        """Count a batch, and the seconds that its step took."""
        self.samples += self.n_ranks * n_samples(batch)
        self.worked += seconds

    @property
    def samples_per_second(self) -> float:
        """Of all processes; NaN before the first."""
        spent = self.waited + self.worked
        return self.samples / spent if spent > 0 else float("nan")

    @property
    def data_share(self) -> float:
        """The part of the time that was waiting for data; NaN before the first step."""
        spent = self.waited + self.worked
        return self.waited / spent if spent > 0 else float("nan")

    def __str__(self) -> str:
        return f"{self.samples_per_second:.3g} samples/s, {self.data_share:.0%} of the time waiting for data"


def n_samples(batch: Any) -> int:
    """Return how many samples a batch of a training has, as far as its target, or else its arguments, tell; at least 1.

    Args:
        batch : a tensor, images (x, y, z) count as one; a likelihood; or a tuple, list or mapping of such.
    """
    if isinstance(batch, torch.Tensor):
        return 1 if batch.ndim in (0, 3) else max(1, int(batch.shape[0]))
    parts: Sequence[Any] = ()
    if isinstance(batch, Mapping):
        parts = list(batch.values())
    elif isinstance(batch, (tuple, list)):
        parts = [*batch[1:2], *batch[:1], *batch[2:]]
    elif hasattr(batch, "data") and hasattr(batch, "model"):
        n = len(batch.model.projector.out_shape)
        return max(1, int(batch.data.shape[0])) if getattr(batch.data, "ndim", 0) > n else 1
    return next((found for part in parts if part is not None and (found := n_samples(part)) > 0), 1)


def ahead(items: Iterable[Item], n: int = 2) -> Iterator[Item]:
    """Yield items in their order, of which up to n are made by a thread before they are asked for.

    An error of the items is raised where its item would have come. Leaving the loop ends the thread.

    Args:
        n : 0 makes each when it is asked for.
    """
    if n == 0:
        yield from items
        return
    made: queue.Queue[tuple[str, Any]] = queue.Queue(n)
    left = threading.Event()

    def give(what: str, value: Any) -> bool:
        while not left.is_set():
            with suppress(queue.Full):
                made.put((what, value), timeout=_LONG)
                return True
        return False

    def work() -> None:
        try:
            if all(give("item", item) for item in items):
                give("end", None)
        except BaseException as error:
            give("error", error)

    context = contextvars.copy_context()
    thread = threading.Thread(target=lambda: context.run(work), name="batches ahead", daemon=True)
    thread.start()
    try:
        while True:
            what, value = made.get()
            if what == "error":
                raise value
            if what == "end":
                return
            yield value
    finally:
        left.set()
        thread.join()
