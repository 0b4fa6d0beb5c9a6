"""Measure the NEMA body phantom with emrecon, ChameleonIQ and pynemaiqpet on the same image, and say where they differ.

    python benchmarks/agreement_nema.py --chameleoniq PYTHON --pynemaiqpet PYTHON [IMAGE.nii]

PYTHON is the interpreter of an environment with the package in it (they need other versions of libraries than emrecon,
and than each other): `pip install chameleoniq==3.0.1`, `pip install pynemaiqpet==0.5.4`. Either may be left out. IMAGE
is any NIfTI image of the phantom of `sims.nema_iec_body`, at its own place, with square slices; by default the image
of `evaluation.standards.sample_image`, whose numbers a test holds.

ChameleonIQ is asked for NU 2-2018. It counts whole pixels, moves each sphere's region within 10 voxels along x, y and z
to the highest mean, and divides the sum of squares by the number of regions (60) and not by one less. emrecon does the
same with `pixels="whole"` and `search=`, and both must then agree to the last digit that ChameleonIQ prints. The
standard's own definition, parts of pixels and no search, is beside it.

pynemaiqpet does not measure the standard's contrast. It fits the profile of a blurred sphere in a cold wall, and gives
the mean over 50 % and the maximum as EARL wants them. `sphere_profile` does the same from the places it found.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from _common import RESULTS, machine, machine_line, write_json
from rich.console import Console
from rich.table import Table

from emrecon.evaluation.standards import grid_of_sample, sample_image, snapped_layout
from emrecon.formats import read_nifti, write_nifti
from emrecon.projectors import ImageGrid
from emrecon.recon import ImageQualityLayout, Sphere, nema_image_quality, sphere_profile
from emrecon.sims import nema_layout

SEARCHED = 10  # voxels, by which ChameleonIQ moves a region
ROUNDING = 0.005 + 1e-9  # per cent; ChameleonIQ prints two decimals
FITTED = 1e-4  # relative, of fits that stop at tolerances of their own
N_REGIONS = 60

CHAMELEON = """
import json, sys
from importlib.metadata import version
from pathlib import Path
from config.defaults import get_cfg_defaults
from nema_quant.analysis import calculate_nema_metrics
from nema_quant.io import load_nii_image
from nema_quant.phantom import NemaPhantom
given = json.loads(Path(sys.argv[1]).read_text())
image, _ = load_nii_image(Path(given["image"]))
cfg = get_cfg_defaults()
cfg.PHANTHOM.ROI_DEFINITIONS_MM = [
    {"center_yx": tuple(c), "diameter_mm": d, "color": "red", "alpha": 0.2, "name": f"hot_sphere_{d:g}mm"}
    for c, d in zip(given["centres"], given["diameters"])]
cfg.ROIS.BACKGROUND_OFFSET_YX = [tuple(o) for o in given["offsets"]]
cfg.ROIS.CENTRAL_SLICE, cfg.ROIS.SPACING = given["slice"], given["spacing"][0]
cfg.ACTIVITY.RATIO = given["ratio"]
phantom = NemaPhantom(cfg, image.shape[::-1], tuple(given["spacing"]))
spheres, lung = calculate_nema_metrics(image, phantom, cfg)
print("RESULT" + json.dumps({"version": version("chameleoniq"), "lung": sum(map(float, lung.values())) / len(lung),
    "n_lung": len(lung), "spheres": [{"diameter": float(s["diameter_mm"]),
    "contrast": float(s["percentaje_constrast_QH"]), "variability": float(s["background_variability_N"])}
    for s in spheres]}))
"""

PYNEMAIQPET = """
import json, sys
import matplotlib
matplotlib.use("Agg")
from importlib.metadata import version
from pathlib import Path
import nibabel, numpy as np
from pynemaiqpet import nema_wb
given = json.loads(Path(sys.argv[1]).read_text())
image = nibabel.load(given["image"]).get_fdata()
spacing = np.array(given["spacing"])
fits, table = nema_wb.fit_WB_NEMA_sphere_profiles(image, spacing, dfix=given["wall"])
level = float(table.background_mean.iloc[0])
boxes = nema_wb.NEMASubvols(image, spacing, margin=9.0, bgSignal=level)
print("RESULT" + json.dumps({"version": version("pynemaiqpet"), "background": level,
    "background_cov": float(table.background_cov.iloc[0]), "spheres": [
    {"radius": float(row.R), "fwhm": float(row.FWHM), "activity": float(row.signal), "isocontour": float(row.mean_a50),
     "mean": float(row["mean"]), "maximum": float(row["max"]), "centre": [float(c) for c in fit.sphere_center],
     "box": [[s.start, s.stop] for s in box]} for fit, (_, row), box in zip(fits, table.iterrows(), boxes)]}))
