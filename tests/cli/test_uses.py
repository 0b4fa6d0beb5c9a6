"""The table of options: every option is in it, and what it says is what the command does."""

import numpy as np
import pytest
from cli_cases import emrecon, listmode, measured

from emrecon import formats
from emrecon.cli import learned
from emrecon.cli.reconstruct import config, uses
from emrecon.projectors import Scan, SPECTGeometry
from emrecon.recon import METHODS

CAMERA = SPECTGeometry.circular(4, 40, (8, 4), 5.0)
GIVEN = {  # a value for every option that takes one
    "header": "a=1",
    "max_ring_difference": 1,
    "beds": "joint",
    "frames": "summed",
    "gates": "summed",
    "mu": "mu.nii",
    "mu_series": "4",
    "mu_unit": "hu",
    "mu_kvp": 120,
    "mu_shift": "0,0,1",
    "mu_cylinder": "20:0.1",
    "psf": 4,
    "voxel": 8,
    "collimator": "siemens-lehr",
    "response": "0.03,2",
    "energy": 140,
    "intrinsic": 3.8,
    "background": 1,
    "multiplicative": "m.hs",
    "additive": "a.hs",
    "randoms": "r.hs",
    "scatter": "s.hs",
    "peak": "140",
    "scatter_smoothing": 10,
    "dew_k": "0.5",
    "energy_resolution": 0.1,
    "unit": "suv",
    "calibration": 90,
    "calibration_phantom": "a.h5:100",
    "dead_time": "1e-6",
    "decay_to": "start",
    "started_at": "2026-01-31T10:00",
    "injected_at": "2026-01-31T09:00",
    "injected": 500,
    "weight": 70,
    "norm": "a.n.hdr",
    "prior": "rdp:1,2",
    "guide": "mr.nii",
    "neighbours": 6,
    "kernel": "4,3,1",
    "order": "random",
    "subsets": 2,
    "iterations": 1,
    "tolerance": 1e-3,
    "weights": "a.safetensors",
    "network": "chain",
    "known": "total:3",
    "known_region": "body.nii",
    "body": "body.nii",
    "mu_prior": "quadratic:1",
    "filter": 8,
    "picture": "a.png",
    "mu_picture": "m.png",
    "uncertainty": "sd.nii",
    "mu_out": "mu.nii",
    "report": "r.html",
    "masks": "organs.nii",
    "log": "a.csv",
    "checkpoint": "a.npz",
    "device": "cpu",
    "scratch": ".",
    "rank_timeout": 9,
}


def shown(done):
    return " ".join(done.stderr.replace("│", " ").split())


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A file of each kind of data."""
    folder = tmp_path_factory.mktemp("sources")
    counts = np.ones(CAMERA.shape, np.float32)
    formats.write_scan(folder / "spect.h5", Scan(counts, CAMERA, background=0.1, radionuclide="Tc-99m"))
    formats.write_scan(folder / "pet.h5", measured()[0])
    events = listmode(folder, 40)
    return {uses.SPECT: folder / "spect.h5", uses.SINOGRAM: folder / "pet.h5", uses.LISTMODE: events}


def test_every_option_is_in_the_table():
    fields = {name for panel in config.PANELS.values() for name in panel.model_fields}
    assert set(uses.USES) == fields - {"projections", "method", "out"}
    assert set(GIVEN) == set(uses.USES) - {
        "kappa",
        "quiet",
        "mu_remove_bed",
        "view_decay",
        "timed_factors",
        "without_tof",
    }


def test_every_method_has_a_family():
    families = {name: uses.family_of(name) for name in (*METHODS, *learned.METHODS)}
    assert set(families.values()) == {uses.PLAIN, uses.TRAINED, uses.DEEP, uses.JOINT}


@pytest.mark.slow
@pytest.mark.parametrize("kind", [uses.SPECT, uses.SINOGRAM, uses.LISTMODE])
def test_options_of_other_data_are_refused(sources, tmp_path, kind):
    for name, use in uses.USES.items():
        if name not in GIVEN or uses.PLAIN not in use.methods or (kind in use.data and use.needs is None):
            continue
        option = "--" + name.replace("_", "-")
        run = ("reconstruct", sources[kind], option, GIVEN[name], "--out", tmp_path / "x.h5")
        done = emrecon(*run, check=2)
        assert option in done.stderr
        needs = " or ".join(f"--{one.replace('_', '-')}" for one in (use.needs or "").split(" or "))
        why = f"used along with {needs}" if kind in use.data else f"and this is {kind}"
        assert why in shown(done) or "needs a prior" in shown(done) or "priors on pairs" in shown(done), name


@pytest.mark.parametrize("method", ["osem", "mapem-net", "dip-ot"])
def test_options_of_other_methods_are_refused(sources, tmp_path, method):
    family = uses.family_of(method)
    for name, use in uses.USES.items():
        if name not in GIVEN or family in use.methods:
            continue
        option = "--" + name.replace("_", "-")
        run = ("reconstruct", sources[uses.SPECT], "--method", method, option, GIVEN[name], "--out", tmp_path / "x.h5")
        done = emrecon(*run, check=2)
        assert option in done.stderr
        assert f"{method} does not use it; it is for {' and '.join(use.methods)}" in shown(done), name


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--tolerance", -1, "must be greater than or equal to 0, got -1"),
        ("--tolerance", "nan", "a finite number, got nan"),
        ("--voxel", 0, "must be greater than 0"),
        ("--voxel", "inf", "finite number"),
        ("--background", -0.5, "must be greater than or equal to 0, got -0.5"),
        ("--energy", -140, "must be greater than 0"),
        ("--psf", -4, "must be greater than or equal to 0"),
        ("--max-ring-difference", -1, "must be greater than or equal to 0"),
    ],
)
def test_numbers_out_of_range_name_the_option(sources, tmp_path, option, value, message):
    done = emrecon("reconstruct", sources[uses.SPECT], f"{option}={value}", "--out", tmp_path / "x.h5", check=2)
    assert option in done.stderr
    assert message in shown(done)
