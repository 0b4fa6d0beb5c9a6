"""Beds, frames and gates from the command line: one image of all, and what belongs to each part."""

import json
from dataclasses import replace

import numpy as np
import pytest
from bed_cases import RESPONSE, beds_of, body, camera
from cli_cases import emrecon

from emrecon import formats, recon
from emrecon.projectors import BedScan, DynamicScan, Frames, GatedScan, SPECTProjector

QUICK = ("--response", "0.03,2", "--subsets", 2, "--iterations", 2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A file of each container, and the map of two of them."""
    folder = tmp_path_factory.mktemp("parts")
    activity, mu, grid = body(4)
    formats.write_image(folder / "mu.nii", mu, grid)
    seen, about = camera(4), {"background": 0.1, "factors": 0.5, "radionuclide": "Tc-99m"}
    frames = Frames.from_durations([60, 120])
    empty = DynamicScan(np.zeros((2, *seen.shape)), seen, frames, **about)
    expected = empty.model(SPECTProjector(grid, seen, mu, RESPONSE))(np.stack([activity, 2 * activity]))
    counts = np.random.default_rng(0).poisson(expected).astype(np.float32)
    formats.write_dynamic(folder / "frames.h5", DynamicScan(counts, seen, frames, **about))
    formats.write_dynamic(folder / "gates.h5", GatedScan(counts, seen, np.array([2.0, 3]), **about))
    formats.write_beds(folder / "beds.h5", beds_of(2, durations=[10, 20], pauses=1800, seed=0))
    return folder


def shown(done):
    return " ".join(f"{done.stdout} {done.stderr}".replace("│", " ").split())


@pytest.mark.parametrize("combine", [None, "joint"])
def test_beds(folder, tmp_path, combine):
    scan = formats.read_beds(folder / "beds.h5")
    more = ("--log", tmp_path / "run.csv", "--checkpoint", tmp_path / "run.npz", "--picture", tmp_path / "a.png")
    asked = () if combine is None else ("--beds", combine)
    done = emrecon("reconstruct", folder / "beds.h5", *QUICK, *asked, *more, "--out", tmp_path / "a.h5", check=0)
    image, grid = formats.read_image(tmp_path / "a.h5")
    assert grid == scan.default_grid()
    assert "relative to bed 1: 1, 1.8" in shown(done)
    options = {"response": RESPONSE, "subsets": 2}
    if combine is None:
        problems = recon.bed_problems(scan, **options)
        expected, _ = recon.stitch([recon.reconstruct(problem, iterations=2) for problem in problems], problems)
        kept = {"run-bed-1.csv", "run-bed-2.csv", "run-bed-1.npz", "run-bed-2.npz"}
        assert "bed 2 of 2" in done.stdout
    else:
        expected = recon.reconstruct(recon.beds_problem(scan, **options), iterations=2)
        kept = {"run.csv", "run.npz"}
    np.testing.assert_allclose(image, expected, rtol=1e-5, atol=1e-6)
    assert {path.name for path in tmp_path.glob("run*")} == kept
    emrecon("reconstruct", folder / "beds.h5", *QUICK, *asked, *more, "--out", tmp_path / "b.h5", check=0)
    np.testing.assert_array_equal(formats.read_image(tmp_path / "b.h5")[0], image)


def test_frames_are_a_4d_image_with_times(folder, tmp_path):
    done = emrecon(
        *("reconstruct", folder / "frames.h5", "--mu", folder / "mu.nii", *QUICK),
        *("--out", tmp_path / "a.nii.gz", "--picture", tmp_path / "a.png"),
        check=0,
    )
    assert "2 frames of 60 to 120 s" in shown(done)
    assert "mean of 2 frames" in shown(done)
    image, _ = formats.read_image(tmp_path / "a.nii.gz")
    assert image.shape == (2, 16, 16, 4)
    said = json.loads((tmp_path / "a.json").read_text())
    assert said["FrameTimesStart"] == [0, 60]
    assert said["ImageDecayCorrectionTime"] == 0
    inner = image[:, 6:10, 6:10].mean((1, 2, 3))
    assert inner[1] / inner[0] == pytest.approx(2, rel=0.1)
    assert "2 frames" in emrecon("info", tmp_path / "a.nii.gz", check=0).stdout


def test_what_follows_one_image_goes_one_by_one(folder, tmp_path):
    done = emrecon(
        *("reconstruct", folder / "frames.h5", *QUICK, "--method", "bsrem", "--prior", "quadratic:0.01", "--kappa"),
        *("--out", tmp_path / "a.h5", "--checkpoint", tmp_path / "c.npz"),
        check=0,
    )
    assert "frame 2 of 2" in done.stdout
    assert formats.read_image(tmp_path / "a.h5")[0].shape == (2, 16, 16, 4)
    assert (tmp_path / "c-frame-2.npz").exists()


@pytest.mark.parametrize("wanted", ["each", "summed"])
def test_gates(folder, tmp_path, wanted):
    emrecon("reconstruct", folder / "gates.h5", *QUICK, "--gates", wanted, "--out", tmp_path / "a.h5", check=0)
    image, _ = formats.read_image(tmp_path / "a.h5")
    scan = formats.read_gated(folder / "gates.h5")
    scan = scan if wanted == "each" else scan.summed()
    expected = recon.reconstruct(recon.spect_problem(scan, response=RESPONSE, subsets=2), iterations=2)
    np.testing.assert_allclose(image, expected, rtol=1e-5, atol=1e-6)
    assert (formats.read_times(tmp_path / "a.h5") is not None) is (wanted == "each")
    assert formats.describe(tmp_path / "a.h5")["units"] == "counts/s"  # the time of a gate is in its model


@pytest.mark.parametrize(
    ("file", "options", "said"),
    [
        ("frames.h5", ("--beds", "joint"), "it is for scans of several beds, and this is one of the dynamic scans"),
        ("frames.h5", ("--gates", "each"), "it is for gated scans"),
        ("beds.h5", ("--frames", "summed"), "it is for dynamic scans"),
        ("beds.h5", ("--beds", "both"), "must be 'stitched' or 'joint'"),
        ("beds.h5", ("--multiplicative", "m.h5"), "a file is of one bed"),
        ("gates.h5", ("--out", "a.hv"), "do not go into one Interfile image"),
    ],
)
def test_what_does_not_go_together(folder, tmp_path, file, options, said):
    done = emrecon("reconstruct", folder / file, *options, cwd=tmp_path, check=2)
    assert said in shown(done)


def test_terms_of_frames(folder, tmp_path):
    scan = formats.read_gated(folder / "gates.h5")
    scatter = replace(scan, counts=np.full_like(scan.counts, 0.5) * np.array([1, 3], "f4")[:, None, None, None])
    formats.write_dynamic(tmp_path / "scatter.h5", scatter)
    out = ("--out", tmp_path / "a.h5", *QUICK)
    emrecon("reconstruct", folder / "gates.h5", "--scatter", tmp_path / "scatter.h5", *out, check=0)
    whole = replace(scan, background=0.1 + scatter.counts)
    expected = recon.reconstruct(recon.spect_problem(whole, response=RESPONSE, subsets=2), iterations=2)
    np.testing.assert_allclose(formats.read_image(tmp_path / "a.h5")[0], expected, rtol=1e-4, atol=1e-6)
    formats.write_scan(tmp_path / "one.h5", replace(scan.gate(0), factors=1.0))
    done = emrecon("reconstruct", folder / "gates.h5", "--scatter", tmp_path / "one.h5", *out, check=2)
    assert "holds the counts of one scan" in shown(done)
    formats.write_dynamic(
        tmp_path / "three.h5", GatedScan(np.ones((3, *scan.geometry.shape)), scan.geometry, np.ones(3))
    )
    done = emrecon("reconstruct", folder / "gates.h5", "--scatter", tmp_path / "three.h5", *out, check=3)
    assert "holds 3 frames or gates, and the scan has 2" in shown(done)


def test_gaps_are_told(folder, tmp_path):
    scan = formats.read_beds(folder / "beds.h5")
    far = replace(scan[1], geometry=replace(scan[1].geometry, axial_shift=80.0))
    formats.write_beds(tmp_path / "far.h5", BedScan((scan[0], far)))
    done = emrecon("reconstruct", tmp_path / "far.h5", *QUICK, "--out", tmp_path / "a.h5", check=0)
    assert "leave a gap: nothing looks at z" in shown(done)
