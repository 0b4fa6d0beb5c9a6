"""One shard of simulated samples: what a set is made of, and how its HDF5 files are written, verified and opened.

docs/datasets.md lists the schema.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
from numpy.typing import ArrayLike

from emrecon import __version__
from emrecon.formats.hdf5.storage import dataset_of, plain_attribute, put_attributes
from emrecon.projectors.core.errors import FormatError, require_file
from emrecon.projectors.core.files import atomic_path
from emrecon.projectors.core.texts import read_json

SCHEMA_VERSION = 1
"""The latest schema this version knows; sets of a later one are refused."""

MANIFEST = "manifest.json"
# Measured on SPECT samples (uint16 sinogram, two float32 images): level 1 writes 1900 and reads 4000 samples a second
# per core at 8.7 times less space; lzf reads no faster at 7.0 times, levels 4 to 9 are 1.4 to 7 times slower for 1.1
# times less.
_COMPRESSION_LEVEL = 1
_SMALL_CHUNK = 2**14
_LARGEST_SHARD = 2**28
_N_SHARDS = 100
_MOST_SHARDS, _LARGEST_NUMBER = 10**6, 2**53  # of a manifest that is not damaged or hostile
TOO_MANY_FILES = (errno.EMFILE, errno.ENFILE)
_FIELD_KEYS = ("shape", "dtype", "unit", "description")
_SHARD_VERSION = 2  # since which a shard ends with its digest
_FOOTER = b"\nsha256 of what comes before: "
_FOOTER_SIZE = len(_FOOTER) + 64
_DTYPES = {"bool", "float16", "float32", "float64", *(f"{sign}int{8 * n}" for sign in ("", "u") for n in (1, 2, 4, 8))}


@dataclass(frozen=True)
class Field:
    """One kind of array in every sample: its shape and dtype, the unit of its values and what they are.

    Args:
        shape : of one sample, such as (120, 128).
        dtype : bool, (u)int8 to 64 or float16 to 64; counts are best "uint16".
    """

    shape: tuple[int, ...]
    dtype: str
    unit: str = ""
    description: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(int(size) for size in self.shape))
        if not all(isinstance(text, str) for text in (self.dtype, self.unit, self.description)):
            raise TypeError("the dtype, unit and description of a field are texts")
        if self.dtype not in _DTYPES:
            raise ValueError(f"a field has dtype {self.dtype!r}; samples are kept as {', '.join(sorted(_DTYPES))}")
        if any(size < 1 for size in self.shape):
            raise ValueError(f"a field has shape {self.shape}; every size must be at least 1")

    @property
    def n_bytes(self) -> int:
        """Bytes of one sample, uncompressed."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


class Source(Protocol):
    """Samples that are made when they are asked for: picklable, and a pure function of the index.

    Args:
        n : samples.
        fields : what one sample holds.
        samples_per_phantom : samples i with the same i // samples_per_phantom show the same phantom.
        split : names and numbers of samples, consecutive and in this order, of whole phantoms, n in all.
        batch : how many samples are best made at once.
        describe : every parameter and seed, as JSON has it.
        samples : arrays (len(indices), ``*shape``) for every field.
    """

    @property
    def n(self) -> int: ...
    @property
    def fields(self) -> Mapping[str, Field]: ...
    @property
    def samples_per_phantom(self) -> int: ...
    @property
    def split(self) -> Mapping[str, int]: ...
    @property
    def batch(self) -> int: ...
    def describe(self) -> dict[str, object]: ...
    def samples(self, indices: Sequence[int]) -> dict[str, np.ndarray]: ...


@dataclass(frozen=True)
class Shard:
    """One file of a set: samples first, first + 1, ..., first + n - 1."""

    number: int
    first: int
    n: int

    @property
    def name(self) -> str:
        return f"shard-{self.number:05d}.h5"


