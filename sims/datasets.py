"""Simulated training data at any scale: sets of HDF5 shards written by many processes, and read or made while training.

docs/datasets.md lists the schema and shows clusters, resuming and torch.
"""

from __future__ import annotations

import errno
import math
import multiprocessing
import os
import pickle
import shutil
import signal
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ._shards import (
    MANIFEST,
    Field,
    Plan,
    Shard,
    Source,
    claim,
    damaged,
    is_complete,
    made,
    open_shard,
    remove_temporaries,
    shard_image,
    split_ranges,
    write_shard,
)
from .dataset_card import CARD, EXAMPLES, README, has_card, write_card

__all__ = ["Dataset", "Field", "SimulatedDataset", "Source", "Written", "loader", "rank_and_size", "write_dataset"]

Progress = Callable[[int, int, float, int], Any]
"""progress(samples done, samples of this rank, seconds, bytes of finished shards)"""

# the first batch may compress better than the rest
_MARGIN = 1.2
_QUEUE_OF_FOREIGN_EXECUTORS = 64
_OPEN_FILES = 128


@dataclass(frozen=True)
class Written:
    """What one call of `write_dataset` left behind.

    n_samples : of this rank.  n_made : of them, made by this call; the others were there.  n_bytes : of this rank's
    files.  seconds : of this call.  missing : names of shards that other ranks have not finished.
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
    executor: Any = None,
    rank: int = 0,
    n_ranks: int = 1,
    progress: Progress | None = None,
) -> Written:
    """Make the samples of `source` and write them to `folder`: manifest.json, shard-00000.h5, ..., and a card.

    shard_size : samples per file, whole batches; a hundredth of the set unless given, 256 MiB uncompressed at most.
        A shard is made in memory.
    workers : processes, with one compiled thread each; 1 works in this process.
    executor : runs the shards instead, anything with submit(f, *arguments) that returns something with result():
        a concurrent.futures executor, a Dask client.
    rank, n_ranks : this process makes shards rank, rank + n_ranks, ... (see `rank_and_size`), one process per rank;
        whichever finds the set complete writes the card.
    progress : called as progress(samples done, samples of this rank, seconds, bytes), at the start with what was there.
    A run that was interrupted, in whatever way, goes on where it stopped when it is run again: complete shards are
    verified and kept, damaged ones rewritten, and the files are byte for byte those of a run without interruption,
    with any number of workers and ranks (and the same versions of emrecon, NumPy and HDF5).
    Raises ValueError where the source contradicts itself, gives values that its fields cannot hold or is no function
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
    ready = {shard for shard in mine if is_complete(plan, folder, shard)}
    left = [shard for shard in mine if shard not in ready]
    total = sum(shard.n for shard in mine)
    account = _Account(progress, total, start, total - sum(shard.n for shard in left), _size(folder, ready))
    account.tell()
    if left:
        _check_first(source, plan, folder)
        _make(source, plan, folder, left, workers, executor, account)
    missing = _names(shard for shard in plan.shards if not is_complete(plan, folder, shard))
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
                f"sample {last} is another one when it is made by itself ({name} differs): a source must be a pure "
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
    source: Source, plan: Plan, folder: Path, shards: list[Shard], workers: int, executor: Any, account: _Account
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


def _submit(executor: Any, packed: bytes, shards: list[Shard], at_once: int, account: _Account) -> None:
    """Run the shards, oldest first and a bounded number at once."""
    waiting: deque[tuple[Any, Shard]] = deque()
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


