"""`emrecon reconstruct --filter`: a Gaussian in mm after the reconstruction, said and kept in the settings."""

import numpy as np
from cli_cases import emrecon

from emrecon import formats
from emrecon.projectors import GaussianBlur, Scan, SPECTGeometry

CAMERA = SPECTGeometry.circular(8, 60, (12, 6), (4.0, 8.0))


def test_the_image_is_filtered_in_mm(tmp_path):
    counts = np.random.default_rng(0).poisson(20.0, CAMERA.shape).astype(np.float32)
    formats.write_scan(tmp_path / "scan.h5", Scan(counts, CAMERA, radionuclide="Tc-99m"))
    run = ("reconstruct", tmp_path / "scan.h5", "--background", 1, "--iterations", 1, "--subsets", 2)
    emrecon(*run, "--out", tmp_path / "plain.h5", check=0)
    options = ("--filter", 12, "--write-config", tmp_path / "run.toml", "--picture", tmp_path / "p.svg")
    done = emrecon(*run, *options, "--out", tmp_path / "soft.h5", check=0)
    assert "filtered with a Gaussian of 12 mm FWHM" in done.stdout
    assert "filter = 12.0" in (tmp_path / "run.toml").read_text()
    (plain, grid), (soft, _) = (formats.read_image(tmp_path / name) for name in ("plain.h5", "soft.h5"))
    assert grid.voxel_size == (4.0, 4.0, 8.0)
    np.testing.assert_allclose(soft, GaussianBlur(grid, 12.0)(plain), rtol=1e-5)
    assert (tmp_path / "p.svg").read_text().startswith("<?xml")
    assert "% of the activity out of the image at its sides" in done.stdout


def test_widths_out_of_range_name_the_option(tmp_path):
    formats.write_scan(tmp_path / "scan.h5", Scan(np.ones(CAMERA.shape, np.float32), CAMERA, 0.1))
    for value in (0, -3, "nan"):
        done = emrecon("reconstruct", tmp_path / "scan.h5", f"--filter={value}", "--out", tmp_path / "x.h5", check=2)
        assert "--filter" in done.stderr