@dataclass(frozen=True)
class Plan:
    """What every process knows of a set before the first sample is made: the content of its manifest."""

    n: int
    samples_per_phantom: int
    batch: int
    shard_size: int
    split: dict[str, range]
    fields: dict[str, Field]
    recipe: dict[str, object]
    library_version: str

    @classmethod
    def of(cls, source: Source, shard_size: int | None = None) -> Plan:
        """Return the plan of a source; raises ValueError where the source contradicts itself."""
        for name in ("n", "samples_per_phantom", "batch"):
            if int(getattr(source, name)) < 1:
                raise ValueError(f"the source's {name} must be at least 1, got {getattr(source, name)}")
        if not source.fields or any(not name or set("/.") & set(name) for name in source.fields):
            raise ValueError(f"the source's fields need names without '/' and '.', got {list(source.fields)}")
        size = whole_batches(source) if shard_size is None else int(shard_size)
        if size < 1 or size % source.batch:
            raise ValueError(f"shard_size must be whole batches of {source.batch} samples, got {shard_size}")
        try:
            recipe = json.loads(json.dumps(source.describe(), allow_nan=False))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"the source's describe() is not JSON: {error}; use plain numbers, text and lists"
            ) from error
        return cls(
            n=int(source.n),
            samples_per_phantom=int(source.samples_per_phantom),
            batch=int(source.batch),
            shard_size=size,
            split=split_ranges(source),
            fields=dict(source.fields),
            recipe=recipe,
            library_version=__version__,
        )

    @classmethod
    def read(cls, folder: Path) -> Plan:
        """Return the plan of the set in a folder; raises FileNotFoundError or FormatError that name the manifest."""
        path = folder / MANIFEST
        if not path.exists():
            raise FileNotFoundError(f"{folder} has no {MANIFEST}: is it the folder of a simulated set?")
        found = read_json(path, "the manifest of a simulated set")
        try:
            if not isinstance(found, dict) or found.get("emrecon_schema") != "simulated-set":
                raise FormatError(f"{path} is not the manifest of a simulated set")
            if found["schema_version"] > SCHEMA_VERSION:
                raise FormatError(
                    f"{path} has schema version {found['schema_version']}, this emrecon reads up to {SCHEMA_VERSION}; "
                    "upgrade emrecon"
                )
            plan = _planned(found)
            fingerprint = plan.fingerprint
        except FormatError:
            raise
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
            raise FormatError(f"{path}: {str(error)[:200]!r}; damaged or edited by hand?") from error
        if fingerprint != found.get("fingerprint"):
            raise FormatError(f"{path}: its fingerprint does not fit its content; edited by hand?")
        return plan

    @property
    def content(self) -> dict[str, object]:
        """What makes this set this set, as JSON has it."""
        return {
            "emrecon_schema": "simulated-set",
            "schema_version": SCHEMA_VERSION,
            "library_version": self.library_version,
            "n": self.n,
            "samples_per_phantom": self.samples_per_phantom,
            "batch": self.batch,
            "shard_size": self.shard_size,
            "split": {name: [part.start, part.stop] for name, part in self.split.items()},
            "fields": [
                {"name": name, "shape": list(f.shape), "dtype": f.dtype, "unit": f.unit, "description": f.description}
                for name, f in self.fields.items()
            ],
            "recipe": self.recipe,
        }

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the content as canonical JSON (sorted keys, no spaces)."""
        canonical = json.dumps(self.content, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(canonical.encode()).hexdigest()

    @property
    def shards(self) -> list[Shard]:
        """Every file of the set in order."""
        starts = range(0, self.n, self.shard_size)
        return [Shard(k, first, min(self.shard_size, self.n - first)) for k, first in enumerate(starts)]

    @property
    def sample_bytes(self) -> int:
        """Bytes of one sample, uncompressed."""
        return sum(field.n_bytes for field in self.fields.values())

    def manifest(self) -> str:
        """Return the text of the manifest."""
        shards = {shard.name: [shard.first, shard.first + shard.n] for shard in self.shards}
        whole = self.content | {"shards": shards, "fingerprint": self.fingerprint}
        return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def _planned(found: Mapping[str, Any]) -> Plan:
    """The plan that a manifest describes; raises ValueError, TypeError or LookupError for whatever cannot be one."""
    numbers = {name: found[name] for name in ("n", "samples_per_phantom", "batch", "shard_size")}
    for name, number in numbers.items():
        if type(number) is not int or not 1 <= number <= _LARGEST_NUMBER:
            raise ValueError(f"{name} is {_short(number)}, expected a whole number from 1 to {_LARGEST_NUMBER}")
    if numbers["n"] > _MOST_SHARDS * numbers["shard_size"]:
        raise ValueError(f"n is {numbers['n']}, which would be more than {_MOST_SHARDS} files")
    split = {name: range(*ends) for name, ends in found["split"].items()}
    borders = [border for part in split.values() for border in (part.start, part.stop)]
    if borders != sorted(borders) or any(not 0 <= border <= numbers["n"] for border in borders):
        raise ValueError(f"the split {_short(found['split'])} is not one of {numbers['n']} samples")
    if not isinstance(found["recipe"], dict) or not isinstance(found["library_version"], str):
        raise TypeError("recipe and library_version are not a mapping and a text")
    fields = {field["name"]: Field(*(field[key] for key in _FIELD_KEYS)) for field in found["fields"]}
    if not fields or not all(isinstance(name, str) and name and not set("/.") & set(name) for name in fields):
        raise ValueError(f"the names of the fields are {_short([*map(str, fields)])}")
    return Plan(split=split, fields=fields, recipe=found["recipe"], library_version=found["library_version"], **numbers)


def whole_batches(source: Source) -> int:
    """Return a shard size of whole batches: a hundredth of the set, of 256 MiB at most before compression."""
    per_sample = sum(field.n_bytes for field in source.fields.values())
    wanted = min(math.ceil(source.n / _N_SHARDS), max(1, _LARGEST_SHARD // per_sample))
    return max(1, round(wanted / source.batch)) * source.batch


def split_ranges(source: Source) -> dict[str, range]:
    """Return {name: range of samples}; raises ValueError where a phantom would be on both sides of a border."""
    parts, first = {}, 0
    for name, n in source.split.items():
        if n < 0 or (first + n != source.n and (first + n) % source.samples_per_phantom):
            raise ValueError(
                f"the split {dict(source.split)} cuts a phantom of {source.samples_per_phantom} samples in two at the "
                f"end of {name!r}; make every part a multiple"
            )
        parts[name] = range(first, first + n)
        first += n
    if first != source.n:
        raise ValueError(f"the split {dict(source.split)} has {first} samples, the source {source.n}")
    return parts


def made(source: Source, fields: Mapping[str, Field], indices: Sequence[int]) -> dict[str, np.ndarray]:
    """Return the samples of a source in the dtypes of their fields, with every value checked.

    Raises RuntimeError that names the samples where the source fails, ValueError that names the sample, the field and
    the fact where a shape is wrong or a value cannot be kept exactly.
    """
    try:
        arrays = source.samples(list(indices))
    except Exception as error:
        raise RuntimeError(f"{_named(indices)} could not be made: {type(error).__name__}: {error}") from error
    missing = [name for name in fields if name not in arrays]
    if missing:
        raise ValueError(f"{_named(indices)}: the source gave {sorted(arrays)}, without {', '.join(missing)}")
    return {name: _exact(arrays[name], field, name, indices) for name, field in fields.items()}


def _named(indices: Sequence[int]) -> str:
    return f"sample {indices[0]}" if len(indices) == 1 else f"samples {indices[0]} to {indices[-1]}"


def _exact(values: ArrayLike, field: Field, name: str, indices: Sequence[int]) -> np.ndarray:
    """Return the values in the field's dtype: integers unchanged, floats rounded to it and finite."""
    array, dtype = np.asarray(values), np.dtype(field.dtype)
    if array.shape != (len(indices), *field.shape):
        raise ValueError(
            f"{_named(indices)}: {name} has shape {array.shape}, expected {(len(indices), *field.shape)}, samples first"
        )
    if array.dtype == dtype and dtype.kind in "bui":
        return array
    if array.dtype.kind not in "buif":
        raise ValueError(f"{_named(indices)}: {name} has dtype {array.dtype}, expected numbers")
    _refuse(~np.isfinite(array), array, f"{name} holds NaN or infinite values", indices)
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            rounded = array.astype(dtype, copy=False)
        _refuse(~np.isfinite(rounded), array, f"{name} overflows {dtype}; use a wider dtype", indices)
        return rounded
    low, high = (0, 1) if dtype.kind == "b" else (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
    if array.dtype.kind == "f":
        _refuse(array != np.rint(array), array, f"{name} holds fractions, but is kept as {dtype}", indices)
    if low == 0:
        _refuse(array < 0, array, f"{name} is negative, but is kept as {dtype}", indices)
    # float(2**64 - 1) is 2**64: one past the largest is exact in either
    too_large = array >= float(high + 1) if array.dtype.kind == "f" else array > high
    too_small = array < float(low) if array.dtype.kind == "f" else array < low
    _refuse(too_large | too_small, array, f"{name} overflows {dtype} ({low} to {high}); use a wider dtype", indices)
    return array.astype(dtype)


def _refuse(wrong: np.ndarray, values: np.ndarray, fact: str, indices: Sequence[int]) -> None:
    if wrong.any():
        place = np.unravel_index(int(np.argmax(wrong)), wrong.shape)
        raise ValueError(f"sample {indices[int(place[0])]}: {fact} (here {values[place]})")


def write_shard(
    source: Source, plan: Plan, folder: Path, shard: Shard, tell: Callable[[int], None] | None = None
) -> int:
    """Make the samples of a shard, write its file and return its bytes; `tell(n)` after every n samples.

    The file is made in memory and lies in the folder complete or not at all.
    """
    image = shard_image(source, plan, shard, tell)
    with atomic_path(folder / shard.name) as temporary:
        temporary.write_bytes(image)
    return len(image)


def shard_image(
    source: Source,
    plan: Plan,
    shard: Shard,
    tell: Callable[[int], None] | None = None,
    known: Mapping[str, np.ndarray] | None = None,
) -> bytes:
    """Return the bytes of a shard's file: they depend on the plan and the samples alone.

    Args:
        known : the samples of a shard of one batch, where they have been made already.

    HDF5 writes into memory, because a file that meets a full disk cannot be closed again in good order.
    """
    memory = {"driver": "core", "backing_store": False}
    with h5py.File(shard.name, "w", **memory, libver=("v110", "v110"), rdcc_nbytes=0) as file:
        put_attributes(
            file,
            emrecon_schema="simulated-shard",
            schema_version=_SHARD_VERSION,
            creator=f"emrecon {plan.library_version}",
            fingerprint=plan.fingerprint,
            first_sample=shard.first,
            n_samples=shard.n,
        )
        for name, field in plan.fields.items():
            _create(file, name, field, plan, shard)
        for first in range(shard.first, shard.first + shard.n, plan.batch):
            indices = range(first, min(first + plan.batch, shard.first + shard.n))
            for name, values in (known or made(source, plan.fields, indices)).items():
                file[name][first - shard.first : indices.stop - shard.first] = values
            if tell is not None:
                tell(len(indices))
        file.flush()
        image: bytes = file.id.get_file_image()
    return image + _FOOTER + hashlib.sha256(image).hexdigest().encode()


def _create(file: h5py.File, name: str, field: Field, plan: Plan, shard: Shard) -> None:
    # one sample per chunk, but a chunk of a few bytes costs more than it holds
    rows = min(plan.batch, shard.n) if field.n_bytes * plan.batch <= _SMALL_CHUNK else 1
    dataset = file.create_dataset(
        *(name, (shard.n, *field.shape), np.dtype(field.dtype).newbyteorder("<")),
        chunks=(rows, *field.shape),
        track_times=False,
        compression="gzip",
        compression_opts=_COMPRESSION_LEVEL,
        shuffle=True,
    )
    put_attributes(dataset, units=field.unit, description=field.description, first_sample=shard.first)


def open_shard(plan: Plan, folder: Path, shard: Shard) -> h5py.File:
    """Return the open file of a shard; raises FileNotFoundError, FormatError or OSError that say what is wrong."""
    path = folder / shard.name
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; run the simulation again to complete the set")
    try:
        file = h5py.File(require_file(path), "r", rdcc_nbytes=0)  # chunks are read once: a cache costs a copy
    except OSError as error:
        raise _unreadable(path, error) from error
    try:
        _check(file, plan, shard, path)
    except FormatError:
        file.close()
        raise
    except (OSError, RuntimeError, LookupError, TypeError, ValueError) as error:
        file.close()
        raise _unreadable(path, error) from error
    return file


def _unreadable(path: Path, error: Exception) -> Exception:
    if isinstance(error, OSError) and error.errno in TOO_MANY_FILES:
        advice = "too many files are open in this process; close some, or raise the limit (ulimit -n)"
        return OSError(error.errno, advice, str(path))
    return damaged(path, error)


def damaged(path: Path, error: BaseException) -> FormatError:
    """Return the error for a file that HDF5 cannot read."""
    reason = str(error).strip("'\"").partition("\n")[0]
    return FormatError(
        f"{path}: HDF5 cannot read it ({reason}); truncated or damaged? Run the simulation again: it rewrites the file"
    )


def _check(file: h5py.File, plan: Plan, shard: Shard, path: Path) -> None:
    if plain_attribute(file, "schema_version") != 1 and not _ends_whole(path):
        raise FormatError(f"{path} does not end with its digest; truncated or damaged? Run the simulation again")
    fingerprint, first, n = (plain_attribute(file, name) for name in ("fingerprint", "first_sample", "n_samples"))
    if fingerprint != plan.fingerprint:
        raise FormatError(f"{path} belongs to another set: its fingerprint is not that of {MANIFEST}")
    if (first, n) != (shard.first, shard.n):
        raise FormatError(f"{path} does not hold samples {shard.first} to {shard.first + shard.n - 1}; renamed?")
    for name, field in plan.fields.items():
        found = dataset_of(file, name)
        if found.shape != (shard.n, *field.shape) or found.dtype != np.dtype(field.dtype) or not found.chunks:
            raise FormatError(f"{path}: {name} is {found.dtype} of shape {found.shape}; damaged?")
        if found.id.get_num_chunks() != math.ceil(shard.n / found.chunks[0]):
            raise FormatError(f"{path}: {name} is not complete; damaged?")


def _ends_whole(path: Path) -> bool:
    """Whether a shard ends with a digest, of whatever."""
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - _FOOTER_SIZE))
        return stream.read(len(_FOOTER)) == _FOOTER


