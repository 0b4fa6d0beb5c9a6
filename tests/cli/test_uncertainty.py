"""`emrecon reconstruct --uncertainty`: the standard deviation beside the image, in its unit, or a clear refusal."""

import numpy as np
import pytest
from cli_cases import emrecon

from emrecon import formats, recon
from emrecon.projectors import GaussianBlur, Scan, SPECTGeometry

CAMERA = SPECTGeometry.circular(8, 60, (8, 2), 6.0)
COUNTS = np.random.default_rng(0).poisson(40.0, CAMERA.shape).astype(np.float32)


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    path = tmp_path_factory.mktemp("scan") / "scan.h5"
    made = Scan(COUNTS, CAMERA, radionuclide="Tc-99m", duration=20.0, background=1.0)
    formats.write_scan(path, made)
    return path, made


def test_osem_in_counts_and_in_bq_per_ml(scan, tmp_path):
    path, made = scan
    run = ("reconstruct", path, "--iterations", 2, "--subsets", 2, "--filter", 9, "--no-view-decay")
    for unit in ((), ("--calibration", 90)):
        name = tmp_path / f"image{len(unit)}.h5"
        done = emrecon(*run, *unit, "--out", name, "--uncertainty", name.with_name("sd.nii.gz"), check=0)
        assert "standard deviation, " in done.stdout
        assert "holds the noise of the counts alone" in " ".join(done.stdout.split())
        image, grid = formats.read_image(name)
        deviation, _ = formats.read_image(tmp_path / "sd.nii.gz")
        problem = recon.spect_problem(made, subsets=2)
        estimate = recon.IteratedEstimate(list(problem.parts), problem.start, n_iterations=2)
        blur = GaussianBlur(grid, 9)
        scale = np.median(image / blur(estimate.image))
        expected = estimate.filtered(blur).standard_deviation(method="exact").image
        assert np.linalg.norm(deviation / scale - expected) < 0.12 * np.linalg.norm(expected)
        unit_of_map = formats.image_unit(tmp_path / "sd.nii.gz")
        assert unit_of_map == ("Bq/mL" if unit else "counts")
        assert any("standard deviation" in note for note in formats.read_provenance(tmp_path / "sd.nii.gz").notes)


def test_methods_with_a_prior(scan, tmp_path):
    path, made = scan
    run = ("reconstruct", path, "--method", "lbfgsb", "--prior", "quadratic:2", "--iterations", 20)
    emrecon(*run, "--out", tmp_path / "image.h5", "--uncertainty", tmp_path / "sd.h5", check=0)
    image, grid = formats.read_image(tmp_path / "image.h5")
    deviation, _ = formats.read_image(tmp_path / "sd.h5")
    prior = 2.0 * recon.Quadratic(voxel_size=grid.voxel_size)
    expected = recon.standard_deviation_map(list(recon.spect_problem(made).parts), prior, image)
    np.testing.assert_allclose(deviation, expected, rtol=0.02, atol=1e-3 * expected.max())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--method", "osl", "--prior", "median:0.1"), "osl has no map of uncertainty; it is defined for osem"),
        (("--method", "svrg"), "svrg without a prior has no map of uncertainty"),
        (("--method", "spdhg", "--prior", "tv:1"), "spdhg has no map of uncertainty"),
        (("--method", "mapem-net"), "mapem-net does not use it"),
        (("--uncertainty", "sd.dcm"), "not DICOM"),
    ],
)
def test_others_are_refused(scan, tmp_path, options, message):
    run = ("reconstruct", scan[0], "--uncertainty", tmp_path / "sd.h5", *options, "--out", tmp_path / "x.h5")
    done = emrecon(*run, check=2)
    assert "--uncertainty" in done.stderr
    assert message in " ".join(done.stderr.replace("│", " ").split())
    assert not list(tmp_path.iterdir())
