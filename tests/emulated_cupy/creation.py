"""What makes device arrays, and what CuPy does differently from NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np

from .arrays import check_dtype, fresh, ndarray
from .counting import note


def array(
    obj: Any, dtype: Any = None, copy: Any = True, order: str = "K", subok: bool = False, ndmin: int = 0, *,
    blocking: bool = False,
) -> ndarray:  # fmt: skip
    """Make a device array of a device array, NumPy array, number or list."""
    if isinstance(obj, ndarray):
        host = obj._host
        if dtype is not None and check_dtype(dtype) != host.dtype:
            return ndarray._of(host.astype(dtype))
        if not copy and host.ndim >= ndmin and (order in ("K", "A") or host.flags[f"{order}_CONTIGUOUS"]):
            return obj
        return ndarray._of(np.array(host, order=order, ndmin=ndmin))  # type: ignore[call-overload]
    if isinstance(obj, (list, tuple)) and _holds_device_arrays(obj):
        from .functions import cupy

        made = cupy.stack([array(item) for item in obj])
        return made if dtype is None else made.astype(dtype)  # type: ignore[no-any-return]
    if hasattr(obj, "data_ptr"):  # a tensor: by its interface if it is on the device, through the host otherwise
        from .tensors import host_of

        if getattr(obj, "is_cuda", False):
            return ndarray._of(np.array(host_of(obj), dtype=dtype))
    host = np.array(obj, dtype=dtype, order=order, ndmin=ndmin)  # type: ignore[call-overload]
    check_dtype(host.dtype)
    note(to_device=host.nbytes)
    return ndarray._of(host)


def asarray(
    a: Any, dtype: Any = None, order: str | None = None, *, copy: Any = None, blocking: bool = False
) -> ndarray:
    """Make a device array, without a copy where it is one."""
    return array(a, dtype, bool(copy), order or "K", blocking=blocking)


def asanyarray(a: Any, dtype: Any = None, order: str | None = None, *, blocking: bool = False) -> ndarray:
    """As `asarray`."""
    return asarray(a, dtype, order, blocking=blocking)


def ascontiguousarray(a: Any, dtype: Any = None) -> ndarray:
    """Make a device array in C order; one that is stays as it is. It has at least one dimension."""
    made = asarray(a, dtype, "C")
    return made if made.ndim else made.reshape(1)  # type: ignore[attr-defined, no-any-return]


def asnumpy(a: Any, stream: Any = None, order: str = "C", out: Any = None, *, blocking: bool = True) -> Any:
    """Copy to the host."""
    return a.get(stream, order, out) if isinstance(a, ndarray) else np.asarray(a)


def empty(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    """Make an array that holds nothing useful."""
    return ndarray(shape, dtype, order=order)


def empty_like(prototype: Any, dtype: Any = None, order: str = "K", subok: Any = None, shape: Any = None) -> ndarray:
    """Make an array of the kind of another that holds nothing useful."""
    if not isinstance(prototype, ndarray):
        raise TypeError(f"Unsupported type {type(prototype)}")
    like = np.empty_like(prototype._host, dtype=dtype, order=order, shape=shape)  # type: ignore[call-overload]
    if like.flags.c_contiguous:
        return ndarray._of(fresh(like.shape, like.dtype))
    like.fill(np.nan if like.dtype.kind in "fc" else 77)
    return ndarray._of(like)


def from_dlpack(array: Any, *, device: Any = None, copy: bool | None = None) -> ndarray:
    """Take an array of the device without a copy; anything that lives elsewhere is refused."""
    if isinstance(array, ndarray):
        return ndarray._of(array._host[...])
    if not hasattr(array, "__dlpack_device__"):
        raise TypeError(f"{type(array)} has no __dlpack_device__")
    kind = array.__dlpack_device__()[0]
    if kind != 2:
        raise ValueError(f"a DLPack tensor of device type {kind} is not on CUDA")
    from .tensors import host_of

    return ndarray._of(host_of(array))


def _holds_device_arrays(values: Any) -> bool:
    return any(
        isinstance(item, ndarray) or (isinstance(item, (list, tuple)) and _holds_device_arrays(item)) for item in values
    )
