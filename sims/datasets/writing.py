"""A data set is written: in shards, by processes, ranks and job arrays, with the same bytes whoever writes them."""

from __future__ import annotations

import errno
import multiprocessing
import os
import pickle
import shutil
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import ParamSpec, Protocol, TypeVar

import numpy as np

from .card import CARD, EXAMPLES, README, has_card, write_card
from .shards import (
    MANIFEST,
    Plan,
    Shard,
    Source,
    claim,
    is_sound,
    is_there,
    made,
    remove_temporaries,
    shard_image,
    write_shard,
)

Progress = Callable[[int, int, float, int], object]
"""progress(samples done, samples of this rank, seconds, bytes of finished shards)"""


P = ParamSpec("P")
T = TypeVar("T")
Result = TypeVar("Result", covariant=True)


class Job(Protocol[Result]):
    """Work that was submitted."""

    def result(self) -> Result: ...


class Executor(Protocol):
    """What runs functions elsewhere: an executor of concurrent.futures, a Dask client."""

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Job[T]: ...


# the first batch may compress better than the rest
_MARGIN = 1.2

_QUEUE_OF_FOREIGN_EXECUTORS = 64


@dataclass(frozen=True)
class Written:
    """What one call of `write_dataset` left behind.

    Args:
        n_samples : of this rank.
        n_made : of them, made by this call; the others were there.
        n_bytes : of this rank's files.
        seconds : of this call.
        missing : names of shards that other ranks have not finished.
    """

    folder: Path
    n_samples: int
    n_made: int
    n_bytes: int
    seconds: float
    missing: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether the whole set is there, with its card."""
        return not self.missing


def write_dataset(
    source: Source,
    folder: str | os.PathLike[str],
    *,
    shard_size: int | None = None,
    workers: int = 1,
    executor: Executor | None = None,
    rank: int = 0,
    n_ranks: int = 1,
    progress: Progress | None = None,
) -> Written:
    """Make the samples of `source` and write them to `folder`: manifest.json, shard-00000.h5, ..., and a card.

    Args:
        shard_size : samples per file, whole batches; a hundredth of the set unless given, 256 MiB uncompressed at most.
            A shard is made in memory.
        workers : processes, with one compiled thread each; 1 works in this process.
        executor : runs the shards instead, anything with submit(f, ``*arguments``) that returns something with
            result(): a concurrent.futures executor, a Dask client.
        rank, n_ranks : this process makes shards rank, rank + n_ranks, ... (see `rank_and_size`), one process per rank;
            whichever finds the set complete writes the card.
        progress : called as progress(samples done, samples of this rank, seconds, bytes), at the start with what was
            there.

    A run that was interrupted, in whatever way, goes on where it stopped when it is run again: complete shards are
    verified and kept, damaged ones rewritten, and the files are byte for byte those of a run without interruption,
    with any number of workers and ranks (and the same versions of emrecon, NumPy and HDF5).

    Raises ValueError where the source contradicts itself, gives values that its fields cannot hold or is not a function
    of the index; FormatError where the folder belongs to another set (with the first differences); RuntimeError that
    names the samples where the source fails; OSError where the disk is full, or will be, before any work.
    """
    if not 0 <= rank < n_ranks:
        raise ValueError(f"rank must be between 0 and n_ranks - 1 = {n_ranks - 1}, got {rank}")
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    plan, folder, start = Plan.of(source, shard_size), Path(folder).absolute(), time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    mine = plan.shards[rank::n_ranks]
    # without other ranks nobody else can be at work on the rest
    remove_temporaries(folder, [*_names(mine), *((MANIFEST, CARD, README, EXAMPLES) if n_ranks == 1 else ())])
    claim(plan, folder)
    ready = {shard for shard in mine if is_sound(plan, folder, shard)}
    left = [shard for shard in mine if shard not in ready]
    total = sum(shard.n for shard in mine)
    account = _Account(progress, total, start, total - sum(shard.n for shard in left), _size(folder, ready))
    account.tell()
    if left:
        _check_first(source, plan, folder)
        _make(source, plan, folder, left, workers, executor, account)
    missing = _names(shard for shard in plan.shards if not is_there(plan, folder, shard))
    if not missing and (left or not has_card(folder)):
        write_card(folder, plan)
    made_now = sum(shard.n for shard in left)
    return Written(folder, total, made_now, _size(folder, mine), time.perf_counter() - start, missing)


@dataclass
class _Account:
    """How far the work is, told to the caller's progress."""

    progress: Progress | None
    total: int
    start: float
    done: int
    n_bytes: int

    def tell(self, n_samples: int = 0, n_bytes: int = 0) -> None:
        self.done += n_samples
        self.n_bytes += n_bytes
        if self.progress is not None:
            self.progress(self.done, self.total, time.perf_counter() - self.start, self.n_bytes)


