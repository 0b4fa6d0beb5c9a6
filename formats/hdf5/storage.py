"""What a native file is made of: HDF5 with a schema, units and checksums, checked before anything is allocated."""

from __future__ import annotations

import errno
import hashlib
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import ArrayLike

from emrecon import __version__
from emrecon.projectors.core.arrays import Array, to_numpy
from emrecon.projectors.core.errors import FormatError, largest_made, naming, require_affordable, require_file
from emrecon.projectors.core.files import atomic_stream

from .heaps import check_heaps

SCHEMA_VERSION = 4
"""The latest schema this version knows; files of a later one are refused.

Scans of PET sinograms need 2, arc-corrected ones 3, all others 1.
"""

_DTYPES = {"bool", "float16", "float32", "float64", *(f"{sign}int{8 * n}" for sign in ("", "u") for n in (1, 2, 4, 8))}
# what reads each kind of file, and its latest schema
_KINDS = {
    "scan": ("read_scan", SCHEMA_VERSION),
    "image": ("read_image", SCHEMA_VERSION),
    "dynamic": ("read_dynamic", 3),
    "gated": ("read_gated", 3),
    "windowed-scan": ("read_windowed_scan", 2),
    "beds": ("read_beds", 1),
    "windowed-series": ("read_windowed_series", 1),
}
# the first format of HDF5 that has checksums for all that is not data
_FORMAT = ("v110", "v110")
_PLAIN_TYPES = (h5py.h5t.TypeIntegerID, h5py.h5t.TypeFloatID, h5py.h5t.TypeStringID, h5py.h5t.TypeEnumID)
_LONGEST_LIST = 2**16  # of an attribute
_AT_ONCE = 2**22  # bytes
# deflate cannot shrink data by more than this: less on the disk means that values are missing
_LARGEST_COMPRESSION = 1100


@contextmanager
def creating(path: str | os.PathLike[str], kind: str, version: int) -> Iterator[h5py.File]:
    """Give a new file of a kind ("scan", "image", ...) and schema version; it appears complete or not at all."""
    with atomic_stream(path) as stream, h5py.File(stream, "w", libver=_FORMAT) as file:
        put_attributes(file, emrecon_schema=kind, schema_version=version, creator=f"emrecon {__version__}")
        yield file


@contextmanager
def opened(path: str | os.PathLike[str], kind: str | None) -> Iterator[h5py.File]:
    """Give a file for reading, once it is one of emrecon's, of this kind (None: of any) and of a schema that is known.

    Whatever goes wrong inside becomes a FormatError that names the file.
    """
    path = require_file(path)
    if not h5py.is_hdf5(path):
        raise FormatError(f"{path} is not an HDF5 file; another format with the wrong suffix?")
    try:
        with naming(path), h5py.File(path, "r") as file:
            _check_schema(file, path, kind)
            yield file
    except (OSError, RuntimeError, KeyError) as error:
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            raise OSError(error.errno, "too many files are open in this process", str(path)) from error
        raise FormatError(f"{path}: HDF5 cannot read it ({_first_line(error)}); truncated or damaged?") from error


def _check_schema(file: h5py.Group, path: Path, kind: str | None) -> None:
    found = attribute_of(file, "emrecon_schema")
    if found not in _KINDS:
        raise FormatError(f"{path} is HDF5, but not a scan or an image of emrecon (emrecon_schema is {found!r})")
    reader, latest = _KINDS[found]
    number = plain_attribute(file, "schema_version")
    if not isinstance(number, int) or number < 1:
        raise FormatError(f"{path}: schema_version is {number!r}, expected a whole number; edited by hand?")
    if number > latest:
        creator = attribute_of(file, "creator")
        raise FormatError(
            f"{path} has schema version {number} (written by {creator}), this emrecon reads up to {latest}; "
            "upgrade emrecon"
        )
    if kind is not None and found != kind:
        raise FormatError(f"{path} holds a {found}, not a {kind}; use {reader}?".replace("a image", "an image"))


def store(file: h5py.Group, name: str, values: Array | float, units: str) -> None:
    """Store a number, or an array with its dtype and checksum, compressed by view (or by plane)."""
    array = np.asarray(to_numpy(values))
    if array.dtype.name not in _DTYPES:
        raise TypeError(f"{name} has dtype {array.dtype}; HDF5 files hold {', '.join(sorted(_DTYPES))}")
    if array.ndim == 0:
        put(file, name, array, units)
        return
    if array.size == 0:
        raise ValueError(f"{name} of shape {array.shape} has no values to write")
    stored = _compact(array)
    chunks = (1,) * (array.ndim - 2) + array.shape[-2:] if array.ndim > 2 else True
    options = {"chunks": chunks, "compression": "gzip", "shuffle": True}
    dataset = file.create_dataset(name, data=stored, track_times=False, **options)
    if array.nbytes > largest_made(dataset.id.get_storage_size()):
        del file[name]  # readers would take it for hostile
        dataset = file.create_dataset(name, data=stored, track_times=False)
    put_attributes(
        dataset, units=units, original_dtype=array.dtype.name, sha256=hashlib.sha256(_bytes_of(stored)).hexdigest()
    )


