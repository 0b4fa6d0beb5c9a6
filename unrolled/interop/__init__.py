"""Other libraries' operators and networks as ours, and ours as theirs."""

from .deepinv import (
    as_denoiser,
    as_linear_physics,
    as_loss,
    as_reconstructor,
    as_stacked,
    from_denoiser,
    from_linear_physics,
    split_views,
)
from .pytomography import as_pytomography, from_pytomography

__all__ = [
    "as_denoiser",
    "as_linear_physics",
    "as_loss",
    "as_pytomography",
    "as_reconstructor",
    "as_stacked",
    "from_denoiser",
    "from_linear_physics",
    "from_pytomography",
    "split_views",
]
