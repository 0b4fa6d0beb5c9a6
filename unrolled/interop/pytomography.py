"""Our projectors as PyTomography's system matrices, and its system matrices as our projectors (extra `peers`)."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from emrecon.projectors import AcquisitionModel, ImageGrid, Projector, SPECTGeometry
from emrecon.projectors.core.operator import Shape
from emrecon.projectors.pet.interop import from_operator

from ..networks.optional import optional_module

if TYPE_CHECKING:
    from pytomography.metadata import ObjectMeta, ProjMeta
    from pytomography.projectors import SystemMatrix

_ANGLE_OFFSET = 180.0  # degrees, from our gantry angle to that of PyTomography


def as_pytomography(model: AcquisitionModel | Projector) -> SystemMatrix:
    """Return our system as a `pytomography.projectors.SystemMatrix`, for its likelihoods, algorithms and priors::

        matrix = as_pytomography(model)
        likelihood = PoissonLogLikelihood(matrix, counts, matrix.additive_term)
        image = OSEM(likelihood)(n_iters=4, n_subsets=8)

    Args:
        model : a projector or an acquisition model; its factors are a part of the matrix, its background is not: it is
            the attribute `additive_term`, a tensor of the shape of the data, or None where there is none.

    Axes of image (x, y, z) and data (views, ...) are the same there, and subset k of n has the views k, k + n, ... in
    both. Lengths in its metadata are in cm. Tensors keep their device and precision; what the matrix makes itself is on
    `pytomography.device`, in float32.

    Raises ImportError where PyTomography is missing.
    """
    theirs = _pytomography("as_pytomography", "projectors").SystemMatrix
    return _subclass(theirs)(model if isinstance(model, AcquisitionModel) else AcquisitionModel(model))


def from_pytomography(system_matrix: SystemMatrix) -> Projector:
    """Return a PyTomography system matrix as one of our projectors, with batches, autograd and subsets of views.

    Args:
        system_matrix : with `forward`, `backward`, `set_n_subsets`, and metadata with shapes; of SPECT or PET
            sinograms.

    It computes in float32, item by item, on `pytomography.device`, and its own division into subsets is left as it was.

    `backward` is the adjoint here, whether or not it is the exact transpose. That of the SPECT matrix is not: it turns
    images by interpolation, and back by interpolation again (version 3.4: 6 % off, as matrices, on a small example). EM
    bears that; conjugate gradients and primal-dual methods may not converge, and gradients are as inexact as the pair.
    That matrix needs at least two slices.

    Raises TypeError where a part is missing.
    """
    lacking = [
        name
        for name in ("forward", "backward", "set_n_subsets", "object_meta", "proj_meta")
        if not hasattr(system_matrix, name)
    ]
    if lacking:
        raise TypeError(
            f"from_pytomography: {type(system_matrix).__name__} has no {lacking[0]}; is it a system matrix?"
        )

    def views(k: int, n: int) -> _Views:
        return _Views(system_matrix, k, n)

    return cast(Projector, from_operator(views(0, 1), subset=views, dtype="float32"))


class _Matrix:
    """What `as_pytomography` adds to PyTomography's `SystemMatrix`."""

    def __init__(self, model: AcquisitionModel) -> None:
        super().__init__(*_metadata(model.projector), [], [])  # type: ignore[call-arg]  # that of SystemMatrix
        self.model = model
        self.additive_term = _additive_term(model)
        self.set_n_subsets(1)

    def forward(self, object: Tensor, subset_idx: int | None = None) -> Tensor:
        """Return the projection of an image, all views or those of a subset."""
        return self._part(subset_idx).linear(object)

    def backward(self, proj: Tensor, subset_idx: int | None = None) -> Tensor:
        """Return the exact transpose applied to data."""
        return self._part(subset_idx).adjoint(proj)

    def compute_normalization_factor(self, subset_idx: int | None = None) -> Tensor:
        """Return the sensitivity A'1 of all views or of a subset."""
        ones = torch.ones(self._part(subset_idx).projector.out_shape, device=_device())
        return self.backward(ones, subset_idx)  # not the part's adjoint: `2 * matrix` replaces backward

    def set_n_subsets(self, n_subsets: int) -> None:
        """Divide the views into n subsets."""
        self.subset_indices_array = self.get_subset_splits(n_subsets)
        self._parts = [self.model] if n_subsets == 1 else [self.model.subset(k, n_subsets) for k in range(n_subsets)]

    def get_subset_splits(self, n_subsets: int) -> list[Tensor]:
        """Return the views of each of n subsets."""
        views = torch.arange(self.model.projector.out_shape[0], device=_device())
        return [views[k::n_subsets] for k in range(n_subsets)]

    def get_projection_subset(self, projections: Tensor, subset_idx: int | None) -> Tensor:
        """Return the views of a subset from all data."""
        if subset_idx is None:
            return projections
        k, n = subset_idx, len(self._parts)
        return projections[(..., slice(k, None, n), *[slice(None)] * (len(self.model.projector.out_shape) - 1))]

    def get_weighting_subset(self, subset_idx: int | None) -> float:
        """Return the share of the views that a subset has."""
        if subset_idx is None:
            return 1.0
        return len(self.subset_indices_array[subset_idx]) / self.model.projector.out_shape[0]

    def _part(self, subset_idx: int | None) -> AcquisitionModel:
        return self.model if subset_idx is None else self._parts[subset_idx]


