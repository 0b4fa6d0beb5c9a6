"""Make the tables of point kernels in water by Monte Carlo, and compare voxel S values with published ones.

python benchmarks/dose_kernels.py --write      recon/dosimetry/electron_kernels.csv and photon_kernels.csv, minutes
python benchmarks/dose_kernels.py              the comparison
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
from scipy.optimize import nnls
from scipy.special import gammainc

from emrecon.recon.dosimetry import voxel_kernel
from emrecon.recon.dosimetry.electron_transport import simulate_electrons
from emrecon.recon.dosimetry.photon_transport import energy_absorption, interaction, simulate_photons
from emrecon.recon.dosimetry.points import BUILD_UP
from emrecon.recon.dosimetry.stopping import electron_range

FOLDER = Path(__file__).resolve().parent.parent / "recon" / "dosimetry"
ELECTRONS = {10: 60000, 20: 60000, 50: 40000, 100: 40000, 200: 25000, 400: 15000, 700: 12000, 1000: 10000}
ELECTRONS |= {1500: 8000, 2300: 6000}
PHOTONS = (5, 10, 15, 20, 30, 40, 50, 60, 80, 100, 150, 200, 300, 400, 600, 800, 1000, 1500, 2500)
PUBLISHED = (
    ("Y-90", (6, 6, 6), (0, 0, 0), 3.46e-1, "MIRD 17"),
    ("Y-90", (3, 3, 3), (0, 0, 0), 1.61, "MIRD 17"),
    ("Y-90", (3, 3, 3), (0, 0, 0), 1.581, "DPM"),
    ("Y-90", (4, 4, 3), (0, 0, 0), 1.013, "DPM"),
    ("Y-90", (6, 6, 6), (5, 5, 5), 1.39e-7, "MIRD 17"),
    ("Y-90", (3, 3, 3), (5, 5, 5), 6.31e-7, "MIRD 17"),
    ("I-131", (6, 6, 6), (0, 0, 0), 1.29e-1, "MIRD 17"),
    ("I-131", (3, 3, 3), (0, 0, 0), 9.2e-1, "MIRD 17"),
    ("I-131", (6, 6, 6), (5, 5, 5), 6.1e-6, "MIRD 17"),
    ("I-131", (3, 3, 3), (5, 5, 5), 2.63e-5, "MIRD 17"),
)
"""Nuclide, mm, voxels away, mGy/(MBq s), from: MIRD pamphlet 17 (Bolch et al. 1999), and the code DPM."""


def electron_table() -> str:
    """Shares of the energy by shells of 0.025 ranges, a column per energy."""
    edges = np.linspace(0, 1.2, 49)
    columns = []
    for energy, n in ELECTRONS.items():
        shares, beyond, radiated = simulate_electrons(energy, edges * float(electron_range(energy)), n, 2024)
        print(f"{energy} keV: {beyond:.2g} beyond 1.2 ranges, {radiated:.3%} radiated", flush=True)
        columns.append(shares / shares.sum())
    lines = ["outer_radius," + ",".join(f"kev_{energy}" for energy in ELECTRONS)]
    lines += [
        f"{edge:.3f}," + ",".join(f"{share:.5g}" for share in row) for edge, row in zip(edges[1:], np.array(columns).T)
    ]
    return "\n".join(lines) + "\n"


def photon_table() -> str:
    """Coefficients of the build-up, fitted to the shares in shells so that no energy is lost."""
    x = np.concatenate([np.linspace(0, 1, 11), np.linspace(1.25, 4, 12), np.linspace(4.5, 10, 12), np.arange(11, 17)])
    lines = ["energy_kev," + ",".join(f"x{power}_{rate:g}" for power, rate in BUILD_UP)]
    for energy in PHOTONS:
        mu, absorbed = float(interaction(energy)), float(energy_absorption(energy))
        n = 10**6
        shares = simulate_photons(energy, x / mu, n, 3)[:-1] * mu / absorbed
        primary = -np.diff(np.exp(-x))
        whole = np.array([math.factorial(k) / a ** (k + 1) for k, a in BUILD_UP])
        terms = np.array([w * np.diff(gammainc(k + 1, a * x)) for (k, a), w in zip(BUILD_UP, whole)])
        weights = 1 / np.sqrt(np.maximum(shares, 1e-7) / n + (0.005 * shares) ** 2 + 1e-14)
        rows = np.vstack([terms.T * weights[:, None], 1e5 * whole])
        found, _ = nnls(rows, np.append((shares - primary) * weights, 1e5 * (mu / absorbed - 1)))
        worst = np.abs((primary + terms.T @ found) / np.maximum(shares, 1e-12) - 1)[
            (x[1:] <= 8) & (shares > 3e-3)
        ].max()
        print(f"{energy} keV: worst shell {worst:.1%}", flush=True)
        lines.append(f"{energy}," + ",".join(f"{value:.5g}" for value in found))
    return "\n".join(lines) + "\n"


def compare() -> None:
    """Print published voxel S values, of soft tissue of 1.04 g/mL, beside the library's."""
    for nuclide, voxel, place, value, source in PUBLISHED:
        found = voxel_kernel(nuclide, voxel, half_width=(5, 5, 5), density=1.04).at(place)
        print(f"{nuclide:6} {voxel} mm {place}  {value:.4g} ({source})  {found:.4g}  {found / value:.3f}")


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="make the tables anew")
    if parser.parse_args().write:
        (FOLDER / "photon_kernels.csv").write_text(photon_table())
        (FOLDER / "electron_kernels.csv").write_text(electron_table())
    compare()


if __name__ == "__main__":
    main()