def is_there(plan: Plan, folder: Path, shard: Shard) -> bool:
    """Whether a shard's file opens, belongs to the plan and has every chunk; what is in them is not looked at."""
    if not (folder / shard.name).exists():
        return False
    try:
        with open_shard(plan, folder, shard):
            return True
    except (OSError, FormatError):
        return False


def is_sound(plan: Plan, folder: Path, shard: Shard) -> bool:
    """Whether a shard's file is there and every byte of it is as it was written.

    Those of 0.2.0 have no digest: all of their samples are read, whose compression has checksums.
    """
    if not is_there(plan, folder, shard):
        return False
    try:
        with open_shard(plan, folder, shard) as file:
            if plain_attribute(file, "schema_version") == 1:
                for name in plan.fields:
                    for first in range(shard.n):
                        _ = file[name][first]
                return True
        image = (folder / shard.name).read_bytes()
    except (OSError, RuntimeError, LookupError, ValueError):
        return False
    return image[-_FOOTER_SIZE:] == _FOOTER + hashlib.sha256(image[:-_FOOTER_SIZE]).hexdigest().encode()


def claim(plan: Plan, folder: Path) -> None:
    """Write the manifest, or check that the one in the folder says the same.

    Raises FormatError that shows the first differences where the folder belongs to another set.
    """
    path = folder / MANIFEST
    if not path.exists():
        if any(folder.glob("shard-*.h5")):
            raise FormatError(f"{folder} holds shards but no {MANIFEST}; choose an empty folder")
        with suppress(FileExistsError), atomic_path(path, overwrite=False) as temporary:
            temporary.write_text(plan.manifest(), "utf-8")
    found = Plan.read(folder)  # also after writing: another rank may have been a moment faster
    if found.fingerprint != plan.fingerprint:
        differences = list(_differences(found.content, plan.content))
        more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
        raise FormatError(
            f"{folder} belongs to another set: {'; '.join(differences[:3])}{more}. Choose another folder, or go on "
            "with the recipe and the version that it was begun with"
        )


def _differences(there: object, here: object, at: str = "") -> Iterator[str]:
    if isinstance(there, dict) and isinstance(here, dict):
        for key in [*there, *(key for key in here if key not in there)]:
            place = f"{at}.{key}" if at else str(key)
            if key not in there or key not in here:
                yield f"{place} is only in the {'recipe' if key not in there else 'folder'}"
            else:
                yield from _differences(there[key], here[key], place)
    elif isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        for k, (a, b) in enumerate(zip(there, here)):
            yield from _differences(a, b, f"{at}[{k}]")
    elif there != here or type(there) is not type(here):
        yield f"{at} is {_short(there)} in the folder, {_short(here)} in the recipe"


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def remove_temporaries(folder: Path, names: Collection[str]) -> None:
    """Remove what killed runs left of these files; those of other ranks may be at work at this moment."""
    for path in folder.glob(".*-*"):
        if any(path.name.endswith(f"-{name}") for name in names):
            with suppress(OSError):
                os.unlink(path)
