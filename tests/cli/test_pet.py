"""The command line on PET data: sinograms, list-mode, and what does not fit."""

from dataclasses import replace

import numpy as np
import pytest
from cli_cases import PHANTOM, RING, emrecon, listmode, measured
from stir_cases import ABSORBER, PROMPTS, SINGLE_BLOCKS, SLICES, arc_sinogram, ring_map, sinogram, stir_pair

from emrecon import formats
from emrecon.formats.interfile.scanners import Circle
from emrecon.projectors import (
    AcquisitionModel,
    EquallySpacedLines,
    GaussianBlur,
    ImageGrid,
    PETProjector,
    PETScanner,
    PETSinogram,
    Scan,
    TimeOfFlight,
    attenuation_factors,
)
from emrecon.recon import PoissonLikelihood, nrmse, osem, run


@pytest.mark.parametrize("tof", [None, TimeOfFlight(5, 40.0, 60.0)])
def test_reconstruct_is_what_the_library_does(tmp_path, tof):
    scan, mu, grid = measured(tof)
    formats.write_scan(tmp_path / "scan.h5", scan)
    formats.write_image(tmp_path / "mu.h5", mu, grid)
    options = ("--mu", tmp_path / "mu.h5", "--psf", 5, "--subsets", 4, "--iterations", 2)
    done = emrecon("reconstruct", tmp_path / "scan.h5", *options, "--out", tmp_path / "x.h5", check=0)
    assert "PETProjector" in done.stdout
    image, own_grid = formats.read_image(tmp_path / "x.h5")
    assert own_grid == grid
    sinogram = scan.geometry
    factors = attenuation_factors(PETProjector(grid, sinogram.without_tof()), mu) * sinogram.multiplicity()
    system = PETProjector(grid, sinogram) @ GaussianBlur(grid, 5.0)
    model = AcquisitionModel(system, factors if tof is None else factors[:, :, None], 0.5)
    likelihood = PoissonLikelihood(scan, model)
    start = (likelihood.sensitivity > 0).astype(np.float32)
    assert nrmse(image, run(osem(likelihood, start, 4), 2)) < 1e-5
    assert 0.8 < image[np.hypot(*grid.coordinates()[:2])[:, :, 0] < 30].mean() < 1.2


def test_interfile_sinograms_and_checkpoints(tmp_path):
    scan, _, _ = measured()
    formats.write_interfile_pet(tmp_path / "scan.hs", scan.counts, scan.geometry, approximate=True)
    options = ("--background", 0.5, "--subsets", 2, "--quiet")
    whole, parts = tmp_path / "whole.h5", tmp_path / "parts.h5"
    emrecon("reconstruct", tmp_path / "scan.hs", *options, "--iterations", 2, "--out", whole, check=0)
    for n in (1, 2):
        more = ("--checkpoint", tmp_path / "c.npz", "--iterations", n, "--out", parts)
        emrecon("reconstruct", tmp_path / "scan.hs", *options, *more, check=0)
    np.testing.assert_array_equal(formats.read_image(whole)[0], formats.read_image(parts)[0])
    info = emrecon("info", tmp_path / "scan.hs", check=0).stdout
    assert "radial bins" in info
    assert "32" in info


def test_a_pair_of_stir_keeps_its_ends(tmp_path):
    """Activity and absorber at different ends: the image has STIR's planes, and the map is taken where it belongs."""
    y, x = np.mgrid[-6:7, -6:7]
    body = (np.hypot(x, y) < 4).astype(np.float32)
    activity = body * np.where(np.arange(SLICES) < 5, 2, 1)[:, None, None]
    mu = body * np.where(np.arange(SLICES) > 5, 0.1, 0.0)[:, None, None].astype(np.float32)
    lines, absorbed = 100 * sinogram(activity), np.exp(-sinogram(mu))
    profiles = []
    for counts, more in ((lines * absorbed, True), (lines, False)):
        prompts, map_path = stir_pair(tmp_path, mu, values=counts)
        options = ("--voxel", 6, "--background", 0.01, "--subsets", 2, "--iterations", 6, "--quiet")
        options += ("--mu", map_path) if more else ()
        emrecon("reconstruct", prompts, *options, "--out", tmp_path / "x.hv", check=0)
        image, grid = formats.read_image(tmp_path / "x.hv")
        file = np.fromfile(tmp_path / "x.v", "<f4").reshape(grid.shape[::-1])  # [z][y][x]
        np.testing.assert_array_equal(file, image[:, :, ::-1].T)
        profiles.append(file.mean((1, 2)))
    corrected, plain = profiles
    np.testing.assert_allclose(corrected[:2], plain[:2], rtol=0.05)
    assert corrected[2:].sum() == pytest.approx(plain[2:].sum(), rel=0.05)  # the map ends within these slices
    assert plain[0] > 1.6 * plain[-1]


