"""Simulate the uniform part of the SimSET scan with SPECTSimulator and compare profiles of the projections.

    python benchmarks/agreement_simulation.py [DATA]

DATA is the folder that holds simset_spect/input.hs, the SimSET scan that STIR distributes: a water cylinder with cold
rods and hot rods, and slices where it is uniform. These are simulated in three dimensions: attenuation of water, the
response of that scan, and scatter by an effective source. The scan's energy window is not known. So a window is stated,
and the amount of its scatter may be fitted: one number. Nor are radius and attenuation known exactly, so the amounts
that fit with others are reported, too.

Profiles are means over all views and the uniform slices, and over both sides of the axis. Their noise is found from the
differences between views; the difference of the two sides, which no model enters, says whether it is right. Within
`compared_radius` everything is normalised to the same counts; the outermost centimetre and a half depend on the exact
radius and are shown only.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from _common import RESULTS, machine, machine_line, write_json
from rich.console import Console
from rich.table import Table

from emrecon import formats
from emrecon.projectors import EffectiveSource, EnergyWindow, ImageGrid, LinearResponse, Scan
from emrecon.sims import Cylinder, Mismatch, Phantom, Region, SPECTSimulator

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Settings:
    """The phantom, the camera and where profiles are compared; mm, keV, and slices of which the last is excluded.

    rods : (x, y, radius) of the cold rods.  rod_activity : mean activity of the slices below the uniform activity.
    """

    radius: float = 99.0
    filled_slices: tuple[int, int] = (7, 40)
    water_slices: tuple[int, int] = (7, 60)
    rod_slices: tuple[int, int] = (20, 37)
    rods: tuple[tuple[float, float, float], ...] = (
        (-34.0, 58.5, 26.0),
        (33.3, 58.3, 21.0),
        (67.2, -0.7, 16.0),
        (33.4, -58.8, 11.5),
        (-34.3, -59.2, 8.0),
        (-67.8, -0.8, 5.0),
    )
    rod_activity: float = 0.2
    slope: float = 0.0163
    intercept: float = 1.466
    windows: tuple[float, ...] = (20.0, 50.0)  # percent of 140.5 keV
    energy_resolution: float = 0.099
    every_view: int = 10
    refine: int = 2
    uniform_slices: tuple[int, int] = (10, 17)
    compared_radius: float = 85.0
    other_radii: tuple[float, ...] = (98.0, 100.0)
    other_densities: tuple[float, ...] = (0.9, 0.8, 0.7)


class Profile(NamedTuple):
    """Counts of a view at u >= 0 in mm, the mean of both sides, with their standard error, and where to compare."""

    u: np.ndarray
    counts: np.ndarray
    error: np.ndarray
    inside: np.ndarray


def main() -> None:
    """Simulate, compare, print, and write the numbers and the picture."""
    options, settings, console = _options(), Settings(), Console()
    scan = formats.read_scan(options.data / "simset_spect" / "input.hs")
    profile = measured(scan, settings)
    parts = {w: simulate(scan, settings, settings.radius, w) for w in settings.windows}
    first = settings.windows[0]
    radii = {r: simulate(scan, settings, r, first) for r in settings.other_radii}
    thinner = {d: simulate(scan, settings, settings.radius, first, d) for d in settings.other_densities}
    about = machine()
    results: dict[str, Any] = {
        "machine": about,
        "settings": asdict(settings),
        "noise": {"relative": relative_noise(profile), "chi_square_of_sides": chi_square_of_sides(scan, settings)},
        "models": [row for w in settings.windows for row in models(profile, *folded(parts[w], settings), w)],
        "other_radii": {r: models(profile, *folded(p, settings), first)[-1] for r, p in radii.items()},
        "other_densities": {d: models(profile, *folded(p, settings), first)[-1] for d, p in thinner.items()},
    }
    best = fitted(profile, *folded(parts[first], settings))[0]
    results["axial"] = axial(scan, parts[first], best, settings)
    report(console, results)
    console.print(machine_line(about))
    write_json(options.out, results)
    picture(options.picture, profile, parts[first], best, settings)


# ---- the simulation and the data ------------------------------------------------------------------------------------


def phantom(settings: Settings, radius: float, density: float, pitch: float, n_slices: int) -> Phantom:
    """Return the cylinder of water of a density: uniform, with cold rods further down, with little activity below."""

    def cylinder(slices: tuple[float, float], r: float, x: float = 0.0, y: float = 0.0) -> Cylinder:
        first, last = ((k - n_slices / 2) * pitch for k in slices)
        return Cylinder((x, y, (first + last) / 2), r, last - first)

    filled, water = settings.filled_slices, settings.water_slices
    return Phantom(
        (
            Region("water", cylinder(water, radius), settings.rod_activity, "water", density=density),
            Region("filled", cylinder(filled, radius), 1.0),
            *(Region("rod", cylinder(settings.rod_slices, r, x, y), 0.0) for x, y, r in settings.rods),
        )
    )


def simulate(
    scan: Scan, settings: Settings, radius: float, percent: float, density: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Return expected primaries and scatter (views, bins, slices) in a window of so many percent."""
    camera, pitch = scan.geometry.subset(0, settings.every_view), scan.geometry.pixel_size[1]
    n = 2 * int(np.ceil((radius + pitch) / pitch))
    window = EnergyWindow.around(140.511, percent).limits
    simulator = SPECTSimulator(
        ImageGrid((n, n, camera.n_bins[1]), pitch),
        camera,
        response=LinearResponse(settings.slope, settings.intercept),
        scatter=EffectiveSource(window, energy_resolution=settings.energy_resolution),
        mismatch=Mismatch(settings.refine, 1.0, (0.0, 0.0, 0.0), 1.0),
    )
    expected = simulator.expect(phantom(settings, radius, density, pitch, camera.n_bins[1]))
    return expected.trues, expected.scatter