"""


def main() -> None:
    """Measure with all that are there, print, write the numbers, and fail where they should agree and do not."""
    options, console = _options(), Console()
    grid = grid_of_sample(options.voxel)
    image, grid = read_nifti(options.image) if options.image else (sample_image(grid=grid).astype(np.float32), grid)
    about = machine()
    results: dict[str, Any] = {
        "machine": about,
        "image": options.image.name if options.image else f"sample_image(), {options.voxel:g} mm",
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image.nii"
        write_nifti(path, image, grid)
        if options.chameleoniq:
            results["chameleoniq"] = with_chameleon(options.chameleoniq, path, np.asarray(image, float), grid)
        if options.pynemaiqpet:
            results["pynemaiqpet"] = with_pynemaiqpet(options.pynemaiqpet, path, np.asarray(image, float), grid)
    report(console, results)
    console.print(machine_line(about))
    if options.out:
        write_json(options.out, results)
    failed = [name for name in ("chameleoniq", "pynemaiqpet") if name in results and not results[name]["agrees"]]
    if failed:
        raise SystemExit(f"not within rounding of {', '.join(failed)}")


def with_chameleon(python: str, path: Path, image: np.ndarray, grid: ImageGrid) -> dict[str, Any]:
    """Return ChameleonIQ's numbers, ours by its definition, and ours by the standard's."""
    snapped, size, origin = snapped_layout(grid), np.array(grid.voxel_size), np.array(grid.origin)
    centres = np.round((snapped.centres - origin) / size).astype(int)
    beside = (snapped.background_centres - origin[:2]) / size[:2] - centres[0, :2]
    theirs = _peer(
        python,
        CHAMELEON,
        path,
        {
            "centres": centres[:, 1::-1].tolist(),
            "diameters": snapped.diameters.tolist(),
            "offsets": beside[:, ::-1].tolist(),
            "slice": int(centres[0, 2]),
            "spacing": list(grid.voxel_size),
            "ratio": float(snapped.ratios[0]),
        },
    )
    # its slices are whole numbers of voxels from the central one, rounded as Python rounds
    slices = [origin[2] + size[2] * round(centres[0, 2] + k * 10 / size[2]) for k in (-2, -1, 0, 1, 2)]
    near = ImageQualityLayout(**{**nema_layout(), "centres": snapped.centres, "slices": np.array(slices)})
    same = nema_image_quality(image, grid, near, pixels="whole", search=SEARCHED * float(size[0]))
    standard = nema_image_quality(image, grid, ImageQualityLayout(**nema_layout()))
    whole = nema_image_quality(image, grid, near, pixels="whole")
    rows = []
    for peer, ours, unmoved, own in zip(theirs["spheres"], same.spheres, whole.spheres, standard.spheres):
        rows.append(
            {
                "diameter": ours.diameter,
                "theirs": [peer["contrast"], peer["variability"]],
                "ours_their_way": [ours.contrast, ours.variability * ((N_REGIONS - 1) / N_REGIONS) ** 0.5],
                "ours_whole_pixels": [unmoved.contrast, unmoved.variability],
                "ours_standard": [own.contrast, own.variability],
            }
        )
    differences = [abs(a - b) for row in rows for a, b in zip(row["theirs"], row["ours_their_way"])]
    return {
        "version": theirs["version"],
        "spheres": rows,
        "lung": {"theirs": theirs["lung"], "their_slices": theirs["n_lung"], "ours_standard": standard.lung_residual},
        "largest_difference": max(differences),
        "agrees": max(differences) <= ROUNDING,
    }


def with_pynemaiqpet(python: str, path: Path, image: np.ndarray, grid: ImageGrid) -> dict[str, Any]:
    """Return pynemaiqpet's fits, and ours of the same voxels."""
    theirs = _peer(python, PYNEMAIQPET, path, {"spacing": list(grid.voxel_size), "wall": 1.0})
    rows, size, origin = [], np.array(grid.voxel_size), np.array(grid.origin)
    diameters = nema_layout()["diameters"]
    for peer, diameter in zip(theirs["spheres"], diameters):
        box = tuple(slice(a, b) for a, b in peer["box"])
        start = np.array([a for a, _ in peer["box"]])
        part = ImageGrid(image[box].shape, grid.voxel_size, tuple(origin + start * size))
        centre = tuple((origin + start * size + peer["centre"]).tolist())
        reach = float(np.min((np.array(part.shape) - 1) * size) / 2)
        ours = sphere_profile(
            image[box], part, Sphere(centre, float(diameter)), theirs["background"], wall=1.0, reach=reach
        )
        names = ("radius", "fwhm", "activity", "isocontour", "mean", "maximum")
        rows.append(
            {
                "diameter": float(diameter),
                "theirs": {name: peer[name] for name in names},
                "ours": {name: getattr(ours, name) for name in names},
                "centre": list(centre),
                "box": peer["box"],
            }
        )
    differences = [abs(row["ours"][name] / row["theirs"][name] - 1) for row in rows for name in row["ours"]]
    layout = ImageQualityLayout(**nema_layout())
    return {
        "version": theirs["version"],
        "background": theirs["background"],
        "background_cov": theirs["background_cov"],
        "ours_background": nema_image_quality(image, grid, layout).spheres[0].background,
        "spheres": rows,
        "largest_relative_difference": max(differences),
        "agrees": max(differences) <= FITTED,
    }


