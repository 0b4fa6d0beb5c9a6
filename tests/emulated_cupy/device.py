"""Devices, streams, events and memory of the emulated device: one device on which everything is done at once."""

from __future__ import annotations

import time
from types import ModuleType
from typing import Any

from .arrays import Pool
from .counting import note
from .listing import LISTED, check_call

TOTAL_MEMORY = 1 << 34


class CUDARuntimeError(RuntimeError):
    """What CuPy raises for an error of the CUDA runtime."""

    def __init__(self, status: int = 1, text: str = "") -> None:
        super().__init__(text)
        self.status = status


class CUDADriverError(RuntimeError):
    """What CuPy raises for an error of the CUDA driver, such as a launch of an impossible size."""


class OutOfMemoryError(MemoryError):
    """What CuPy raises where its pool has no room."""

    def __init__(self, size: int, total: int, limit: int = 0) -> None:
        super().__init__(f"Out of memory allocating {size:,} bytes (allocated so far: {total:,} bytes).")


class Device:
    """`cupy.cuda.Device`; only number 0 exists."""

    def __init__(self, device: Any = None) -> None:
        self.id = 0 if device is None else int(device)
        if self.id != 0:
            raise CUDARuntimeError(101, "cudaErrorInvalidDevice: invalid device ordinal")

    compute_capability = "90"
    mem_info = (TOTAL_MEMORY, TOTAL_MEMORY)
    attributes = {"MultiProcessorCount": 132, "MaxThreadsPerBlock": 1024}  # noqa: RUF012

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def use(self) -> Device:
        return self

    def synchronize(self) -> None:
        note(wait=True)

    def __int__(self) -> int:
        return self.id

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"<CUDA Device {self.id}>"


class Stream:
    """`cupy.cuda.Stream`: a name for an order of work; here everything is done when it is asked for."""

    null: Stream
    _current: list[Any] = []  # noqa: RUF012

    def __init__(
        self, null: bool = False, non_blocking: bool = False, ptds: bool = False, priority: Any = None
    ) -> None:
        self.ptr = 0 if null else id(self)
        self.priority = priority or 0

    @property
    def done(self) -> bool:
        return True

    def __enter__(self) -> Any:
        Stream._current.append(self)
        return self

    def __exit__(self, *error: object) -> None:
        Stream._current.pop()

    def use(self) -> Any:
        Stream._current[:] = [self]
        return self

    def synchronize(self) -> None:
        note(wait=True)

    def record(self, event: Any = None) -> Any:
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event: Any) -> None:
        return None


Stream.null = Stream(null=True)


class ExternalStream(Stream):
    """`cupy.cuda.ExternalStream`: a stream of another library."""

    def __init__(self, ptr: int, device_id: int = -1) -> None:
        super().__init__()
        self.ptr = ptr


def current_stream(device_id: Any = None) -> Any:
    """The stream that launches use."""
    return Stream._current[-1] if Stream._current else Stream.null


class Event:
    """`cupy.cuda.Event`: a time."""

    def __init__(self, block: bool = False, disable_timing: bool = False, interprocess: bool = False) -> None:
        self.at: float | None = None
        self.timed = not disable_timing

    def record(self, stream: Any = None) -> None:
        self.at = time.perf_counter()

    def synchronize(self) -> None:
        note(wait=True)

    @property
    def done(self) -> bool:
        return True


def get_elapsed_time(start_event: Event, end_event: Event) -> float:
    """Milliseconds between two recorded events."""
    if start_event.at is None or end_event.at is None or not (start_event.timed and end_event.timed):
        raise CUDARuntimeError(400, "cudaErrorInvalidResourceHandle: invalid resource handle")
    return 1000 * (end_event.at - start_event.at)


class MemoryPointer:
    """Where an array lies."""

    def __init__(self, ptr: int) -> None:
        self.ptr = ptr


class MemoryPool:
    """`cupy.cuda.MemoryPool`."""

    def __init__(self, own: Pool) -> None:
        self._own = own

    def used_bytes(self) -> int:
        return self._own.used

    def total_bytes(self) -> int:
        return self._own.most

    def free_bytes(self) -> int:
        return self._own.most - self._own.used

    def n_free_blocks(self) -> int:
        return 0

    def get_limit(self) -> int:
        return self._own.limit

    def set_limit(self, size: int | None = None, fraction: float | None = None) -> None:
        self._own.limit = int(size if size is not None else (fraction or 0) * TOTAL_MEMORY)

    def free_all_blocks(self, stream: Any = None) -> None:
        self._own.most = self._own.used


class PinnedMemoryPool:
    """`cupy.cuda.PinnedMemoryPool`."""

    def free_all_blocks(self) -> None:
        return None

    def n_free_blocks(self) -> int:
        return 0


PROPERTIES = {
    "name": b"emulated device",
    "totalGlobalMem": TOTAL_MEMORY,
    "multiProcessorCount": 132,
    "major": 9,
    "minor": 0,
    "memoryClockRate": 3201000,
    "memoryBusWidth": 6144,
    "clockRate": 1980000,
    "sharedMemPerBlockOptin": 232448,
    "regsPerMultiprocessor": 65536,
    "maxThreadsPerMultiProcessor": 2048,
    "l2CacheSize": 62914560,
}


def fill(modules: dict[str, ModuleType]) -> None:
    """Put all this into the modules."""
    cuda: Any = modules["cupy.cuda"]
    for made in (Device, Stream, ExternalStream, Event, MemoryPool, MemoryPointer, PinnedMemoryPool):
        setattr(cuda, made.__name__, made)
    cuda.get_elapsed_time, cuda.get_current_stream = get_elapsed_time, current_stream
    cuda.is_available, cuda.get_device_id = lambda: True, lambda: 0
    modules["cupy.cuda.device"].Device = Device  # type: ignore[attr-defined]
    runtime: Any = modules["cupy.cuda.runtime"]
    answers = {
        "getDeviceCount": 1,
        "getDevice": 0,
        "setDevice": None,
        "getDeviceProperties": PROPERTIES,
        "memGetInfo": (TOTAL_MEMORY, TOTAL_MEMORY),
        "runtimeGetVersion": 12090,
        "driverGetVersion": 12090,
        "profilerStart": None,
        "profilerStop": None,
    }
    words = LISTED["modules"]["cupy.cuda.runtime"]["functions"]
    for name, answer in answers.items():
        setattr(runtime, name, _answering(name, words[name], answer))
    runtime.deviceSynchronize = runtime.streamSynchronize = lambda *args: note(wait=True)
    runtime.CUDARuntimeError = CUDARuntimeError
    runtime.is_hip = False
    for name in ("RangePush", "RangePop", "Mark"):
        setattr(modules["cupy.cuda.nvtx"], name, lambda *args: None)
    for name in ("start", "stop"):
        setattr(modules["cupy.cuda.profiler"], name, lambda: None)


def _answering(name: str, words: str | None, answer: Any) -> Any:
    def function(*args: Any, **kwargs: Any) -> Any:
        check_call(f"cupy.cuda.runtime.{name}", words, args, kwargs)
        return answer

    return function