def measured(scan: Scan, settings: Settings) -> Profile:
    """Return the profile of the scan."""
    per_view = _uniform(np.asarray(scan.counts, float), settings)
    variance = per_view.var(0, ddof=1) / len(per_view)
    u = np.abs(scan.geometry.bin_centres()[0][0])
    half = u.size // 2
    error = np.sqrt(_halved(variance) / 2)
    return Profile(u[half:], _halved(per_view.mean(0)), error, u[half:] < settings.compared_radius)


def folded(parts: tuple[np.ndarray, np.ndarray], settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """Return the profiles of primaries and scatter."""
    primary, scatter = (_halved(_uniform(part.astype(float), settings).mean(0)) for part in parts)
    return primary, scatter


def _uniform(projections: np.ndarray, settings: Settings) -> np.ndarray:
    return projections[:, :, slice(*settings.uniform_slices)].sum(2)


def _halved(values: np.ndarray) -> np.ndarray:
    """Return the mean of both sides, from the axis outwards."""
    return (values + values[::-1])[values.size // 2 :] / 2


def relative_noise(profile: Profile) -> float:
    """Return the mean relative standard error within the compared radius."""
    return float((profile.error[profile.inside] / profile.counts[profile.inside]).mean())


def chi_square_of_sides(scan: Scan, settings: Settings) -> float:
    """Return chi square per bin of the difference between both sides: 1 if the noise is right and all is centred."""
    per_view = _uniform(np.asarray(scan.counts, float), settings)
    mean, variance = per_view.mean(0), per_view.var(0, ddof=1) / len(per_view)
    half = mean.size // 2
    inside = np.abs(scan.geometry.bin_centres()[0][0])[half:] < settings.compared_radius
    squares = (mean - mean[::-1])[half:][inside] ** 2 / (variance + variance[::-1])[half:][inside]
    return float(squares.mean())


# ---- the comparison -------------------------------------------------------------------------------------------------


def fitted(profile: Profile, primary: np.ndarray, scatter: np.ndarray) -> tuple[float, float]:
    """Return the amount of scatter, in units of the model's own, that fits best, and its standard error."""
    inside = profile.inside
    design = np.stack([primary, scatter], 1)[inside] / profile.error[inside, None]
    covariance = np.linalg.inv(design.T @ design)
    a, b = covariance @ design.T @ (profile.counts[inside] / profile.error[inside])
    gradient = np.array([-b / a**2, 1 / a])
    return float(b / a), float(np.sqrt(gradient @ covariance @ gradient))


def models(profile: Profile, primary: np.ndarray, scatter: np.ndarray, percent: float) -> list[dict[str, Any]]:
    """Return how well primaries alone, the model as it is, and the fitted amount of scatter describe the profile."""
    best, error = fitted(profile, primary, scatter)
    rows = []
    for name, amount in (("none", 0.0), ("as computed", 1.0), ("fitted", best)):
        residual, sigma = residuals(profile, primary + amount * scatter)
        ratio = float((amount * scatter)[profile.inside].sum() / primary[profile.inside].sum())
        row = {"window_percent": percent, "scatter": name, "amount": amount, "scatter_to_primary": ratio}
        if name == "fitted":
            row["amount_error"] = error
        n = int(profile.inside.sum()) - (2 if name == "fitted" else 1)
        row |= {"chi_square": float((sigma**2).sum() / n), "rms": float(np.sqrt(np.mean(residual**2)))}
        rows.append(row | {"largest": float(np.abs(residual).max())})
    return rows


def residuals(profile: Profile, model: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (data - model) / model within the compared radius, and the same over the standard error of the data."""
    inside = profile.inside
    scaled = (model * (profile.counts[inside].sum() / model[inside].sum()))[inside]
    difference = profile.counts[inside] - scaled
    return difference / scaled, difference / profile.error[inside]


def axial(
    scan: Scan, parts: tuple[np.ndarray, np.ndarray], amount: float, settings: Settings
) -> dict[str, list[float]]:
    """Return counts of every slice over those of the model with three amounts of scatter; not used for any fit."""
    first, last = settings.uniform_slices
    slices = slice(first, last)
    counts = np.asarray(scan.counts, float).sum((0, 1))[slices]
    rows = {}
    for name, a in (("none", 0.0), ("as_computed", 1.0), ("fitted", amount)):
        model = sum(f * part.sum((0, 1), dtype=float) for f, part in zip((1.0, a), parts))[slices]
        rows[name] = (counts / model * model.sum() / counts.sum()).round(4).tolist()
    return rows


# ---- the report -----------------------------------------------------------------------------------------------------


def report(console: Console, results: dict[str, Any]) -> None:
    """Print what `main` writes, as tables."""
    noise = results["noise"]
    console.print(f"noise of the profile {noise['relative']:.2%}, chi square of both sides per bin ", end="")
    console.print(f"{noise['chi_square_of_sides']:.2f}")
    table = Table("window", "scatter", "amount", "scatter / primary", "chi square", "rms", "largest", title="profile")
    for row in results["models"]:
        amount = f"{row['amount']:.2f}" + (f" +- {row['amount_error']:.2f}" if "amount_error" in row else "")
        cells = [f"{row['window_percent']:g} %", row["scatter"], amount, f"{row['scatter_to_primary']:.3f}"]
        table.add_row(*cells, f"{row['chi_square']:.2f}", f"{row['rms']:.2%}", f"{row['largest']:.2%}")
    console.print(table)
    for what, rows in (("radius in mm", results["other_radii"]), ("density in g/mL", results["other_densities"])):
        for value, row in rows.items():
            about = f"amount {row['amount']:.2f}, chi square {row['chi_square']:.2f}, rms {row['rms']:.2%}"
            console.print(f"fitted with a {what} of {value:g}: {about}")
    for name, ratios in results["axial"].items():
        console.print(f"slices, data / model, scatter {name.replace('_', ' ')}: {ratios}")


def picture(
    path: Path,
    profile: Profile,
    parts: tuple[np.ndarray, np.ndarray],
    amount: float,
    settings: Settings,
) -> None:
    """Write the profile with the parts of the model, and the residuals with and without scatter."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    path.parent.mkdir(parents=True, exist_ok=True)
    primary, scatter = folded(parts, settings)
    model, inside = primary + amount * scatter, profile.inside
    scale = profile.counts[inside].sum() / model[inside].sum()
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10.2, 3.9), layout="constrained")
    left.plot(profile.u, scale * model, "k-", label="simulation")
    left.plot(profile.u, scale * primary, "C0--", label="primaries")
    left.plot(profile.u, scale * amount * scatter, "C3-.", label=f"scatter, {amount:.2f} x the model's")
    left.errorbar(profile.u, profile.counts, profile.error, fmt="C1.", label="SimSET")
    left.axvline(settings.compared_radius, color="0.7", lw=0.8)
    left.set(xlim=(0, 115), ylim=(0, None), xlabel="distance from the axis (mm)", ylabel="counts per view")
    left.legend(frameon=False, loc="lower left")
    right.axhspan(-100 * relative_noise(profile), 100 * relative_noise(profile), color="0.88", label="noise, 1 sigma")
    for label, a, style in (("no scatter", 0.0, "C0o"), ("as computed", 1.0, "C2s"), ("fitted amount", amount, "C3D")):
        percent = 100 * residuals(profile, primary + a * scatter)[0]
        right.plot(profile.u[inside], percent, style + "-", ms=3, lw=0.7, label=label)
    right.set(xlabel="distance from the axis (mm)", ylabel="SimSET / simulation - 1 (%)")
    right.legend(frameon=False)
    figure.suptitle(f"Uniform slices of the SimSET cylinder, scatter of a {settings.windows[0]:g} % window")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    default = Path(os.environ.get("EMRECON_DATA") or ROOT / "../shared/data").resolve()
    parser.add_argument("data", nargs="?", type=Path, default=default, help="folder that holds simset_spect")
    parser.add_argument("--out", type=Path, default=RESULTS / "agreement_simulation.json", help="numbers, as JSON")
    parser.add_argument("--picture", type=Path, default=ROOT / "docs" / "images" / "simulate_simset.png")
    return parser.parse_args()


if __name__ == "__main__":
    main()
