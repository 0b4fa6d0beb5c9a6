"""Reconstruct one SPECT/CT, written as DICOM, with emrecon and with PyTomography, each reading the files for itself.

    python benchmarks/agreement_dicom.py [--work FOLDER]

The case is a NEMA IEC body phantom filled with Lu-177: two heads, 60 views, peak and two scatter windows, and a CT on
another grid. Both read counts, angles, radii, windows and the CT from the files, correct scatter by the triple energy
window and attenuation by the CT (with their own tables of HU), blur by the same Gaussian response, and run OSEM with
the same subsets. A wrong head, angle, row order or position of the CT shows as a difference of the images.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _common import RESULTS, machine, machine_line, write_json
from rich.console import Console
from rich.table import Table

from emrecon import formats, recon, sims
from emrecon.projectors import EffectiveSource, EnergyWindow, ImageGrid, LinearResponse, SPECTGeometry
from emrecon.recon import nrmse

ROOT = Path(__file__).resolve().parents[1]
_TO_CM = 0.1


@dataclass(frozen=True)
class Settings:
    """The scan and both reconstructions; mm, keV."""

    n_voxels: int = 64
    n_slices: int = 64  # PyTomography takes square projections only
    voxel: float = 6.0
    radius: float = 250.0
    views_per_head: int = 30
    slope: float = 0.02
    intercept: float = 3.0
    window: tuple[float, float] = (187.56, 229.24)
    lower: tuple[float, float] = (166.72, 187.56)
    upper: tuple[float, float] = (229.24, 250.08)
    n_subsets: int = 6
    n_iterations: int = 5
    largest_nrmse: float = 0.04


def main() -> None:
    """Simulate, write, reconstruct twice, compare, and write the numbers and the picture."""
    options = _options()
    settings, console = Settings(), Console()
    with tempfile.TemporaryDirectory() as folder:
        case = clinical_case(settings)
        work = Path(options.work or folder)
        work.mkdir(parents=True, exist_ok=True)
        files = case.write(work, vendor="siemens")
        ours, peer = reconstruct(files, settings), reconstruct_with_peer(files, settings)
        agreement = compare(ours, peer, case)
        picture(options.picture, ours, peer)
    about = machine()
    report(console, agreement)
    console.print(machine_line(about))
    write_json(options.out, {"machine": about, "settings": asdict(settings), "agreement": agreement})
    sys.exit(0 if agreement["nrmse"] <= settings.largest_nrmse else "the images differ by more than they may")


def clinical_case(settings: Settings) -> sims.ClinicalCase:
    """Return the synthetic SPECT/CT."""
    shape, d = (settings.n_voxels, settings.n_voxels, settings.n_slices), settings.voxel
    grid = ImageGrid(shape, d)
    camera = SPECTGeometry.heads(
        *(
            SPECTGeometry.circular(
                settings.views_per_head, settings.radius, shape[1:], d, start=start, extent=180, direction="cw"
            )
            for start in (0.0, 180.0)
        )
    )
    windows = EnergyWindow(*settings.lower, name="lower"), EnergyWindow(*settings.upper, name="upper")
    simulator = sims.SPECTSimulator(
        grid,
        camera,
        LinearResponse(settings.slope, settings.intercept),
        sensitivity=20.0,
        duration=30.0,
        radionuclide="Lu-177",
        scatter=EffectiveSource(settings.window, energy=208.366),
        windows=windows,
        mismatch=sims.Mismatch.none(),
    )
    return sims.synthetic_case(sims.nema_iec_body(8.0, background=150.0), simulator, seed=1)


def reconstruct(files: sims.CaseFiles, settings: Settings) -> np.ndarray:
    """Return our OSEM image from the files, (x, y, z)."""
    scan = formats.read_scan(files.nm)
    mu = formats.read_mu(files.ct, scan)
    problem = recon.spect_problem(
        scan,
        mu=mu,
        scatter="tew",
        response=LinearResponse(settings.slope, settings.intercept),
        subsets=settings.n_subsets,
    )
    return np.asarray(recon.reconstruct(problem, "osem", settings.n_iterations))


def reconstruct_with_peer(files: sims.CaseFiles, settings: Settings) -> np.ndarray:
    """Return PyTomography's OSEM image from the same files, in our order of axes."""
    import torch
    from pytomography.algorithms import OSEM
    from pytomography.io.SPECT import dicom
    from pytomography.likelihoods import PoissonLogLikelihood
    from pytomography.metadata.SPECT import SPECTPSFMeta
    from pytomography.projectors.SPECT import SPECTSystemMatrix
    from pytomography.transforms.SPECT import SPECTAttenuationTransform, SPECTPSFTransform

    nm, ct = str(files.nm), sorted(map(str, files.ct.iterdir()))
    peak, lower, upper = _windows(nm, settings)
    object_meta, projection_meta = dicom.get_metadata(nm, index_peak=peak)
    counts = dicom.get_projections(nm, index_peak=peak)
    scatter = dicom.get_energy_window_scatter_estimate(nm, index_peak=peak, index_lower=lower, index_upper=upper)
    mu = dicom.get_attenuation_map_from_CT_slices(ct, nm, index_peak=peak)
    slope, intercept = settings.slope, settings.intercept * _TO_CM
    blur = SPECTPSFMeta((slope, intercept), lambda d, a, b: a * d + b, min_sigmas=4)
    transforms = [SPECTAttenuationTransform(mu), SPECTPSFTransform(blur)]
    matrix = SPECTSystemMatrix(transforms, [], object_meta, projection_meta)
    likelihood = PoissonLogLikelihood(matrix, counts.to(torch.float32), additive_term=scatter.to(torch.float32))
    image = OSEM(likelihood)(settings.n_iterations, settings.n_subsets)
    return image.cpu().numpy()


