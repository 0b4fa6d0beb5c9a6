"""The pictures of docs/pictures.md, docs/images/pictures/*: one of each kind, of a torso with lesions."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from emrecon import figures, recon, sims
from emrecon.figures import CT, Layer, Look
from emrecon.projectors import EnergyWindow, GaussianBlur, ImageGrid, SPECTGeometry

OUT = Path(__file__).resolve().parent.parent / "docs" / "images" / "pictures"
GRID = ImageGrid((96, 72, 96), (4.6, 4.6, 4.6), (-218.5, -163.3, -290.0))
CT_GRID = ImageGrid((196, 150, 158), (2.2, 2.2, 3.0), (-214.5, -163.9, -300.0))
DOTS = 90
UNIT = "kBq/mL"


def images() -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray], np.ndarray]:
    """Return an image as a camera sees it, the truth (kBq/mL), masks, and a CT on its own grid (HU)."""
    phantom = sims.random_torso(4, "lu-177")
    truth = phantom.activity(GRID)
    truth *= 900 / truth.max()
    seen = GaussianBlur(GRID, 11.0)(truth)
    noise = gaussian_filter(np.random.default_rng(0).standard_normal(GRID.shape), 1.2)
    image = np.maximum(seen * (1 + 0.5 * noise), 0).astype(np.float32)
    lesions = [name for name in phantom.names if name.startswith("lesion")]
    masks = {"liver": phantom.fraction(GRID, "liver") > 0.5}
    masks["lesions"] = np.sum([phantom.fraction(GRID, name) for name in lesions], axis=0) > 0.5
    ct = (phantom.attenuation(CT_GRID, 208.4) / 0.1346 - 1) * 1000
    return image, truth, masks, ct + 12 * np.random.default_rng(1).standard_normal(ct.shape)


def camera() -> SPECTGeometry:
    """Return two heads on an orbit that follows the body."""
    angles = np.arange(30) * 6.0
    heads = []
    for start in (-90.0, 90.0):
        turn = np.deg2rad(start + angles)
        radius = 1 / np.hypot(np.sin(turn) / 245, np.cos(turn) / 175)
        heads.append(SPECTGeometry(start + angles, radius, (128, 128), 4.6))
    return SPECTGeometry.heads(*heads)


def curves() -> dict[str, tuple[list[int], list[float]]]:
    """Return the objectives of EM with 1, 3 and 6 subsets over their passes, above the lowest that SVRG found."""
    grid, detector = ImageGrid((32, 32, 4), 9.6), SPECTGeometry.circular(30, 180, (32, 4), 9.6)
    simulated = sims.SPECTSimulator(grid, detector, None)(sims.spect_cylinder(), seed=0, counts=3e5)
    whole = recon.spect_problem(simulated.scan, mu=simulated.mu, scatter=0.1, subsets=6)
    lowest = float(whole.value(recon.reconstruct(whole, "svrg", iterations=150)))
    found = {}
    for subsets in (1, 3, 6):
        problem = recon.spect_problem(simulated.scan, mu=simulated.mu, scatter=0.1, subsets=subsets)
        steps = itertools.islice(recon.osem(problem.parts, problem.start), 12)
        values = [(it.iteration, float(whole.value(it.image)) - lowest) for it in steps]
        name = "MLEM" if subsets == 1 else f"OSEM, {subsets} subsets"
        found[name] = ([n for n, _ in values], [value for _, value in values])
    return found


def main() -> None:
    """Write all pictures."""
    OUT.mkdir(parents=True, exist_ok=True)
    image, truth, masks, ct = images()
    look = Look(UNIT, quantity="activity")
    below = Layer(ct, CT_GRID, CT)
    over = Look(UNIT, "hot", quantity="activity")
    mu = sims.random_torso(4, "lu-177").attenuation(GRID, 208.4)
    soft = GaussianBlur(GRID, 8.0)(image)
    windows = [
        EnergyWindow(166.0, 187.6, "lower"),
        EnergyWindow(187.6, 229.2, "peak"),
        EnergyWindow(229.2, 250.0, "upper"),
    ]
    drawn = {
        "views": figures.orthoviews(image, GRID, look, at="max"),
        "overlay": figures.orthoviews(image, GRID, over, at="max", under=below, masks=masks, crosshair=True),
        "montage": figures.montage(
            image, GRID, Look(UNIT, log=True, window=(1, None)), plane="coronal", positions=range(-80, 81, 20)
        ),
        "mip": figures.maximum_projection(image, GRID, Look(UNIT, window=(0, "99%"))),
        "comparison": figures.comparison(truth, image, GRID, look, names=("truth", "seen"), at="max", line="z"),
        "difference": figures.difference_map(image, soft, GRID, Look(UNIT, "blue-red", symmetric=True), at="max"),
        "control": figures.attenuation_control(image, mu, GRID, look),
        "profile": figures.line_profile(
            {"truth": truth, "seen": image, "filtered": soft}, GRID, (-180, 20, 60), (180, 20, 60), unit=UNIT
        ),
        "histogram": figures.joint_histogram(truth, image, names=("truth", "seen"), unit=UNIT),
        "convergence": figures.convergence(curves(), quantity="objective above its minimum", log=True),
        "windows": figures.energy_windows(windows, radionuclide="Lu-177", counts=[0.9e6, 4.1e6, 0.2e6]),
        "orbit": figures.orbit(camera(), image=mu, grid=GRID),
    }
    for name, figure in drawn.items():
        figures.save(figure, OUT / f"{name}.png", DOTS)
    turning = figures.rotating_projection(image, GRID, Look(UNIT, window=(0, "99%")), n=24)
    figures.save_frames(turning, OUT / "rotating.gif", 64, seconds=0.12)


if __name__ == "__main__":
    main()
