"""Good files of every format, made at run time, and what reads them: where the damage of `fuzzing` begins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from emrecon import formats
from emrecon.projectors import ImageGrid, PETScanner, PETSinogram, Scan, SPECTGeometry, TimeOfFlight

Seed = Callable[[Path], Callable[[], object]]
SEEDS: dict[str, Seed] = {}
"""name -> what makes files in a folder and returns what reads them."""

GRID = ImageGrid((4, 3, 2), (1.5, 2.5, 4.0), (-7.0, 0.1, 12.0))
CAMERA = SPECTGeometry([0, 90, 180, 270], [150, 151, 152, 153], (6, 4), (3.3, 4.4))
RING = PETScanner.polygon(sides=6, crystals_per_side=4, radius=60, depth=3, rings=2, ring_pitch=5)
SINOGRAM = PETSinogram(RING, span=1, tof=TimeOfFlight(3, 20.0, 45.0))


def seed(name: str) -> Callable[[Seed], Seed]:
    """Give a seed its name."""

    def note(make: Seed) -> Seed:
        SEEDS[name] = make
        return make

    return note


def counts(shape: tuple[int, ...]) -> np.ndarray:
    """Some counts."""
    return np.random.default_rng(1).poisson(20, shape).astype(np.float32)


def camera_scan() -> Scan:
    """A small SPECT scan with all that a scan can have."""
    return Scan(counts(CAMERA.shape), CAMERA, 0.5, np.ones((4, 1, 1)), 12.5, "Tc-99m", (126.0, 154.0), "a phantom")


# ---- HDF5 -----------------------------------------------------------------------------------------------------------


@seed("hdf5-scan")
def hdf5_scan(folder):
    formats.write_scan(folder / "scan.h5", camera_scan())
    return lambda: (formats.read_scan(folder / "scan.h5"), formats.describe(folder / "scan.h5"))


@seed("hdf5-pet")
def hdf5_pet(folder):
    formats.write_scan(folder / "scan.h5", Scan(counts(SINOGRAM.shape), SINOGRAM, duration=60.0))
    return lambda: formats.read_scan(folder / "scan.h5")


@seed("hdf5-image")
def hdf5_image(folder):
    from emrecon.formats.hdf5.files import write_image

    write_image(folder / "image.h5", counts(GRID.shape), GRID, units="1/cm", energy_keV=140.5, note="a text")
    return lambda: (formats.read_image(folder / "image.h5"), formats.describe(folder / "image.h5"))


@seed("hdf5-dynamic")
def hdf5_dynamic(folder):
    from emrecon.formats.hdf5.dynamic import describe_dynamic, read_dynamic, write_dynamic
    from emrecon.projectors.scan.dynamic import DynamicScan, Frames

    frames = Frames([0.0, 10.0], [10.0, 20.0])
    write_dynamic(folder / "scan.h5", DynamicScan(counts((2, *CAMERA.shape)), CAMERA, frames, description="two"))
    return lambda: (read_dynamic(folder / "scan.h5"), describe_dynamic(folder / "scan.h5"))


@seed("hdf5-gated")
def hdf5_gated(folder):
    from emrecon.formats.hdf5.dynamic import read_gated, write_dynamic
    from emrecon.projectors.scan.dynamic import GatedScan

    write_dynamic(folder / "scan.h5", GatedScan(counts((2, *CAMERA.shape)), CAMERA, [1.0, 2.0], cyclic=False))
    return lambda: read_gated(folder / "scan.h5")


@seed("hdf5-windows")
def hdf5_windows(folder):
    from emrecon.formats.hdf5.windows import describe_windowed_scan, read_windowed_scan, write_windowed_scan
    from emrecon.projectors.scan.energy_windows import EnergyWindow, WindowedScan

    windows = (EnergyWindow(126.0, 154.0, "peak"), EnergyWindow(111.0, 126.0, "lower"))
    scan = WindowedScan(windows, (counts(CAMERA.shape), counts(CAMERA.shape)), CAMERA, duration=12.5)
    write_windowed_scan(folder / "scan.h5", scan)
    return lambda: (read_windowed_scan(folder / "scan.h5"), describe_windowed_scan(folder / "scan.h5"))


def old_style(path: Path) -> None:
    """Make of a file one as 0.2.0 wrote it: the earliest format of HDF5, and texts of variable length."""
    import h5py

    def copy(source, target):
        target.attrs.update({name: _text(value) for name, value in source.attrs.items()})
        for name, item in source.items():
            if isinstance(item, h5py.Group):
                copy(item, target.create_group(name))
            else:
                filters = {"chunks": item.chunks, "compression": "gzip", "shuffle": True} if item.chunks else {}
                made = target.create_dataset(name, data=_text(item[()]), **filters)
                made.attrs.update({key: _text(value) for key, value in item.attrs.items()})

    new = path.with_name("new.h5")
    path.rename(new)
    with h5py.File(new) as source, h5py.File(path, "w") as target:
        copy(source, target)
    new.unlink()


def _text(value):
    return value.decode() if isinstance(value, bytes) else value


@seed("hdf5-old-scan")
def hdf5_old_scan(folder):
    formats.write_scan(folder / "scan.h5", camera_scan())
    old_style(folder / "scan.h5")
    return lambda: formats.read_scan(folder / "scan.h5")


@seed("hdf5-old-image")
def hdf5_old_image(folder):
    read = hdf5_image(folder)
    old_style(folder / "image.h5")
    return read
