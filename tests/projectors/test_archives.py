"""Archives of arrays: what NumPy writes comes back, and what announces too much is not made."""

import io
import zipfile

import numpy as np
import pytest
from bombs import zip_bomb

from emrecon.projectors.core.archives import open_array, read_arrays
from emrecon.projectors.core.errors import FormatError

ARRAYS = {
    "image": np.arange(24.0).reshape(2, 3, 4),
    "turned": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "number": np.int64(3),
    "text": np.str_("Ω"),
    "nothing": np.str_(""),
    "empty": np.zeros((0, 3), ">f4"),
    "flags": np.array([True, False]),
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_was_saved_comes_back(tmp_path, save):
    save(tmp_path / "a.npz", **ARRAYS)
    found = read_arrays(tmp_path / "a.npz")
    assert found.keys() == ARRAYS.keys()
    for name, values in ARRAYS.items():
        assert found[name].dtype == values.dtype or name == "nothing"
        assert found[name].flags.writeable
        np.testing.assert_array_equal(found[name], values)
    assert list(read_arrays(tmp_path / "a.npz", ["number"])) == ["number"]


def stored(path, header, data=b""):
    """An archive with one array "x" of this header."""
    stream = io.BytesIO()
    text = header if isinstance(header, bytes) else repr(header).encode() + b"\n"
    stream.write(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", stream.getvalue())
    return path


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"descr": "<f8", "fortran_order": False, "shape": (2**40,)}, "announces float64 of shape"),
        ({"descr": "|V0", "fortran_order": False, "shape": (2**62,)}, "x.npz"),
        ({"descr": "|O", "fortran_order": False, "shape": (1,)}, "announces object"),
        ({"descr": "<f8", "fortran_order": False, "shape": (-1, -1)}, "announces float64"),
        ({"descr": "<f8", "fortran_order": False, "shape": (True,)}, "announces float64"),
        ({"descr": "rubbish", "fortran_order": False, "shape": (1,)}, "damaged"),
        ({"descr": "<f8", "shape": (1,)}, "no header of an array"),
        (b"(" * 5000, "damaged"),
        (b"-" * 9000 + b"1", "damaged"),
        (b"[" * 60000, "no header of an array"),
    ],
)
def test_headers_that_mean_harm(tmp_path, header, message):
    with pytest.raises(FormatError, match=message) as caught:
        read_arrays(stored(tmp_path / "x.npz", header))
    assert "x.npz" in str(caught.value)


def test_arrays_by_themselves(tmp_path):
    path = tmp_path / "x.npy"
    for name, values in ARRAYS.items():
        np.save(path, values)
        found = open_array(path)
        assert (found.shape, found.dtype) == (values.shape, values.dtype) or name == "nothing"
        np.testing.assert_array_equal(found, values)
    for content in (b"\x93NUMPY\x01\0\x40\0{'descr': (", b"\x93NUMPY", b"\x93NUMPY\x01\0\xff\xff" + b"(" * 70000, b"x"):
        path.write_bytes(content)
        with pytest.raises(FormatError, match=r"x\.npy"):
            open_array(path)


def test_archives_that_are_none(tmp_path):
    path = tmp_path / "x.npz"
    for content in (b"", b"PK", b"no archive"):
        path.write_bytes(content)
        with pytest.raises(FormatError, match=r"x\.npz"):
            read_arrays(path)
    with pytest.raises(FileNotFoundError):
        read_arrays(tmp_path / "y.npz")
    with pytest.raises(FormatError, match="folder or a device"):
        read_arrays("/dev/zero")
    np.savez(path, a=np.ones(3))
    with pytest.raises(FormatError, match="no array 'b'; it has a"):
        read_arrays(path, ["b"])
    with pytest.raises(FormatError, match=r"announce 1\.34 GB"):
        read_arrays(zip_bomb(path, "x.npy", bytes(2**21), 640))