@pytest.mark.parametrize("kind", ["arc corrected", "blocks", "crystal map"])
def test_scanners_that_headers_describe(tmp_path, kind):
    """Arc-corrected data, blocks on a cylinder and a crystal map are reconstructed, with a source where it was."""
    source = np.zeros_like(ABSORBER)
    source[3:6, 5:8, 7:10] = 1.0  # [z][y][x]: in the middle along z, to the left
    header, values = PROMPTS, sinogram(source)
    options = ("--background", 0.01, "--subsets", 2, "--iterations", 2, "--voxel", 12, "--quiet")
    if kind == "arc corrected":
        header = header.replace("{None}", "{arc correction}").replace(
            "!END", "effective central bin size (cm) := 1\n!END"
        )
        values = arc_sinogram(source, 10.0)
    elif kind == "blocks":
        header = header.replace("!END", SINGLE_BLOCKS + "!END")
    else:
        (tmp_path / "map.txt").write_text(ring_map())
        options += ("--header", f"crystal_map={tmp_path / 'map.txt'}")
    prompts, _ = stir_pair(tmp_path, values=100 * values)
    prompts.write_text(header)
    emrecon("reconstruct", prompts, *options, "--out", tmp_path / "x.h5", check=0)
    image, grid = formats.read_image(tmp_path / "x.h5")
    centre = [np.average(np.broadcast_to(c, image.shape), weights=image**2) for c in grid.coordinates()]
    np.testing.assert_allclose(centre, (24, 0, 0), atol=6)


def test_listmode_is_reconstructed(tmp_path):
    path = listmode(tmp_path)
    options = ("--max-ring-difference", 1, "--voxel", 16, "--subsets", 2, "--iterations", 1)
    done = emrecon("reconstruct", path, *options, "--out", tmp_path / "x.h5", "--picture", tmp_path / "x.png", check=0)
    assert "delays" in done.stdout
    image, grid = formats.read_image(tmp_path / "x.h5")
    assert grid.voxel_size == (16, 16, 16)
    x, y, _ = grid.coordinates()
    near = (np.hypot(x, y) < 40)[..., 0]
    assert image[near].mean() > 20 * image[~near].mean()
    assert (tmp_path / "x.png").stat().st_size > 1000
    assert "PETLINK" in emrecon("info", path, check=0).stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--collimator", "siemens-lehr"), "it is for SPECT data, and this is PET sinograms"),
        (("--max-ring-difference", 1), "it is for PET list-mode, and this is PET sinograms"),
        (("--subsets", 99), "only 32 views"),
    ],
)
def test_options_of_other_data_are_refused(tmp_path, options, message):
    scan, _, _ = measured()
    formats.write_scan(tmp_path / "scan.h5", scan)
    done = emrecon("reconstruct", tmp_path / "scan.h5", *options, "--out", tmp_path / "x.h5", check=2)
    assert message in " ".join(done.stderr.replace("│", " ").split())
    assert not (tmp_path / "x.h5").exists()


def test_arc_corrected_sinograms_of_stir_are_reconstructed(tmp_path):
    """A cylinder comes back where its header says: 24 views of 33 bins of 4 mm, which no crystals share."""
    circle = PETScanner(Circle(3, 64, 80.0, 6.0, 0.0).positions())
    sinogram = PETSinogram(circle, n_radial=33, lines=EquallySpacedLines(24, 4.0))
    grid = sinogram.default_grid()
    x, y, _ = grid.coordinates()
    body = (((x - 20) ** 2 + (y + 10) ** 2 < 25**2) * np.ones(grid.shape)).astype(np.float32)
    model = AcquisitionModel(PETProjector(grid, sinogram), sinogram.multiplicity())
    formats.write_interfile_pet(tmp_path / "arc.hs", model(body), sinogram)
    done = emrecon(*("reconstruct", tmp_path / "arc.hs", "--iterations", 6, "--out", tmp_path / "x.h5"), check=0)
    assert "24 views of 33 bins of 4 mm (arc corrected)" in done.stdout
    image, _ = formats.read_image(tmp_path / "x.h5")
    inside = ((x - 20) ** 2 + (y + 10) ** 2 < 17**2)[..., 0]
    assert image[inside].mean() == pytest.approx(1, abs=0.03)
    assert image[body[..., 0] == 0].mean() < 0.06
    assert "arc corrected" in str(formats.read_scan(tmp_path / "arc.hs").geometry)


def test_outputs_never_replace_the_events(tmp_path):
    path = listmode(tmp_path, 10)
    data = tmp_path / "events.l"
    before = path.read_bytes(), data.read_bytes()
    emrecon("reconstruct", path, "--out", path.with_suffix(".hv"), check=4)
    emrecon("reconstruct", path, "--out", tmp_path / "x.h5", "--checkpoint", data, check=4)
    assert (path.read_bytes(), data.read_bytes()) == before


