"""The ranks of a job: which one this process is, sums over all of them, and how one that is lost ends the others."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import numpy as np

from emrecon.projectors.core.arrays import Array, array_namespace, is_torch

from .watching import Watch, names, pause


class LostRankError(RuntimeError):
    """Another rank has failed or is lost; the text says which one."""


@dataclass
class Traffic:
    """What this rank has sent into sums over the ranks.

    Args:
        sums : how many.  n_bytes : of the arrays that were summed, each once.
    """

    sums: int = 0
    n_bytes: int = 0


@dataclass(frozen=True, eq=False)
class RankGroup:
    """The processes that work on one reconstruction.

    Args:
        rank, size : this one's number, from 0, and how many there are.
        group : torch.distributed's, None for all processes.
        watch : looks after the other ranks, None where nobody does.

    All ranks must make the same calls in the same order. A group of one, `RankGroup()`, sums nothing.
    """

    rank: int = 0
    size: int = 1
    group: Any = None
    watch: Watch | None = None
    traffic: Traffic = field(default_factory=Traffic)

    @classmethod
    def of(cls, group: Any = None) -> RankGroup:
        """Return the ranks of a group of torch.distributed, a group of one where that was not started.

        Args:
            group : None for all processes.
        """
        import torch.distributed as distributed

        if not (distributed.is_available() and distributed.is_initialized()):
            return cls()
        return cls(distributed.get_rank(group), distributed.get_world_size(group), group)

    def sum(self, values: Array) -> Array:
        """Return the sum over all ranks of an array, the same bits on all of them; torch tensors keep gradients."""
        if self.size == 1:
            return values
        if is_torch(values):
            if values.requires_grad:
                from .autograd import summed

                return summed(values, self.sum_own)
            return self.sum_own(values.clone())
        if not hasattr(values, "__dlpack__") or isinstance(values, np.generic):
            return self.sum_own(np.array(values))[()]
        return self.sum_own(array_namespace(values).asarray(values, copy=True))

    def sum_own(self, values: Any) -> Any:
        """Return the sum over all ranks of an array that nobody else needs, in place where that is possible."""
        if self.size == 1:
            return values
        import torch

        tensor = (values if is_torch(values) else torch.from_dlpack(values)).contiguous()
        self.traffic.sums += 1
        self.traffic.n_bytes += tensor.numel() * tensor.element_size()
        self._told(lambda: torch.distributed.all_reduce(tensor, group=self.group))
        return tensor if is_torch(values) else array_namespace(values).from_dlpack(tensor)

    def highest(self, number: float) -> float:
        """Return the largest of the ranks' numbers."""
        return max(self.gather(float(number)))

    def gather(self, value: Any) -> list[Any]:
        """Return what each rank gives, in order: numbers, texts and the like, not large arrays."""
        if self.size == 1:
            return [value]
        import torch

        found: list[Any] = [None] * self.size
        self._told(lambda: torch.distributed.all_gather_object(found, value, group=self.group))
        return found

    def agree(self, error: Exception | None) -> None:
        """Raise on all ranks the ValueError that any of them has met; every rank calls this."""
        if self.size == 1:
            if error is not None:
                raise error
            return
        if not int(self.sum_own(np.array([error is not None], np.int64))[0]):
            return
        texts = self.gather(None if error is None else str(error))
        raise ValueError(next(text for text in texts if text is not None)) from error

    def require_same(self, text: str, advice: str) -> None:
        """Raise ValueError on all ranks where they differ in a text; `advice` says what it means."""
        found = self.gather(text)
        other = [rank for rank, own in enumerate(found) if own != found[0]]
        if other:
            raise ValueError(f"{names(other, self.size)}: {advice} ({found[other[0]]!r} there, {found[0]!r} on rank 0)")

    def _told(self, work: Any) -> None:
        """Do what all ranks do together; raises LostRankError that names who is lost where the connection breaks."""
        try:
            work()
        except RuntimeError as error:
            raise self.loss(error) from error

    def loss(self, error: BaseException | None = None) -> LostRankError:
        """Return what to say about ranks that do not answer."""
        if self.watch is None:
            return LostRankError(f"a rank of {self.size} is lost: {error}")
        said = self.watch.said() or self.watch.reason
        if said is None:
            lost = self.watch.lost()
            said = self.watch.said() or self.watch.declare(
                f"{names(lost, self.size)} is lost" if lost else f"the ranks do not answer each other ({error})"
            )
        return LostRankError(said)


ALONE = RankGroup()
"""A group of one: nothing is dealt out."""


