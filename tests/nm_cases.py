"""Small NM files for the tests of their reader: scans of a small camera, and datasets made by hand."""

from datetime import datetime

import numpy as np

from emrecon.projectors import EnergyWindow, Scan, SPECTGeometry, Study, WindowedScan

WINDOWS = (
    EnergyWindow(187.2, 228.8, "peak"),
    EnergyWindow(166.4, 187.2, "lower"),
    EnergyWindow(228.8, 249.6, "upper"),
)


def camera(n=4, *, heads=2, bins=(5, 4), shift=0.0, axial=0.0, start=30.0, direction="ccw", extent=180.0):
    """A camera whose heads are opposite, each with radii of its own."""
    return SPECTGeometry.heads(
        *(
            SPECTGeometry.circular(
                n,
                200.0 + 10 * np.arange(n) + 5 * head,
                bins,
                (4.0, 4.5),
                start=start + 180 * head,
                extent=extent,
                direction=direction,
                shift=shift,
                axial_shift=axial,
            )
            for head in range(heads)
        )
    )


def study(position="HFS", **more):
    """Where and of whom the scans are."""
    return Study(
        placement=(3.0, -120.0, -700.0),
        patient_position=position,
        frame_of_reference="1.2.3",
        injected=7400.0,
        injection=datetime(2026, 1, 2, 9),
        start=datetime(2026, 1, 3, 9),
        weight=80.0,
        height=1.8,
        sex="F",
        collimator="MELP",
        attributes={"StudyInstanceUID": "1.2.9", "PatientName": "SECRET^NAME"},
        **more,
    )


def numbers(shape, seed=1):
    """Counts that are all different enough to show a wrong order."""
    return np.random.default_rng(seed).integers(0, 60000, shape).astype(np.uint16)


def scan(position="HFS", geometry=None, **of_camera):
    """A scan of one window."""
    geometry = geometry or camera(**of_camera)
    return Scan(
        numbers(geometry.shape),
        geometry,
        duration=12.5,
        radionuclide="Lu-177",
        energy_window=(187.2, 228.8),
        study=study(position),
    )


def windowed(position="HFS", **of_camera):
    """A scan of three windows."""
    geometry = camera(**of_camera)
    counts = tuple(numbers(geometry.shape, i) for i in range(3))
    return WindowedScan(WINDOWS, counts, geometry, duration=12.5, radionuclide="Lu-177", study=study(position))


def in_patient(of):
    """Where the middle of a scan lies in LPS."""
    return np.add(of.study.placement, (0, 0, of.geometry.axial_shift))


def assert_same(found, wanted):
    """Counts, angles, radii, shifts, times and the place in the patient are equal."""
    assert np.array_equal(found.counts, wanted.counts)
    turned = (found.geometry.angles - wanted.geometry.angles + 180) % 360 - 180
    assert np.abs(turned).max() < 1e-6
    for name in ("radius", "shift", "pixel_size"):
        assert np.allclose(getattr(found.geometry, name), getattr(wanted.geometry, name)), name
    assert np.allclose(in_patient(found), in_patient(wanted), atol=1e-3)
    assert found.duration == wanted.duration
    assert found.radionuclide == wanted.radionuclide