class _Views:
    """The views k, k + n, ... of their matrix, as `projectors.interop.from_operator` takes them."""

    xp = torch

    def __init__(self, matrix: SystemMatrix, k: int, n: int) -> None:
        self.matrix, self.k, self.n = matrix, k, n
        views, *rest = matrix.proj_meta.shape
        self.in_shape: Shape = tuple(matrix.object_meta.shape)
        self.out_shape: Shape = (len(range(k, int(views), n)), *rest)

    def apply(self, x: Tensor) -> Tensor:
        return self._call(self.matrix.forward, x).reshape(self.out_shape)

    def adjoint(self, y: Tensor) -> Tensor:
        return self._call(self.matrix.backward, y).reshape(self.in_shape)

    def _call(self, function: Callable[..., Tensor], values: Tensor) -> Tensor:
        if self.n == 1:
            return function(values)
        before = getattr(self.matrix, "subset_indices_array", None)
        self.matrix.set_n_subsets(self.n)
        try:
            return function(values, self.k)
        finally:  # their own loop may be under way
            if before is not None:
                self.matrix.set_n_subsets(len(before))


@cache
def _subclass(theirs: type) -> Callable[[AcquisitionModel], SystemMatrix]:
    return type("EmreconSystemMatrix", (_Matrix, theirs), {"__doc__": as_pytomography.__doc__})


def _metadata(projector: Projector) -> tuple[ObjectMeta, ProjMeta]:
    """PyTomography's metadata of image and data, those of SPECT where it is SPECT; cm and degrees."""
    metadata = _pytomography("as_pytomography", "metadata")
    grid, geometry = _attribute(projector, "grid"), _attribute(projector, "geometry")
    size = [d / 10 for d in grid.voxel_size] if isinstance(grid, ImageGrid) else [1.0, 1.0, 1.0]
    shape = list(projector.in_shape)
    if not isinstance(geometry, SPECTGeometry):
        theirs = metadata.ProjMeta(torch.arange(projector.out_shape[0]))
        theirs.shape = projector.out_shape
        return metadata.ObjectMeta(size, shape), theirs
    spect = _pytomography("as_pytomography", "metadata.SPECT")
    angles = (geometry.angles + _ANGLE_OFFSET) % 360
    pixels = [d / 10 for d in geometry.pixel_size]
    return (
        spect.SPECTObjectMeta(size, shape),
        spect.SPECTProjMeta(geometry.n_bins, pixels, angles, geometry.radius / 10),
    )


def _attribute(projector: object, name: str) -> object:
    """An attribute of a projector, or of that inside a composed one."""
    while projector is not None and not hasattr(projector, name):
        projector = next(
            (
                getattr(projector, inside, None)
                for inside in ("outer", "operator", "first")
                if hasattr(projector, inside)
            ),
            None,
        )
    return getattr(projector, name, None)


def _additive_term(model: AcquisitionModel) -> Tensor | None:
    if isinstance(model.background, (int, float)) and model.background == 0:
        return None
    term = torch.as_tensor(model.background, dtype=torch.float32, device=_device())
    return term.expand(model.projector.out_shape).clone() if term.ndim <= len(model.projector.out_shape) else term


def _device() -> torch.device | str:
    return _pytomography("as_pytomography", "").device


def _pytomography(who: str, module: str) -> ModuleType:
    return optional_module(f"pytomography.{module}".rstrip("."), who, "PyTomography", "peers")
