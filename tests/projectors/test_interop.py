"""Other programs' operators: battery, array libraries, OSEM, refusals, and lines in parallelproj's layout."""

from functools import partial
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from battery import check_operator, relative_error
from pet_cases import GRID, SCANNER, SINOGRAMS, TOF
from plain_joseph import plain_joseph

from emrecon.projectors import AcquisitionModel, DenseOperator, PETProjector, PETSinogram, Projector, TimeOfFlight
from emrecon.projectors.pet.interop import as_parallelproj_lors, as_parallelproj_tof, from_operator
from emrecon.recon import PoissonLikelihood, osem


class Matrix:
    """An operator as parallelproj's are: shapes, `apply`, `adjoint`, and an array library of its own."""

    def __init__(self, matrix, in_shape, out_shape, xp=None):
        self.matrix, self.in_shape, self.out_shape = matrix, in_shape, out_shape
        if xp is not None:
            self.xp = xp

    def apply(self, x):
        return (self._like(x) @ x.reshape(-1)).reshape(self.out_shape)

    def adjoint(self, y):
        return (self._like(y).T @ y.reshape(-1)).reshape(self.in_shape)

    def _like(self, x):
        expected = getattr(self, "xp", None)
        assert expected is None or expected.__name__ == type(x).__module__.partition(".")[0]
        assert not getattr(x, "requires_grad", False)
        return torch.as_tensor(self.matrix).to(x.dtype) if isinstance(x, torch.Tensor) else self.matrix.astype(x.dtype)


MATRIX = np.random.default_rng(0).uniform(0, 1, (6, 4, 3, 2))


def matrix_of_views(k, n, xp=None):
    rows = MATRIX[k::n]
    return Matrix(rows.reshape(-1, 6), (3, 2), rows.shape[:2], xp)


class Joseph:
    """The plain projector of one item in float32, as parallelproj's projectors: called, not applied."""

    xp = np

    def __init__(self, grid, sinogram):
        self.grid, self.in_shape = grid, grid.shape
        self.xstart, self.xend = as_parallelproj_lors(sinogram)
        self.out_shape = self.xstart.shape[:-1]
        self.matrix = np.stack([self(e).ravel() for e in np.eye(np.prod(grid.shape), dtype=np.float32)], 1)

    def __call__(self, x):
        assert x.dtype == np.float32
        return plain_joseph(x.reshape(self.in_shape), self.grid, self.xstart, self.xend)

    def adjoint(self, y):
        assert y.dtype == np.float32
        return (self.matrix.T @ y.ravel()).reshape(self.in_shape)


@pytest.mark.parametrize("xp", [None, np, torch], ids=["any", "numpy", "torch"])
def test_battery(xp):
    A = from_operator(matrix_of_views(0, 1))
    check_operator(A, positive=True)
    A = from_operator(matrix_of_views(0, 1, xp), subset=partial(matrix_of_views, xp=xp))
    assert isinstance(A, Projector)
    for dtype in ("float32", "float64"):
        x = np.random.default_rng(1).normal(size=(2, 3, 2)).astype(dtype)
        for as_array in (np.asarray, torch.as_tensor):
            y = A(as_array(x))
            assert type(y) is type(as_array(x))
            assert str(y.dtype).endswith(dtype)
            assert relative_error(y, np.einsum("vkij,bij->bvk", MATRIX, x)) < 1e-6


def test_projector_battery():
    whole, subset = matrix_of_views(0, 1), partial(matrix_of_views)
    check_operator(from_operator(whole, subset=subset), positive=True)
    part = from_operator(whole, subset=subset).subset(1, 2).subset(1, 2)
    x = np.ones((3, 2))
    np.testing.assert_allclose(part(x), MATRIX[1::2][1::2].sum((2, 3)))


def test_our_own_operators_can_be_wrapped():
    A = DenseOperator(np.random.default_rng(0).normal(size=(5, 6)), (3, 2), (5,))
    wrapped = from_operator(SimpleNamespace(in_shape=[3, 2], out_shape=[5], apply=A, adjoint=A.T))
    assert repr(wrapped) == "<SimpleNamespace (foreign) (3,2) -> (5,)>"
    x = np.ones((3, 2))
    np.testing.assert_array_equal(wrapped(x), A(x))