def _names(shards: Iterable[Shard]) -> tuple[str, ...]:
    return tuple(shard.name for shard in shards)


def _size(folder: Path, shards: Iterable[Shard]) -> int:
    return sum((folder / shard.name).stat().st_size for shard in shards if (folder / shard.name).exists())


def _check_first(source: Source, plan: Plan, folder: Path) -> None:
    """Make the first batch: does it fit its fields, is a sample the same by itself, will the disk hold the rest?"""
    first = Shard(0, 0, min(plan.batch, plan.n))
    last = first.n - 1
    together, alone = made(source, plan.fields, range(first.n)), made(source, plan.fields, [last])
    n_bytes = len(shard_image(source, plan, first, known=together))
    for name in plan.fields:
        if not np.array_equal(together[name][last], alone[name][0]):
            raise ValueError(
                f"sample {last} differs when it is made alone (its {name} changes): a source must be a pure "
                "function of the index; does it share a random generator or round by position in the batch?"
            )
    missing = sum(shard.n for shard in plan.shards if not (folder / shard.name).exists())
    needed, free = int(_MARGIN * n_bytes / first.n * missing), shutil.disk_usage(folder).free
    if needed > free:
        raw = missing * plan.sample_bytes
        raise OSError(
            errno.ENOSPC,
            f"the {missing} samples to be made need about {needed / 1e9:.3g} GB ({raw / 1e9:.3g} GB uncompressed), but "
            f"only {free / 1e9:.3g} GB are free in {folder}; make room, choose another disk or fewer samples",
        )


def _make(
    source: Source,
    plan: Plan,
    folder: Path,
    shards: list[Shard],
    workers: int,
    executor: Executor | None,
    account: _Account,
) -> None:
    if executor is None and (workers == 1 or len(shards) == 1):
        for shard in shards:
            account.tell(0, write_shard(source, plan, folder, shard, account.tell))
        return
    try:
        packed = pickle.dumps((source, plan, folder))
    except Exception as error:
        raise ValueError(f"the source cannot be sent to other processes: {error}; define its class in a module") from (
            error
        )
    if executor is not None:
        _submit(executor, packed, shards, max(2 * workers, _QUEUE_OF_FOREIGN_EXECUTORS), account)
        return
    try:
        with _processes(min(workers, len(shards))) as pool:
            _submit(pool, packed, shards, 2 * workers, account)
    except BrokenProcessPool as error:
        raise RuntimeError(
            "a worker process died; finished shards stay. Out of memory (use fewer workers or a smaller batch), or a "
            'script that starts work outside `if __name__ == "__main__":`?'
        ) from error
    finally:
        remove_temporaries(folder, _names(shards))


def _submit(executor: Executor, packed: bytes, shards: list[Shard], at_once: int, account: _Account) -> None:
    """Run the shards, oldest first and a bounded number at once."""
    waiting: deque[tuple[Job[int], Shard]] = deque()
    todo = iter(shards)
    try:
        while True:
            for shard in todo:
                waiting.append((executor.submit(_write_packed, packed, shard), shard))
                if len(waiting) >= at_once:
                    break
            if not waiting:
                return
            n_bytes = waiting[0][0].result()
            account.tell(waiting.popleft()[1].n, n_bytes)
    finally:
        for future, _ in waiting:
            getattr(future, "cancel", lambda: None)()


def _write_packed(packed: bytes, shard: Shard) -> int:
    source, plan, folder = _unpacked(packed)
    return write_shard(source, plan, folder, shard)


@lru_cache(maxsize=1)
def _unpacked(packed: bytes) -> tuple[Source, Plan, Path]:
    """A process keeps its source from shard to shard, with whatever the source prepared at its first sample."""
    content: tuple[Source, Plan, Path] = pickle.loads(packed)
    return content


@contextmanager
def _processes(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Worker processes that end at once when this one fails, is interrupted or is killed.

    They wait for the end of a pipe that only this process holds, and the system closes it however this process ends.
    """
    context = multiprocessing.get_context("spawn")
    reader, writer = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(reader,))
    try:
        yield pool
    except BaseException:
        writer.close()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        writer.close()
        reader.close()


def _start_worker(lifeline: Connection) -> None:
    os.environ["EMRECON_NUM_THREADS"] = "1"  # read at every call of a kernel
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of a terminal; the first one decides
    threading.Thread(target=_end_with, args=(lifeline,), daemon=True).start()


def _end_with(lifeline: Connection) -> None:
    try:
        lifeline.recv()
    except (EOFError, OSError):
        os._exit(1)
