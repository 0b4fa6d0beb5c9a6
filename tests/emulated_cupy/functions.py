"""The modules `cupy` and `cupyx`: NumPy's and SciPy's functions under CuPy's names, with CuPy's parameters only."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np

from . import creation, device, kernels
from .arrays import check_dtype, ndarray, pool, unwrap, wrap
from .counting import note
from .listing import LISTED, VERSION, check_call

WAITING = {
    "nonzero", "flatnonzero", "argwhere", "unique", "compress", "extract", "bincount", "histogram", "isin", "in1d",
    "intersect1d", "setdiff1d", "union1d", "trim_zeros", "delete", "choose", "put", "place", "percentile", "quantile",
    "solve", "inv", "lstsq", "svd", "eigh", "eigvalsh", "cholesky", "qr", "pinv", "matrix_rank", "slogdet", "det",
}  # fmt: skip
"""Functions that wait for the device, since a shape or an error depends on values."""

HOMES = {
    "cupy": "numpy",
    "cupy.linalg": "numpy.linalg",
    "cupy.fft": "numpy.fft",
    "cupy.random": "numpy.random",
    "cupyx.scipy.fft": "scipy.fft",
    "cupyx.scipy.ndimage": "scipy.ndimage",
    "cupyx.scipy.special": "scipy.special",
}


def _function(name: str, host: Any, words: str | None) -> Callable[..., Any]:
    short = name.rpartition(".")[2]

    def function(*args: Any, **kwargs: Any) -> Any:
        if kwargs.get("dtype") is not None:
            check_dtype(kwargs["dtype"])
        check_call(name, words, args, kwargs)
        if host is None:
            raise NotImplementedError(f"the double has no {name}: give it one")
        if short in WAITING or (short == "where" and len(args) == 1):
            note(wait=True)
        out = kwargs.get("out")
        result = host(*unwrap(args), **{key: unwrap(value) for key, value in kwargs.items()})
        return out if isinstance(out, ndarray) else wrap(result)

    function.__name__ = function.__qualname__ = short
    return function


class ufunc:  # noqa: N801
    """`cupy.ufunc`: two keywords beside `out`, and none of NumPy's others."""

    def __init__(self, name: str, host: Any) -> None:
        self.name = self.__name__ = name
        self._host = host

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        wrong = set(kwargs) - {"out", "dtype", "casting"}
        if wrong:
            raise TypeError(f"Wrong arguments {sorted(wrong)} for {self.name!r} of CuPy {VERSION}")
        if self._host is None:
            raise NotImplementedError(f"the double has no {self.name}: give it one")
        for one in args:
            if not isinstance(one, (ndarray, bool, int, float, complex, np.generic)) and one is not None:
                raise TypeError(f"Unsupported type {type(one)}")
        out = kwargs.get("out")
        result = self._host(*unwrap(args), **{key: unwrap(value) for key, value in kwargs.items()})
        return out if isinstance(out, ndarray) else wrap(result)

    def __repr__(self) -> str:
        return f"<ufunc 'cupy_{self.name}'>"


class _Missing(ModuleType):
    """A module that says whether CuPy has a name that the double lacks."""

    def __getattr__(self, key: str) -> Any:
        if key.startswith("__"):
            raise AttributeError(key)
        listed = LISTED["modules"].get(self.__name__, {})
        if key in listed.get("others", ()):
            raise NotImplementedError(f"{self.__name__}.{key} is CuPy's, and the double has none: give it one")
        raise AttributeError(f"CuPy {VERSION} has no {self.__name__}.{key}")


def _module(name: str) -> ModuleType:
    made, listed = _Missing(name), LISTED["modules"].get(name)
    made.__path__ = []
    made.__spec__ = None
    if listed is None:
        return made
    home = import_module(HOMES[name]) if name in HOMES else None
    for key, words in listed["functions"].items():
        setattr(made, key, _function(f"{name}.{key}", getattr(home, key, None), words))
    for key in listed["ufuncs"]:
        setattr(made, key, ufunc(key, getattr(home, key, None)))
    for key in listed["of_numpy"]:
        setattr(made, key, getattr(np, key))
    return made


def _fill() -> dict[str, ModuleType]:
    modules = {name: _module(name) for name in (*LISTED["modules"], "cupyx.scipy", "cupy.cuda.device")}
    for name, module in modules.items():
        parent, _, last = name.rpartition(".")
        if parent:
            setattr(modules[parent], last, module)
    top: Any = modules["cupy"]
    for name in (
        "array",
        "asarray",
        "asanyarray",
        "ascontiguousarray",
        "asnumpy",
        "empty",
        "empty_like",
        "from_dlpack",
    ):
        words, made = LISTED["modules"]["cupy"]["functions"][name], getattr(creation, name)
        setattr(top, name, _checked(f"cupy.{name}", made, words))
    top.ndarray, top.ufunc, top.__version__ = ndarray, ufunc, VERSION
    top.RawModule, top.RawKernel = kernels.RawModule, kernels.RawKernel
    top.get_default_memory_pool = lambda: device.MemoryPool(pool)
    top.get_default_pinned_memory_pool = device.PinnedMemoryPool
    top.get_array_module = lambda *args: top if any(isinstance(one, ndarray) for one in args) else np
    device.fill(modules)
    return modules


def _checked(name: str, made: Callable[..., Any], words: str | None) -> Callable[..., Any]:
    def function(*args: Any, **kwargs: Any) -> Any:
        check_call(name, words, args, kwargs)
        return made(*args, **kwargs)

    function.__name__ = function.__qualname__ = made.__name__
    return function


MODULES = _fill()
cupy: Any = MODULES["cupy"]


def is_installed() -> bool:
    """Whether `import cupy` gives this double."""
    return sys.modules.get("cupy") is cupy
