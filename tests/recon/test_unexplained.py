"""Counts that nothing explains count for nothing, are told, and are an error where they are many."""

import logging
from itertools import islice

import numpy as np
import pytest
import torch

from emrecon import formats
from emrecon.projectors import (
    AcquisitionModel,
    ImageGrid,
    ListmodeProjector,
    PETScanner,
    PETSinogram,
    Scan,
    SPECTGeometry,
    SPECTProjector,
)
from emrecon.recon import (
    ListmodeLikelihood,
    PoissonLikelihood,
    Quadratic,
    TransmissionLikelihood,
    bsrem,
    kem,
    kernel_matrix,
    lbfgsb,
    mlem,
    osem,
    pdhg,
    pet_problem,
    reconstruct,
    run,
    saga,
    spdhg,
    spect_problem,
    svrg,
)

GRID, CAMERA = ImageGrid((8, 8, 2), 4.0), SPECTGeometry.circular(8, 60, (16, 2), 4.0)  # bins beside the image
A = SPECTProjector(GRID, CAMERA)
BESIDE = A(np.ones(GRID.shape)) == 0
MODEL = AcquisitionModel(A, 5.0)
TRUTH = np.random.default_rng(0).uniform(1, 3, GRID.shape)
CLEAN = np.random.default_rng(1).poisson(MODEL(TRUTH)).astype(float)
COUNTS = np.where(BESIDE & (np.arange(16)[:, None] % 5 == 0), 2.0, CLEAN)
F, G = PoissonLikelihood(COUNTS, MODEL), PoissonLikelihood(CLEAN, MODEL)  # with and without what nothing explains


def test_bins_that_no_image_explains_are_as_if_nothing_was_counted():
    assert 0 < (COUNTS - CLEAN).sum() < 0.05 * COUNTS.sum()
    assert F.value(TRUTH) == pytest.approx(G.value(TRUTH), rel=1e-13)
    for one, other in (
        (F.gradient(TRUTH), G.gradient(TRUTH)),
        (F.ratio(TRUTH), G.ratio(TRUTH)),
        (F.value_and_gradient(TRUTH)[1], G.gradient(TRUTH)),
        (F.hessian_vector(TRUTH, TRUTH), G.hessian_vector(TRUTH, TRUTH)),
    ):
        np.testing.assert_array_equal(one, other)
    tensor = torch.tensor(TRUTH, requires_grad=True)
    F.value(tensor).backward()
    np.testing.assert_allclose(tensor.grad.numpy(), F.gradient(TRUTH), rtol=1e-10)


PRIOR = 0.1 * Quadratic()


@pytest.mark.parametrize(
    "engine",
    [
        lambda f: osem(f, None, 4),
        mlem,
        lambda f: svrg(f, PRIOR, None, 4),
        lambda f: saga(f, PRIOR, None, 4),
        lambda f: bsrem(f, PRIOR, None, 4),
        lambda f: lbfgsb(f, PRIOR),
        lambda f: kem(f, kernel_matrix(TRUTH, n_neighbours=4, window=3), None, 4),
    ],
)
def test_engines_do_not_see_them(engine):
    np.testing.assert_allclose(run(engine(F), 3), run(engine(G), 3), rtol=1e-12)


def test_primal_dual_engines_end_at_the_same_image():
    for engine in (pdhg, lambda f: spdhg(f, None, None, 4)):
        np.testing.assert_allclose(run(engine(F), 60), run(engine(G), 60), rtol=0.05, atol=0.05)


def test_float32_and_next_to_nothing_are_no_infinity():
    model = AcquisitionModel(A, np.where(BESIDE, 1.0, 5.0).astype(np.float32), 1e-38)
    f = PoissonLikelihood(COUNTS.astype(np.float32), model)
    assert np.isfinite(f.ratio(TRUTH.astype(np.float32))).all()
    assert np.isfinite(run(osem(f, None, 4), 3)).all()


def line_source():
    """Counts of a line and of a few scattered photons, which OSEM makes impossible by zeros."""
    source = np.zeros(GRID.shape)
    source[4, 3] = 200.0
    y = np.random.default_rng(2).poisson(A(source)).astype(float)
    y[0, 11, 0] += 1
    y[4, 4, 1] += 2
    return y


def test_zeros_of_the_image_cost_and_are_told_once(caplog):
    f = PoissonLikelihood(line_source(), AcquisitionModel(A))
    with caplog.at_level(logging.WARNING, "emrecon"):
        image = run(osem(f, None, 8), 5)
        run(osem(f, None, 8), 2)
    assert len(caplog.records) == 1
    assert "count for nothing" in caplog.text
    assert "--background" in caplog.text
    bins, counts = f.unexplained(image)
    assert (bins, counts) == (2, 3.0)
    assert np.isfinite(f.value(image))
    assert np.isfinite(f.gradient(image)).all()
    assert image.sum() == pytest.approx(2 * 200.0, rel=0.1)
    # an image that has given counts up is no better than one that explains them
    assert f.value(np.where(image > 0, image, 1e-6)) < f.value(image)


