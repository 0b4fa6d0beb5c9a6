"""The ground floor: operators, arrays, threads, files, errors and grids that every package stands on."""

from .arrays import (
    Array,
    PlanCache,
    add_up,
    array_namespace,
    as_real,
    clipped,
    device,
    divide_where,
    dtype_name,
    from_host,
    is_cuda,
    is_numpy,
    is_torch,
    like,
    read_only,
    require_array,
    to_host,
    to_numpy,
)
from .blur import GaussianBlur, MeasuredBlur
from .errors import FormatError
from .files import atomic_path
from .grid import FrozenArrays, ImageGrid, check_subset
from .operator import (
    BatchOperator,
    BatchProjector,
    DenseOperator,
    Diagonal,
    LinearOperator,
    Projector,
    Shape,
    broadcasts_to,
)
from .resampling import Resampling, resample
from .threads import share, thread_count

__all__ = [
    "Array",
    "BatchOperator",
    "BatchProjector",
    "DenseOperator",
    "Diagonal",
    "FormatError",
    "FrozenArrays",
    "GaussianBlur",
    "ImageGrid",
    "LinearOperator",
    "MeasuredBlur",
    "PlanCache",
    "Projector",
    "Resampling",
    "Shape",
    "add_up",
    "array_namespace",
    "as_real",
    "clipped",
    "atomic_path",
    "broadcasts_to",
    "check_subset",
    "device",
    "divide_where",
    "dtype_name",
    "from_host",
    "is_cuda",
    "is_numpy",
    "is_torch",
    "like",
    "read_only",
    "require_array",
    "resample",
    "share",
    "thread_count",
    "to_host",
    "to_numpy",
]
