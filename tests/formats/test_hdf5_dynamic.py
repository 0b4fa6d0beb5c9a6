"""Files of dynamic and gated scans: exact round trips, clear errors, and PETLINK files split in time."""

import contextlib
import dataclasses

import h5py
import numpy as np
import pytest
import torch
from pet_cases import SCANNER, TOF
from real_data import real_data

from emrecon.formats import FormatError, read_petlink
from emrecon.formats.hdf5 import files as hdf5
from emrecon.formats.hdf5.dynamic import describe_dynamic, read_dynamic, read_gated, write_dynamic
from emrecon.formats.siemens import petlink
from emrecon.formats.siemens.petlink_frames import histogram_petlink, split_petlink
from emrecon.projectors import EquallySpacedLines, ImageGrid, PETSinogram, Scan, SPECTGeometry
from emrecon.projectors.scan.dynamic import DynamicScan, Frames, GatedScan, Gates

RNG = np.random.default_rng(3)
CAMERA = SPECTGeometry([0.1, 10, 350.25, 17], [150, 151.5, 100 / 3, 149], (6, 4), (3.32, 4.4), head=[0, 0, 1, 1])
SINOGRAM = PETSinogram(SCANNER, span=3, tof=TOF)
ARC_CORRECTED = PETSinogram(SCANNER, n_radial=9, lines=EquallySpacedLines(7, 2.5))


def dynamic(geometry=CAMERA, **changes):
    shape = (3, *geometry.shape)
    scan = DynamicScan(
        RNG.poisson(20, shape).astype(np.float32),
        geometry,
        Frames([0.1, 10.1, 1 / 3 + 70], [10, 60, 1 / 3]),
        background=RNG.uniform(size=shape).astype(np.float32),
        factors=RNG.uniform(size=geometry.shape),
        radionuclide="F-18",
        reference=-12.5,
        energy_window=(430, 610),
        description="phantom, Ω",
    )
    return dataclasses.replace(scan, **changes)


def gated(**changes):
    shape = (4, *SINOGRAM.shape)
    scan = GatedScan(RNG.poisson(2, shape), SINOGRAM, [1.0, 2, 3, 1 / 3], background=0.5, factors=2.0, cyclic=False)
    return dataclasses.replace(scan, **changes)


def assert_same(a, b):
    assert type(a) is type(b)
    for field in dataclasses.fields(a):
        one, two = getattr(a, field.name), getattr(b, field.name)
        if isinstance(two, (np.ndarray, float, int)):
            assert np.asarray(one).dtype == np.asarray(two).dtype
            assert np.asarray(one).shape == np.asarray(two).shape
            assert np.asarray(one).tobytes() == np.asarray(two).tobytes()
        else:
            assert one == two


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"geometry": SINOGRAM},
        {"geometry": ARC_CORRECTED},
        {"background": 0.25, "factors": 1.0},
        {"factors": RNG.uniform(size=(3, 1, 1, 1)), "background": RNG.uniform(size=(1, *CAMERA.shape))},
        {"radionuclide": None, "energy_window": None, "description": "", "reference": 0.0},
        {"counts": RNG.integers(0, 70_000, (3, *CAMERA.shape))},
    ],
)
def test_every_field_of_a_dynamic_scan_comes_back(tmp_path, changes):
    scan = dynamic(**changes) if "geometry" in changes else dataclasses.replace(dynamic(), **changes)
    write_dynamic(tmp_path / "a.h5", scan)
    assert_same(read_dynamic(tmp_path / "a.h5"), scan)


@pytest.mark.parametrize("changes", [{}, {"durations": RNG.uniform(1, 2, (4, SINOGRAM.n_views)), "cyclic": True}])
def test_every_field_of_a_gated_scan_comes_back(tmp_path, changes):
    write_dynamic(tmp_path / "a.h5", gated(**changes))
    again = read_gated(tmp_path / "a.h5")
    scan = gated(**changes, counts=again.counts)
    assert_same(again, scan)


def test_tensors_and_subsets(tmp_path):
    scan = dynamic()
    write_dynamic(tmp_path / "a.h5", dataclasses.replace(scan, counts=torch.tensor(scan.counts)))
    assert_same(read_dynamic(tmp_path / "a.h5"), scan)
    part = scan.subset(1, 2)[1:]
    write_dynamic(tmp_path / "a.h5", part)
    assert_same(read_dynamic(tmp_path / "a.h5"), part)


def test_description(tmp_path):
    write_dynamic(tmp_path / "a.h5", dynamic())
    facts = describe_dynamic(tmp_path / "a.h5")
    assert facts["holds"] == "dynamic scan"
    assert facts["parts"] == "3 frames of 0.333333 to 60 s from 0.1 to 70.6667 s"
    assert facts["radionuclide"] == "F-18"
    write_dynamic(tmp_path / "a.h5", gated())
    facts = describe_dynamic(tmp_path / "a.h5")
    assert (facts["holds"], facts["parts"], facts["TOF bins"][:4]) == ("gated scan", "4 gates", "7 of")


