"""The projector of a camera at several bed positions, which all see parts of one image."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

from ..core.arrays import Array, array_namespace
from ..core.operator import BatchProjector, Projector, Shape


class BedProjector(BatchProjector):
    """The views of several beds, one bed after another, from one image::

        y = [A_1 x[..., z_1 : z_1 + n_1],  A_2 x[..., z_2 : z_2 + n_2],  ...]

    Args:
        shape : of the image, (x, y, z).
        projectors : A_b of each bed on its own slices of the image, (x, y, n_b) -> (views_b, bins, rows); any
            projectors, such as a `SPECTProjector` on the part of the grid that the bed sees.
        first : z_b, the first slice of each bed.

    Subset k of n holds the views k, k + n, ... of all beds in a row.

    Raises ValueError where slices lie outside of the image, or beds differ in bins or rows.
    """

    def __init__(self, shape: Shape, projectors: Sequence[Projector], first: Sequence[int]) -> None:
        self.projectors, self.first = tuple(projectors), tuple(int(z) for z in first)
        if not self.projectors or len(self.projectors) != len(self.first):
            raise ValueError(f"BedProjector got {len(self.projectors)} projectors and {len(self.first)} first slices")
        self.in_shape = tuple(shape)
        for z, projector in zip(self.first, self.projectors):
            n = projector.in_shape[-1]
            if projector.in_shape[:-1] != self.in_shape[:-1] or not 0 <= z <= self.in_shape[-1] - n:
                raise ValueError(
                    f"BedProjector: {projector!r} from slice {z} on is no part of an image of {self.in_shape}"
                )
        bins = {projector.out_shape[1:] for projector in self.projectors}
        if len(bins) > 1:
            raise ValueError(f"BedProjector: beds have different bins and rows, {sorted(bins)}; stitch their images?")
        self._views = [projector.out_shape[0] for projector in self.projectors]
        self.out_shape = (sum(self._views), *bins.pop())

    def subset(self, k: int, n: int) -> BedProjector:
        """Return the projector of the views k, k + n, k + 2n, ... of all beds in a row."""
        before = [sum(self._views[:b]) for b in range(len(self._views))]
        parts = [projector.subset((k - start) % n, n) for projector, start in zip(self.projectors, before)]
        return BedProjector(self.in_shape, parts, self.first)

    @property
    def n_items(self) -> int | None:
        """The number of items of a batch where the beds' projectors have physics for each, else None."""
        return next((p.n_items for p in self.projectors if p.n_items is not None), None)

    @property
    def has_parameters(self) -> bool:
        """Whether the projector of a bed has an attenuation map that gets gradients."""
        return any(projector.has_parameters for projector in self.projectors)

    def _forward_batch(self, x: Array) -> Array:
        xp = array_namespace(x)
        parts = [p._forward_batch(self._slices(x, b)) for b, p in enumerate(self.projectors)]
        return xp.concat(parts, axis=1)

    def _adjoint_batch(self, y: Array) -> Array:
        parts = [p._adjoint_batch(self._of_bed(y, b)) for b, p in enumerate(self.projectors)]
        return reduce(lambda a, b: a + b, (self._padded(part, b) for b, part in enumerate(parts)))

    def _differentiable(self, x: Array) -> Array:
        if not self.has_parameters:
            return super()._differentiable(x)
        xp = array_namespace(x)
        return xp.concat([p(self._slices(x, b)) for b, p in enumerate(self.projectors)], axis=-3)

    def _differentiable_transpose(self, y: Array) -> Array:
        if not self.has_parameters:
            return super()._differentiable_transpose(y)
        parts = [self._padded(p.T(self._of_bed(y, b)), b) for b, p in enumerate(self.projectors)]
        return reduce(lambda a, b: a + b, parts)

    def _slices(self, x: Array, bed: int) -> Array:
        """The slices of the image that a bed sees."""
        z = self.first[bed]
        return x[..., z : z + self.projectors[bed].in_shape[-1]]

    def _of_bed(self, y: Array, bed: int) -> Array:
        """The views of a bed."""
        start = sum(self._views[:bed])
        return y[..., start : start + self._views[bed], :, :]

    def _padded(self, part: Array, bed: int) -> Array:
        """The slices of a bed with 0 in all others of the image."""
        xp, z = array_namespace(part), self.first[bed]
        rest = self.in_shape[-1] - z - part.shape[-1]
        ends = [xp.zeros((*part.shape[:-1], n), dtype=part.dtype, device=part.device) for n in (z, rest)]
        return xp.concat([ends[0], part, ends[1]], axis=-1)
