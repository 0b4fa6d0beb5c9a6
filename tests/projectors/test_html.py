"""What notebooks show: small tables that are well formed, and no patient's name."""

from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest

from emrecon import recon
from emrecon.projectors import (
    BedScan,
    DynamicScan,
    EnergyWindow,
    Frames,
    GatedScan,
    GaussianBlur,
    ImageGrid,
    ParallelBeamGeometry,
    PETProjector,
    PETScanner,
    PETSinogram,
    Scan,
    SPECTGeometry,
    SPECTProjector,
    Study,
    WindowedScan,
)

NAME = "DOE^JOHN"
STUDY = Study((0, 0, 5), patient_position="HFS", injected=300.0, weight=71.5, attributes={"PatientName": NAME})
CAMERA = SPECTGeometry.heads(
    SPECTGeometry.circular(3, [150, 160, 170], (8, 4), 5.0, extent=180),
    SPECTGeometry.circular(3, 150, (8, 4), 5.0, start=180, extent=180),
)
COUNTS = np.ones(CAMERA.shape, np.float32)
GRID = ImageGrid((6, 6, 4), (4.0, 4.0, 5.0))
SCAN = Scan(COUNTS, CAMERA, 0.5, duration=20.0, radionuclide="Tc-99m", description=NAME, study=STUDY)
RING = PETScanner.polygon(sides=8, crystals_per_side=3, radius=80, rings=3, ring_pitch=6, name="small & <round>")
SINOGRAM = PETSinogram(RING)
ABOUT = {"radionuclide": "Tc-99m", "description": NAME, "study": STUDY}
WINDOWED = WindowedScan(
    (EnergyWindow(126, 154, "peak"), EnergyWindow(110, 126, "low")), (COUNTS, COUNTS), CAMERA, **ABOUT
)
A = SPECTProjector(GRID, CAMERA)

SHOWN = {
    "grid": (GRID, "6 x 6 x 4", "-12 to 12"),
    "camera": (CAMERA, "150 to 170", "<svg", "<polygon"),
    "parallel": (ParallelBeamGeometry.equally_spaced(6, 8, 4.0), "0 to 150"),
    "scanner": (RING, "small &amp; &lt;round&gt;"),
    "sinogram": (SINOGRAM, "24 crystals"),
    "scan": (SCAN, "192 in all", "Tc-99m", "20 s per view", "300 MBq", "(0, 0, 5) mm", "<svg"),
    "PET scan": (Scan(np.ones(SINOGRAM.shape), SINOGRAM), "views of"),
    "windows": (WINDOWED, "peak (126 to 154 keV), 192 in all"),
    "frames": (DynamicScan(np.stack([COUNTS] * 2), CAMERA, Frames.parse("2x60"), **ABOUT), "parts"),
    "gates": (GatedScan(np.stack([COUNTS] * 2), CAMERA, np.array([3.0, 4.0]), **ABOUT), "3 to 4"),
    "beds": (
        BedScan((SCAN, replace(SCAN, geometry=replace(CAMERA, axial_shift=20.0)))),
        "z = 20 mm",
        "of 2 beds",
    ),
    "projector": (A, "(6,6,4)", "attenuation", "no", "<svg"),
    "PET projector": (PETProjector(SINOGRAM.default_grid(), SINOGRAM), "sinogram"),
    "blur": (GaussianBlur(GRID, 4), "4 x 4 x 4"),
    "composed": (A @ GaussianBlur(GRID, 4), "then"),
    "sum": (A + 2 * A, "sum of"),
    "transpose": (A.T, "transpose of"),
    "problem": (recon.spect_problem(SCAN, subsets=2, grid=GRID), "SPECT", "subsets"),
}


@pytest.mark.parametrize("thing", SHOWN.values(), ids=SHOWN)
def test_notebooks_show_a_table_and_no_name(thing):
    shown, *words = thing
    html = shown._repr_html_()
    ElementTree.fromstring(html)  # well formed
    for word in words:
        assert word in html
    for secret in ("DOE", "71.5"):
        assert secret not in html


def test_what_does_not_lie_on_the_host_is_not_summed():
    torch = pytest.importorskip("torch")
    html = Scan(torch.ones(CAMERA.shape), CAMERA)._repr_html_()
    assert "6 x 8 x 4" in html
    assert "in all" not in html
