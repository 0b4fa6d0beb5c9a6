"""The native file: exact round trips, and one clear error for everything that can be wrong with a file."""

import contextlib
import dataclasses
import time

import h5py
import numpy as np
import pytest
import torch

from emrecon import formats
from emrecon.formats import FormatError
from emrecon.formats.hdf5 import files as hdf5
from emrecon.projectors import ImageGrid, Scan, SPECTGeometry

RNG = np.random.default_rng(3)
SHAPE = (5, 6, 4)
GEOMETRY = SPECTGeometry(
    angles=[0.1, 10, 350.25, -17, 1 / 3],
    radius=[150, 151.5, 1e2 / 3, 149, 150],
    n_bins=SHAPE[1:],
    pixel_size=(3.32, 4.4179),
    shift=[0.1, 0, -0.2, 0, 3],
    axial_shift=-1.7,
    head=[0, 0, 1, 1, 2],
)
GRID = ImageGrid((4, 3, 2), (1.5, 2.5, 1 / 3), (-7.0, 0.1, 12.0))


def full_scan(**changes):
    scan = Scan(
        RNG.poisson(20, SHAPE).astype(np.float32),
        GEOMETRY,
        background=RNG.uniform(size=SHAPE),
        factors=RNG.uniform(size=(SHAPE[0], 1, 1)).astype(np.float32),
        duration=12.5,
        radionuclide="tc99m",
        energy_window=(126.45, 154.55),
        description="phantom, Ω\nsecond line",
    )
    return dataclasses.replace(scan, **changes)


def assert_same(a, b):
    assert a.geometry == b.geometry
    for name in ("angles", "radius", "shift", "head"):
        assert getattr(a.geometry, name).dtype == getattr(b.geometry, name).dtype
    for name in ("counts", "background", "factors"):
        one, two = np.asarray(getattr(a, name)), np.asarray(getattr(b, name))
        assert one.dtype == two.dtype
        assert one.shape == two.shape
        assert one.tobytes() == two.tobytes()
    assert type(a.background) is type(b.background)
    for name in ("duration", "radionuclide", "energy_window", "description"):
        assert getattr(a, name) == getattr(b, name)


def round_trip(path, scan):
    hdf5.write_scan(path, scan)
    return hdf5.read_scan(path)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"background": 0.0, "factors": 2},
        {"background": 1 / 3, "factors": RNG.uniform(size=(6, 1))},
        {"duration": None, "radionuclide": None, "energy_window": None, "description": ""},
        {"counts": RNG.poisson(3, (2, 3, *SHAPE))},
        {"description": "x" * 100_000},
    ],
)
def test_every_field_comes_back(tmp_path, changes):
    scan = full_scan(**changes)
    assert_same(round_trip(tmp_path / "a.h5", scan), scan)


