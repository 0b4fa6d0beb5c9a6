"""The CPU kernels' threads: compiled loops that release the GIL, shared out over a small pool of Python threads.

Numba's own parallel layers abort on concurrent calls (workqueue), die after a fork (GNU OpenMP) or need a package that
is not built everywhere (TBB). Plain threads around kernels without the GIL have none of these troubles.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from typing import TypeVar

T = TypeVar("T")


def thread_count() -> int:
    """Return how many threads a projection uses.

    EMRECON_NUM_THREADS where it is set, otherwise the cores this process may use, but never more than
    `torch.get_num_threads()` where torch is loaded (which is 1 in DataLoader workers).
    """
    wanted = os.environ.get("EMRECON_NUM_THREADS", "").strip()
    if wanted:
        if not (wanted.isascii() and wanted.isdigit()) or int(wanted) < 1:
            raise ValueError(f"EMRECON_NUM_THREADS must be a positive integer, got {wanted!r}")
        return int(wanted)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch_threads = getattr(sys.modules.get("torch"), "get_num_threads", lambda: cores)
    return int(min(cores, torch_threads()))


def share(work: Callable[[int, int], T], n_items: int, at_most: int = 2**31) -> list[T]:
    """Return [work(t, n) for t in range(n)] from n threads at once; work(t, n) does items t::n of n_items.

    n is the thread count, but not more than n_items or `at_most`.
    """
    n = max(1, min(thread_count(), n_items, at_most))
    if n == 1:
        return [work(0, 1)]
    tasks = [_pool(n).submit(work, t, n) for t in range(1, n)]
    try:
        first = work(0, n)
    finally:
        wait(tasks)  # all of them, also where one of them has failed
    return [first, *(task.result() for task in tasks)]


@cache
def _pool(n: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n, thread_name_prefix="emrecon")


# A forked child inherits the pool object but not its threads.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)
