"""`emrecon reconstruct --mu CT`: a folder of a CT in, its attenuation in the image, and a picture of both."""

import numpy as np
import pytest
from cli_cases import emrecon
from ct_cases import CENTRE, FRAME, cylinder, write_ct

from emrecon import formats
from emrecon.projectors import ImageGrid, Scan, SPECTGeometry, SPECTProjector, Study, resample
from emrecon.recon import reconstruct, spect_problem

CT = ImageGrid((26, 24, 18), (8.0, 8.0, 8.0), (-98.0, -310.0, 972.0))
CAMERA = SPECTGeometry.circular(8, 120, (24, 12), 9.0)
STUDY = Study(placement=(10.0, -200.0, 1040.0), frame_of_reference=FRAME)


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mu")
    write_ct(folder / "ct", cylinder(CT), CT)
    write_ct(folder / "two", cylinder(CT), CT)
    write_ct(folder / "two", cylinder(CT), CT, SeriesNumber=9)
    empty = Scan(np.ones(CAMERA.shape, np.float32), CAMERA, 0, 1, None, "Tc-99m", (126.0, 154.0), "", STUDY)
    mu = formats.read_mu(folder / "ct", empty)
    grid = CAMERA.default_grid()
    x, y, _ = grid.coordinates()
    body = np.hypot(x - CENTRE[0] + 10, y - CENTRE[1] - 200) < 50
    counts = 9 * SPECTProjector(grid, CAMERA, mu.values)((body * np.ones(grid.shape)).astype(np.float32))
    scan = Scan(counts, CAMERA, 0.1, 1.0, None, "Tc-99m", (126.0, 154.0), "", STUDY)
    formats.write_scan(folder / "scan.h5", scan)
    formats.write_image(folder / "mu.h5", mu.values, mu.grid)
    return folder, scan


def test_a_folder_of_a_ct(case, tmp_path):
    folder, scan = case
    arguments = ("reconstruct", folder / "scan.h5", "--mu", folder / "ct", "--subsets", 2, "--iterations", 2)
    done = emrecon(*arguments, "--mu-picture", tmp_path / "mu.png", "--out", tmp_path / "a.h5", check=0)
    image, _ = formats.read_image(tmp_path / "a.h5")
    problem = spect_problem(scan, mu=formats.read_mu(folder / "ct", scan), subsets=2)
    np.testing.assert_array_equal(image, reconstruct(problem, iterations=2))
    assert np.median(image[image > 0.5 * image.max()]) == pytest.approx(9, rel=0.1)
    assert "CT of 26x24x18 voxels" in done.stdout
    assert "at 140.5 keV" in done.stdout
    assert (tmp_path / "mu.png").read_bytes()[:4] == b"\x89PNG"
    assert "Doe" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--mu", "two"), 3, "choose one by series= (--mu-series)"),
        (("--mu", "ct", "--mu-series", "77"), 3, "no series '77'"),
        (("--mu", "ct", "--mu-shift", "1,2"), 2, "--mu-shift: '1,2' is not X,Y,Z"),
        (("--mu", "ct", "--mu-unit", "cm"), 2, "--mu-unit: must be '1/cm', '1/mm' or 'hu'"),
        (("--mu", "ct", "--mu-kvp", "0"), 2, "--mu-kvp: must be greater than 0"),
        (("--mu", "mu.h5", "--energy", "140"), 2, "--energy: it is used for a collimator or a CT"),
        (("--mu", "mu.h5", "--mu-remove-bed"), 3, "remove_bed is for CT"),
        (("--mu-cylinder", "50:0.15", "--mu-shift", "1,2,3"), 2, "--mu-shift: it is used along with --mu only"),
    ],
)
def test_what_cannot_be(case, tmp_path, options, code, message):
    folder, _ = case
    given = [folder / part if part in ("ct", "two", "mu.h5") else part for part in options]
    done = emrecon("reconstruct", folder / "scan.h5", *given, "--out", tmp_path / "x.h5", check=code)
    assert message in done.stderr
    assert not (tmp_path / "x.h5").exists()


def test_options_of_a_ct_count(case, tmp_path):
    folder, _ = case
    more = ("--mu-series", 9, "--mu-shift", "9,0,0", "--mu-kvp", 140, "--energy", 150, "--mu-remove-bed")
    run = ("reconstruct", folder / "scan.h5", "--mu", folder / "two", *more, "--iterations", 1, "--subsets", 2)
    done = emrecon(*run, "--out", tmp_path / "b.h5", "--write-config", tmp_path / "b.toml", check=0)
    for words in ("140 kV is taken as told", "moved by 9 mm to the left", "removed", "at 150 keV"):
        assert words in done.stdout
    again = emrecon(*run[:2], "--config", tmp_path / "b.toml", "--out", tmp_path / "c.h5", check=0)
    assert "at 150 keV" in again.stdout
    np.testing.assert_array_equal(*(formats.read_image(tmp_path / f"{name}.h5")[0] for name in "bc"))


def test_a_ct_as_guide_lies_where_it_belongs(case, tmp_path):
    folder, _ = case
    run = ("reconstruct", folder / "scan.h5", "--method", "kem", "--kernel", "8,3", "--iterations", 1, "--subsets", 2)
    emrecon(*run, "--guide", folder / "ct", "--out", tmp_path / "a.h5", check=0)
    grid = CAMERA.default_grid()
    shifted = ImageGrid(CT.shape, CT.voxel_size, tuple(np.subtract(CT.origin, STUDY.placement)))
    formats.write_image(tmp_path / "guide.h5", resample(cylinder(CT).astype(np.float32), shifted, grid), grid)
    emrecon(*run, "--guide", tmp_path / "guide.h5", "--out", tmp_path / "b.h5", check=0)
    np.testing.assert_allclose(*(formats.read_image(tmp_path / f"{name}.h5")[0] for name in "ab"), rtol=1e-5)