@contextmanager
def join_ranks(device: str = "cpu", *, timeout: float = 300.0) -> Iterator[RankGroup]:
    """Join the processes that torchrun started for one reconstruction, and leave them at the end::

        # torchrun --nproc-per-node 4 script.py
        with recon.join_ranks() as ranks:
            problem = recon.spect_problem(scan, mu=mu, ranks=ranks)
            image = recon.reconstruct(problem, "osem")  # the same on all ranks, and as in one process
            if ranks.rank == 0: ...

    A script that was started without torchrun is a group of one, and needs no torch.

    Args:
        device : "cpu" for gloo, "cuda" for NCCL and the GPU of LOCAL_RANK.
        timeout : seconds after which a rank that does not join, answer or show a sign of life counts as lost.

    A rank that fails or is lost ends the others: LostRankError, and where one waits inside of a collective the end of
    the process. Without EMRECON_NUM_THREADS the ranks of a machine share its cores evenly.

    Raises ValueError for another device and a timeout below 1 s, RuntimeError where torchrun's variables are
    incomplete, LostRankError where not all ranks join.
    """
    if device not in ("cpu", "cuda"):
        raise ValueError(f"join_ranks works on 'cpu' or 'cuda', got {device!r}")
    if not timeout >= 1:
        raise ValueError(f"the timeout of ranks must be at least 1 s, got {timeout:g}")
    size = ranks_of_job()[1]
    if size == 1:
        yield RankGroup()
        return
    import torch

    local = int(os.environ.get("LOCAL_RANK", "0"))
    if device == "cuda":
        _use_gpu(local)
    try:
        limit = timedelta(seconds=timeout)
        torch.distributed.init_process_group("nccl" if device == "cuda" else "gloo", timeout=limit)
    except RuntimeError as error:
        raise LostRankError(f"not all of {size} ranks have joined within {timeout:g} s: {error}") from error
    try:
        with _threads_shared(os.environ.get("LOCAL_WORLD_SIZE", "1")):
            yield from _watched(RankGroup.of(), timeout)
    finally:
        torch.distributed.destroy_process_group()


def ranks_of_job(environment: Mapping[str, str] | None = None) -> tuple[int, int]:
    """Return (rank, size) as torchrun's variables say them, (0, 1) where there are none.

    Raises RuntimeError where they are incomplete.
    """
    values = os.environ if environment is None else environment
    if values.get("WORLD_SIZE", "1") == "1":
        return 0, 1
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in values]
    if missing:
        raise RuntimeError(f"WORLD_SIZE is set, but not {', '.join(missing)}; start the ranks with torchrun")
    return int(values["RANK"]), int(values["WORLD_SIZE"])


def _watched(ranks: RankGroup, timeout: float) -> Iterator[RankGroup]:
    """Yield the group with a watch over it; a failure of this rank is told to the others."""
    import torch

    store = torch.distributed.distributed_c10d._get_default_store().clone()
    watch = Watch(store, ranks.rank, ranks.size, timeout)
    own = RankGroup(ranks.rank, ranks.size, ranks.group, watch)
    own._told(lambda: torch.distributed.barrier(group=ranks.group))
    watch.start()
    try:
        yield own
        watch.finish()
    except KeyboardInterrupt as stop:
        if watch.reason is not None:
            raise LostRankError(watch.reason) from stop
        lost = watch.lost()
        if lost:
            raise LostRankError(watch.declare(f"{names(lost, ranks.size)} is lost")) from stop
        raise
    except BaseException as error:
        if not isinstance(error, (LostRankError, GeneratorExit)):
            watch.declare(f"{names([ranks.rank], ranks.size)} failed: {error}")
            pause(1.0)  # for the others to read it before the connections break
        raise
    finally:
        watch.leave()


def _use_gpu(local: int) -> None:
    import torch

    if not torch.cuda.is_available():
        raise ImportError("torch sees no CUDA device; leave out cuda, or install a torch that is built for it")
    if local >= torch.cuda.device_count():
        raise ValueError(
            f"rank {local} of this machine has no GPU of its own: there are {torch.cuda.device_count()}; start as many "
            "ranks"
        )
    torch.cuda.set_device(local)
    from emrecon.projectors.core.cuda import import_cupy

    import_cupy().cuda.Device(local).use()


@contextmanager
def _threads_shared(ranks: str) -> Iterator[None]:
    """Let the ranks of a machine share its cores, unless EMRECON_NUM_THREADS says how many threads each has."""
    name = "EMRECON_NUM_THREADS"
    if os.environ.get(name, "").strip() or not (ranks.isascii() and ranks.isdigit()):
        yield
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    before = os.environ.get(name)
    os.environ[name] = str(max(1, cores // max(1, int(ranks))))
    try:
        yield
    finally:
        os.environ.pop(name) if before is None else os.environ.update({name: before})
