"""Data as networks take them: views, bins and rows as the axes of a picture with channels, and back."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class DataFolding:
    """How data (..., channels, ``*out_shape``) become a network's input (N, channels, views, bins[, rows]), and back.

    Args:
        out_shape : (views, bins, rows) of SPECT, (views, radial, planes) or (views, radial, TOF bins, planes) of PET;
            an image's shape (x, y, z) is folded in the same way.
        dimensions : 2, rows are items; or 3, rows are an axis.
        tof : TOF bins are "channels", or "items" of the batch.

    Raises ValueError for other shapes and choices.
    """

    out_shape: tuple[int, ...]
    dimensions: int
    tof: str = "channels"

    def __post_init__(self) -> None:
        if len(self.out_shape) not in (3, 4):
            raise ValueError(f"DataFolding: data have 3 axes, or 4 with TOF bins, got {self.out_shape}")
        if self.dimensions not in (2, 3):
            raise ValueError(f"DataFolding: dimensions must be 2 or 3, got {self.dimensions!r}")
        if self.tof not in ("channels", "items"):
            raise ValueError(f'DataFolding: tof must be "channels" or "items", got {self.tof!r}')

    @property
    def n_tof(self) -> int:
        """How many TOF bins there are, 1 without."""
        return self.out_shape[2] if len(self.out_shape) == 4 else 1

    def fold(self, data: Tensor) -> Tensor:
        """Return (N, channels, views, bins[, rows]) of data (..., channels, ``*out_shape``).

        Raises ValueError for data of another shape.
        """
        n = len(self.out_shape)
        if tuple(data.shape[-n:]) != tuple(self.out_shape) or data.ndim <= n:
            raise ValueError(f"DataFolding: data (..., channels, {self.out_shape}) expected, got {tuple(data.shape)}")
        x = data
        if n == 4:
            x = x.movedim(-2, 0) if self.tof == "items" else x.movedim(-2, -4).flatten(-5, -4)
        x = x.movedim(-1, 0) if self.dimensions == 2 else x
        return x.reshape(-1, *x.shape[-1 - self.dimensions :])

    def unfold(self, folded: Tensor, lead: tuple[int, ...]) -> Tensor:
        """Return data (``*lead``, channels, ``*out_shape``) of the output of a network, with as many TOF channels.

        Args:
            lead : the axes of the data before channels.
        """
        views, bins, *_, rows = self.out_shape
        planes = () if self.dimensions == 2 else (rows,)
        front = (*((rows,) if self.dimensions == 2 else ()), *((self.n_tof,) if self._tof_items else ()))
        x = folded.reshape(*front, *lead, folded.shape[1], views, bins, *planes)
        x = x.movedim(0, -1) if self.dimensions == 2 else x
        if self._tof_items:
            return x.movedim(0, -2)
        if len(self.out_shape) == 4:
            return x.unflatten(-4, (-1, self.n_tof)).movedim(-4, -2)
        return x

    @property
    def _tof_items(self) -> bool:
        return len(self.out_shape) == 4 and self.tof == "items"
