"""Follow the array: which library, device and precision an array belongs to, and plans made once for each."""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import reduce
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard, TypeVar

import numpy as np
from array_api_compat import array_namespace, device, is_cupy_array, is_numpy_array, is_torch_array
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    import torch

Made = TypeVar("Made")


class Array(Protocol):
    """What the library asks of an array: NumPy arrays, CuPy arrays and torch tensors have it.

    Functions that differ between the three libraries are taken from `array_namespace(x)`, not from the array.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def ndim(self) -> int: ...
    @property
    def dtype(self) -> Any: ...
    @property
    def device(self) -> Any: ...
    @property
    def T(self) -> Array: ...

    def reshape(self, shape: Any, /) -> Array: ...
    def sum(self, axis: Any = None, /) -> Any: ...
    def mean(self, axis: Any = None, /) -> Any: ...
    def min(self) -> Any: ...
    def max(self) -> Any: ...

    def __array__(self) -> np.ndarray: ...
    def __getitem__(self, index: Any, /) -> Array: ...
    def __setitem__(self, index: Any, value: Any, /) -> None: ...
    def __iter__(self) -> Iterator[Any]: ...
    def __len__(self) -> int: ...
    def __float__(self) -> float: ...
    def __int__(self) -> int: ...
    def __bool__(self) -> bool: ...

    def __add__(self, other: Array | float, /) -> Array: ...
    def __radd__(self, other: Array | float, /) -> Array: ...
    def __sub__(self, other: Array | float, /) -> Array: ...
    def __rsub__(self, other: Array | float, /) -> Array: ...
    def __mul__(self, other: Array | float, /) -> Array: ...
    def __rmul__(self, other: Array | float, /) -> Array: ...
    def __truediv__(self, other: Array | float, /) -> Array: ...
    def __rtruediv__(self, other: Array | float, /) -> Array: ...
    def __pow__(self, other: Array | float, /) -> Array: ...
    def __rpow__(self, other: Array | float, /) -> Array: ...
    def __matmul__(self, other: Array | float, /) -> Array: ...
    def __lt__(self, other: Array | float, /) -> Array: ...
    def __le__(self, other: Array | float, /) -> Array: ...
    def __gt__(self, other: Array | float, /) -> Array: ...
    def __ge__(self, other: Array | float, /) -> Array: ...
    def __eq__(self, other: Any, /) -> Array: ...  # type: ignore[override]
    def __ne__(self, other: Any, /) -> Array: ...  # type: ignore[override]
    def __and__(self, other: Any, /) -> Array: ...
    def __or__(self, other: Any, /) -> Array: ...
    def __rshift__(self, other: Any, /) -> Array: ...
    def __invert__(self) -> Array: ...
    def __neg__(self) -> Array: ...
    def __abs__(self) -> Array: ...


def is_numpy(x: object) -> TypeGuard[np.ndarray]:
    """Whether `x` is a NumPy array."""
    return bool(is_numpy_array(x))


def is_torch(x: object) -> TypeGuard[torch.Tensor]:
    """Whether `x` is a torch tensor (torch is not imported to find out)."""
    return "torch" in sys.modules and is_torch_array(x)


def is_cuda(x: object) -> bool:
    """Whether `x` lives on a CUDA device (CuPy array or CUDA tensor)."""
    return is_cupy_array(x) or (is_torch(x) and x.is_cuda)


def require_array(x: object, who: str) -> ModuleType:
    """Return the array namespace of `x`, or say what was expected."""
    if not hasattr(x, "shape") or not hasattr(x, "dtype"):
        raise TypeError(
            f"{who} expects an array (NumPy, CuPy or torch), got {type(x).__name__}; use numpy.asarray(...)?"
        )
    try:
        return array_namespace(x)
    except TypeError as error:
        raise TypeError(f"{who} expects an array (NumPy, CuPy or torch), got {type(x).__name__}") from error


def require_constant(values: object, who: str) -> None:
    """Raise ValueError for a tensor that asks for a gradient where none is worked out."""
    if is_torch(values) and values.requires_grad:
        raise ValueError(
            f"{who} would get no gradient, but the tensor has requires_grad; give it as a constant, values.detach()"
        )


def as_real(x: Array) -> Array:
    """Return `x` as float64 where it is float64, and as float32 otherwise; complex input is refused."""
    xp = array_namespace(x)
    if is_numpy(x) and (x.dtype.kind not in "fiubc" or not x.dtype.isnative):
        if x.dtype.kind not in "fiubc":
            raise TypeError(f"expected an array of numbers, got dtype {x.dtype}")
        x = x.astype(x.dtype.newbyteorder("="))
    if x.dtype in (xp.float32, xp.float64):
        return x
    if "complex" in str(x.dtype):
        raise TypeError(f"expected a real array, got {x.dtype}")
    return x.to(xp.float32) if is_torch(x) else xp.astype(x, xp.float32)


def to_numpy(x: Array | ArrayLike) -> np.ndarray:
    """Return an array, a number or a list as a NumPy array on the host, without a copy where that is possible."""
    if is_torch(x):
        return x.detach().cpu().resolve_neg().numpy()
    get = getattr(x, "get", None)  # CuPy copies to the host only when asked
    return get() if is_cupy_array(x) and get is not None else np.asarray(x)


def like(values: Any, x: Array) -> Array:
    """Return `values` as an array of the library, device and dtype of `x`; torch tensors keep their gradient."""
    if is_torch(values) and is_torch(x):
        return values.to(device=x.device, dtype=x.dtype)
    xp = array_namespace(x)
    host = to_numpy(values) if not np.isscalar(values) else values
    return xp.asarray(np.asarray(host, dtype=dtype_name(x)), device=device(x))


def dtype_name(x: Array) -> str:
    """Return the dtype as NumPy spells it, such as 'float32'."""
    return str(x.dtype).rpartition(".")[2]


def to_host(x: Array, who: object) -> np.ndarray:
    """Return a NumPy array or a CPU tensor as a NumPy array, without a copy; `who` is named where it is neither."""
    if is_numpy(x):
        return x
    if is_torch(x) and x.device.type == "cpu":
        values: np.ndarray = x.detach().resolve_neg().numpy()
        return values
    raise TypeError(f"{who!r} runs on NumPy and CuPy arrays and on CPU and CUDA tensors, not on {type(x)}")


def add_up(arrays: Iterable[Array]) -> Array:
    """Return the sum of arrays, of which there is at least one."""
    return reduce(operator.add, arrays)


def divide_where(a: Array, b: Array, otherwise: Array | float | None = None) -> Array:
    """Return a / b where b > 0, and `otherwise` in the other places (default: a itself, as divided by one).

    Args:
        a, b : arrays that broadcast, of one library and device.

    Gradients with respect to a and b stay finite where b is zero: nothing is ever divided by it.
    """
    xp = array_namespace(b)
    quotient: Array = a / xp.where(b > 0, b, xp.ones_like(b))
    if otherwise is None:
        return quotient
    chosen: Array = xp.where(b > 0, quotient, otherwise + xp.zeros_like(quotient))
    return chosen


def clipped(x: Array, low: Array | float | None = None, high: Array | float | None = None) -> Array:
    """Return x kept at or above `low` and at or below `high`, in its precision; None is no bound.

    Nothing is copied to a CUDA device or waits for it, as the clip of the array API does.
    """
    if is_torch(x):
        tensor: Any = x
        bounded: Array = tensor.clamp(low, high)
        return bounded
    xp = array_namespace(x)
    raised: Array = x if low is None else xp.maximum(x, low)
    kept: Array = raised if high is None else xp.minimum(raised, high)
    return kept


def without_rounding_below_zero(y: Array, x: Array) -> Array:
    """Return y, what a map without negative entries makes of x, with zeros for what is below zero by rounding.

    Where x holds something negative, y is returned as it is.
    """
    xp = array_namespace(y)
    cut: Array = xp.where((y < 0) & xp.all(x >= 0), xp.zeros_like(y), y)
    return cut


def from_host(values: np.ndarray, x: Array) -> Array:
    """Return NumPy values as a tensor where `x` is one, without a copy."""
    if not is_torch(x):
        return values
    import torch

    return torch.from_numpy(values)


def read_only(x: np.ndarray) -> np.ndarray:
    """Return a view that cannot be written: compiled code is typed by this, and one type is enough."""
    view = x.view()
    view.flags.writeable = False
    return view


def _outside_inference_mode() -> AbstractContextManager[object]:
    """A plan outlives torch.inference_mode, and a tensor made in that mode could never take part in a gradient."""
    torch = sys.modules.get("torch")
    return torch.inference_mode(False) if torch and torch.is_inference_mode_enabled() else nullcontext()


class PlanCache:
    """Values derived once for each (namespace, device, dtype) of the arrays met; empty again after pickling."""

    def __init__(self) -> None:
        self._plans: dict[Hashable, Any] = {}

    def get(self, x: Array, build: Callable[[], Made]) -> Made:
        """Return the plan for arrays like `x`, calling `build()` at the first contact."""
        key = (array_namespace(x).__name__, str(device(x)), dtype_name(x))
        if key not in self._plans:
            with _outside_inference_mode():
                self._plans.setdefault(key, build())
        made: Made = self._plans[key]
        return made

    def __getstate__(self) -> dict[str, object]:
        return {"_plans": {}}
