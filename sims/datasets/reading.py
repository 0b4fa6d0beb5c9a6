"""Data sets are read from files, or simulated when a sample is asked for, and handed out in batches."""

from __future__ import annotations

import math
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import h5py
import numpy as np

from .shards import (
    TOO_MANY_FILES,
    Field,
    Plan,
    Shard,
    Source,
    damaged,
    made,
    open_shard,
    split_ranges,
)

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

_OPEN_FILES = 128


class Dataset:
    """The samples of a set that `write_dataset` wrote: data[i] is a dict of arrays.

    Args:
        folder : of the set.
        split : "train" or another part of the set, None for all.
        fields : names to read, None for all of them.

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
    def recipe(self) -> dict[str, object]:
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
        for number in dict.fromkeys((in_order // self._plan.shard_size).tolist()):
            self._files.require(self._shards[number])  # before anything of its size is made
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

    Args:
        source : of the samples.
        split, fields : as in `Dataset`.

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
        raise ValueError(f"{whose} has no split {name!r}; choose from {', '.join(split) or 'none'}")
    return range(n) if name is None else split[name]


def _chosen(fields: Mapping[str, Field], names: Sequence[str] | None, whose: str) -> dict[str, Field]:
    if isinstance(names, str):
        raise TypeError(f"fields is a list of names; write fields=[{names!r}]")
    wrong = [name for name in names or () if name not in fields]
    if wrong:
        raise ValueError(f"{whose} has no field {wrong[0]!r}; choose from {', '.join(fields)}")
    return {name: fields[name] for name in (fields if names is None else names)}


def _numbers(part: range, indices: Sequence[int], who: object) -> np.ndarray:
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


_Open = tuple[h5py.File, dict[str, h5py.h5d.DatasetID]]


class _Files:
    """The open files of a set in this process; none of them travels to another one."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.folder, self.plan = folder, plan
        # one value, so that a thread never meets the lock of one process with the files of another
        self._here: tuple[int, threading.Lock, OrderedDict[int, _Open]] = (-1, threading.Lock(), OrderedDict())

    def __reduce__(self) -> tuple[type[_Files], tuple[Path, Plan]]:
        return _Files, (self.folder, self.plan)

    def require(self, shard: Shard) -> None:
        """Open a shard, and look at what it announces."""
        _, lock, files = self._of_this_process()
        with lock:
            self._file(files, shard)

    def read(self, shard: Shard, first: int, into: Mapping[str, np.ndarray]) -> None:
        """Fill arrays (n, ``*shape``) with samples first, ..., first + n - 1 of a shard."""
        _, lock, files = self._of_this_process()
        with lock:  # HDF5 has one of its own, but a file must not be closed between two reads
            _, datasets = self._file(files, shard)
            try:
                for name, values in into.items():
                    _fill(values, datasets[name], first)
            except (OSError, RuntimeError, LookupError, ValueError) as error:
                raise damaged(self.folder / shard.name, error) from error

    def _of_this_process(self) -> tuple[int, threading.Lock, OrderedDict[int, _Open]]:
        if self._here[0] != os.getpid():
            # A forked child leaves the parent's files and its lock, which another thread may have held, alone.
            self._here = (os.getpid(), threading.Lock(), OrderedDict())
        return self._here

    def _file(self, files: OrderedDict[int, _Open], shard: Shard) -> _Open:
        if shard.number not in files:
            file = self._opened(files, shard)
            files[shard.number] = file, {name: file[name].id for name in self.plan.fields}
            if len(files) > _OPEN_FILES:
                files.popitem(last=False)[1][0].close()
        files.move_to_end(shard.number)
        return files[shard.number]

    def _opened(self, files: OrderedDict[int, _Open], shard: Shard) -> h5py.File:
        """Open a shard; where a process may open no more files, those that were used longest ago are closed."""
        while True:
            try:
                return open_shard(self.plan, self.folder, shard)
            except OSError as error:
                if error.errno not in TOO_MANY_FILES or not files:
                    raise
                files.popitem(last=False)[1][0].close()


def _fill(values: np.ndarray, dataset: h5py.h5d.DatasetID, first: int) -> None:
    """Read samples first, first + 1, ... of a dataset into an array; h5py's own indexing takes a third longer."""
    there = dataset.get_space()
    there.select_hyperslab((first, *[0] * (values.ndim - 1)), values.shape)
    dataset.read(h5py.h5s.create_simple(values.shape), there, values)


@dataclass
class Batches:
    """The batches of one rank, epoch by epoch: a batch sampler for torch that depends on nothing but its fields.

    Args:
        n : samples.
        batch_size : per rank.
        shuffle : a new order in every epoch, of (seed, epoch).
        block : so many neighbours stay together in the order.
        drop_last : leave out what does not fill a batch of every rank; otherwise ranks that would have a sample less
            take one from the front of the order again.
        epoch : of the next pass, one more after each.
        skip : batches that the next pass leaves out at its beginning, 0 after it: a run that is resumed has used them.
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
    skip: int = 0

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
        begin, self.skip = self.skip, 0
        mine = order[self.rank :: self.n_ranks] if self.block == 1 else self._by_blocks(order)
        for k in range(begin, len(self)):
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
    dataset: Sized,
    batch_size: int,
    *,
    workers: int = 0,
    shuffle: bool = True,
    seed: int = 0,
    block: int = 1,
    drop_last: bool = False,
    rank: int | None = None,
    n_ranks: int | None = None,
    **options: object,
) -> DataLoader:
    """Return a torch DataLoader of dicts of tensors (batch, ``*shape``).

    Args:
        dataset : a `Dataset`, a `SimulatedDataset`, or any other map-style one.
        workers : processes that read or simulate;

    they live as long as the loader.  shuffle, seed, block, drop_last : see `Batches`; pass n of the loader shows the
    order of (seed, n) on any machine and with any number of workers, and `loader.batch_sampler.set_epoch` chooses n.

    Args:
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


def _torch() -> ModuleType:
    try:
        import torch
        import torch.utils.data
    except ImportError as error:
        raise ImportError('loader needs torch: pip install "emrecon[torch]", or index the Dataset directly') from error
    return torch