def fitting():
    for name in ("bool", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8"):
        dtype = np.dtype(name)
        limit = {"bool": 1, "f2": 65504, "f4": 2**53, "f8": 2**53}.get(name) or np.iinfo(dtype).max
        yield from ((dtype, largest) for largest in (1, 300, 70_000, 5_000_000_000) if largest <= limit)


@pytest.mark.parametrize(("dtype", "largest"), list(fitting()))
def test_dtypes_come_back_and_whole_counts_are_stored_small(tmp_path, dtype, largest):
    counts = RNG.integers(0, largest, SHAPE, endpoint=True).astype(dtype)
    counts[0, 0, 0] = largest
    again = round_trip(tmp_path / "a.h5", full_scan(counts=counts))
    assert_same(again, dataclasses.replace(again, counts=counts))
    with h5py.File(tmp_path / "a.h5") as file:
        stored = file["counts"].dtype
    small = np.dtype("u2" if largest < 2**16 else "u4")
    assert stored == (small if largest < 2**32 and dtype.itemsize > 2 else dtype)


@pytest.mark.parametrize("value", [0.5, 1e-300, -0.0, 2.0**60])
def test_counts_that_are_not_small_whole_numbers_stay_exact(tmp_path, value):
    counts = np.full(SHAPE, value)
    assert round_trip(tmp_path / "a.h5", full_scan(counts=counts)).counts.tobytes() == counts.tobytes()


def test_nothing_but_zeros(tmp_path):
    geometry = SPECTGeometry([0.0], 100, (700, 700), 1)
    assert not round_trip(tmp_path / "a.h5", Scan(np.zeros((1, 700, 700)), geometry)).counts.any()


def test_big_endian_strided_and_torch_counts(tmp_path):
    counts = RNG.poisson(9, SHAPE[::-1]).astype(">f4").T
    for values in (counts, torch.tensor(np.ascontiguousarray(counts).astype("f4"))):
        again = round_trip(tmp_path / "a.h5", full_scan(counts=values)).counts
        assert again.dtype == np.float32
        np.testing.assert_array_equal(again, counts)


def test_the_same_scan_makes_the_same_bytes(tmp_path):
    for name in "ab":
        hdf5.write_scan(tmp_path / name, full_scan(background=1.0, factors=1.0, counts=np.ones(SHAPE)))
        time.sleep(1.1 * (name == "a"))  # a file holds no time
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_schema_units_and_chunks(tmp_path):
    hdf5.write_scan(tmp_path / "a.h5", full_scan())
    with h5py.File(tmp_path / "a.h5") as file:
        assert file.attrs["emrecon_schema"] == b"scan"
        assert file.attrs["schema_version"] == 1
        assert file.attrs["creator"].startswith(b"emrecon ")
        assert (file["counts"].chunks, file["counts"].compression, file["counts"].shuffle) == ((1, 6, 4), "gzip", True)
        missing = []
        file.visititems(
            lambda name, item: missing.append(name) if hasattr(item, "dtype") and "units" not in item.attrs else None
        )
        assert not missing
        assert file["geometry/radius"].attrs["units"] == b"mm"


@pytest.mark.parametrize("dtype", ["u1", "i2", "f4", "f8"])
@pytest.mark.parametrize("batch", [(), (2,)])
def test_images(tmp_path, dtype, batch):
    image = (100 * RNG.normal(size=(*batch, *GRID.shape))).astype(dtype)
    hdf5.write_image(tmp_path / "a.h5", image, GRID, units="1/cm", energy=140.5, label="water", window=[1, 2])
    again, grid = hdf5.read_image(tmp_path / "a.h5")
    assert grid == GRID
    assert again.dtype == image.dtype
    assert again.tobytes() == image.tobytes()
    facts = hdf5.describe(tmp_path / "a.h5")
    assert (facts["units"], facts["energy"], facts["label"], facts["window"]) == ("1/cm", 140.5, "water", [1, 2])
    assert facts["holds"] == "image"


def test_images_may_hold_nan(tmp_path):
    image = np.full(GRID.shape, np.nan, np.float32)
    hdf5.write_image(tmp_path / "a.h5", image, GRID)
    np.testing.assert_array_equal(hdf5.read_image(tmp_path / "a.h5")[0], image)


def test_what_cannot_be_written(tmp_path):
    with pytest.raises(ValueError, match="does not fit a grid"):
        hdf5.write_image(tmp_path / "a.h5", np.ones((3, 3, 3)), GRID)
    with pytest.raises(TypeError, match="complex128"):
        hdf5.write_image(tmp_path / "a.h5", np.ones(GRID.shape, complex), GRID)
    with pytest.raises(ValueError, match="no values"):
        hdf5.write_image(tmp_path / "a.h5", np.ones((0, *GRID.shape)), GRID)
    with pytest.raises(FileNotFoundError, match="folder does not exist"):
        hdf5.write_scan(tmp_path / "none" / "a.h5", full_scan())
    assert not list(tmp_path.iterdir())


def test_description_of_a_scan(tmp_path):
    scan = full_scan()
    hdf5.write_scan(tmp_path / "a.h5", scan)
    facts = formats.describe(tmp_path / "a.h5")
    assert facts["format"] == "emrecon HDF5"
    assert facts["total counts"] == scan.counts.sum(dtype=float)
    assert facts["radionuclide"] == "Tc-99m"
    assert facts["radius (mm)"] == "33.3333 to 151.5"


def replace_dataset(name, **options):
    def change(file):
        attributes = dict(file[name].attrs)
        del file[name]
        file.create_dataset(name, **options).attrs.update(attributes)

    return change


def change_attribute(name, value, item="/"):
    return lambda file: file[item].attrs.__setitem__(name, value)


def delete(*names):
    def change(file):
        for name in names:
            del file[name]

    return change


def external_link(file):
    del file["counts"]
    file["counts"] = h5py.ExternalLink("/etc/other.h5", "counts")


def soft_geometry(file):
    file.move("geometry", "hidden")
    file["geometry"] = h5py.SoftLink("/hidden")


def virtual(file):
    del file["counts"]
    layout = h5py.VirtualLayout(SHAPE, "f4")
    layout[:] = h5py.VirtualSource("other.h5", "counts", SHAPE)
    file.create_virtual_dataset("counts", layout)


def flip_a_count(file):
    file["counts"][0, 0, 0] += 1


HUGE = (10**4, 10**4, 10**4)
DAMAGES = {
    "no schema": (lambda file: file.attrs.__delitem__("emrecon_schema"), "not a scan or an image of emrecon"),
    "other schema": (change_attribute("emrecon_schema", "movie"), "not a scan or an image of emrecon"),
    "image schema": (change_attribute("emrecon_schema", "image"), "holds an image, not a scan; use read_image"),
    "newer": (change_attribute("schema_version", 5), "schema version 5.*upgrade"),
    "version zero": (change_attribute("schema_version", 0), "schema_version is"),
    "version text": (change_attribute("schema_version", "new"), "schema_version is"),
    "no counts": (delete("counts"), "dataset counts is missing"),
    "no angles": (delete("geometry/angles"), "dataset geometry/angles is missing"),
    "no geometry": (delete("geometry"), "geometry/angles is missing"),
    "no description": (delete("description"), "description is missing"),
    "group for dataset": (lambda file: (delete("counts")(file), file.create_group("counts")), "counts is missing"),
    "too few angles": (replace_dataset("geometry/angles", data=np.zeros(3)), "radius"),
    "two-dimensional angles": (replace_dataset("geometry/angles", data=np.zeros((5, 1))), "angles"),
    "too many bins": (replace_dataset("geometry/n_bins", data=[7, 4]), "do not fit a geometry"),
    "nan bins": (replace_dataset("geometry/n_bins", data=[np.nan, 4]), "n_bins is not finite"),
    "three pixel sizes": (replace_dataset("geometry/pixel_size", data=[1.0, 2, 3]), "pixel_size"),
    "negative radius": (replace_dataset("geometry/radius", data=np.full(5, -1.0)), "radius must be positive"),
    "two shifts along z": (replace_dataset("geometry/axial_shift", data=[1.0, 2]), "expected one number"),
    "text for angles": (replace_dataset("geometry/angles", data="zero"), "expected numbers"),
    "numbers for text": (replace_dataset("description", data=3.0), "not text"),
    "unknown isotope": (replace_dataset("radionuclide", data="Xx-1"), "unknown radionuclide"),
    "negative duration": (replace_dataset("duration", data=-1.0), "duration"),
    "one energy": (replace_dataset("energy_window", data=[140.0]), "a.h5"),
    "altered counts": (flip_a_count, "checksum of counts is wrong"),
    "no checksum": (lambda file: file["counts"].attrs.__delitem__("sha256"), "checksum of counts"),
    "odd dtype": (change_attribute("original_dtype", "object", "counts"), "original_dtype"),
    "complex counts": (replace_dataset("counts", data=np.ones(SHAPE, complex)), "expected numbers"),
    "huge": (replace_dataset("counts", shape=HUGE, dtype="u2", chunks=(1, 100, 100)), "values announce"),
    "huge angles": (replace_dataset("geometry/angles", shape=(10**12,), dtype="f8", chunks=(10,)), "values announce"),
    "values left out": (
        replace_dataset("counts", shape=(999, 999, 99), dtype="u2", chunks=(1, 9, 9)),
        "not in the file",
    ),
    "external link": (external_link, "link to somewhere else"),
    "soft link": (soft_geometry, "link to somewhere else"),
    "virtual": (virtual, "keeps its values elsewhere"),
    "external storage": (
        replace_dataset("counts", shape=SHAPE, dtype="u2", external=[("/etc/passwd", 0, 240)]),
        "keeps its values elsewhere",
    ),
}


@pytest.mark.parametrize(("change", "message"), list(DAMAGES.values()), ids=list(DAMAGES))
def test_damaged_files(tmp_path, change, message):
    path = tmp_path / "a.h5"
    hdf5.write_scan(path, full_scan())
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(FormatError, match=message) as caught:
        hdf5.read_scan(path)
    assert str(path) in str(caught.value)


def test_wrong_files(tmp_path):
    path = tmp_path / "a.h5"
    with pytest.raises(FileNotFoundError, match=r"a\.h5 does not exist"):
        hdf5.read_scan(path)
    with pytest.raises(FormatError, match="is a folder"):
        hdf5.read_scan(tmp_path)
    path.write_bytes(b"")
    with pytest.raises(FormatError, match="is empty"):
        hdf5.read_scan(path)
    path.write_text("not HDF5 at all")
    with pytest.raises(FormatError, match="not an HDF5 file"):
        hdf5.read_scan(path)
    hdf5.write_image(path, np.ones(GRID.shape), GRID)
    with pytest.raises(FormatError, match="holds an image, not a scan; use read_image"):
        hdf5.read_scan(path)
    hdf5.write_scan(path, full_scan())
    with pytest.raises(FormatError, match="holds a scan, not an image; use read_scan"):
        hdf5.read_image(path)


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.999])
def test_truncated(tmp_path, part):
    path = tmp_path / "a.h5"
    hdf5.write_scan(path, full_scan())
    whole = path.read_bytes()
    path.write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(FormatError, match="truncated"):
        hdf5.read_scan(path)


