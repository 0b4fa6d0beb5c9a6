"""A strict double of CuPy for tests: NumPy's values behind CuPy's names, and the CUDA sources run on the host.

    with emulated_device():
        import cupy

Inside, `cupy` and `cupyx` are the double. It has the functions, keywords, methods and attributes that names.json lists
of CuPy, and refuses all others; arrays never turn into NumPy arrays by themselves; memory that nobody wrote holds
nonsense; kernels check the type and order of their arguments. `counting()` counts copies and waits, `thread_order(k)`
shuffles the threads of launches, `recording()` keeps launches to be replayed under sanitizers (replay.py).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .compiling import compiler
from .counting import Counts, counting
from .functions import MODULES, cupy
from .kernels import Launch, recording, thread_order
from .listing import VERSION

__all__ = [
    "VERSION",
    "Counts",
    "Launch",
    "compiler",
    "counting",
    "cupy",
    "emulated_device",
    "recording",
    "thread_order",
]


@contextmanager
def emulated_device(*, tensors: bool = False) -> Iterator[Any]:
    """Let `import cupy` give the double, which is yielded; with `tensors` torch has a CUDA device, too."""
    from emrecon.projectors.core import cuda

    def clear() -> dict[str, Any]:
        own = ("cupy", "cupyx", "array_api_compat.cupy")
        names = [name for name in sys.modules if name in own or name.startswith(tuple(f"{one}." for one in own))]
        cuda._module.cache_clear()
        return {name: sys.modules.pop(name) for name in names}

    before = clear()
    sys.modules.update(MODULES)
    try:
        if tensors:
            from .tensors import cuda_tensors

            with cuda_tensors():
                yield cupy
        else:
            yield cupy
    finally:
        clear()
        sys.modules.update(before)