def _peer(python: str, script: str, image: Path, given: dict[str, Any]) -> dict[str, Any]:
    """Run a script in another environment, and return the numbers it prints."""
    settings = image.with_suffix(".json")
    settings.write_text(json.dumps({"image": str(image), **given}))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [python, "-W", "ignore", "-c", script, str(settings)],
        capture_output=True,
        text=True,
        check=False,
        env={**environment, "QT_QPA_PLATFORM": "offscreen"},
    )
    found = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    if done.returncode or not found:
        raise SystemExit(f"{python} failed:\n{done.stderr[-2000:]}")
    numbers: dict[str, Any] = json.loads(found[-1].removeprefix("RESULT"))
    return numbers


# ---- output ---------------------------------------------------------------------------------------------------------


def report(console: Console, results: dict[str, Any]) -> None:
    """Print a table for each package."""
    if found := results.get("chameleoniq"):
        ways = {"theirs": "ChameleonIQ", "ours_their_way": "ours, its way", "ours_whole_pixels": "ours, no search",
                "ours_standard": "ours, NU 2-2018"}  # fmt: skip
        table = Table("mm", *ways.values(), title=f"contrast / variability (%), ChameleonIQ {found['version']}")
        for row in found["spheres"]:
            table.add_row(f"{row['diameter']:g}", *(f"{row[way][0]:.2f} / {row[way][1]:.3f}" for way in ways))
        console.print(table)
        console.print(f"largest difference, its way: {found['largest_difference']:.2g} (it prints 0.01)")
    if found := results.get("pynemaiqpet"):
        names = list(found["spheres"][0]["ours"])
        table = Table("mm", *names, title=f"pynemaiqpet {found['version']} / ours")
        for row in found["spheres"]:
            cells = (f"{row['theirs'][name]:.4f} / {row['ours'][name]:.4f}" for name in names)
            table.add_row(f"{row['diameter']:g}", *cells)
        console.print(table)
        console.print(f"largest relative difference {found['largest_relative_difference']:.2g}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", nargs="?", type=Path, help="NIfTI image (default: the sample)")
    parser.add_argument("--voxel", type=float, default=2.0, help="mm of the sample's voxels")
    parser.add_argument("--chameleoniq", metavar="PYTHON", help="interpreter that has chameleoniq")
    parser.add_argument("--pynemaiqpet", metavar="PYTHON", help="interpreter that has pynemaiqpet")
    parser.add_argument("--out", type=Path, default=RESULTS / "agreement_nema.json", help="numbers, JSON")
    return parser.parse_args()


if __name__ == "__main__":
    main()
