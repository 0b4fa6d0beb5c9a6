"""Few counts: subsets that they cannot fill are fewer, with a note, or refused; no image is empty without a word."""

import logging

import numpy as np
import pytest
from typer.testing import CliRunner

from emrecon import formats
from emrecon.cli.main import app
from emrecon.projectors import AcquisitionModel, ImageGrid, PETScanner, PETSinogram, Scan, SPECTGeometry, SPECTProjector
from emrecon.recon import PoissonLikelihood, Quadratic, map_em, mlem, osem, osl, pet_problem, run, spect_problem, svrg

GRID, CAMERA = ImageGrid((12, 12, 2), 6.0), SPECTGeometry.circular(16, 90, (12, 2), 6.0)
A = SPECTProjector(GRID, CAMERA)
X, Y, _ = GRID.coordinates()
DISC = (np.hypot(X, Y) < 30.0) * np.ones(GRID.shape)


def scan_of(counts, seed=0):
    """A scan with about so many counts, with a twentieth of them background."""
    expected = A(DISC)
    expected = counts * (0.95 * expected / expected.sum() + 0.05 / expected.size)
    return Scan(np.random.default_rng(seed).poisson(expected).astype(np.float32), CAMERA, 0.05 * counts / expected.size)


def retained(problem, image):
    """Counts that an image expects, over those that were measured above background."""
    measured = sum(float(part.data.sum() - part.model.background * part.data.size) for part in problem.parts)
    return sum(float(part.model.linear(image).sum()) for part in problem.parts) / measured


@pytest.mark.parametrize(("counts", "used"), [(30, 1), (66, 3), (2000, 8)])
def test_no_more_subsets_than_the_counts_can_fill(counts, used):
    for seed in range(4):
        problem = spect_problem(scan_of(counts, seed), subsets=8, grid=GRID)
        assert abs(problem.n_subsets - used) <= 1
        assert len([note for note in problem.notes if "counts are few for 8 subsets" in note]) == (counts < 2000)
        assert all(part.data.any() for part in problem.parts)
        assert retained(problem, run(osem(problem.parts, problem.start), 4)) > 0.85


def test_small_numbers_are_not_few_counts(caplog):
    scaled = Scan((1e-6 * (A(DISC) + 1)).astype(np.float32), CAMERA, 1e-6)
    with caplog.at_level(logging.WARNING, "emrecon"):
        problem = spect_problem(scaled, subsets=8, grid=GRID)
        run(osem(problem.parts, problem.start), 1)
    assert problem.n_subsets == 8
    assert not caplog.records
    point = np.zeros(CAMERA.shape, np.float32)
    point[:, 6, 1] = 1000.0
    assert spect_problem(Scan(point, CAMERA, 0.1), subsets=8, grid=GRID).n_subsets == 8


def test_views_without_counts_leave_no_empty_subset():
    counts = np.zeros(CAMERA.shape, np.float32)
    counts[:4] = 50.0
    problem = spect_problem(Scan(counts, CAMERA, 0.1), subsets=8, grid=GRID)
    assert problem.n_subsets == 4
    both = np.stack([counts, np.full(CAMERA.shape, 50.0, np.float32), 0 * counts])  # the item without counts is apart
    assert spect_problem(Scan(both, CAMERA, 0.1), subsets=8, grid=GRID).n_subsets == 4
    with pytest.raises(ValueError, match="4 of 8 subsets hold no counts"):
        osem(PoissonLikelihood(counts, AcquisitionModel(A, background=0.1)), n_subsets=8)
    assert not run(mlem(PoissonLikelihood(0 * counts, AcquisitionModel(A, background=0.1))), 2).any()


def test_sinograms_and_events():
    scanner = PETScanner.polygon(sides=8, crystals_per_side=4, radius=60.0, rings=2, ring_pitch=4.0)
    sinogram, grid = PETSinogram(scanner, max_ring_difference=1, n_radial=15), ImageGrid((8, 8, 3), 8.0)
    counts = np.zeros(sinogram.shape, np.float32)
    counts[::2, 7, 0] = 2.0
    problem = pet_problem(Scan(counts, sinogram, 0.1), grid=grid, subsets=8)
    assert problem.n_subsets == 1
    assert "16 counts are few" in problem.notes[-1]

    class Events:
        prompts, delays = np.array([[0, 16], [3, 19], [40, 56], [5, 21]]), np.zeros((0, 2), int)

    class Listmode:
        def read(self):
            return Events

    listmode = Listmode()
    listmode.sinogram = PETSinogram(scanner)
    problem = pet_problem(listmode, grid=grid, subsets=4, scatter=0.1)
    assert problem.n_subsets == 1
    assert "4 counts are few" in problem.notes[-1]


def test_engines_warn_and_refuse_to_return_nothing(caplog):
    scan = scan_of(66)
    f = PoissonLikelihood(scan, scan.model(A))
    with caplog.at_level(logging.WARNING, "emrecon"):
        svrg(f, Quadratic(), n_subsets=8)  # adds gradients, and loses nothing
        assert not caplog.records
        osem(f, n_subsets=8)
    assert "use at most 3 subsets" in caplog.text
    for engine in (osem, lambda g, n_subsets: osl(g, 1e-3 * Quadratic(), None, n_subsets)):
        with pytest.raises(ValueError, match=r"0 everywhere: 16 subsets are too many for \d+ counts|hold no counts"):
            run(engine(f, n_subsets=16), 30)
    assert run(map_em(f, 1e-3 * Quadratic(), None, 1), 3).any()


def test_the_command_line_uses_fewer(tmp_path):
    formats.write_scan(tmp_path / "scan.h5", scan_of(66))
    done = CliRunner().invoke(app, ["reconstruct", str(tmp_path / "scan.h5"), "--out", str(tmp_path / "x.h5")])
    assert done.exit_code == 0, done.output
    said = " ".join(done.output.split())
    assert "counts are few for 8 subsets" in said
    assert "OSEM with 3 subsets" in said
    assert formats.read_image(tmp_path / "x.h5")[0].any()