def test_pet_scans_come_back_from_hdf5(tmp_path):
    for tof in (None, TimeOfFlight(5, 40.0, 60.0)):
        scan, _, _ = measured(tof)
        part = scan.subset(1, 3)
        for original in (scan, part):
            formats.write_scan(tmp_path / "a.h5", original)
            again = formats.read_scan(tmp_path / "a.h5")
            assert again.geometry == original.geometry
            np.testing.assert_array_equal(again.counts, original.counts)
            assert (again.duration, again.radionuclide) == (60.0, "F-18")
    vision = PETSinogram(PETScanner.named("vision600"), 4, 3, PETScanner.named("vision600").time_of_flight, mashing=3)
    tiny = vision.subset(0, 133)
    formats.write_scan(tmp_path / "v.h5", Scan(np.ones(tiny.shape, np.uint8), tiny))
    assert formats.read_scan(tmp_path / "v.h5").geometry == tiny
    assert "span" in formats.describe(tmp_path / "v.h5")


def test_pet_scans_have_a_natural_grid():
    scan, _, grid = measured()
    assert isinstance(grid, ImageGrid)
    assert scan.default_grid().shape == (41, 41, 5)
    with pytest.raises(ValueError, match="radial"):
        Scan(np.ones((3, 3, 3)), scan.geometry)
    with pytest.raises(ValueError, match="write_interfile_pet"):
        formats.write_interfile("x.hs", scan)


@pytest.mark.slow
def test_the_demo_shows_what_time_of_flight_is_worth(tmp_path, monkeypatch):
    monkeypatch.setattr("emrecon.cli.demo_pet._FINE", ImageGrid((80, 64, 7), (4.0, 4.0, 10.0)))
    done = emrecon("demo", "--pet", "--counts", 8e5, "--iterations", 1, "--out", tmp_path, check=0)
    assert "with time of flight" in done.stdout
    assert (tmp_path / "demo_pet.png").stat().st_size > 10000


def test_factors_of_the_file_hold_the_crystal_pairs(tmp_path):
    sinogram = PETSinogram(RING, span=3, max_ring_difference=1)
    grid = sinogram.default_grid()
    factors = 0.5 * sinogram.multiplicity()
    truth = 3 * PHANTOM.activity(grid)
    counts = factors * PETProjector(grid, sinogram)(truth)
    scan = Scan(counts, sinogram, background=1e-3, factors=factors)
    formats.write_scan(tmp_path / "scan.h5", scan)
    options = ("--subsets", 4, "--iterations", 6, "--quiet", "--out", tmp_path / "x.h5")
    emrecon("reconstruct", tmp_path / "scan.h5", *options, check=0)
    image, _ = formats.read_image(tmp_path / "x.h5")
    inside = np.hypot(*grid.coordinates()[:2])[:, :, 0] < 30
    means = image[inside].mean(0)
    np.testing.assert_allclose(means[1:-1], truth[inside].mean(0)[1:-1], rtol=0.05)
    norm = ("--norm", tmp_path / "n.hdr")
    (tmp_path / "n.hdr").write_text("")
    done = emrecon("reconstruct", tmp_path / "scan.h5", *norm, *options)
    assert done.returncode in (2, 3)


def test_another_background_is_another_run(tmp_path):
    scan, _, _ = measured(TimeOfFlight(5, 40.0, 60.0))
    options = ("--subsets", 2, "--iterations", 1, "--checkpoint", tmp_path / "c.npz", "--out", tmp_path / "x.h5")
    formats.write_scan(tmp_path / "scan.h5", scan)
    emrecon("reconstruct", tmp_path / "scan.h5", *options, check=0)
    wider = PETSinogram(RING, tof=TimeOfFlight(5, 40.0, 90.0))
    for other in (replace(scan, background=0.1), replace(scan, factors=2.0), replace(scan, geometry=wider)):
        formats.write_scan(tmp_path / "scan.h5", other)
        done = emrecon("reconstruct", tmp_path / "scan.h5", *options, check=3)
        assert "another run" in done.stderr


def test_implausible_maps_are_refused_and_empty_subsets_are_fewer(tmp_path):
    scan, _, grid = measured()
    formats.write_scan(tmp_path / "scan.h5", scan)
    formats.write_image(tmp_path / "mu.h5", np.full(grid.shape, 40, np.float32), grid)
    arguments = ("--mu", tmp_path / "mu.h5", "--out", tmp_path / "x.h5")
    done = emrecon("reconstruct", tmp_path / "scan.h5", *arguments, check=2)
    assert "not in 1/cm" in done.stderr
    few = listmode(tmp_path, 4)
    assert not (tmp_path / "x.h5").exists()
    near = ("--max-ring-difference", 1, "--voxel", 20, "--out", tmp_path / "x.h5")
    done = emrecon("reconstruct", few, "--subsets", 9, *near, check=0)
    assert "4 counts are few for 9 subsets" in " ".join((done.stdout + done.stderr).split())
    assert "OSEM with 1 subset," in done.stdout