def _compact(array: np.ndarray) -> np.ndarray:
    """Whole numbers in 16 or 32 bits; anything that would not come back exactly stays as it is."""
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    low, high = array.min(), array.max()
    if array.dtype.itemsize <= 2 or not (low >= 0 and high < 2**32):
        return little
    if array.dtype.kind == "f" and (np.any(array != np.rint(array)) or np.signbit(array).any()):
        return little
    return array.astype("<u2" if high < 2**16 else "<u4")


def put(file: h5py.Group, name: str, value: ArrayLike, units: str) -> None:
    """Store a number, a text or a short list as it is."""
    put_attributes(file.create_dataset(name, data=fixed_texts(value), track_times=False), units=units)


def put_attributes(item: h5py.Group | h5py.Dataset, **attributes: ArrayLike) -> None:
    """Give a group or a dataset attributes: numbers, texts and short lists; raises ValueError for long ones."""
    for name, value in attributes.items():
        if np.size(value) > _LONGEST_LIST:
            raise ValueError(f"the attribute {name} has {np.size(value)} values, more than {_LONGEST_LIST}")
    item.attrs.update({name: fixed_texts(value) for name, value in attributes.items()})


def fixed_texts(value: ArrayLike) -> ArrayLike:
    """Return texts in UTF-8 of a fixed length, anything else as it is.

    Texts of variable length would lie in a heap without a checksum, and in a damaged one HDF5 loses its way.

    Raises ValueError for texts with a NUL, which ends a text.
    """
    texts = np.asarray(value)
    if texts.dtype.kind != "U":
        return value
    encoded = np.char.encode(texts, "utf-8")
    if isinstance(value, str) and "\0" in value:
        raise ValueError(f"HDF5 cannot hold the text {value!r}: it has a NUL")
    return encoded.astype(h5py.string_dtype("utf-8", max(1, encoded.dtype.itemsize)))


def load(file: h5py.Group, name: str) -> np.ndarray:
    """Return a dataset of numbers in its original dtype, after checking its size and its checksum."""
    dataset = dataset_of(file, name)
    if dataset.dtype.kind not in "buif":
        raise FormatError(f"{file.file.filename}: {name} has dtype {dataset.dtype}, expected numbers; edited by hand?")
    if dataset.ndim and "/" not in name:
        return _verified(file, dataset, name)
    check_bytes(file, dataset.nbytes)
    values = np.asarray(dataset[()])
    if not np.isfinite(values).all() and "/" in name:
        raise FormatError(f"{file.file.filename}: {name} is not finite; edited by hand?")
    return values


def _verified(file: h5py.Group, dataset: h5py.Dataset, name: str) -> np.ndarray:
    """The values of a dataset with a checksum, converted part by part so that they are in memory once."""
    values_dtype = original_dtype(file, dataset)
    check_bytes(file, dataset.size * values_dtype.itemsize)
    values, digest = np.empty(dataset.shape, values_dtype), hashlib.sha256()
    for part in _parts(dataset):
        stored = dataset[part]
        digest.update(_bytes_of(stored))
        values[part] = stored
    if attribute_of(dataset, "sha256") != digest.hexdigest():
        raise FormatError(
            f"{file.file.filename}: the checksum of {name} is wrong; altered or damaged after it was written?"
        )
    return values