class Dataset:
    """The samples of a set that `write_dataset` wrote: data[i] is a dict of arrays.

    folder : of the set.  split : "train" or another part of the set, None for all.  fields : names to read, None for
    all of them.
    A map-style dataset for torch and plain Python alike. Files are opened where they are needed, once per process, and
    stay open (the latest 128); a Dataset may be pickled, forked and used by several threads.
    Raises FileNotFoundError where the folder, its manifest or shards are missing (with how many); FormatError for
    damaged files; ValueError for an unknown split or field; IndexError beyond the last sample.
    """

    def __init__(
        self, folder: str | os.PathLike[str], split: str | None = None, fields: Sequence[str] | None = None
    ) -> None:
        self.folder = Path(folder).absolute()
        self._plan = Plan.read(self.folder)
        self.numbers = _part(self._plan.split, self._plan.n, split, f"the set in {self.folder}")
        """The numbers of the samples in the whole set."""
        self.fields = _chosen(self._plan.fields, fields, f"the set in {self.folder}")
        self._shards = self._plan.shards
        self._files = _Files(self.folder, self._plan)
        self._require_shards()

    @property
    def recipe(self) -> dict[str, Any]:
        """Every parameter and seed of the simulation."""
        return self._plan.recipe

    def __len__(self) -> int:
        return len(self.numbers)

    def __repr__(self) -> str:
        return f"<Dataset {self.folder.name} {len(self)} samples of {', '.join(self.fields)}>"

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, np.ndarray]]:
        """Return several samples; neighbours in a file are read at once."""
        numbers = _numbers(self.numbers, indices, self)
        order = np.argsort(numbers, kind="stable")
        in_order = numbers[order]
        arrays = {name: np.empty((len(numbers), *f.shape), f.dtype) for name, f in self.fields.items()}
        for first, end in _runs(in_order, self._plan.shard_size):
            shard = self._shards[in_order[first] // self._plan.shard_size]
            self._files.read(shard, int(in_order[first]) - shard.first, {k: v[first:end] for k, v in arrays.items()})
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        return [{name: values[k, ...] for name, values in arrays.items()} for k in place]

    def _require_shards(self) -> None:
        if not self.numbers:
            return
        size = self._plan.shard_size
        needed = self._shards[self.numbers.start // size : (self.numbers.stop - 1) // size + 1]
        missing = [shard.name for shard in needed if not (self.folder / shard.name).exists()]
        if missing:
            raise FileNotFoundError(
                f"{len(missing)} of {len(needed)} shards are missing in {self.folder} (the first is {missing[0]}); is "
                "the simulation still running? Run it again to complete the set"
            )


class SimulatedDataset:
    """Samples that are simulated when they are asked for, without files; otherwise as `Dataset` and equal to it.

    source : of the samples.  split, fields : as in `Dataset`.
    Raises ValueError for an unknown split or field and for values that a field cannot hold; RuntimeError that names
    the samples where the source fails; IndexError beyond the last sample.
    """

    def __init__(self, source: Source, split: str | None = None, fields: Sequence[str] | None = None) -> None:
        self.source = source
        self.numbers = _part(split_ranges(source), source.n, split, "the source")
        self.fields = _chosen(source.fields, fields, "the source")

    def __len__(self) -> int:
        return len(self.numbers)

    def __repr__(self) -> str:
        return f"<SimulatedDataset {len(self)} samples of {', '.join(self.fields)}>"

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, np.ndarray]]:
        """Return several samples, made in batches of the source's liking."""
        numbers = _numbers(self.numbers, indices, self).tolist()
        samples = []
        for first in range(0, len(numbers), self.source.batch):
            batch = numbers[first : first + self.source.batch]
            arrays = made(self.source, self.fields, batch)
            samples += [{name: values[k, ...] for name, values in arrays.items()} for k in range(len(batch))]
        return samples


def _part(split: Mapping[str, range], n: int, name: str | None, whose: str) -> range:
    if name is not None and name not in split:
        raise ValueError(f"{whose} has no split {name!r}; it has {', '.join(split) or 'none'}")
    return range(n) if name is None else split[name]


def _chosen(fields: Mapping[str, Field], names: Sequence[str] | None, whose: str) -> dict[str, Field]:
    if isinstance(names, str):
        raise TypeError(f"fields is a list of names; write fields=[{names!r}]")
    wrong = [name for name in names or () if name not in fields]
    if wrong:
        raise ValueError(f"{whose} has no field {wrong[0]!r}; it has {', '.join(fields)}")
    return {name: fields[name] for name in (fields if names is None else names)}


def _numbers(part: range, indices: Sequence[int], who: Any) -> np.ndarray:
    array = np.asarray(indices)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise TypeError(f"{who!r} is indexed by whole numbers, got {indices!r}")
    wrong = array[(array < -len(part)) | (array >= len(part))]
    if wrong.size:
        raise IndexError(f"{who!r} has no sample {wrong[0]}")
    return part.start + np.where(array < 0, array + len(part), array).astype(np.int64)


