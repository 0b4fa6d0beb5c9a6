"""The command line: what it writes, what it prints, and its exit codes."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from cli_cases import emrecon

from emrecon import formats
from emrecon.cli import demo as demo_command
from emrecon.cli import demo_brain
from emrecon.projectors import ImageGrid, LinearResponse, Scan, SPECTGeometry, SPECTProjector
from emrecon.recon import PoissonLikelihood, osem, run
from emrecon.sims import poisson, uniform_cylinder

GRID = ImageGrid((24, 24, 8), 4.0)
CAMERA = SPECTGeometry.circular(16, 80, (24, 8), 4.0, direction="cw")
PHANTOM = uniform_cylinder(radius=35, height=28)


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    """A small scan as Interfile and as HDF5."""
    folder = tmp_path_factory.mktemp("scan")
    system = SPECTProjector(GRID, CAMERA, PHANTOM.attenuation(GRID, 140.5), LinearResponse(0.03, 2.0))
    counts = poisson(20 * system(PHANTOM.activity(GRID)), seed=0).astype(np.float32)
    scan = Scan(counts, CAMERA, radionuclide="Tc-99m")
    formats.write_scan(folder / "scan.h5", scan)
    formats.write_interfile(folder / "scan.hs", scan)
    formats.write_image(folder / "mu.nii.gz", PHANTOM.attenuation(GRID, 140.5), GRID)
    return folder


@pytest.mark.slow
def test_reconstruct_is_what_the_library_does(scan, tmp_path):
    out = tmp_path / "image.nii.gz"
    emrecon(
        *("reconstruct", scan / "scan.hs", "--mu", scan / "mu.nii.gz", "--response", "0.03,2"),
        *("--subsets", 4, "--iterations", 3, "--background", 0.1, "--out", out),
        *("--picture", tmp_path / "image.png", "--log", tmp_path / "log.json"),
        check=0,
    )
    image, grid = formats.read_image(out)
    counts = formats.read_scan(scan / "scan.hs").counts
    system = SPECTProjector(GRID, CAMERA, PHANTOM.attenuation(GRID, 140.5), LinearResponse(0.03, 2.0))
    from emrecon.projectors import AcquisitionModel

    expected = run(osem(PoissonLikelihood(counts, AcquisitionModel(system, background=0.1)), n_subsets=4), 3)
    np.testing.assert_allclose(image, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(grid.affine, GRID.affine, atol=1e-4)
    assert (tmp_path / "image.png").read_bytes().startswith(b"\x89PNG")
    assert [row["iteration"] for row in json.loads((tmp_path / "log.json").read_text())] == [1, 2, 3]


@pytest.mark.parametrize(
    ("nuclide", "window", "options", "shown"),
    [
        ("Lu-177", (101.7, 124.3), (), "Lu-177, 113 keV, window 101.7 to 124.3 keV"),
        ("I-131", None, (), "note: the septa of siemens-lehr let 6"),
        ("Y-90", (50, 250), ("--energy", 150), "note: the response is of 150 keV, and Y-90 has no photon line"),
        (None, None, ("--energy", 140), "radionuclide not known"),
    ],
)
def test_the_photons_in_the_window_are_modelled(scan, tmp_path, nuclide, window, options, shown):
    counts = formats.read_scan(scan / "scan.h5").counts
    formats.write_scan(tmp_path / "s.h5", Scan(counts, CAMERA, 0.1, radionuclide=nuclide, energy_window=window))
    run = ("reconstruct", tmp_path / "s.h5", "--collimator", "siemens-lehr", "--iterations", 1, "--out")
    assert shown in emrecon(*run, tmp_path / "x.h5", *options, check=0).stdout
    if options:  # without them the energy is not known
        refused = emrecon(*run, tmp_path / "y.h5")
        assert refused.returncode != 0
        assert "--energy KEV" in " ".join(refused.stderr.split())


@pytest.mark.parametrize("source", ["scan.hs", "scan.h5"])
@pytest.mark.parametrize(
    "options",
    [(), ("--mu-cylinder", "35:0.15"), ("--collimator", "siemens-lehr"), ("--voxel", "8"), ("--tolerance", "1.0")],
)
def test_options_are_accepted(scan, tmp_path, source, options):
    done = emrecon(
        "reconstruct",
        scan / source,
        *options,
        "--background",
        0.1,
        "--iterations",
        2,
        "--out",
        tmp_path / "i.h5",
        check=0,
    )
    assert "SPECTProjector" in done.stdout
    assert formats.read_image(tmp_path / "i.h5")[0].max() > 0


def test_quiet_prints_nothing(scan, tmp_path):
    done = emrecon("reconstruct", scan / "scan.h5", "-q", "--background", 0.1, "--out", tmp_path / "i.nii", check=0)
    assert done.stdout == ""
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("reconstruct",), 2, "Missing argument"),
        (("reconstruct", "nowhere.hs"), 3, "does not exist"),
        (("reconstruct", "SCAN", "--response", "wide"), 2, "SLOPE,INTERCEPT"),
        (("reconstruct", "SCAN", "--mu-cylinder", "99"), 2, "RADIUS:MU"),
        (("reconstruct", "SCAN", "--collimator", "best"), 2, "unknown collimator"),
        (("reconstruct", "SCAN", "--response", "0,1", "--collimator", "ge-lehr"), 2, "not both"),
        (("reconstruct", "SCAN", "--subsets", "99"), 2, "only 16 views"),
        (("reconstruct", "SCAN", "--energy", "0", "--collimator", "ge-lehr"), 2, "energy"),
        (("reconstruct", "SCAN", "--out", "SCAN"), 4, "would replace an input"),
        (("reconstruct", "SCAN", "--out", "a.nii", "--picture", "a.nii"), 4, "would replace"),
        (("reconstruct", "SCAN", "--header", "radius"), 2, "NAME=VALUE"),
        (("reconstruct", "SCAN", "--header", "colour=red"), 3, "colour"),
        (("reconstruct", "SCAN", "--header", "radius=-5"), 3, "radius"),
        (("reconstruct", "SCAN", "--out", "/nowhere/image.nii"), 4, "folder does not exist"),
        (("reconstruct", "SCAN", "--out", "image.jpg"), 2, "jpg"),
        (("reconstruct", "SCAN", "--mu", "SCAN"), 3, ""),
        (("reconstruct", "SCAN", "--device", "toaster"), 2, "cuda"),
        (("info", "nowhere.nii"), 3, "does not exist"),
        (("dance",), 2, "No such command"),
    ],
)
def test_mistakes_get_one_clear_line_and_a_code(scan, tmp_path, arguments, code, message):
    arguments = [str(scan / "scan.hs") if a == "SCAN" else a for a in arguments]
    extra = ["--background", "0.1"] if "SCAN" in arguments else []
    done = emrecon(*arguments, *extra, check=code, cwd=tmp_path)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir()), "no partial output"


def test_counts_that_nothing_explains_are_an_error(scan, tmp_path):
    raw = formats.read_scan(scan / "scan.h5")
    counts = np.array(raw.counts)
    counts[:, 0, 0] = 5
    formats.write_scan(tmp_path / "s.h5", Scan(counts, raw.geometry))
    done = emrecon("reconstruct", tmp_path / "s.h5", "--voxel", 2, "--header", "x=1", check=3)
    assert "cannot be replaced" in done.stderr


def test_a_killed_run_goes_on_exactly(scan, tmp_path):
    common = ("reconstruct", scan / "scan.h5", "--background", 0.1, "--subsets", 4)
    emrecon(*common, "--iterations", 5, "--out", tmp_path / "whole.h5", check=0)
    half = ("--checkpoint", tmp_path / "state.npz", "--out", tmp_path / "parts.h5", "--log", tmp_path / "log.csv")
    emrecon(*common, "--iterations", 2, *half, check=0)
    done = emrecon(*common, "--iterations", 5, *half, check=0)
    assert "going on after iteration 2" in done.stdout
    assert [line[0] for line in (tmp_path / "log.csv").read_text().splitlines()] == ["i", "1", "2", "3", "4", "5"]
    whole, parts = (formats.read_image(tmp_path / name)[0] for name in ("whole.h5", "parts.h5"))
    np.testing.assert_array_equal(whole, parts)
    for change in (("--subsets", 8), ("--mu-cylinder", "30:0.1"), ("--voxel", 8)):
        other = emrecon(*common, "--iterations", 5, *half, *change, check=3)
        assert "another run" in other.stderr
    assert "behind it already" in emrecon(*common, "--iterations", 3, *half, check=2).stderr


def test_a_turned_camera_is_another_run(scan, tmp_path):
    common = ("reconstruct", scan / "scan.hs", "--background", 0.1, "--checkpoint", tmp_path / "c.npz")
    emrecon(*common, "--iterations", 1, "--out", tmp_path / "a.nii", check=0)
    done = emrecon(*common, "--iterations", 2, "--out", tmp_path / "a.nii", "--header", "start_angle=90", check=3)
    assert "another run" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_ctrl_c_leaves_a_checkpoint_and_no_partial_image(scan, tmp_path):
    state = tmp_path / "state.npz"
    # where the tests themselves run in the background, SIGINT is ignored, and children inherit that
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code += "; from emrecon.cli.main import main; main()"
    command = [sys.executable, "-c", code, "reconstruct", str(scan / "scan.h5"), "--background", "0.1"]
    command += ["--iterations", "100000", "--checkpoint", str(state), "--out", str(tmp_path / "i.nii")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    try:
        deadline = time.monotonic() + 60
        while not state.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    said = error.splitlines()[-1]  # lines on a slow run's progress may come before
    assert said == f"emrecon: interrupted; the same command goes on from the checkpoint {state}"
    assert "Traceback" not in error
    assert [path.name for path in tmp_path.iterdir()] == ["state.npz"]


def test_info_describes_files_and_the_machine(scan):
    assert "16" in emrecon("info", scan / "scan.hs", check=0).stdout
    assert "Tc-99m" in emrecon("info", scan / "scan.h5", check=0).stdout
    text = emrecon("info", check=0).stdout
    for fact in ("numba", "CPU threads", "GPU", "emrecon[cuda12]"):
        assert fact in text


def rows_of(text):
    """The cells of all rows of the tables in a text."""
    return [line.split("│") for line in text.splitlines() if line.startswith("│")]


@pytest.mark.slow
def test_the_demo_shows_what_corrections_are_worth(tmp_path, monkeypatch):
    monkeypatch.setattr(demo_command, "_GRID", ImageGrid((48, 48, 48), (8.8, 8.8, 4.42)))
    monkeypatch.setattr(demo_command, "_CAMERA", SPECTGeometry.circular(40, 150, (48, 48), (8.8, 4.42)))
    done = emrecon("demo", "--out", tmp_path / "demo", "--iterations", 4, check=0)
    assert (tmp_path / "demo" / "demo.png").stat().st_size > 20_000
    assert (tmp_path / "demo" / "brain.png").stat().st_size > 20_000
    rows = rows_of(done.stdout)
    error = {row[1].strip(): float(row[2]) for row in rows}
    uniformity = {row[1].strip(): float(row[3]) for row in rows}
    noise = {row[1].strip(): float(row[4]) for row in rows}
    assert error["attenuation"] < error["no correction"]
    assert noise["attenuation + response"] < noise["attenuation"]
    assert uniformity["no correction"] < 0.8 < uniformity["attenuation"]
    assert formats.read_scan(tmp_path / "demo" / "scan.h5").radionuclide == "Tc-99m"
    assert demo_command._GRID.shape == formats.read_image(tmp_path / "demo" / "attenuation.nii.gz")[0].shape


METHODS = ["OSEM", "OSEM + Gaussian", "MAP-RDP", "FBSEM-Net", "FBSEM-Net, wrong MR"]
WITHOUT = """
import sys
missing = sys.argv.pop(1)
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == missing:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Missing())
from emrecon.cli.main import main
main()
"""


def test_the_demo_of_a_brain(tmp_path, capsys):
    pytest.importorskip("safetensors.torch")
    demo_brain.demo_brain(tmp_path / "demo", seed=0)
    text = capsys.readouterr().out
    rows = rows_of(text)
    assert [row[1].strip() for row in rows] == METHODS
    error, similarity = ({row[1].strip(): float(row[k]) for row in rows} for k in (2, 3))
    assert error["MAP-RDP"] < error["OSEM"]
    assert similarity["MAP-RDP"] > similarity["OSEM"]
    assert error["FBSEM-Net"] < 0.5 * error["MAP-RDP"]
    assert similarity["FBSEM-Net"] > similarity["MAP-RDP"]
    assert error["FBSEM-Net, wrong MR"] > error["MAP-RDP"]
    assert int(rows[3][5].replace(",", "")) > 10_000
    assert "pip install" not in text
    assert sorted(path.name for path in (tmp_path / "demo").iterdir()) == ["brain.png", "scan-brain.h5"]


def test_the_seed_of_the_brain_is_that_of_the_noise():
    first, again, other = (demo_brain.simulate(seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.scan.counts, again.scan.counts)
    assert not np.array_equal(first.scan.counts, other.scan.counts)
    for name in ("truth", "mr", "other_mr"):
        np.testing.assert_array_equal(getattr(first, name), getattr(other, name))


@pytest.mark.parametrize("package", ["torch", "safetensors"])
@pytest.mark.slow
def test_the_demo_of_a_brain_without_torch(tmp_path, monkeypatch, package):
    if package == "torch":  # a process that has never seen it
        command = [sys.executable, "-c", WITHOUT, package, "demo", "--brain", "--seed", "3", "--out", str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    else:
        monkeypatch.setitem(sys.modules, "safetensors.torch", None)
        done = emrecon("demo", "--brain", "--seed", "3", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert [row[1].strip() for row in rows_of(done.stdout)] == METHODS[:3]
    left_out = 'FBSEM-Net is left out because it needs torch and safetensors: pip install "emrecon[learned]"\n'
    assert left_out in done.stdout
    assert (tmp_path / "brain.png").stat().st_size > 20_000
    assert formats.read_scan(tmp_path / "scan-brain.h5").radionuclide == "F-18"


def test_there_is_one_demo_at_a_time(tmp_path):
    done = emrecon("demo", "--pet", "--brain", "--out", tmp_path / "demo", check=2)
    assert "not both" in done.stderr
    assert not list(tmp_path.iterdir())