def test_units_and_one_dataset_for_every_frame(tmp_path):
    write_dynamic(tmp_path / "a.h5", dynamic())
    with h5py.File(tmp_path / "a.h5") as file:
        assert {"counts_0000", "counts_0001", "counts_0002", "background_0002", "factors"} <= set(file)
        assert file["frames/durations"].attrs["units"] == b"s"
        missing = []
        file.visititems(
            lambda name, item: missing.append(name) if hasattr(item, "dtype") and "units" not in item.attrs else None
        )
        assert not missing


def replace_dataset(name, **options):
    def change(file):
        attributes = dict(file[name].attrs)
        del file[name]
        file.create_dataset(name, **options).attrs.update(attributes)

    return change


def add_to(file):
    file["counts_0001"][0, 0, 0] += 1


DAMAGES = {
    "no schema": (lambda file: file.attrs.__delitem__("emrecon_schema"), "not a scan or an image"),
    "scan": (
        lambda file: file.attrs.__setitem__("emrecon_schema", "scan"),
        "holds a scan, not a dynamic; use read_scan",
    ),
    "gated": (
        lambda file: file.attrs.__setitem__("emrecon_schema", "gated"),
        "holds a gated, not a dynamic; use read_gated",
    ),
    "newer": (lambda file: file.attrs.__setitem__("schema_version", 4), "schema version 4.*upgrade"),
    "version": (lambda file: file.attrs.__setitem__("schema_version", "new"), "schema_version is"),
    "a frame is missing": (lambda file: file.__delitem__("counts_0001"), "counts_0001 is missing"),
    "a frame too many": (lambda file: file.copy("counts_0002", "counts_0003"), "more counts than its 3"),
    "altered": (add_to, "checksum of counts_0001 is wrong"),
    "another shape": (replace_dataset("counts_0002", data=np.ones((4, 6, 5))), r"counts_0002 is \(\(4, 6, 5\)"),
    "huge": (replace_dataset("counts_0001", shape=(10**4,) * 3, dtype="u2", chunks=(1, 100, 100)), "values announce"),
    "left out": (replace_dataset("counts_0001", shape=(999, 999, 99), dtype="u2", chunks=(1, 9, 9)), "not in the file"),
    "no frames": (lambda file: file.__delitem__("frames"), "frames/starts is missing"),
    "overlap": (replace_dataset("frames/starts", data=[0.0, 1, 2]), "frame 1 ends at 61 s"),
    "nan": (replace_dataset("frames/starts", data=[0.0, np.nan, 2]), "not finite"),
    "millions": (replace_dataset("frames/starts", data=np.arange(20_000.0)), "starts and 3 durations"),
    "schedule": (replace_dataset("frames/schedule", data=np.ones((4, 2))), "0 <= begin"),
    "two references": (replace_dataset("frames/reference", data=[0.0, 1]), "expected one number"),
    "nuclide": (replace_dataset("radionuclide", data="Xx-1"), "unknown radionuclide"),
    "link": (lambda file: file.__setitem__("counts_0003", h5py.SoftLink("/counts_0002")), "more counts"),
    "background": (lambda file: file.__delitem__("background_0000"), "background is missing"),
}


@pytest.mark.parametrize(("change", "message"), list(DAMAGES.values()), ids=list(DAMAGES))
def test_damaged_files(tmp_path, change, message):
    path = tmp_path / "a.h5"
    write_dynamic(path, dynamic())
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(FormatError, match=message) as caught:
        read_dynamic(path)
    assert str(path) in str(caught.value)


def test_wrong_files_and_scans(tmp_path):
    path = tmp_path / "a.h5"
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_dynamic(path)
    path.write_text("not HDF5 at all")
    with pytest.raises(FormatError, match="not an HDF5 file"):
        read_dynamic(path)
    hdf5.write_image(path, np.ones((2, 2, 2)), ImageGrid((2, 2, 2), 1.0))
    with pytest.raises(FormatError, match="use read_image"):
        read_dynamic(path)
    write_dynamic(path, gated())
    with pytest.raises(FormatError, match="use read_gated"):
        read_dynamic(path)
    with pytest.raises(TypeError, match="got Scan; write_scan"):
        write_dynamic(path, Scan(np.ones(CAMERA.shape), CAMERA))
    with pytest.raises(FileNotFoundError, match="folder does not exist"):
        write_dynamic(tmp_path / "none" / "a.h5", gated())
    assert read_gated(path).n_gates == 4
    write_dynamic(path, dynamic())
    with h5py.File(path, "r+") as file:
        for name in ("starts", "durations"):
            replace_dataset(f"frames/{name}", data=np.arange(20_000.0) + 1 if name == "starts" else np.ones(20_000))(
                file
            )
    with pytest.raises(FormatError, match="announces 20000 frames"):
        read_dynamic(path)


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.999])
def test_truncated(tmp_path, part):
    path = tmp_path / "a.h5"
    write_dynamic(path, dynamic())
    whole = path.read_bytes()
    path.write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(FormatError, match="truncated"):
        read_dynamic(path)


