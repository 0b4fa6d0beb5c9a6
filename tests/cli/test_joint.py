"""`emrecon reconstruct --method mlaa|mlacf`: two images, the scale, and clear refusals."""

import numpy as np
import pytest
from cli_cases import RING, emrecon, measured

from emrecon import formats, recon
from emrecon.projectors import AcquisitionModel, PETProjector, PETSinogram, Scan, TimeOfFlight, attenuation_factors

TOF = TimeOfFlight(5, 40.0, 40.0)


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    """A scan with time of flight whose factors hold no attenuation, the body, and the truth."""
    folder = tmp_path_factory.mktemp("joint")
    sinogram = PETSinogram(RING, tof=TOF, mashing=2)
    grid = sinogram.default_grid()
    x, y, _ = grid.coordinates()
    body = np.broadcast_to(np.hypot(x, y) < 40, grid.shape)
    activity, mu = body * np.float32(1), body * np.float32(0.096)
    survival = attenuation_factors(PETProjector(grid, sinogram.without_tof()), mu)[:, :, None]
    model = AcquisitionModel(PETProjector(grid, sinogram), 3 * survival, 0.3)
    counts = np.random.default_rng(0).poisson(model(activity)).astype(np.float32)
    factors = np.full(sinogram.shape, 3.0, np.float32)
    formats.write_scan(folder / "scan.h5", Scan(counts, sinogram, background=0.3, factors=factors, duration=60.0))
    formats.write_image(folder / "body.nii.gz", body.astype(np.float32), grid)
    formats.write_image(folder / "ct.nii.gz", mu, grid)
    return folder, grid, body, activity


def shown(done):
    return " ".join((done.stdout + done.stderr).replace("│", " ").split())


@pytest.mark.parametrize("method", ["mlaa", "mlacf"])
def test_two_images_are_written(scan, tmp_path, method):
    folder, grid, body, activity = scan
    known = ("--known", f"total:{activity.sum()}", "--body", folder / "body.nii.gz", "--mu-prior", "quadratic:1")
    run = ("reconstruct", folder / "scan.h5", "--method", method, *known, "--subsets", 2, "--iterations", 2)
    done = emrecon(*run, "--checkpoint", tmp_path / "run.npz", "--out", tmp_path / "image.nii.gz", check=0)
    assert "attenuation map in 1/cm" in shown(done)
    image, _ = formats.read_image(tmp_path / "image.nii.gz")
    mu, own = formats.read_image(tmp_path / "image_mu.nii.gz")
    assert image.sum() == pytest.approx(activity.sum(), rel=1e-3)
    assert own.shape == grid.shape
    assert formats.image_unit(tmp_path / "image_mu.nii.gz") == "1/cm"
    assert mu[~body].max() == 0
    assert mu[body].mean() == pytest.approx(0.096, rel=0.2)
    again = emrecon(*run, "--checkpoint", tmp_path / "run.npz", "--out", tmp_path / "again.h5", check=0)
    assert "going on after iteration 2" in shown(again)
    assert (tmp_path / "again_mu.h5").exists()


def test_a_map_is_the_start_and_a_region_fixes_mu(scan, tmp_path):
    folder, _, body, _ = scan
    known = ("--known", "mu:0.09", "--known-region", folder / "body.nii.gz", "--mu", folder / "ct.nii.gz")
    run = ("reconstruct", folder / "scan.h5", "--method", "mlaa", *known, "--subsets", 2, "--iterations", 1)
    emrecon(*run, "--out", tmp_path / "a.h5", "--mu-out", tmp_path / "map.h5", check=0)
    mu, _ = formats.read_image(tmp_path / "map.h5")
    np.testing.assert_allclose(mu[body], 0.09)
    problem = recon.pet_problem(formats.read_scan(folder / "scan.h5"), mu=body * np.float32(0.096), subsets=2)
    options = recon.JointOptions(known=recon.KnownScale("mu", 0.09, body))
    image, _ = formats.read_image(tmp_path / "a.h5")
    np.testing.assert_allclose(image, recon.reconstruct(problem, "mlaa", 1, joint=options), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "named", "message"),
    [
        (("--known", "mean:3"), "--known", "is not of the form total:SUM"),
        (("--known", "activity:3"), "--known", "activity needs --known-region"),
        (("--known-region", "body.nii.gz"), "--known-region", "along with --known"),
        (("--mu-prior", "tv:1"), "--mu-prior", "tv is a prior for"),
        (("--mu-prior", "rdp:1,2"), "--mu-prior", "needs its EPSILON"),
        (("--mu-out", "mu.dcm"), "--mu-out", "not written as DICOM"),
        (("--method", "osem", "--known", "total:3"), "--known", "osem does not use it"),
        (("--method", "mlacf", "--known", "mu:0.1", "--known-region", "body.nii.gz"), "--known", "no map of mu"),
    ],
)
def test_what_does_not_go_together_is_refused(scan, tmp_path, options, named, message):
    folder = scan[0]
    method = () if "--method" in options else ("--method", "mlaa")
    done = emrecon("reconstruct", "scan.h5", *method, *options, "--out", tmp_path / "x.h5", check=2, cwd=folder)
    assert named in done.stderr
    assert message in shown(done)
    assert not list(tmp_path.iterdir())


def test_data_without_time_of_flight_are_refused_or_noted(tmp_path):
    formats.write_scan(tmp_path / "scan.h5", measured()[0])
    run = ("reconstruct", tmp_path / "scan.h5", "--method", "mlaa", "--iterations", 1, "--out", tmp_path / "x.h5")
    assert "needs data with time of flight" in shown(emrecon(*run, check=2))
    done = emrecon(*run, "--without-tof", check=0)
    assert "each shows up in the image of the other" in shown(done)
    assert "nothing fixes the scale" in shown(done)
