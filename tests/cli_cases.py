"""The command, run by tests, and what the tests of several of its parts read: a PET scan and events."""

import contextlib
import io
import subprocess
import sys

import numpy as np
from petlink_cases import event, time_tag, write

from emrecon.cli.main import app, main
from emrecon.projectors import AcquisitionModel, PETProjector, PETScanner, PETSinogram, Scan, attenuation_factors
from emrecon.sims import poisson, uniform_cylinder

RING = PETScanner.polygon(sides=16, crystals_per_side=4, radius=80, rings=3, ring_pitch=6, name="small", n_radial=41)
PHANTOM = uniform_cylinder(radius=40, height=20)


def emrecon(*arguments, check=None, cwd="/"):
    """Run the command as a user does, but in this process; `check` is the exit code it must have.

    Returns what it printed and its exit code, by the names of `subprocess.run`.
    """
    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["emrecon", *map(str, arguments)]
    try:
        with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
        code = 0
    except SystemExit as end:
        code = end.code or 0
    finally:
        sys.argv = before
    done = subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())
    assert check in (None, done.returncode), done.stderr
    return done


def emrecon_or_raise(*arguments):
    """Run the command in this process; errors come as they are."""
    app([str(argument) for argument in arguments], standalone_mode=False)


def measured(tof=None):
    """A scan of a water cylinder with factors and background."""
    sinogram = PETSinogram(RING, tof=tof)
    A = PETProjector(sinogram.default_grid(), sinogram)
    grid = sinogram.default_grid()
    mu = PHANTOM.attenuation(grid, 511)
    plain = sinogram.without_tof()
    factors = attenuation_factors(PETProjector(grid, plain), mu)
    model = AcquisitionModel(A, factors if tof is None else factors[:, :, None], 0.5)
    counts = poisson(model(PHANTOM.activity(grid)), seed=0)
    return Scan(counts, sinogram, background=0.5, duration=60.0, radionuclide="F-18", description="cylinder"), mu, grid


def listmode(folder, n=4000):
    """Events of lines through the middle of the mMR, and some delays."""
    rng = np.random.default_rng(0)
    words = [time_tag(0)]
    for prompt in rng.random(n) < 0.9:
        plane, view, radial = rng.integers(0, 64), rng.integers(0, 252), rng.integers(160, 185)
        words.append(event(int(plane), int(view), int(radial), bool(prompt)))
    return write(folder, [*words, time_tag(600)])
