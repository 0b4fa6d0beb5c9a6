"""The list-mode projector: line integrals along the lines of single events, and their exact transpose."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

import numpy as np

from ..core.arrays import Array, PlanCache, dtype_name, from_host, is_cuda, read_only, to_host
from ..core.grid import ImageGrid, check_subset
from ..core.operator import BatchProjector
from ..core.threads import share, thread_count
from . import event_kernels, launches
from .event_kernels import EventPlan
from .plan import make_event_plan
from .projector import summed
from .scanner import PETScanner
from .tof import TimeOfFlight

_CHUNK = 1 << 20  # events read at a time


class ListmodeProjector(BatchProjector):
    """Line integrals in mm along the lines of coincidence events::

        y[e] = integral of x along the line of event e, weighted with the probability of its TOF bin where it has one

    Args:
        grid : the image, (nx, ny, nz).
        scanner : any `PETScanner`, with or without rings.
        events : (n, 2) integers, the numbers of the crystals at both ends, or (n, 3) with the TOF bin, which is counted
            towards the second end. A memory-mapped array is read in chunks and never as a whole.
        tof : True for the scanner's TOF bins, a `TimeOfFlight`, or None, when a third column is left unread.

    The weights are those of `PETProjector` for a sinogram without compression; but for scanners that are not cylinders
    lines may be followed along z, too. With TOF only the part of a line where the timing kernel is not zero is
    visited. `subset(k, n)` takes the events k, k + n, k + 2n, ...
    Runs on NumPy arrays and CPU tensors (numba, all cores), and on CuPy arrays and CUDA tensors. The adjoint is the
    exact transpose, and repeats bit for bit. On a CUDA device up to 4 GiB of events of a projector stay there from the
    first projection on; more are copied there in chunks every time.

    Raises ValueError for events with crystals or TOF bins that the scanner does not have, when it meets them.
    """

    def __init__(
        self, grid: ImageGrid, scanner: PETScanner, events: np.ndarray, tof: TimeOfFlight | bool | None = None
    ) -> None:
        events = events if isinstance(events, np.ndarray) else np.asarray(events)
        timing_bins = scanner.time_of_flight if tof is True else tof or None
        if tof is True and timing_bins is None:
            raise ValueError(f"{scanner} has no time of flight; give a TimeOfFlight")
        if timing_bins is not None and not isinstance(timing_bins, TimeOfFlight):
            raise TypeError(f"tof must be True, None or a TimeOfFlight, got {tof!r}")
        columns = 2 if timing_bins is None else 3
        if events.ndim != 2 or events.shape[1] not in (columns, 3) or events.dtype.kind not in "iu":
            raise ValueError(
                f"ListmodeProjector events must be (n, {columns}) integers, got {events.dtype} {events.shape}"
            )
        self.grid, self.scanner, self.events, self.tof = grid, scanner, events, timing_bins
        self.in_shape, self.out_shape = grid.shape, (events.shape[0],)
        self._plans, self._tables = PlanCache(), PlanCache()

    def on_grid(self, grid: ImageGrid) -> Self:
        """Return the same projector of another image."""
        return type(self)(grid, self.scanner, self.events, self.tof)

    def subset(self, k: int, n: int) -> Self:
        """Return the projector of events k, k + n, ..."""
        check_subset(k, n, self.events.shape[0])
        return type(self)(self.grid, self.scanner, self.events[k::n], self.tof)

    @property
    def _cuda_plan(self) -> launches.EventsPlan:
        n_bytes = 4 * self.out_shape[0] * (2 if self.tof is None else 3)
        return launches.EventsPlan(self.grid, self.scanner, self.tof, self.chunks, n_bytes, self._tables)

    def _forward_batch(self, x: Array) -> Array:
        if is_cuda(x):
            return launches.events_forward(self._cuda_plan, x)
        return from_host(self._forward_host(to_host(x, self)), x)

    def _adjoint_batch(self, y: Array) -> Array:
        if is_cuda(y):
            return launches.events_adjoint(self._cuda_plan, y)
        return from_host(self._adjoint_host(to_host(y, self)), y)

    def chunks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield (which events, their columns as contiguous int32) in chunks, after checking them."""
        columns = 2 if self.tof is None else 3
        for first in range(0, self.out_shape[0], _CHUNK):
            part = slice(first, min(first + _CHUNK, self.out_shape[0]))
            events = self.events[part, :columns]
            self._check(events)
            yield part, read_only(np.ascontiguousarray(events, np.int32))

    def _check(self, events: np.ndarray) -> None:
        n = len(self.scanner.positions)
        low, high = int(events[:, :2].min()), int(events[:, :2].max())
        if low < 0 or high >= n:
            raise ValueError(f"{self!r}: events hold crystals {low} to {high}, {self.scanner} has 0 to {n - 1}")
        if np.any(events[:, 0] == events[:, 1]):
            raise ValueError(f"{self!r}: events with the same crystal at both ends are not lines")
        if self.tof is not None:
            low, high = int(events[:, 2].min()), int(events[:, 2].max())
            if low < 0 or high >= self.tof.n_bins:
                raise ValueError(f"{self!r}: events hold TOF bins {low} to {high} of {self.tof.n_bins}")

    def _forward_host(self, x: np.ndarray) -> np.ndarray:
        out = np.empty((x.shape[0], *self.out_shape), x.dtype)
        plan = self._plan(x)
        for part, events in self.chunks():
            for item, image in enumerate(x):
                image, target = read_only(np.ascontiguousarray(image)), out[item, part]

                def work(thread: int, n: int, image=image, target=target, events=events) -> None:  # type: ignore[no-untyped-def]
                    event_kernels.events_forward(
                        image, events, plan, self._room(image), *_share(thread, n, events), target
                    )

                share(work, len(events))
        return out

    def _adjoint_host(self, y: np.ndarray) -> np.ndarray:
        plan = self._plan(y)

        def one(values: np.ndarray) -> np.ndarray:
            def work(thread: int, n: int) -> np.ndarray:
                image = np.zeros(self.in_shape, y.dtype)
                for part, events in self.chunks():
                    bounds = _share(thread, n, events)
                    event_kernels.events_adjoint(values[part], events, plan, self._room(image), *bounds, image)
                return image

            return summed(work, max(1, len(values)), self.in_shape, y.dtype)

        return np.stack([one(read_only(np.ascontiguousarray(values))) for values in y])

    def _room(self, image: np.ndarray) -> np.ndarray:
        """Room for the TOF weights along one line; none without TOF."""
        return np.empty(0 if self.tof is None else max(self.in_shape) + 1, image.dtype)

    def _plan(self, x: Array) -> EventPlan:
        plan: EventPlan = self._plans.get(x, lambda: make_event_plan(self.grid, self.scanner, self.tof, dtype_name(x)))
        return plan

    def __str__(self) -> str:
        timed = f", {self.tof.n_bins} TOF bins" if self.tof else ""
        return "\n".join(
            [
                repr(self),
                f"  image    {self.grid}",
                f"  scanner  {self.scanner}",
                f"  events   {self.out_shape[0]}{timed}",
                f"  kernels  numba on {thread_count()} threads; CUDA for CuPy arrays and CUDA tensors",
            ]
        )


def _share(thread: int, n: int, events: np.ndarray) -> tuple[int, int]:
    """The events of one of n threads: neighbours in time, whose order does not matter."""
    return len(events) * thread // n, len(events) * (thread + 1) // n
