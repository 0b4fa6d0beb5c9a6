"""Native files that are damaged or hostile, of former versions, or meet a full disk."""

import zlib

import h5py
import numpy as np
import pytest
from fuzz_seeds import GRID, SEEDS, camera_scan, old_style
from limits import limited

from emrecon.formats import FormatError
from emrecon.formats.hdf5 import files as hdf5
from emrecon.projectors.core import errors

KINDS = [name for name in SEEDS if name.startswith("hdf5-") and "old" not in name]
each_kind = pytest.mark.parametrize("name", KINDS)
ONE = (1.0, 1.0, 1.0)


@each_kind
def test_no_text_of_variable_length_is_written(tmp_path, name):
    SEEDS[name](tmp_path)
    found = []

    def look(where, item):
        types = [item.attrs.get_id(key).get_type() for key in item.attrs]
        types += [item.id.get_type()] if isinstance(item, h5py.Dataset) else []
        if any(kind.get_class() == h5py.h5t.STRING and kind.is_variable_str() for kind in types):
            found.append(where)

    (path,) = tmp_path.iterdir()
    with h5py.File(path) as file:
        file.visititems(look)
        look("/", file)
    assert not found
    assert b"GCOL" not in path.read_bytes()


@each_kind
def test_files_of_former_versions_are_read(tmp_path, name):
    read = SEEDS[name](tmp_path)
    new = read()
    (path,) = tmp_path.iterdir()
    old_style(path)
    assert b"GCOL" in path.read_bytes()
    assert repr(read()) == repr(new)


def test_a_damaged_sector_never_hangs(tmp_path):
    """HDF5 walks a heap with an object of size zero for ever."""
    read = SEEDS["hdf5-old-scan"](tmp_path)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    refused = 0
    for start in range(0, len(whole), 512):
        path.write_bytes(whole[:start] + bytes(512) + whole[start + 512 :])
        try:
            read()
        except FormatError as error:
            refused += "heap of texts" in str(error)
    assert refused


def test_heaps_that_mean_harm(tmp_path):
    path = tmp_path / "scan.h5"
    SEEDS["hdf5-old-scan"](tmp_path)
    whole = path.read_bytes()
    place = whole.index(b"GCOL") + 16
    for size in (0, 2**63, 2**64 - 1, 2**64 - 16):
        for number in (0, 1):
            item = number.to_bytes(2, "little") + bytes(6) + size.to_bytes(8, "little")
            path.write_bytes(whole[:place] + item + whole[place + 16 :])
            if number or size:
                with pytest.raises(FormatError, match="heap of texts"):
                    hdf5.read_scan(path)
    collection = b"GCOL\x01\0\0\0" + (4096).to_bytes(8, "little")
    path.write_bytes(whole + collection * 600)
    with pytest.raises(FormatError, match="heap of texts"):
        hdf5.read_scan(path)


def test_texts_that_do_not_fit(tmp_path):
    with pytest.raises(ValueError, match="it has a NUL"):
        hdf5.write_image(tmp_path / "a.h5", np.ones(GRID.shape), GRID, note="a\0b")
    with pytest.raises(ValueError, match="the attribute note has 100000 values"):
        hdf5.write_image(tmp_path / "a.h5", np.ones(GRID.shape), GRID, note=np.zeros(10**5))
    notes = {"one": "Ω", "empty": "", "several": ["a", "bcd"], "number": 3, "list": [1.5, 2]}
    hdf5.write_image(tmp_path / "a.h5", np.ones(GRID.shape), GRID, units="1/cm", **notes)
    facts = hdf5.describe(tmp_path / "a.h5")
    assert facts["units"] == "1/cm"
    assert {name: facts[name] for name in notes} == notes


