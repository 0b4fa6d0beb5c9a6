"""Factors, additive term, randoms and scatter of every bin from files, by command and in Python."""

from dataclasses import replace

import numpy as np
import pytest
from cli_cases import emrecon, measured

from emrecon import formats, recon
from emrecon.formats.interfile.pet import PETSinogramFacts
from emrecon.projectors import PETSinogram, Scan, SPECTGeometry, TimeOfFlight
from emrecon.sims import poisson

RNG = np.random.default_rng(0)
CAMERA = SPECTGeometry.circular(6, 40, (8, 4), 5.0)


def shown(done):
    return " ".join(done.stderr.replace("│", " ").split())


def write_pet(path, values, sinogram):
    facts = PETSinogramFacts(radionuclide="F-18")
    formats.write_interfile_pet(path, values.astype(np.float32), sinogram, facts, approximate=True)


def write_spect(path, values):
    formats.write_interfile(path, Scan(values.astype(np.float32), CAMERA, radionuclide="Tc-99m"))


@pytest.fixture(params=[None, TimeOfFlight(5, 40.0, 60.0)], ids=["plain", "TOF"])
def triple(request, tmp_path):
    """Prompts, factors and additive term as STIR and SIRF have them, and the scan that they make."""
    scan, _, _ = measured(request.param)
    sinogram = scan.geometry
    m = (0.2 + RNG.random(sinogram.without_tof().shape)).astype(np.float32)
    a = (0.1 + RNG.random(sinogram.shape)).astype(np.float32)
    write_pet(tmp_path / "prompts.hs", scan.counts, sinogram)
    write_pet(tmp_path / "m.hs", m, sinogram.without_tof())
    write_pet(tmp_path / "a.hs", a, sinogram)
    return tmp_path, m if request.param is None else m[:, :, None], a


def test_the_triple_of_sirf(triple):
    folder, m, a = triple
    given = ("--multiplicative", folder / "m.hs", "--additive", folder / "a.hs")
    run = ("--subsets", 2, "--iterations", 2, "--quiet", "--out", folder / "x.h5")
    emrecon("reconstruct", folder / "prompts.hs", *given, *run, check=0)
    scan = formats.read_scan(folder / "prompts.hs")
    problem = recon.pet_problem(replace(scan, factors=m, background=m * a), subsets=2)
    expected = recon.reconstruct(problem, "osem", iterations=2)
    np.testing.assert_allclose(formats.read_image(folder / "x.h5")[0], expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(formats.read_term(folder / "m.hs", scan), m)
    np.testing.assert_array_equal(formats.read_term(folder / "a.hs", scan), a)


def test_randoms_scatter_and_background_are_added(triple):
    folder, m, a = triple
    given = ("--multiplicative", folder / "m.hs", "--randoms", folder / "a.hs", "--scatter", folder / "m.hs")
    run = ("--subsets", 2, "--iterations", 1, "--quiet", "--out", folder / "x.h5")
    emrecon("reconstruct", folder / "prompts.hs", *given, "--background", 0.25, *run, check=0)
    scan = replace(formats.read_scan(folder / "prompts.hs"), factors=m, background=a + m + np.float32(0.25))
    expected = recon.reconstruct(recon.pet_problem(scan, subsets=2), "osem", iterations=1)
    np.testing.assert_allclose(formats.read_image(folder / "x.h5")[0], expected, rtol=1e-5, atol=1e-7)


def test_attenuation_beside_the_factors_is_noted(triple):
    folder, _, _ = triple
    given = ("--multiplicative", folder / "m.hs", "--mu-cylinder", "40:0.096")
    run = ("--subsets", 2, "--iterations", 1, "--background", 1, "--out", folder / "x.h5")
    assert "do these hold it already?" in emrecon("reconstruct", folder / "prompts.hs", *given, *run, check=0).stdout


def test_terms_of_spect(tmp_path):
    m, s = (0.5 + RNG.random((2, *CAMERA.shape))).astype(np.float32)
    counts = poisson(20 * np.ones(CAMERA.shape), seed=0).astype(np.float32)
    for name, values in (("scan", counts), ("m", m), ("s", s)):
        write_spect(tmp_path / f"{name}.hs", values)
    given = ("--multiplicative", tmp_path / "m.hs", "--scatter", tmp_path / "s.hs", "--additive", tmp_path / "s.hs")
    run = ("--subsets", 2, "--iterations", 2, "--quiet", "--out", tmp_path / "x.h5")
    emrecon("reconstruct", tmp_path / "scan.hs", *given, *run, check=0)
    scan = replace(formats.read_scan(tmp_path / "scan.hs"), factors=m, background=m * s + s)
    expected = recon.reconstruct(recon.spect_problem(scan, subsets=2), "osem", iterations=2)
    np.testing.assert_allclose(formats.read_image(tmp_path / "x.h5")[0], expected, rtol=1e-5, atol=1e-7)


def test_files_with_other_bins_are_refused(triple):
    folder, _, _ = triple
    scan = formats.read_scan(folder / "prompts.hs")
    plain = scan.geometry.without_tof()
    others = {
        "views 16, not 32": replace(plain, mashing=2, views=None),
        "n radial 21, not 41": replace(plain, n_radial=21),
        "max ring difference 1, not 2": replace(plain, max_ring_difference=1),
    }
    for message, sinogram in others.items():
        write_pet(folder / "other.hs", np.ones(sinogram.shape), sinogram)
        with pytest.raises(formats.FormatError, match=f"other.hs: its bins are not those of the scan: .*{message}"):
            formats.read_term(folder / "other.hs", scan)
        (folder / "other.hs").unlink()
        (folder / "other.s").unlink()
    if scan.geometry.tof is None:
        timed = PETSinogram(plain.scanner, tof=TimeOfFlight(5, 40.0, 60.0))
        formats.write_scan(folder / "timed.h5", Scan(np.ones(timed.shape, np.float32), timed))
        with pytest.raises(formats.FormatError, match="5 TOF bins, not none"):
            formats.read_term(folder / "timed.h5", scan)


def test_negative_and_infinite_terms_are_refused(tmp_path):
    write_spect(tmp_path / "scan.hs", np.ones(CAMERA.shape))
    write_spect(tmp_path / "bad.hs", np.ones(CAMERA.shape))
    for value, message in ((-1, "are negative"), (np.nan, "NaN")):
        np.full(CAMERA.shape, value, "<f4").tofile(tmp_path / "bad.s")
        done = emrecon(
            "reconstruct", tmp_path / "scan.hs", "--scatter", tmp_path / "bad.hs", "--out", tmp_path / "x.h5"
        )
        assert done.returncode != 0
        assert message in shown(done)