def test_every_flipped_byte_is_an_error_or_harmless(tmp_path):
    path = tmp_path / "a.h5"
    scan = full_scan(background=1.0, factors=1.0)
    hdf5.write_scan(path, scan)
    whole = path.read_bytes()
    for position in RNG.integers(0, len(whole), 60):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1 :])
        with contextlib.suppress(FormatError):
            np.testing.assert_array_equal(hdf5.read_scan(path).counts, scan.counts)


def test_an_old_file_survives_a_failed_write(tmp_path):
    path = tmp_path / "a.h5"
    hdf5.write_image(path, np.ones(GRID.shape), GRID)
    with pytest.raises(TypeError):
        hdf5.write_image(path, np.ones(GRID.shape), GRID, thing=object())
    assert hdf5.read_image(path)[0].sum() == np.prod(GRID.shape)
    assert [p.name for p in tmp_path.iterdir()] == ["a.h5"]


def test_choosing_by_name_and_content(tmp_path):
    formats.write_scan(tmp_path / "a.hdf5", full_scan())
    (tmp_path / "a.hdf5").rename(tmp_path / "a.unknown")
    assert_same(formats.read_scan(tmp_path / "a.unknown"), hdf5.read_scan(tmp_path / "a.unknown"))
    with pytest.raises(TypeError, match="cannot be replaced while reading, got radius"):
        formats.read_scan(tmp_path / "a.unknown", radius=3)
    with pytest.raises(ValueError, match=r"\.h5, \.hdf5 \(HDF5\) or \.hs"):
        formats.write_scan(tmp_path / "a.nii", full_scan())
    with pytest.raises(ValueError, match=r"choose from \.h5 \.hdf5"):
        formats.write_image(tmp_path / "a.jpg", np.ones(GRID.shape), GRID)
    (tmp_path / "b.jpg").write_text("some text")
    with pytest.raises(FormatError, match=r"choose from \.h5 \.hdf5"):
        formats.read_image(tmp_path / "b.jpg")
    with pytest.raises(FileNotFoundError):
        formats.describe(tmp_path / "c.jpg")