def _parts(dataset: h5py.Dataset) -> Iterator[slice]:
    """Parts along the first axis that are whole chunks, so that none is decompressed twice."""
    thick = dataset.chunks[0] if dataset.chunks else 1
    row = max(1, dataset.nbytes // max(1, dataset.shape[0]))
    step = -(-max(thick, _AT_ONCE // row) // thick) * thick
    for first in range(0, dataset.shape[0], step):
        yield slice(first, first + step)


def require_room(file: h5py.Group, names: Iterable[str]) -> None:
    """Raise FormatError where these datasets, all of them together, would take absurdly much memory."""
    datasets = [dataset_of(file, name) for name in names]
    sizes = [d.size * original_dtype(file, d).itemsize if d.ndim else d.nbytes for d in datasets]
    check_bytes(file, sum(sizes))


def check_bytes(file: h5py.Group, n_bytes: int) -> None:
    """Raise FormatError where values would take absurdly more memory than the file takes on the disk."""
    require_affordable(Path(file.file.filename), n_bytes, "its values")


def dataset_of(file: h5py.Group, name: str) -> h5py.Dataset:
    """Return a dataset whose values lie in this file and have a size that can be allocated."""
    _check_links(file, name)
    if name not in file or not isinstance(file[name], h5py.Dataset):
        raise FormatError(f"{file.file.filename}: the dataset {name} is missing; an incomplete or edited file?")
    dataset = file[name]
    if dataset.shape is None or dataset.is_virtual or dataset.external:
        raise FormatError(
            f"{file.file.filename}: {name} keeps its values elsewhere; emrecon never writes that, refused"
        )
    check_bytes(file, dataset.nbytes)
    check_bytes(file, math.prod(dataset.chunks or ()) * dataset.dtype.itemsize)
    if dataset.chunks and dataset.id.get_storage_size() * _LARGEST_COMPRESSION < dataset.nbytes:
        raise FormatError(f"{file.file.filename}: {name} announces {dataset.shape} but most values are not in the file")
    return dataset


def _check_links(file: h5py.Group, name: str) -> None:
    """Refuse soft and external links: a file must not make its reader open another one."""
    parts = name.split("/")
    for end in range(1, len(parts) + 1):
        link = file.get("/".join(parts[:end]), getlink=True)
        if link is not None and not isinstance(link, h5py.HardLink):
            raise FormatError(
                f"{file.file.filename}: {name} is a link to somewhere else; emrecon never writes that, refused"
            )


def group_of(file: h5py.Group, name: str) -> h5py.Group:
    """Return a group of this file."""
    _check_links(file, name)
    if not isinstance(file.get(name), h5py.Group):
        raise FormatError(f"{file.file.filename}: the group {name} is missing; an incomplete or edited file?")
    return file[name]


def optional_number(file: h5py.Group, name: str) -> float | None:
    """Return one number, None where the file does not have it."""
    return number_of(load(file, name), name) if name in file else None


def optional_text(file: h5py.Group, name: str) -> str | None:
    """Return a text, None where the file does not have it."""
    return text_of(file, name) if name in file else None


def optional_put(file: h5py.Group, name: str, value: ArrayLike | None, units: str) -> None:
    """Store a number, a text or a short list, nothing for None."""
    if value is not None:
        put(file, name, value, units)


def energy_window_of(file: h5py.Group) -> tuple[float, float] | None:
    """Return (lower, upper) keV, None where the file does not have them."""
    if "energy_window" not in file:
        return None
    values = np.asarray(dataset_of(file, "energy_window")[()])
    if values.dtype.kind not in "fiu" or values.shape != (2,):
        raise FormatError(f"{file.file.filename}: energy_window is not two numbers in keV; edited by hand?")
    return float(values[0]), float(values[1])


def text_of(file: h5py.Group, name: str) -> str:
    """Return a text that must be there."""
    dataset = dataset_of(file, name)
    if h5py.check_string_dtype(dataset.dtype) is None or dataset.shape != ():
        raise FormatError(f"{file.file.filename}: {name} is not text; edited by hand?")
    if h5py.check_string_dtype(dataset.dtype).length is None:
        check_heaps(Path(file.file.filename))
    return str(dataset.asstr()[()])


def attribute_of(item: h5py.Group | h5py.Dataset, name: str) -> str | None:
    """Return an attribute that is text, None where it is missing or of another type."""
    value = plain_attribute(item, name)
    return value if isinstance(value, str) else None


def plain_attribute(item: h5py.Group | h5py.Dataset, name: str) -> object:
    """Return an attribute that is a number, a text or a list of them; None where it is missing or anything else."""
    if name not in item.attrs:
        return None
    # HDF5 crashes on some damaged types, so what is neither numbers nor texts is not read
    stored = item.attrs.get_id(name)
    if (
        not isinstance(stored.get_type(), _PLAIN_TYPES)
        or stored.get_space().get_simple_extent_npoints() > _LONGEST_LIST
    ):
        return None
    if has_variable_text(item, name):
        check_heaps(Path(item.file.file.filename))
    value = item.attrs[name]
    if isinstance(value, np.ndarray) and value.dtype.kind == "S":
        value = np.char.decode(value, "utf-8", "replace")
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value


def has_variable_text(item: h5py.Group | h5py.Dataset, name: str) -> bool:
    """Whether an attribute is a text of variable length, which lies in a heap (see `check_heaps`)."""
    kind = item.attrs.get_id(name).get_type() if name in item.attrs else None
    return isinstance(kind, h5py.h5t.TypeStringID) and kind.is_variable_str()


def original_dtype(file: h5py.Group, dataset: h5py.Dataset) -> np.dtype:
    """Return the dtype that the values had before they were written."""
    name = attribute_of(dataset, "original_dtype")
    if name not in _DTYPES:
        raise FormatError(f"{file.file.filename}: {dataset.name} has the original_dtype {name!r}; edited by hand?")
    return np.dtype(name)


def plain(values: np.ndarray) -> np.ndarray | float:
    """Return an array as it is, and the number of an array without axes."""
    return values if values.ndim else values.item()


def number_of(values: np.ndarray, name: str) -> float:
    """Return the only number of an array; ValueError names the dataset where there are more."""
    if np.size(values) != 1:
        raise ValueError(f"{name} has shape {np.shape(values)}, expected one number")
    return float(np.ravel(values)[0])


def _bytes_of(values: np.ndarray) -> memoryview:
    little = values.astype(values.dtype.newbyteorder("<"), copy=False)
    return np.ascontiguousarray(little).data


def _first_line(error: BaseException) -> str:
    return str(error).strip("'\"").partition("\n")[0]