def _windows(nm: str, settings: Settings) -> list[int]:
    """The numbers of the peak and the scatter windows in the file, in its own order."""
    import pydicom

    items = pydicom.dcmread(nm, stop_before_pixels=True).EnergyWindowInformationSequence
    limits = [float(item.EnergyWindowRangeSequence[0].EnergyWindowLowerLimit) for item in items]
    wanted = settings.window[0], settings.lower[0], settings.upper[0]
    return [int(np.argmin(np.abs(np.array(limits) - low))) for low in wanted]


def compare(ours: np.ndarray, peer: np.ndarray, case: sims.ClinicalCase) -> dict[str, float]:
    """Return how far apart the images are in the body, after no scale but the mean, and which turn fits best."""
    body = case.truth > 0
    scale = float(ours[body].mean() / peer[body].mean())
    turned = {f"flip {axes}": np.flip(peer, axes) for axes in ((0,), (1,), (2,), (0, 1), (0, 2), (1, 2))}
    others = {name: float(nrmse(scale * image, ours, body)) for name, image in turned.items()}
    best = min(others, key=others.__getitem__)
    return {"nrmse": float(nrmse(scale * peer, ours, body)), "scale": scale, "nearest_other_turn": others[best]}


def report(console: Console, agreement: dict[str, float]) -> None:
    """Print the table."""
    table = Table(title="OSEM from the same DICOM files, emrecon and PyTomography, inside the body")
    for column in ("NRMSE", "scale", "NRMSE of the nearest flipped image"):
        table.add_column(column, justify="right")
    table.add_row(*(f"{agreement[name]:.4f}" for name in ("nrmse", "scale", "nearest_other_turn")))
    console.print(table)


def picture(path: Path, ours: np.ndarray, peer: np.ndarray) -> None:
    """Write the slice of the spheres of both images and their difference."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axes: Any = figure.subplots(1, 3)
    z = ours.shape[2] // 2
    scaled = peer * (ours.mean() / peer.mean())
    top = float(np.percentile(ours, 99.9))
    for axis, image, title in zip(axes, (ours, scaled, ours - scaled), ("emrecon", "PyTomography", "difference x 10")):
        values = 10 * image if title.startswith("diff") else image
        low = -top if title.startswith("diff") else 0.0
        axis.imshow(values[:, :, z].T, cmap="RdBu_r" if low else "gray_r", vmin=low, vmax=top)
        axis.set_title(title)
        axis.set_axis_off()
    figure.savefig(path, dpi=110)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, help="folder to keep the DICOM files in (default: a temporary one)")
    parser.add_argument("--out", type=Path, default=RESULTS / "agreement_dicom.json")
    parser.add_argument("--picture", type=Path, default=ROOT / "docs" / "images" / "agreement_dicom.png")
    return parser.parse_args()


if __name__ == "__main__":
    main()