def bomb(path, shape, dtype, original):
    """A file of zeros whose image is compressed as far as it goes."""
    hdf5.write_image(path, np.ones(GRID.shape), GRID)
    with h5py.File(path, "r+") as file:
        units = file["image"].attrs["units"]
        del file["image"]
        chunk = (max(1, shape[0] // 8), *shape[1:])
        image = file.create_dataset("image", shape, dtype, chunks=chunk, compression="gzip")
        zeros = zlib.compress(bytes(int(np.prod(chunk)) * np.dtype(dtype).itemsize), 9)
        for first in range(0, shape[0], chunk[0]):
            image.id.write_direct_chunk((first, 0, 0), zeros)
        image.attrs.update({"units": units, "original_dtype": original, "sha256": "0" * 64})


def test_a_small_file_makes_no_large_image(tmp_path):
    bomb(tmp_path / "image.h5", (160, 1024, 1024), "u1", "float64")
    size = (tmp_path / "image.h5").stat().st_size
    assert size < 2**20
    with pytest.raises(FormatError, match=rf"announce .* GB, but take {size} bytes"):
        hdf5.read_image(tmp_path / "image.h5")


def test_what_is_written_can_be_read(tmp_path, monkeypatch):
    """Constant arrays that compress beyond what a reader believes are stored as they are."""
    monkeypatch.setattr(errors, "ALWAYS_MADE", 2**16)
    image, path = np.zeros((64, 64, 64)), tmp_path / "image.h5"
    hdf5.write_image(path, image, hdf5.ImageGrid(image.shape, ONE))
    assert h5py.File(path)["image"].compression is None
    np.testing.assert_array_equal(hdf5.read_image(path)[0], image)
    image[::7, ::5, ::3] = 3.0
    hdf5.write_image(path, image, hdf5.ImageGrid(image.shape, ONE))
    assert h5py.File(path)["image"].compression == "gzip"
    np.testing.assert_array_equal(hdf5.read_image(path)[0], image)


@pytest.mark.parametrize("chunks", [None, (1, 3, 2), (4, 1, 1), (3, 3, 1)])
def test_other_programs_may_store_otherwise(tmp_path, chunks):
    image = np.arange(24.0).reshape(GRID.shape)
    hdf5.write_image(tmp_path / "a.h5", image, GRID)
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        values, attributes = file["image"][()], dict(file["image"].attrs)
        del file["image"]
        file.create_dataset("image", data=values, chunks=chunks).attrs.update(attributes)
    np.testing.assert_array_equal(hdf5.read_image(tmp_path / "a.h5")[0], image)


@each_kind
def test_a_full_disk_is_said_in_one_line(tmp_path, name):
    """HDF5 that meets an error of writing cannot close its file, and ends the process later."""
    (tmp_path / "good").mkdir()
    SEEDS[name](tmp_path / "good")
    (good,) = (tmp_path / "good").iterdir()
    size = good.stat().st_size
    for n in (1, 700, size // 3, size // 2, size - 1):
        with limited("FSIZE", n), pytest.raises(OSError, match="larger than the file system") as caught:
            SEEDS[name](tmp_path)
        assert str(tmp_path / good.name) in str(caught.value)
        assert [path.name for path in tmp_path.iterdir()] == ["good"]


def test_an_old_file_survives_a_full_disk(tmp_path):
    path = tmp_path / "scan.h5"
    hdf5.write_scan(path, camera_scan())
    before = path.read_bytes()
    with limited("FSIZE", 3000), pytest.raises(OSError, match=r"scan\.h5"):
        hdf5.write_scan(path, camera_scan())
    assert path.read_bytes() == before


@pytest.mark.parametrize(("rings", "crystals"), [(3000, 4), (1500, 4), (2, 10**6)])
def test_scanners_of_very_many_crystals(tmp_path, rings, crystals):
    """Nine million ring pairs took minutes before the counts were found not to fit."""
    read = SEEDS["hdf5-pet"](tmp_path)
    angle = np.linspace(0, 2 * np.pi, crystals, endpoint=False)
    places = np.zeros((rings, crystals, 3))
    places[..., 0], places[..., 1], places[..., 2] = np.cos(angle), np.sin(angle), np.arange(rings)[:, None]
    with h5py.File(tmp_path / "scan.h5", "r+") as file:
        for name in ("crystals", "virtual"):
            del file[f"geometry/scanner/{name}"]
        file["geometry/scanner/crystals"] = places
        file["geometry/scanner/virtual"] = np.zeros((rings, crystals), bool)
        file["geometry/max_ring_difference"][()] = rings - 1
        file["geometry/n_radial"][()] = 3
    with pytest.raises(FormatError, match=r"scan\.h5"):
        read()
