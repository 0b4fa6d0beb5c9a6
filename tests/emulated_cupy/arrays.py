"""The array of the emulated device: NumPy's values behind a type that never turns into a NumPy array by itself."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .counting import note
from .listing import LISTED, check_call

METHODS: dict[str, str | None] = LISTED["classes"]["ndarray"]
UNFILLED = 0xA5  # in every byte of memory that nobody has written: NaN-like numbers that spoil a result
_WAITING_METHODS = {"nonzero", "compress", "tolist", "item", "dump", "dumps", "tobytes", "tofile", "put", "choose"}
_COPYING_METHODS = {"tolist", "item", "dump", "dumps", "tobytes", "tofile"}
_SCALARS = (bool, int, float, complex, np.generic)


class Pool:
    """How much memory arrays hold; blocks are not kept once they are free."""

    def __init__(self) -> None:
        self.used, self.most, self.limit, self.bases = 0, 0, 0, {}  # type: ignore[var-annotated]

    def hold(self, host: np.ndarray) -> None:
        """Account for the memory behind an array, once."""
        base: Any = host
        while isinstance(base.base, np.ndarray):
            base = base.base
        if id(base) in self.bases:
            return
        size = int(base.nbytes)
        if self.limit and self.used + size > self.limit:
            from .device import OutOfMemoryError

            raise OutOfMemoryError(size, self.used, self.limit)

        def give_back(_: object, key: int = id(base), size: int = size) -> None:
            self.bases.pop(key, None)
            self.used -= size

        self.bases[id(base)] = weakref.ref(base, give_back)
        self.used += size
        self.most = max(self.most, self.used)


pool = Pool()


def wrap(host: Any) -> Any:
    """NumPy results as device arrays; tuples and lists by item; what is no array stays."""
    if isinstance(host, np.ndarray):
        return ndarray._of(host)
    if isinstance(host, np.generic):
        return ndarray._of(np.asarray(host))
    if isinstance(host, tuple):
        items = [wrap(item) for item in host]
        return type(host)(*items) if hasattr(host, "_fields") else tuple(items)
    return [wrap(item) for item in host] if isinstance(host, list) else host


def unwrap(value: Any) -> Any:
    """Device arrays as NumPy arrays, for the double alone; a NumPy array is refused, as CuPy does."""
    if isinstance(value, ndarray):
        return value._host
    if isinstance(value, np.ndarray):
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    if isinstance(value, (tuple, list)) and not hasattr(value, "_fields"):
        return type(value)(unwrap(item) for item in value)
    if type(value).__module__.split(".")[0] == "torch" and hasattr(value, "data_ptr"):
        raise TypeError(f"Unsupported type {type(value)}")
    return value


def check_dtype(dtype: Any) -> np.dtype:
    """The dtype, where the device has it."""
    dtype = np.dtype(dtype)
    if dtype.char not in "?bhilqBHILQefdFD":
        raise ValueError(f"Unsupported dtype {dtype}")
    if not dtype.isnative:
        raise ValueError(f"Unsupported dtype {dtype} in the other byte order")
    return dtype


def fresh(shape: Any, dtype: Any = float, order: str = "C") -> np.ndarray:
    """Memory that nobody has written."""
    dtype = check_dtype(float if dtype is None else dtype)
    host = np.empty(shape, dtype, order)  # type: ignore[call-overload]
    raw = host.reshape(-1, order="A").view(np.uint8) if host.size else host
    raw[...] = UNFILLED if dtype != np.dtype(bool) else 1
    return host


class ndarray:  # noqa: N801
    """`cupy.ndarray`: methods, attributes and keywords of CuPy, and no others."""

    __array_priority__ = 100
    __slots__ = ("__weakref__", "_host")
    __hash__ = None  # type: ignore[assignment]
    _host: np.ndarray

    def __init__(
        self, shape: Any, dtype: Any = float, memptr: Any = None, strides: Any = None, order: str = "C"
    ) -> None:
        if memptr is not None or strides is not None:
            raise NotImplementedError("the double makes no array of a given pointer")
        self._host = fresh(shape, dtype, order)
        pool.hold(self._host)

    @classmethod
    def _of(cls, host: np.ndarray) -> ndarray:
        check_dtype(host.dtype)
        made = cls.__new__(cls)
        made._host = host
        pool.hold(host)
        return made

    # ---- to the host, which waits ----

    def get(self, stream: Any = None, order: str = "C", out: Any = None, blocking: bool = True) -> Any:
        note(to_host=self.nbytes, wait=True)
        if out is not None:
            out[...] = self._host
            return out
        return np.array(self._host, order=order)  # type: ignore[call-overload]

    def set(self, arr: Any, stream: Any = None) -> None:
        if not isinstance(arr, np.ndarray):
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        if arr.dtype != self.dtype or arr.shape != self.shape:
            raise TypeError(f"{arr.dtype} {arr.shape} does not fit {self.dtype} {self.shape}")
        note(to_device=arr.nbytes)
        self._host[...] = arr

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. "
            "Please use `.get()` to construct a NumPy array explicitly."
        )

    def __float__(self) -> float:
        return float(self.get())

    def __int__(self) -> int:
        return int(self.get())

    def __complex__(self) -> complex:
        return complex(self.get())

    def __index__(self) -> int:
        return self.get().__index__()

    def __bool__(self) -> bool:
        return bool(self.get())

    def __repr__(self) -> str:
        return repr(self.get())

    def __str__(self) -> str:
        return str(self.get())

    def __format__(self, spec: str) -> str:
        return format(self.get(), spec)

    def __reduce__(self) -> Any:
        from .creation import array

        return array, (self.get(),)

    def __copy__(self) -> ndarray:
        return self.copy()

    def __deepcopy__(self, memo: object) -> ndarray:
        return self.copy()

    # ---- parts ----

    def __len__(self) -> int:
        return len(self._host)

    def __iter__(self) -> Iterator[ndarray]:
        if self._host.ndim == 0:
            raise TypeError("iteration over a 0-d array")
        return (self[i] for i in range(len(self._host)))

    def __getitem__(self, index: Any) -> ndarray:
        place, masked = _index(index)
        if masked:
            note(wait=True)  # how many are chosen decides about the shape
        return ndarray._of(np.asarray(self._host[place]))

    def __setitem__(self, index: Any, value: Any) -> None:
        place, _ = _index(index)
        if isinstance(value, ndarray):
            self._host[place] = value._host
        elif isinstance(value, np.ndarray) and value.ndim:
            raise ValueError("non-scalar numpy.ndarray cannot be used for fill")
        elif isinstance(value, (*_SCALARS, np.ndarray)):
            self._host[place] = value
        else:
            raise TypeError(f"{type(value)} cannot be set into a device array")

    # ---- protocols ----

    @property
    def device(self) -> Any:
        from .device import Device

        return Device(0)

    @property
    def data(self) -> Any:
        from .device import MemoryPointer

        return MemoryPointer(self._host.ctypes.data)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        host = self._host.__array_interface__
        return {**{key: host[key] for key in ("shape", "typestr", "data", "strides")}, "version": 3, "stream": 1}

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0  # CUDA, the first device

    def __dlpack__(
        self, *, stream: Any = None, max_version: Any = None, dl_device: Any = None, copy: Any = None
    ) -> Any:
        return self._host.__dlpack__()

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        from .functions import cupy

        own = getattr(cupy, ufunc.__name__, None)
        if own is None or method != "__call__":
            return NotImplemented
        if "out" in kwargs:
            kwargs["out"] = kwargs["out"][0]
        return own(*inputs, **kwargs)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        from .functions import cupy

        home: Any = cupy
        for part in func.__module__.split(".")[1:]:
            home = getattr(home, part, None)
        own = getattr(home, func.__name__, None)
        return NotImplemented if own is None else own(*args, **kwargs)


def _index(index: Any) -> tuple[Any, bool]:
    """An index for NumPy, and whether a mask is part of it; NumPy arrays and lists are copied to the device."""
    parts, masked = index if isinstance(index, tuple) else (index,), False
    made: list[Any] = []
    for part in parts:
        host = part
        if isinstance(part, ndarray):
            host = part._host
        elif isinstance(part, (list, np.ndarray)):
            host = np.asarray(part)
            note(to_device=host.nbytes)
            if not host.size:
                host = host.astype(np.int32)
        if isinstance(host, np.ndarray) and host.dtype.kind == "f":
            raise IndexError("arrays used as indices must be of integer or boolean type")
        masked = masked or (isinstance(host, np.ndarray) and host.dtype == bool)
        made.append(host)
    return tuple(made) if isinstance(index, tuple) else made[0], masked


def _attribute(name: str) -> property:
    def get(self: ndarray) -> Any:
        value = getattr(self._host, name)
        return ndarray._of(value) if isinstance(value, np.ndarray) else value

    def put(self: ndarray, value: Any) -> None:
        setattr(self._host, name, unwrap(value))

    return property(get, put)


def _method(name: str, words: str | None) -> Callable[..., Any]:
    def method(self: ndarray, *args: Any, **kwargs: Any) -> Any:
        check_call(f"ndarray.{name}", words, args, kwargs)
        kwargs = {key: value for key, value in kwargs.items() if key not in ("blocking", "stream")}
        if name in _WAITING_METHODS:
            note(wait=True, to_host=self.nbytes if name in _COPYING_METHODS else None)
        if name == "astype":
            check_dtype(args[0] if args else kwargs["dtype"])
        result = getattr(self._host, name)(*unwrap(args), **{key: unwrap(value) for key, value in kwargs.items()})
        if result is self._host:
            return self
        return result if name in _COPYING_METHODS else wrap(result)

    method.__name__ = name
    return method


def _operator(name: str) -> Callable[..., Any]:
    def operate(self: ndarray, *others: Any) -> Any:
        for other in others:
            if isinstance(other, np.ndarray):
                raise TypeError("Unsupported type <class 'numpy.ndarray'>")
            if not isinstance(other, (ndarray, *_SCALARS)) and other is not None:
                return NotImplemented
        result = getattr(self._host, name)(*(unwrap(other) for other in others))
        if result is NotImplemented:
            return NotImplemented
        return self if result is self._host else wrap(result)

    operate.__name__ = name
    return operate


_BINARY = "add sub mul truediv floordiv mod pow and or xor lshift rshift matmul"
for _name in _BINARY.split():
    for _kind in ("", "r", "i"):
        setattr(ndarray, f"__{_kind}{_name}__", _operator(f"__{_kind}{_name}__"))
for _name in ["lt", "le", "gt", "ge", "eq", "ne", "neg", "pos", "abs", "invert", "divmod", "rdivmod"]:
    setattr(ndarray, f"__{_name}__", _operator(f"__{_name}__"))
for _name, _words in METHODS.items():
    if _name not in ndarray.__dict__ and hasattr(np.ndarray, _name):
        _is_method = callable(getattr(np.ndarray, _name))
        setattr(ndarray, _name, _method(_name, _words) if _is_method else _attribute(_name))