def _runs(numbers: np.ndarray, shard_size: int) -> Iterator[tuple[int, int]]:
    """Yield (first, end) of the runs of neighbours in one shard, for sorted numbers."""
    breaks = (np.diff(numbers) != 1) | (np.diff(numbers // shard_size) != 0)
    borders = [0, *(np.flatnonzero(breaks) + 1).tolist(), len(numbers)]
    yield from pairwise(borders) if len(numbers) else ()


_Open = tuple[h5py.File, dict[str, Any]]


class _Files:
    """The open files of a set in this process; none of them travels to another one."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.folder, self.plan = folder, plan
        self._here: tuple[int, Any, OrderedDict[int, _Open]] = (-1, None, OrderedDict())

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "plan": self.plan, "_here": (-1, None, OrderedDict())}

    def read(self, shard: Shard, first: int, into: Mapping[str, np.ndarray]) -> None:
        """Fill arrays (n, *shape) with samples first, ..., first + n - 1 of a shard."""
        if self._here[0] != os.getpid():
            # A forked child leaves the parent's files and its lock, which another thread may have held, alone.
            self._here = (os.getpid(), threading.Lock(), OrderedDict())
        _, lock, files = self._here
        with lock:  # HDF5 has one of its own, but a file must not be closed between two reads
            _, datasets = self._file(files, shard)
            try:
                for name, values in into.items():
                    _fill(values, datasets[name], first)
            except (OSError, RuntimeError, KeyError) as error:
                raise damaged(self.folder / shard.name, error) from error

    def _file(self, files: OrderedDict[int, _Open], shard: Shard) -> _Open:
        if shard.number not in files:
            file = open_shard(self.plan, self.folder, shard)
            files[shard.number] = file, {name: file[name].id for name in self.plan.fields}
            if len(files) > _OPEN_FILES:
                files.popitem(last=False)[1][0].close()
        files.move_to_end(shard.number)
        return files[shard.number]


def _fill(values: np.ndarray, dataset: Any, first: int) -> None:
    """Read samples first, first + 1, ... of a dataset into an array; h5py's own indexing takes a third longer."""
    there = dataset.get_space()
    there.select_hyperslab((first, *[0] * (values.ndim - 1)), values.shape)
    dataset.read(h5py.h5s.create_simple(values.shape), there, values)


@dataclass
class Batches:
    """The batches of one rank, epoch by epoch: a batch sampler for torch that depends on nothing but its fields.

    n : samples.  batch_size : per rank.  shuffle : a new order in every epoch, of (seed, epoch).  block : so many
    neighbours stay together in the order.  drop_last : leave out what does not fill a batch of every rank; otherwise
    ranks that would have a sample less take one from the front of the order again.
    epoch : of the next pass, one more after each.
    """

    n: int
    batch_size: int
    shuffle: bool = True
    seed: int = 0
    block: int = 1
    drop_last: bool = False
    rank: int = 0
    n_ranks: int = 1
    epoch: int = 0

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.block < 1:
            raise ValueError(f"batch_size and block must be at least 1, got {self.batch_size} and {self.block}")
        if not 0 <= self.rank < self.n_ranks:
            raise ValueError(f"rank must be between 0 and n_ranks - 1 = {self.n_ranks - 1}, got {self.rank}")

    def __len__(self) -> int:
        if self.drop_last:
            return self.n // (self.batch_size * self.n_ranks)
        return math.ceil(math.ceil(self.n / self.n_ranks) / self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        order, self.epoch = self.order(), self.epoch + 1
        mine = order[self.rank :: self.n_ranks] if self.block == 1 else self._by_blocks(order)
        for k in range(len(self)):
            yield mine[k * self.batch_size : (k + 1) * self.batch_size].tolist()

    def set_epoch(self, epoch: int) -> None:
        """Go on with another epoch, as training frameworks do when they resume."""
        self.epoch = epoch

    def order(self) -> np.ndarray:
        """Return the order of this epoch over all ranks, filled up to a multiple of them."""
        order = np.arange(self.n)
        if self.shuffle:
            random = np.random.Generator(np.random.Philox(np.random.SeedSequence((self.seed, self.epoch))))
            blocks = random.permutation(math.ceil(self.n / self.block))
            order = (blocks[:, None] * self.block + np.arange(self.block)).ravel()
            order = order[order < self.n]
        return order if self.drop_last else np.resize(order, math.ceil(self.n / self.n_ranks) * self.n_ranks)

    def _by_blocks(self, order: np.ndarray) -> np.ndarray:
        """A contiguous share of the order, so that blocks are not dealt out over the ranks."""
        share = len(order) // self.n_ranks
        return order[self.rank * share : (self.rank + 1) * share]


def loader(
    dataset: Any,
    batch_size: int,
    *,
    workers: int = 0,
    shuffle: bool = True,
    seed: int = 0,
    block: int = 1,
    drop_last: bool = False,
    rank: int | None = None,
    n_ranks: int | None = None,
    **options: Any,
) -> Any:
    """Return a torch DataLoader of dicts of tensors (batch, *shape).

    dataset : a `Dataset`, a `SimulatedDataset`, or any other map-style one.  workers : processes that read or simulate;
    they live as long as the loader.  shuffle, seed, block, drop_last : see `Batches`; pass n of the loader shows the
    order of (seed, n) on any machine and with any number of workers, and `loader.batch_sampler.set_epoch` chooses n.
    block : larger numbers read files in runs, which helps on slow disks and for chunks of several samples.
    rank, n_ranks : of the process in a training on several; torch.distributed's where it is initialised.
    options : further arguments of DataLoader, such as pin_memory=True or multiprocessing_context="spawn".
    Raises ImportError that names the extra where torch is missing.
    """
    torch = _torch()
    if (rank is None) != (n_ranks is None):
        raise ValueError("loader: give rank and n_ranks together, or neither")
    if rank is None:
        running = torch.distributed.is_available() and torch.distributed.is_initialized()
        rank, n_ranks = (torch.distributed.get_rank(), torch.distributed.get_world_size()) if running else (0, 1)
    assert n_ranks is not None
    batches = Batches(len(dataset), batch_size, shuffle, seed, block, drop_last, rank, n_ranks)
    # a generator of its own: the loader draws from it for its workers, and the caller's random numbers stay as they are
    defaults = {"persistent_workers": workers > 0, "generator": torch.Generator().manual_seed(seed)}
    return torch.utils.data.DataLoader(dataset, batch_sampler=batches, num_workers=workers, **(defaults | options))


def _torch() -> Any:
    try:
        import torch
        import torch.utils.data
    except ImportError as error:
        raise ImportError('loader needs torch: pip install "emrecon[torch]", or index the Dataset directly') from error
    return torch


def rank_and_size(environment: Mapping[str, str] | None = None) -> tuple[int, int]:
    """Return (rank, n_ranks) of this process as torchrun, Slurm or PBS tell it, (0, 1) where nobody does.

    RANK and WORLD_SIZE (torchrun, mpirun wrappers); otherwise Slurm's job array (SLURM_ARRAY_TASK_ID, _MIN, _STEP and
    _COUNT) and the tasks that srun started (SLURM_PROCID and SLURM_NTASKS), or both: every task of every array element
    is a rank; otherwise PBS_ARRAY_INDEX, for which PBS_ARRAY_COUNT must be passed along, as PBS does not tell it.
    environment : os.environ unless given.
    Raises ValueError that names the variables where they are incomplete or contradict each other.
    """
    values = os.environ if environment is None else environment
    if "RANK" in values or "WORLD_SIZE" in values:
        return _checked_rank(values, "RANK", "WORLD_SIZE")
    index, n_elements = _array_element(values)
    if "SLURM_PROCID" not in values:
        return index, n_elements
    size = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in values else "SLURM_NTASKS"
    task, n_tasks = _checked_rank(values, "SLURM_PROCID", size) if size in values else (0, 1)
    return index * n_tasks + task, n_elements * n_tasks


def _array_element(values: Mapping[str, str]) -> tuple[int, int]:
    if "SLURM_ARRAY_TASK_ID" in values:
        names = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_COUNT")
        element, first, n = (_whole(values, name) for name in names)
        step = _whole(values, "SLURM_ARRAY_TASK_STEP") if "SLURM_ARRAY_TASK_STEP" in values else 1
        index, rest = divmod(element - first, max(1, step))
        if rest or not 0 <= index < n:
            raise ValueError(
                f"SLURM_ARRAY_TASK_ID={element} is not one of {n} numbers from {first} in steps of {step}; submit an "
                "array without gaps, such as --array=0-7"
            )
        return index, n
    if "PBS_ARRAY_INDEX" in values or "PBS_ARRAYID" in values:
        return _checked_rank(
            values, "PBS_ARRAY_INDEX" if "PBS_ARRAY_INDEX" in values else "PBS_ARRAYID", "PBS_ARRAY_COUNT"
        )
    return 0, 1


def _checked_rank(values: Mapping[str, str], rank_name: str, size_name: str) -> tuple[int, int]:
    rank, size = _whole(values, rank_name), _whole(values, size_name)
    if not 0 <= rank < size:
        raise ValueError(
            f"{rank_name}={rank} and {size_name}={size} contradict each other; ranks go from 0 to size - 1"
        )
    return rank, size


def _whole(values: Mapping[str, str], name: str) -> int:
    text = values.get(name, "").strip()
    if not (text.isascii() and text.isdigit()):
        given = f"it is {text!r}" if text else "it is not set"
        raise ValueError(f"{name} must be a whole number, {given}; pass rank and n_ranks yourself?")
    return int(text)
