"""Good files of every format, made at run time, and what reads them: where the damage of `fuzzing` begins."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager, suppress
from pathlib import Path

import interfile_cases
import numpy as np
import petlink_cases
import recipe_cases

from emrecon import formats
from emrecon.projectors import ImageGrid, PETScanner, PETSinogram, Scan, SPECTGeometry, TimeOfFlight

Seed = Callable[[Path], Callable[[], object]]
SEEDS: dict[str, Seed] = {}
"""name -> what makes files in a folder and returns what reads them."""

GRID = ImageGrid((4, 3, 2), (1.5, 2.5, 4.0), (-7.0, 0.1, 12.0))
CAMERA = SPECTGeometry([0, 90, 180, 270], [150, 151, 152, 153], (6, 4), (3.3, 4.4))
RING = PETScanner.polygon(sides=24, crystals_per_side=1, radius=60, depth=3, rings=2, ring_pitch=5)
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
    return lambda: formats.read_scan(folder / "scan.h5")


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
    from emrecon.formats.hdf5.dynamic import read_dynamic, write_dynamic
    from emrecon.projectors.scan.dynamic import DynamicScan, Frames

    frames = Frames([0.0, 10.0], [10.0, 20.0])
    write_dynamic(folder / "scan.h5", DynamicScan(counts((2, *CAMERA.shape)), CAMERA, frames, description="two"))
    return lambda: read_dynamic(folder / "scan.h5")


@seed("hdf5-gated")
def hdf5_gated(folder):
    from emrecon.formats.hdf5.dynamic import read_gated, write_dynamic
    from emrecon.projectors.scan.dynamic import GatedScan

    write_dynamic(folder / "scan.h5", GatedScan(counts((2, *CAMERA.shape)), CAMERA, [1.0, 2.0], cyclic=False))
    return lambda: read_gated(folder / "scan.h5")


@seed("hdf5-windows")
def hdf5_windows(folder):
    from emrecon.formats.hdf5.windows import read_windowed_scan, write_windowed_scan
    from emrecon.projectors.scan.energy_windows import EnergyWindow, WindowedScan

    windows = (EnergyWindow(126.0, 154.0, "peak"), EnergyWindow(111.0, 126.0, "lower"))
    scan = WindowedScan(windows, (counts(CAMERA.shape), counts(CAMERA.shape)), CAMERA, duration=12.5)
    write_windowed_scan(folder / "scan.h5", scan)
    return lambda: read_windowed_scan(folder / "scan.h5")


@seed("hdf5-beds")
def hdf5_beds(folder):
    from dataclasses import replace

    from emrecon.formats import read_beds, write_beds
    from emrecon.projectors import BedScan

    beds = tuple(Scan(counts(CAMERA.shape), replace(CAMERA, axial_shift=shift), duration=3.0) for shift in (0.0, 20.0))
    write_beds(folder / "scan.h5", BedScan(beds))
    return lambda: read_beds(folder / "scan.h5")


@seed("hdf5-window-series")
def hdf5_window_series(folder):
    from emrecon.projectors import EnergyWindow, GatedScan, WindowedSeries

    windows = (EnergyWindow(126.0, 154.0, "peak"), EnergyWindow(111.0, 126.0, "lower"))
    series = tuple(GatedScan(counts((2, *CAMERA.shape)), CAMERA, [1.0, 2.0]) for _ in windows)
    formats.write_windowed_series(folder / "scan.h5", WindowedSeries(windows, series))
    return lambda: formats.read_windowed_series(folder / "scan.h5")


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


# ---- images ---------------------------------------------------------------------------------------------------------


@seed("nifti")
def nifti(folder):
    formats.write_nifti(folder / "image.nii", counts(GRID.shape), GRID)
    return lambda: formats.read_nifti(folder / "image.nii")


@seed("nifti-gz")
def nifti_gz(folder):
    formats.write_nifti(folder / "image.nii.gz", counts(GRID.shape), GRID)
    return lambda: formats.read_nifti(folder / "image.nii.gz")


@seed("dicom-pet")
def dicom_pet(folder):
    from emrecon.formats.dicom.pet import read_dicom_pet, suv_factor, write_dicom_pet

    write_dicom_pet(folder / "series", counts(GRID.shape), GRID)

    def read():
        image = read_dicom_pet(folder / "series")
        with suppress(ValueError):  # facts that are missing
            suv_factor(image.facts)

    return read


@seed("dicom-ct")
def dicom_ct(folder):
    import pydicom
    from pydicom.uid import RLELossless

    from emrecon.formats.dicom.ct import read_dicom_ct
    from emrecon.formats.dicom.pet import write_dicom_pet

    write_dicom_pet(folder / "series", counts(GRID.shape), GRID)
    for path in (folder / "series").iterdir():
        slice_ = pydicom.dcmread(path)
        slice_.Modality, slice_.SOPClassUID = "CT", "1.2.840.10008.5.1.4.1.1.2"
        slice_.file_meta.MediaStorageSOPClassUID = slice_.SOPClassUID
        slice_.compress(RLELossless, generate_instance_uid=False)
        slice_.save_as(path)
    return lambda: read_dicom_ct(folder / "series")


@seed("dicom-mu")
def dicom_mu(folder):
    from ct_cases import write_ct

    grid = ImageGrid((8, 6, 3), (20.0, 20.0, 20.0), (-98.0, -310.0, 972.0))
    hu = np.random.default_rng(1).integers(-1000, 1000, grid.shape)
    write_ct(folder / "ct", hu, grid)
    scan = camera_scan()
    return lambda: formats.read_mu(folder / "ct", scan, ImageGrid((8, 6, 3), (20.0, 20.0, 20.0)))


@seed("dicom-rtstruct")
def dicom_rtstruct(folder):
    from mask_cases import CENTRE, circle, write_structures

    contours = [circle(12, *CENTRE[:2], z, n=12) for z in (1010.0, 1020.0, 1030.0)]
    write_structures(folder / "rs.dcm", [("liver", contours), ("spleen", contours[:2])])
    return lambda: formats.read_masks(folder / "rs.dcm", _AROUND)


@seed("dicom-seg")
def dicom_seg(folder):
    import pydicom
    from ct_cases import write_ct
    from mask_cases import write_segments

    grid = ImageGrid((8, 6, 3), (9.0, 9.0, 10.0), (-30.0, -250.0, 1010.0))
    write_ct(folder, np.zeros(grid.shape), grid)
    files = sorted(folder.iterdir())
    values = np.random.default_rng(1).integers(0, 2, (2, *grid.shape)).astype(np.uint8)
    write_segments(folder / "seg.dcm", [pydicom.dcmread(path) for path in files], values, "BINARY", ["liver", "spleen"])
    for path in files:
        path.unlink()
    return lambda: formats.read_masks(folder / "seg.dcm", _AROUND)


_AROUND = ImageGrid((16, 16, 12), (5.0, 5.0, 5.0), (-40.0, -260.0, 1000.0))


# ---- Interfile and Siemens ------------------------------------------------------------------------------------------


@seed("interfile-spect")
def interfile_spect(folder):
    formats.write_interfile(folder / "scan.hs", Scan(counts(CAMERA.shape), CAMERA, duration=12.5))
    return lambda: (formats.read_scan(folder / "scan.hs"), formats.describe(folder / "scan.hs"))


@seed("interfile-simind")
def interfile_simind(folder):
    path = interfile_cases.save(folder, interfile_cases.SIMIND, name="a.a00")
    return lambda: formats.read_scan(path)


@seed("interfile-image")
def interfile_image(folder):
    formats.write_image(folder / "image.hv", counts(GRID.shape), GRID)
    return lambda: (formats.read_image(folder / "image.hv"), formats.describe(folder / "image.hv"))


@seed("interfile-pet")
def interfile_pet(folder):
    formats.write_scan(folder / "scan.hs", Scan(counts(SINOGRAM.shape), SINOGRAM, duration=60.0))
    return lambda: (formats.read_scan(folder / "scan.hs"), formats.describe(folder / "scan.hs"))


@seed("petlink")
def petlink(folder):
    words = [petlink_cases.time_tag(100), *(petlink_cases.event(k, k, 172) for k in range(20))]
    path = petlink_cases.write(folder, words)
    return lambda: formats.read_petlink(path).read()


NORM = """!INTERFILE:=
!name of data file:=norm.n
!PET data type:=normalization
%number of normalization components:=3
%normalization component [1]:=geometric effects
%normalization component [2]:=crystal efficiencies
%normalization component [3]:=axial effects
data offset in bytes [1]:=0
data offset in bytes [2]:=276
data offset in bytes [3]:=468
%matrix size [1]:={23,3}
%matrix size [2]:={24,2}
%matrix size [3]:={4}
%axial compression:=1
%maximum ring difference:=1
"""


@seed("siemens-norm")
def siemens_norm(folder):
    (folder / "norm.n.hdr").write_text(NORM)
    np.ones(69 + 48 + 4, "<f4").tofile(folder / "norm.n")
    return lambda: formats.read_siemens_norm(folder / "norm.n.hdr", RING)


@seed("petsird")
def petsird(folder):
    import io

    import petsird as package
    from petsird.helpers import generator

    ring = generator.CylindricalBlocksInfo(
        radius=60.0,
        crystal_length=(10.0, 4.0, 5.0),
        num_crystals_per_module=(1, 2, 1),
        num_modules_along_ring=6,
        num_modules_along_axis=2,
        arc=2 * np.pi,
        start_angle=0.1,
        module_spacing_along_axis=11.0,
        number_of_tof_bins=3,
        tof_resolution=45.0,
        LLD=450.0,
        ULD=650.0,
        number_of_event_energy_bins=1,
        energy_resolution=0.1,
        material_id=1,
    )
    header = package.Header(scanner=generator.get_scanner_info([ring]))
    events = [
        package.CoincidenceEvent(detection_bins=list(event.detection_bins), tof_idx=event.tof_idx)
        for event in generator.get_events(header, (0, 0), 20)
    ]
    interval = package.TimeInterval(start=0, stop=10)
    block = package.EventTimeBlock(time_interval=interval, prompt_events=[[events]], delayed_events=[])
    stream = io.BytesIO()
    with package.BinaryPETSIRDWriter(stream) as writer:
        writer.write_header(header)
        writer.write_time_blocks(iter([package.TimeBlock.EventTimeBlock(block)]))
        writer.close()
        (folder / "a.petsird").write_bytes(stream.getvalue())
    return lambda: formats.read_petsird(folder / "a.petsird")


@seed("arrays")
def arrays(folder):
    np.save(folder / "events.npy", np.arange(30).reshape(10, 3))
    np.savez(folder / "archive.npz", image=np.ones((2, 3)), name="text")
    return lambda: (formats.describe(folder / "events.npy"), formats.describe(folder / "archive.npz"))


@seed("interfile-map")
def interfile_map(folder):
    formats.write_scan(folder / "scan.hs", Scan(counts(SINOGRAM.shape), SINOGRAM))
    lines = [
        f"{r},{c},{x},{y},{z}" for r, ring in enumerate(RING.crystals) for c, (x, y, z) in enumerate(ring.tolist())
    ]
    (folder / "map.txt").write_text("\n".join(lines))
    text = (folder / "scan.hs").read_text()
    start, end = text.index("Scanner type"), text.index("Number of rings")
    geometry = "Scanner geometry := Generic\nName of crystal map := map.txt\n"
    (folder / "scan.hs").write_text(f"{text[:start]}Scanner type := own\n{geometry}{text[end:]}")
    return lambda: formats.read_scan(folder / "scan.hs")


# ---- sets, recipes and tables ---------------------------------------------------------------------------------------


@seed("set")
def simulated_set(folder):
    from toy_sets import Dataset, Toy, write_dataset

    write_dataset(Toy(n=20), folder, shard_size=12)
    for name in ("card.json", "README.md", "examples.png"):
        (folder / name).unlink()

    def read():
        data = Dataset(folder)
        return [data[k] for k in (0, 7, 13, 19)]

    return read


@seed("recipe")
def recipe(folder):
    from emrecon.sims.recipes import load_recipe

    (folder / "recipe.toml").write_text(recipe_cases.SMALL_SPECT)
    return lambda: load_recipe(folder / "recipe.toml")


@seed("label-map")
def label_map(folder):
    from emrecon.sims import read_label_map, read_tissues

    np.savez_compressed(folder / "map.npz", labels=np.arange(24).reshape(2, 3, 4) % 3, voxel_mm=np.ones(3))
    (folder / "table.csv").write_text(
        "label,name,activity,material\n0,air,0,\n1,fat,1,adipose\n2,bone,2,bone-cortical\n"
    )
    (folder / "table.toml").write_text('[[tissue]]\nlabel = 0\nname = "air"\n\n[[tissue]]\nlabel = 1\nname = "body"\n')
    return lambda: (
        read_label_map(folder / "map.npz", read_tissues(folder / "table.csv")),
        read_tissues(folder / "table.toml"),
    )


# ---- what runs leave behind -----------------------------------------------------------------------------------------


@seed("checkpoint")
def checkpoint(folder):
    from emrecon.recon import Checkpoint, Iterate, Log

    kept = Checkpoint(folder / "state.npz", signature="8 subsets")
    logs = [folder / "log.csv", folder / "log.json"]
    for write in (kept, *map(Log, logs)):
        write(Iterate(3, np.ones((2, 3, 4)), {"table": np.ones(5), "n": np.int64(3)}))

    def read():
        with differing():
            kept.load()
        return [Log(path, resume=True) for path in logs]

    return read


@contextmanager
def differing():
    """Within: the refusal of what belongs to another run is no finding."""
    try:
        yield
    except ValueError as error:
        if "another run" not in str(error):
            raise


@seed("training")
def training(folder):
    import torch

    from emrecon.unrolled.training import loop
    from emrecon.unrolled.training.losses import Supervised, mse
    from emrecon.unrolled.training.records import best_weights, read_checkpoint, read_log

    loop.plot_log = lambda folder: None  # a picture costs more than the rest
    data = [(torch.ones(2, 1), torch.ones(2, 1))]

    def run():
        model = torch.nn.Linear(1, 1)
        optimiser = torch.optim.Adam(model.parameters())
        with differing():
            settings = loop.Settings(2, 1, folder=folder)
            return list(loop.train(model, lambda epoch: data, Supervised(mse), optimiser, settings))

    run()
    (folder / "log.csv").unlink()

    def read():
        best_weights(folder)
        read_log(folder)
        read_checkpoint(folder / "checkpoint.pt")
        run()
        (folder / "log.csv").unlink(missing_ok=True)

    return read


@seed("weights")
def weights(folder):
    import hashlib

    import torch

    from emrecon.unrolled.training.weights import Card, load_network, save_weights

    def build(n=2, name=""):
        return torch.nn.Linear(n, n)

    path, card = folder / "net.safetensors", folder / "net.json"
    save_weights(path, build(), Card("net", {"n": 2}, data={"seed": 1}, metrics={"nrmse": 0.2}))
    good = hashlib.sha256(path.read_bytes()).hexdigest()

    def read():
        text = card.read_bytes()
        # the checksum would keep all damage from the readers behind it
        card.write_bytes(text.replace(good.encode(), hashlib.sha256(path.read_bytes()).hexdigest().encode()))
        return load_network(path, {"net": build})

    return read


@seed("options")
def options(folder):
    from emrecon.cli.reconstruct.config import read_config

    (folder / "run.toml").write_text('[data]\nprojections = "scan.h5"\n\n[method]\nmethod = "osem"\nsubsets = 4\n')
    return lambda: read_config(folder / "run.toml")


# ---- DICOM of nuclear medicine ---------------------------------------------------------------------------------------


@seed("nm-beds")
def nm_beds(folder):
    import nm_cases

    from emrecon.projectors import BedScan

    scan = BedScan(tuple(nm_cases.windowed(axial=z) for z in (0.0, 60.0)))
    formats.write_dicom_nm(folder / "scan.dcm", scan, vendor="siemens", beds="rotations")
    return lambda: formats.read_scan(folder / "scan.dcm")


@seed("nm-images")
def nm_images(folder):
    import nm_cases

    formats.write_dicom_nm(folder / "planar.dcm", nm_cases.windowed(n=1))
    formats.write_dicom_image(
        folder / "image.dcm", counts(GRID.shape), GRID, unit="Bq/mL", method="OSEM", study=nm_cases.study()
    )
    return lambda: (formats.read_planar(folder / "planar.dcm"), formats.read_image(folder / "image.dcm"))