def test_many_are_an_error():
    message = r"counts were measured in \d+ of \d+ bins where none are expected.*background=0.*--background"
    many = np.where(BESIDE, 400.0, CLEAN)
    for f in (PoissonLikelihood(many, MODEL), PoissonLikelihood(np.stack([CLEAN, many]), MODEL)):
        with pytest.raises(ValueError, match=message):
            run(osem(f, None, 2), 1)
    with pytest.raises(ValueError, match="none are expected"):
        G.value(np.zeros(GRID.shape))


def test_problems_and_what_they_say():
    scan = Scan(line_source().astype(np.float32), CAMERA)
    problem = spect_problem(scan, grid=GRID, subsets=8)
    assert problem.unexplained(TRUTH) == ""
    image = reconstruct(problem, iterations=4)
    assert "counts that the image does not explain" in problem.unexplained(image)


SCANNER = PETScanner.polygon(sides=8, crystals_per_side=4, radius=60.0, rings=2, ring_pitch=4.0)
SINOGRAM = PETSinogram(SCANNER, max_ring_difference=1, n_radial=15)
SMALL = ImageGrid((5, 5, 3), 8.0)


def test_sinograms_and_events_too():
    from emrecon.projectors import PETProjector

    lines = PETProjector(SMALL, SINOGRAM)
    seen = lines(np.ones(SMALL.shape)) > 0
    counts = np.where(seen, 4.0, 0.0)
    beside = np.argwhere(~seen)[::40]
    more = counts.copy()
    more[tuple(beside.T)] = 1.0
    images = [
        reconstruct(pet_problem(Scan(y.astype(np.float32), SINOGRAM), grid=SMALL, subsets=2)) for y in (counts, more)
    ]
    np.testing.assert_array_equal(*images)

    events = np.array([[0, 16], [3, 19], [40, 56], [5, 21], [6, 22], [8, 24]])
    inside = events[(ListmodeProjector(SMALL, SCANNER, events)(np.ones(SMALL.shape)) > 0)]
    assert len(inside) >= 5
    across = np.array([[0, 4]])  # a line that passes by the image
    sensitivity = lines.T(np.ones(SINOGRAM.shape))
    f, g = (
        ListmodeLikelihood(AcquisitionModel(ListmodeProjector(SMALL, SCANNER, e)), sensitivity)
        for e in (np.concatenate([inside, across]), inside)
    )
    x = np.ones(SMALL.shape)
    assert f.value(x) == pytest.approx(g.value(x), rel=1e-13)
    np.testing.assert_allclose(f.gradient(x), g.gradient(x), rtol=1e-12)
    np.testing.assert_allclose(f.hessian_vector(x, x), g.hessian_vector(x, x), rtol=1e-12)
    for one, other in zip(islice(mlem(f), 3), islice(mlem(g), 3)):
        np.testing.assert_allclose(one.image, other.image, rtol=1e-12)
    assert f.unexplained(x) == (1, 1.0)
    bad = ListmodeLikelihood(AcquisitionModel(ListmodeProjector(SMALL, SCANNER, np.repeat(across, 3, 0))), sensitivity)
    with pytest.raises(ValueError, match="3 of 3 events are not expected at all"):
        bad.value(x)


def test_dead_detectors_of_a_blank_scan(caplog):
    blank = np.full(A.out_shape, 50.0)
    blank[0, 7] = 0.0
    y = np.full(A.out_shape, 40.0)
    with caplog.at_level(logging.WARNING, "emrecon"):
        f = TransmissionLikelihood(y, blank, A)
    assert "2 of 256 bins hold 80 counts without blank or background" in caplog.text
    g = TransmissionLikelihood(np.where(blank > 0, y, 0.0), blank, A)
    mu = 0.01 * TRUTH
    np.testing.assert_array_equal(f.gradient(mu), g.gradient(mu))
    assert f.value(mu) == g.value(mu)
    with pytest.raises(ValueError, match="exchanged"):
        TransmissionLikelihood(y, 0.0 * blank, A)


def test_the_command_line_notes_them(tmp_path):
    from typer.testing import CliRunner

    from emrecon.cli.main import app

    formats.write_scan(tmp_path / "scan.h5", Scan(line_source().astype(np.float32), CAMERA))
    done = CliRunner().invoke(app, ["reconstruct", str(tmp_path / "scan.h5"), "--out", str(tmp_path / "x.nii")])
    assert done.exit_code == 0, done.output
    assert "counts that the image does not explain" in " ".join(done.output.split())
    assert "--background" in done.output