def test_a_float32_projector_takes_any_array_and_passes_gradients():
    grid, sinogram = SINOGRAMS["span 3"]
    A, B = from_operator(Joseph(grid, sinogram), dtype="float32"), PETProjector(grid, sinogram)
    x = np.random.default_rng(0).uniform(size=(2, *grid.shape))
    assert A(x).dtype == np.float64
    assert relative_error(A(x), B(x)) < 1e-5
    leaf = torch.tensor(x, requires_grad=True)
    weights = np.random.default_rng(1).normal(size=(2, *A.out_shape))
    (A(leaf) * torch.tensor(weights)).sum().backward()
    assert relative_error(leaf.grad, B.T(weights)) < 1e-5


@pytest.mark.parametrize("as_array", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
def test_osem_runs_as_with_our_projector(as_array):
    grid, sinogram = SINOGRAMS["flat"]
    A = from_operator(Joseph(grid, sinogram), subset=lambda k, n: Joseph(grid, sinogram.subset(k, n)), dtype="float32")
    own, truth = PETProjector(grid, sinogram), np.ones(grid.shape, np.float32)
    truth[2:4, 2:5] = 4
    images = []
    for projector in (A, own):
        model = AcquisitionModel(projector, 1.5, 0.5)
        f = PoissonLikelihood(as_array(AcquisitionModel(own, 1.5, 0.5)(truth)), model)
        *_, last = islice(osem(f, as_array(np.ones_like(truth)), n_subsets=3), 5)
        images.append(np.asarray(last.image))
    assert relative_error(*images) < 1e-4


def test_refusals():
    with pytest.raises(TypeError, match="has no in_shape"):
        from_operator(object())
    with pytest.raises(TypeError, match="has no apply"):
        from_operator(SimpleNamespace(in_shape=(2,), out_shape=(2,), adjoint=abs))
    with pytest.raises(ValueError, match="dtype must be"):
        from_operator(matrix_of_views(0, 1), dtype="int8")
    wrong = from_operator(SimpleNamespace(in_shape=(3,), out_shape=(2,), apply=abs, adjoint=abs))
    with pytest.raises(ValueError, match=r"promised shape \(2,\) and returned \(3,\)"):
        wrong(np.ones(3))
    with pytest.raises(ValueError, match=r"expects \(..., 3\)"):
        wrong(np.ones(4))
    A = from_operator(matrix_of_views(0, 1), subset=lambda k, n: matrix_of_views(0, 1))
    with pytest.raises(ValueError, match="must map"):
        A.subset(0, 2)


@pytest.mark.parametrize("case", ["span 1", "TOF"])
def test_lines_in_the_layout_of_parallelproj(case):
    grid, sinogram = SINOGRAMS[case]
    ends = as_parallelproj_lors(sinogram)
    for points, expected in zip(ends, sinogram.line_ends()):
        assert points.dtype == np.float32
        assert points.flags.c_contiguous
        assert points.shape == (*sinogram.without_tof().shape, 3)
        np.testing.assert_allclose(points, expected, atol=1e-4)
    x = np.random.default_rng(0).uniform(size=grid.shape)
    own = PETProjector(grid, sinogram.without_tof())(x)
    assert relative_error(plain_joseph(x, grid, *ends), own) < 1e-5


def test_tof_bins_of_parallelproj_are_ours():
    tof, sinogram = TimeOfFlight(9, 12.0, 24.0), PETSinogram(SCANNER, tof=TOF)
    parameters = as_parallelproj_tof(tof)
    assert list(parameters) == ["num_tofbins", "tofbin_width", "sigma_tof", "num_sigmas", "tofcenter_offset"]
    # in its source the middle of bin i lies at i - (n - 1) / 2 widths from the middle of the line, towards xend
    middle = parameters["tofbin_width"] * (np.arange(9) - (parameters["num_tofbins"] - 1) / 2)
    np.testing.assert_allclose(tof.centres, middle)
    assert parameters["sigma_tof"] == pytest.approx(24 / 2.35482, rel=1e-5)
    start, end = (points.astype(float) for points in as_parallelproj_lors(sinogram))
    x = np.zeros(GRID.shape)
    x[5, 4, 2] = 1
    y = PETProjector(GRID, sinogram)(x)
    point = np.array(GRID.origin) + np.array([5, 4, 2]) * GRID.voxel_size
    way = (end - start) / np.linalg.norm(end - start, axis=-1, keepdims=True)
    s = ((point - (start + end) / 2) * way).sum(-1)
    seen = y.sum(2) > 1
    mean = (y * TOF.centres[:, None]).sum(2)[seen] / y.sum(2)[seen]
    np.testing.assert_allclose(mean, s[seen], atol=8)  # within a voxel
