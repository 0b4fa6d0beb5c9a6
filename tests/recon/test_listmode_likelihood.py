"""The likelihood of events: equal to that of their sinogram, in value, gradient, curvature and reconstruction."""

import numpy as np
import pytest
import torch
from pet_cases import GRID, SCANNER, likelihoods_of_one_scan

from emrecon.projectors import AcquisitionModel, ListmodeProjector
from emrecon.recon import ListmodeLikelihood, em_step, mlem, osem, run


@pytest.mark.parametrize("timed", [False, True])
def test_equals_the_likelihood_of_the_sinogram(timed):
    binned, listed, _, _ = likelihoods_of_one_scan(timed)
    rng = np.random.default_rng(1)
    x, z, v = rng.uniform(0.05, 0.2, (3, *GRID.shape))
    assert listed.value(x) - listed.value(z) == pytest.approx(binned.value(x) - binned.value(z), rel=1e-10)
    np.testing.assert_allclose(listed.gradient(x), binned.gradient(x), atol=1e-9)
    np.testing.assert_allclose(listed.hessian_vector(x, v), binned.hessian_vector(x, v), rtol=1e-9)
    np.testing.assert_allclose(em_step(x, listed), em_step(x, binned), rtol=1e-10)


def test_mlem_of_events_equals_mlem_of_the_sinogram_and_climbs():
    binned, listed, _, _ = likelihoods_of_one_scan(True)
    images = [run(mlem(f, np.ones(GRID.shape)), 5) for f in (binned, listed)]
    np.testing.assert_allclose(images[1], images[0], rtol=1e-9)
    values = [listed.value(it.image) for it, _ in zip(mlem(listed), range(6))]
    assert (np.diff(values) < 0).all()


def test_subsets_by_views_equal_those_of_the_sinogram():
    binned, listed, events, sinogram = likelihoods_of_one_scan(False)
    view, n = sinogram.bins_of(events)[:, 0], 3
    parts = []
    for k in range(n):
        mine = view % n == k
        lines = ListmodeProjector(GRID, SCANNER, events[mine])
        model = AcquisitionModel(lines, listed.model.factors[mine], listed.model.background[mine])
        parts.append(ListmodeLikelihood(model, binned.subset(k, n).sensitivity))
    start = np.ones(GRID.shape)
    expected = run(osem(binned, start, n), 2)
    np.testing.assert_allclose(run(osem(parts, start), 2), expected, rtol=1e-9)
    np.testing.assert_allclose(run(osem([binned.subset(k, n) for k in range(n)], start), 2), expected, rtol=1e-12)


def test_subsets_of_events_add_up():
    _, listed, _, _ = likelihoods_of_one_scan(True)
    parts = [listed.subset(k, 4) for k in range(4)]
    x = np.full(GRID.shape, 0.1)
    assert sum(part.value(x) for part in parts) == pytest.approx(listed.value(x), rel=1e-12)
    np.testing.assert_allclose(sum(part.gradient(x) for part in parts), listed.gradient(x), atol=1e-9)
    assert run(osem(listed, n_subsets=4), 2).shape == GRID.shape


def test_tensors_and_batches():
    _, listed, _, _ = likelihoods_of_one_scan(True)
    x = np.full((2, *GRID.shape), 0.1)
    x[1] *= 2
    both = listed.value(x)
    assert both[1] == pytest.approx(listed.value(x[1]))
    tensor = torch.tensor(x[0], requires_grad=True)
    listed.value(tensor).backward()
    np.testing.assert_allclose(tensor.grad.numpy(), listed.gradient(x[0]), atol=1e-9)
    assert isinstance(em_step(torch.tensor(x[0]), listed), torch.Tensor)


def test_what_cannot_be_is_explained():
    _, listed, _, _ = likelihoods_of_one_scan(False)
    with pytest.raises(ValueError, match="does not fit images"):
        ListmodeLikelihood(listed.model, np.ones((3, 3, 3)))
    with pytest.raises(ValueError, match="not negative"):
        ListmodeLikelihood(listed.model, -np.ones(GRID.shape))
    bare = ListmodeLikelihood(AcquisitionModel(listed.model.projector), listed.sensitivity)
    with pytest.raises(ValueError, match="not expected at all"):
        bare.value(np.zeros(GRID.shape))
    with pytest.raises(ValueError, match="negative, NaN"):
        listed.value(np.full(GRID.shape, np.nan))
    with pytest.raises(ValueError, match="empty list"):
        next(osem([]))


def test_lists_are_subsets_and_none_is_empty():
    binned, listed, events, _ = likelihoods_of_one_scan(False)
    start = np.ones(GRID.shape)
    np.testing.assert_array_equal(run(osem([binned], start), 1), run(mlem(binned, start), 1))
    empty = ListmodeLikelihood(AcquisitionModel(ListmodeProjector(GRID, SCANNER, events[:0])), listed.sensitivity)
    with pytest.raises(ValueError, match="holds no events"):
        next(osem([listed, empty], start))