def test_every_flipped_byte_is_an_error_or_harmless(tmp_path):
    path, scan = tmp_path / "a.h5", dynamic()
    write_dynamic(path, scan)
    whole = path.read_bytes()
    for position in RNG.integers(0, len(whole), 60):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1 :])
        with contextlib.suppress(FormatError):
            np.testing.assert_array_equal(read_dynamic(path).counts, scan.counts)


# ---- PETLINK in frames ----------------------------------------------------------------------------------------------

HEADER = """!INTERFILE:=
name of data file := events.l
data format:=CoincidenceList
number of rings:=64
%LM event and tag words format (bits):=32
%maximum ring difference:=60
%number of projections:=344
%number of views:=252
"""


@pytest.fixture
def listmode(tmp_path):
    """Ten events, prompts and delays, in each of 3000 ms from 500 ms on."""
    rng = np.random.default_rng(0)
    addresses = (rng.integers(0, 4084, (3000, 10)) * 252 + rng.integers(0, 252, (3000, 10))) * 344 + 172
    words = np.concatenate(
        [0x80000000 | np.arange(500, 3500)[:, None], addresses | rng.integers(0, 2, (3000, 10)) << 30], 1
    )
    words.astype("<u4").tofile(tmp_path / "events.l")
    (tmp_path / "scan.l.hdr").write_text(HEADER)
    return read_petlink(tmp_path / "scan.l.hdr")


FRAMES = Frames([0.0, 0.25, 2.0, 2.999, 50.0], [0.25, 1.0, 0.5, 1.0, 1.0])


@pytest.mark.parametrize("chunk", [1 << 22, 1000])
def test_frames_of_list_mode_are_its_times(listmode, monkeypatch, chunk):
    monkeypatch.setattr(petlink, "_CHUNK", chunk)
    parts = split_petlink(listmode, FRAMES)
    for part, start, end in zip(parts, FRAMES.starts, FRAMES.ends):
        for one, other in zip(part, listmode.read(start, end)):
            np.testing.assert_array_equal(one, other)
            assert one.dtype == other.dtype
    assert [len(part.prompts) + len(part.delays) for part in parts] == [2500, 10_000, 5000, 10, 0]


def test_list_mode_becomes_sinograms(listmode):
    sinogram = PETSinogram(listmode.sinogram.scanner, 5, n_radial=3, mashing=252)
    prompts, delays = histogram_petlink(listmode, FRAMES, sinogram)
    chunk = listmode.read()
    times = (chunk.prompt_times - 500) / 1000
    scan = DynamicScan.from_events(sinogram, chunk.prompts, times, FRAMES)
    np.testing.assert_array_equal(prompts, scan.counts)
    assert prompts.shape == delays.shape == (5, *sinogram.shape)
    np.testing.assert_allclose(
        prompts[1].sum() + delays[1].sum(), 10_000 * (sinogram.michelogram >= 0).sum() / 4084, rtol=0.1
    )
    gates = Gates.phase(np.arange(0.1, 3, 0.7), 4)
    found = GatedScan(histogram_petlink(listmode, gates, sinogram)[0], sinogram, gates.durations)
    np.testing.assert_array_equal(found.counts, GatedScan.from_events(sinogram, chunk.prompts, times, gates).counts)


def test_a_measured_scan_in_frames():
    scan = read_petlink(real_data("mmr_listmode", "PET_ACQ_small.l.hdr.STIR"))
    frames = Frames.from_durations([scan.duration() / 4] * 4)
    parts = split_petlink(scan, frames)
    whole = scan.read(stop=float(frames.ends[-1]))
    np.testing.assert_array_equal(np.concatenate([part.prompts for part in parts]), whole.prompts)


def test_frames_that_are_one_dataset_many_times(tmp_path):
    path = tmp_path / "a.h5"
    write_dynamic(path, dynamic())
    with h5py.File(path, "r+") as file:
        del file["counts_0001"]
        file["counts_0001"] = file["counts_0000"]
    with pytest.raises(FormatError, match="one and the same dataset"):
        read_dynamic(path)


def test_an_energy_window_of_another_kind(tmp_path):
    for values in (np.array([1 + 2j, 3]), np.arange(3.0)):
        path = tmp_path / "a.h5"
        write_dynamic(path, dynamic())
        with h5py.File(path, "r+") as file:
            if "energy_window" in file:
                del file["energy_window"]
            file["energy_window"] = values
        with pytest.raises(FormatError, match="energy_window is not two numbers"):
            read_dynamic(path)


def test_scans_of_another_kind_are_refused(tmp_path):
    from emrecon.formats import write_scan, write_windowed_scan

    for write in (write_scan, write_windowed_scan):
        with pytest.raises((TypeError, ValueError)):
            write(tmp_path / "a.h5", dynamic())
    assert not list(tmp_path.iterdir())
