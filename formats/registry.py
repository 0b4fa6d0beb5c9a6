"""Which format a file has: by its suffix, and for reading, where that is unknown, by its first bytes."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import h5py
import numpy as np

from emrecon.projectors import DynamicScan, GatedScan, ImageGrid, PETSinogram, Scan, WindowedScan
from emrecon.projectors.core.arrays import Array, to_numpy
from emrecon.projectors.core.errors import FormatError, naming, require_file
from emrecon.projectors.core.progress import tracked

from .describing import describe_norm, describe_other, is_norm
from .dicom.image_writing import ImageFacts, write_dicom_image
from .dicom.images import read_dicom_image
from .dicom.nm import NM_IMAGE_OVERRIDES, NMScan, nm_kind, read_dicom_nm, read_dicom_nm_image
from .dicom.summary import is_dicom
from .hdf5 import describe_beds, describe_windowed_series, read_beds, read_windowed_series
from .hdf5 import dynamic as native_dynamic
from .hdf5 import files as native
from .hdf5 import windows as native_windows
from .hdf5.windows import describe_windowed_scan
from .interfile import (
    PETSinogramFacts,
    read_interfile,
    read_interfile_dynamic,
    read_interfile_gated,
    read_interfile_image,
    read_interfile_pet,
    write_interfile,
    write_interfile_image,
    write_interfile_pet,
)
from .interfile.header import load_header
from .interfile.images import PET_AXES, SPECT_AXES, ImageAxes, interfile_axes
from .interfile.parts import Parts, parts_of
from .interfile.pet import is_sinogram
from .nifti import nifti_unit, read_nifti, read_nifti_provenance, write_nifti
from .records import (
    Provenance,
    check_record,
    has_record_beside,
    is_stale,
    read_record,
    sidecar_of,
    write_record,
)
from .siemens import PETLink, is_petlink, read_petlink
from .summary import image_summary, scan_summary, series_summary, sinogram_facts
from .times import ImageTimes, as_attributes, from_attributes, read_sidecar, with_times, write_sidecar

T = TypeVar("T")

_PATTERNS = {
    "hdf5": r"\.(h5|hdf5)",
    "nifti": r"\.nii(\.gz)?",
    # SIMIND numbers its headers .h00, .h01, ... and ends images with .hct
    "interfile": r"\.(hs|hv|hct|h\d\d)",
    "dicom": r"\.dcm",
}
_FIRST_LINE = re.compile(rb"[ \t]*+!?[ \t]*+INTERFILE[ \t]*+:=", re.IGNORECASE)
_KNOWN = ".h5 .hdf5 (emrecon), .nii .nii.gz (NIfTI), .hs .hv .h33 .h00 (Interfile), .dcm (DICOM)"


def read_scan(path: str | os.PathLike[str], **overrides: object) -> NMScan:
    """Return the scan in an emrecon HDF5 file, an Interfile header, or DICOM files of nuclear medicine.

    Args:
        path : of DICOM, a file with any suffix, or a folder with the files of one acquisition.
        overrides : values that replace those of an Interfile header, see `read_interfile` and `read_interfile_pet`, or
            of DICOM, see `read_dicom_nm`.

    Of HDF5 and Interfile it is a `Scan`. DICOM files hold energy windows, frames, gates and beds as they come, and what
    is returned is the container of these, see `read_dicom_nm`; window=, frame=, gate= and bed= choose one.

    Raises FileNotFoundError; FormatError (a ValueError) for unknown and damaged files; TypeError for overrides that
    the format does not take.
    """
    kind = _kind_of(path)
    if kind == "dicom":
        return read_dicom_nm(path, **overrides)
    if kind == "interfile":
        return _read_pet(path, **overrides) if _is_pet(path) else read_interfile(path, **overrides)
    if kind == "nifti":
        raise FormatError(f"{path} is a NIfTI image, which cannot hold a scan; did you mean read_image?")
    if overrides:
        raise _no_overrides(overrides)
    return native.read_scan(path)


def read_dynamic(path: str | os.PathLike[str], **overrides: object) -> DynamicScan:
    """Return the time frames of an HDF5 file that `write_dynamic` wrote, of an Interfile header, or of DICOM files.

    From HDF5 the scan is equal in every field and dtype.

    Args:
        overrides : values that replace those of an Interfile header, see `read_interfile_dynamic`, or of DICOM, see
            `read_dicom_nm`.

    Raises FileNotFoundError where there is no file; FormatError, which names the file and the likely cause, where it is
    of another kind, truncated, of a newer schema, incomplete, of absurd size, or fails a checksum.
    """
    if _kind_of(path) == "dicom":
        return _of_kind(path, read_dicom_nm(path, **overrides), DynamicScan, "time frames")
    reader = read_interfile_dynamic if _is_interfile(path, overrides) else native_dynamic.read_dynamic
    return reader(path, **overrides)


def read_gated(path: str | os.PathLike[str], **overrides: object) -> GatedScan:
    """Return the gates of HDF5, Interfile (see `read_interfile_gated`) or DICOM files; else as `read_dynamic`."""
    if _kind_of(path) == "dicom":
        return _of_kind(path, read_dicom_nm(path, **overrides), GatedScan, "gates")
    reader = read_interfile_gated if _is_interfile(path, overrides) else native_dynamic.read_gated
    return reader(path, **overrides)


def read_windowed_scan(path: str | os.PathLike[str], **overrides: object) -> WindowedScan:
    """Return the energy windows of an HDF5 file that `write_windowed_scan` wrote, or of DICOM files.

    Args:
        overrides : values that replace those of DICOM files, see `read_dicom_nm`.

    Raises FileNotFoundError where there is no file; FormatError, which names the file and the likely cause, where it is
    of another kind, damaged or incomplete; TypeError for overrides that the format does not take.
    """
    if _kind_of(path) == "dicom":
        return _of_kind(path, read_dicom_nm(path, **overrides), WindowedScan, "several energy windows")
    if overrides:
        raise _no_overrides(overrides)
    return native_windows.read_windowed_scan(path)


def _of_kind(path: str | os.PathLike[str], scan: NMScan, kind: type[T], name: str) -> T:
    """A scan that must be of one kind."""
    if isinstance(scan, kind):
        return scan
    raise FormatError(f"{path} holds no {name} but a {type(scan).__name__}; read_scan reads it")


def _no_overrides(overrides: dict[str, object]) -> TypeError:
    return TypeError(
        f"values of an HDF5 scan cannot be replaced while reading, got {', '.join(overrides)}; use "
        "dataclasses.replace on the scan"
    )


def read_acquisition(path: str | os.PathLike[str], **overrides: object) -> NMScan:
    """Return all that a file of projections or sinograms holds: a scan, or its windows, frames, gates or beds.

    Of HDF5 and Interfile, too, where `read_scan` reads one scan only.

    Args:
        overrides : values that replace those of a header; with frame= or gate= one part of an Interfile file is read.

    Raises as the reader of what it holds does: `read_scan`, `read_windowed_scan`, `read_dynamic`, `read_gated`,
    `read_beds` or `read_windowed_series`.
    """
    if _kind_of(path) == "dicom":
        return read_dicom_nm(path, **overrides)
    if _is_interfile(path, overrides):
        found = _series_of(path, overrides)
        if found is None:
            return read_scan(path, **overrides)
        return read_gated(path, **overrides) if found == "gate" else read_dynamic(path, **overrides)
    if _kind_of(path) == "hdf5":
        readers: dict[str, Callable[[str | os.PathLike[str]], NMScan]] = {
            "dynamic": native_dynamic.read_dynamic,
            "gated": native_dynamic.read_gated,
            "windowed-scan": native_windows.read_windowed_scan,
            "beds": read_beds,
            "windowed-series": read_windowed_series,
        }
        return readers.get(native.kind_of(path), native.read_scan)(path)
    return read_scan(path, **overrides)


def _series_of(path: str | os.PathLike[str], overrides: dict[str, object]) -> str | None:
    """Whether an Interfile header holds several frames or gates of which none is chosen: "frame", "gate" or None."""
    if {"frame", "gate", "window"} & set(overrides):
        return None
    parts = parts_of(load_header(path, {}, ()))
    return parts.kind if parts.n > 1 else None


def _is_interfile(path: str | os.PathLike[str], overrides: dict[str, object]) -> bool:
    if _kind_of(path) == "interfile":
        return True
    if overrides:
        raise _no_overrides(overrides)
    return False


def write_scan(path: str | os.PathLike[str], scan: Scan) -> None:
    """Write a scan as HDF5 (.h5, .hdf5: everything is kept) or Interfile (.hs: counts and geometry)."""
    kind = _kind_by_name(path)
    if kind not in ("hdf5", "interfile"):
        raise ValueError(f"{path}: a scan is written as .h5, .hdf5 (HDF5) or .hs (Interfile)")
    if kind == "hdf5":
        native.write_scan(path, scan)
    elif isinstance(scan.geometry, PETSinogram):
        if np.any(to_numpy(scan.background) != 0) or np.any(to_numpy(scan.factors) != 1):
            raise ValueError(f"{path}: Interfile holds counts only; write HDF5 to keep background and factors")
        facts = PETSinogramFacts(
            duration=scan.duration,
            radionuclide=scan.radionuclide,
            energy_window=scan.energy_window,
            description=scan.description,
        )
        write_interfile_pet(path, scan.counts, scan.geometry, facts)
    else:
        write_interfile(path, scan)


def read_image(
    path: str | os.PathLike[str], *, beside: str | os.PathLike[str] | ImageAxes | None = None, **overrides: object
) -> tuple[np.ndarray, ImageGrid]:
    """Return (image, grid) from an emrecon HDF5 file, a NIfTI file, an Interfile header or a DICOM series.

    The image is (x, y, z), or (F, x, y, z) where a NIfTI or HDF5 file holds several frames, or NM several gates.

    Args:
        path : of DICOM, a folder or one file of the series: CT in Hounsfield units, PT and NM (RECON TOMO) in the units
            of the file, which `read_dicom_pet` and `read_dicom_nm_image` say.
        beside : the file of projections, sinograms or events that an Interfile image belongs to, or its `axes_beside`:
            the image lands where they say. Without it the image's own header decides. Other formats say their own axes.
        overrides : values that replace those of an Interfile header, such as window=2 for the second time frame, see
            `read_interfile_image`; of DICOM, series= (number or UID) and frame=, and of NM those of
            `read_dicom_nm_image`.

    Raises FileNotFoundError; FormatError (a ValueError) for unknown and damaged files; TypeError for overrides that the
    format does not take.
    """
    kind = _kind_of(path)
    if kind == "dicom":
        return _read_dicom(path, **overrides)
    if kind == "interfile":
        return read_interfile_image(path, axes=_axes_of(beside), **overrides)
    if overrides:
        raise TypeError(f"{path} has no header whose values can be replaced, got {', '.join(overrides)}")
    return native.read_image(path) if kind == "hdf5" else read_nifti(path)


def _read_dicom(path: str | os.PathLike[str], **choice: object) -> tuple[np.ndarray, ImageGrid]:
    of_nm = set(choice) & (set(NM_IMAGE_OVERRIDES) - {"series", "frame"})
    if of_nm or (Path(path).is_file() and nm_kind(path) is not None):
        found = read_dicom_nm_image(path, **choice)
        return found.image, found.grid
    unknown = set(choice) - {"series", "frame"}
    if unknown:
        raise TypeError(f"{path}: a DICOM image is chosen by series= and frame=, got {', '.join(sorted(unknown))}")
    return read_dicom_image(path, **choice)  # type: ignore[arg-type]  # checked by the reader


def write_image(
    path: str | os.PathLike[str],
    image: Array,
    grid: ImageGrid,
    *,
    beside: str | os.PathLike[str] | ImageAxes | None = None,
    times: ImageTimes | None = None,
    unit: str = "",
    provenance: Provenance | None = None,
    facts: ImageFacts | None = None,
) -> None:
    """Write an image on its grid as HDF5 (.h5, .hdf5), NIfTI (.nii, .nii.gz), Interfile (.hv, .h33) or DICOM (.dcm).

    Args:
        image : (x, y, z), or frames or gates (F, x, y, z), which HDF5 and NIfTI hold.
        beside : as for `read_image`; without it `.hv` is written as an image of PET, `.h33` as one of SPECT.
        times : of the frames or gates, `ImageTimes.of(scan)`. HDF5 keeps them in the file; beside NIfTI they go into a
            JSON file of the same name with the keys of BIDS, `FrameTimesStart` and `FrameDuration`.
        unit : of the values, such as "counts", "Bq/mL" or "SUV", which the file then says; see `image_unit`.
        provenance : where the image comes from: kept in the file (HDF5, NIfTI) and, but for HDF5, in a JSON file beside
            it (`image.json` of `image.nii.gz`), see `read_provenance`.
        facts : DICOM alone: whether the image is one of SPECT (NM, a file; the default) or of PET (PT, a folder with a
            file for each slice), and the study it belongs to, whose placement puts the grid into the patient's
            coordinates; `ImageFacts.of(scan)`.

    Raises ValueError where image, grid and times do not fit together, and for several frames in Interfile;
    FileExistsError where that JSON file is there already and belongs to something else.
    """
    kind, beside_it = image_kind(path), provenance is not None and has_record_beside(path)
    if times is not None and (len(image.shape) != 4 or image.shape[0] != len(times)):
        raise ValueError(f"write_image: {times} do not fit an image of shape {tuple(image.shape)}")
    if beside_it:
        check_record(path)
    if provenance is not None:
        unit = unit or provenance.unit
        provenance = replace(provenance, unit=unit)
    if facts is not None and kind != "dicom":
        raise TypeError(f"write_image: facts are for DICOM, not for {path}; other formats take a provenance")
    if kind == "dicom":
        _write_dicom(path, image, grid, facts or ImageFacts(), times, unit, provenance)
    elif kind == "interfile":
        write_interfile_image(path, image, grid, axes=_axes_of(beside), unit=unit)
    elif kind == "hdf5":
        native.write_image(path, image, grid, units=unit, provenance=provenance, **as_attributes(times))  # type: ignore[arg-type]
    else:
        write_nifti(path, image, grid, seconds=times.even if times else None, unit=unit, provenance=provenance)
        if times is not None and not beside_it:
            write_sidecar(path, times)
    if provenance is not None and beside_it:
        write_record(path, provenance, {} if times is None else times.as_bids())


def _write_dicom(
    path: str | os.PathLike[str],
    image: Array,
    grid: ImageGrid,
    facts: ImageFacts,
    times: ImageTimes | None,
    unit: str,
    provenance: Provenance | None,
) -> None:
    """Write DICOM, with the record's text as the description of how the image was made."""
    method = facts.method or (provenance.text(900) if provenance is not None else "")
    own = times or (facts.times if len(image.shape) == 4 else None)
    write_dicom_image(path, image, grid, facts=replace(facts, method=method, times=own, unit=unit or facts.unit))


def read_times(path: str | os.PathLike[str]) -> ImageTimes | None:
    """Return when the frames or gates of a NIfTI or HDF5 image were, None where nothing says so.

    Raises as `read_image` does, and FormatError where the times do not fit the image.
    """
    kind = _kind_of(path)
    if kind == "hdf5":
        image, facts = native.read_image(path)[0], native.describe(path)
        return from_attributes(path, facts, len(image)) if image.ndim == 4 else None
    if kind != "nifti":
        return None
    image, _ = read_nifti(path)
    return read_sidecar(path, len(image)) if image.ndim == 4 else None


def read_provenance(path: str | os.PathLike[str]) -> Provenance:
    """Return where an image comes from: its record in the file, or in the JSON file beside it.

    Args:
        path : an image, the JSON file beside it, or a folder with one such file.

    Raises FileNotFoundError; FormatError where there is no record, where it is damaged, or where the image has changed
    since the file beside it was written.
    """
    path = Path(path)
    if path.is_dir() and not sidecar_of(path).is_file():
        return read_record(_only_record(path))
    if path.suffix.lower() == ".json":
        return read_record(path)
    found = None if path.is_dir() else _own_provenance(require_file(path))
    if found is not None:
        return found
    beside = sidecar_of(path)
    if not beside.is_file():
        raise FormatError(f"{path} holds no record of where it comes from, and {beside.name} is not beside it")
    found = read_record(beside)
    if is_stale(path, found):
        raise FormatError(f"{path} has changed since its record {beside.name} was written; it tells of another image")
    return found


def _own_provenance(path: Path) -> Provenance | None:
    """The record inside a file of an image, None where it holds none."""
    name = path.name.lower()
    if name.endswith((".nii", ".nii.gz")):
        return read_nifti_provenance(path)
    if name.endswith((".h5", ".hdf5")) and native.kind_of(path) == "image":
        return native.read_image_provenance(path)
    return None


def _only_record(folder: Path) -> Path:
    """The only record in a folder; raises FormatError where there is none, or several to choose from."""
    found = []
    for path in sorted(folder.glob("*.json")):
        with suppress(FormatError, OSError):
            read_record(path)
            found.append(path)
    if len(found) == 1:
        return found[0]
    if not found:
        raise FormatError(f"{folder} holds no record of an image; name the image")
    raise FormatError(f"{folder} holds {len(found)} records; name one: {', '.join(path.name for path in found)[:200]}")


def axes_beside(path: str | os.PathLike[str], **overrides: object) -> ImageAxes:
    """Return which way the axes of Interfile images run that belong to a file of projections, sinograms or events.

    Args:
        path : Interfile, PETLINK or HDF5.
        overrides : values that replace those of the header, such as patient_rotation.
    """
    kind = _kind_of(path)
    if kind == "interfile":
        return interfile_axes(path, **overrides)
    if kind == "nifti":
        raise FormatError(f"{path} is a NIfTI image, which cannot hold a scan")
    if kind == "dicom":
        return SPECT_AXES
    return PET_AXES if native.holds_pet(path) else SPECT_AXES


def _axes_of(beside: str | os.PathLike[str] | ImageAxes | None) -> ImageAxes | None:
    return beside if beside is None or isinstance(beside, ImageAxes) else axes_beside(beside)


def describe(path: str | os.PathLike[str], *, names: bool = False, **overrides: object) -> dict[str, object]:
    """Return what a file holds as names and plain values, for `emrecon info`; the file is read and checked in full.

    Scans, images and events of every format that is read here, Siemens normalisations, DICOM (a file, or a folder with
    its series), arrays of events (.npy) and checkpoints (.npz).

    Args:
        names : say the patient's name, too, where a DICOM file holds it.
        overrides : values that replace those of the header of a scan or events, as for `read_scan`.

    Raises FileNotFoundError; FormatError (a ValueError) for unknown and damaged files; TypeError for overrides that the
    format does not take.
    """
    other = describe_other(path, names, overrides)
    if other is not None:
        return other | _record_facts(path)
    kind = _kind_of(path)
    if overrides and kind != "interfile":
        raise TypeError(f"{path} has no header whose values can be replaced, got {', '.join(overrides)}")
    if kind == "hdf5":
        describers = {
            "dynamic": native_dynamic.describe_dynamic,
            "gated": native_dynamic.describe_dynamic,
            "windowed-scan": describe_windowed_scan,
            "beds": describe_beds,
            "windowed-series": describe_windowed_series,
        }
        facts = describers.get(native.kind_of(path), native.describe)(path)
        return with_times(path, facts) | _record_facts(path)
    if kind == "nifti":
        image, grid = read_nifti(path)
        unit = nifti_unit(path)
        times = read_sidecar(path, len(image)) if image.ndim == 4 else None
        about = {"format": "NIfTI"} | ({"units": unit} if unit else {})
        return (
            about | image_summary(image, grid) | ({} if times is None else {"times": str(times)}) | _record_facts(path)
        )
    return _describe_interfile(path, overrides)


def _record_facts(path: str | os.PathLike[str]) -> dict[str, object]:
    """What the record of an image says, where there is one; a record that cannot be used is said, too."""
    try:
        own = _own_provenance(Path(path))
        if own is None and not sidecar_of(path).is_file():
            return {}
        return (own or read_provenance(path)).facts()
    except FormatError as error:
        return {"made by": f"not known: {error}"}


def _describe_interfile(path: str | os.PathLike[str], overrides: dict[str, object]) -> dict[str, object]:
    if is_petlink(path):
        return _petlink_summary(read_petlink(path, **overrides))
    norm = is_norm(path)
    if norm is not None:
        return describe_norm(norm, **overrides)  # type: ignore[arg-type]  # an unknown name is a TypeError
    if _is_pet(path):
        return {"format": "Interfile"} | _pet_summary(path, overrides)
    header = load_header(path, {}, ())
    if "number of projections" in header.keys:
        return {"format": "Interfile"} | _interfile_summary(path, parts_of(header), overrides)
    if overrides:
        raise TypeError(f"{path} is an image, whose header is taken as it is, got {', '.join(overrides)}")
    return {"format": "Interfile"} | image_summary(*read_interfile_image(path)) | _record_facts(path)


def _interfile_summary(path: str | os.PathLike[str], parts: Parts, overrides: dict[str, object]) -> dict[str, object]:
    if parts.n == 1 or {"frame", "gate"} & set(overrides):
        return scan_summary(read_interfile(path, **overrides))
    read = read_gated if parts.kind == "gate" else read_dynamic
    return series_summary(read(path, **overrides))


def _is_pet(path: str | os.PathLike[str]) -> bool:
    return is_sinogram(load_header(path, {}, ()))


def _read_pet(path: str | os.PathLike[str], **overrides: object) -> Scan:
    counts, sinogram, facts = read_interfile_pet(path, **overrides)
    negative = int((counts < 0).sum())
    if negative:
        raise FormatError(
            f"{path}: {negative} values are negative, so randoms were subtracted, and the rest is not Poisson; use "
            "the prompts, with the randoms as background. read_interfile_pet returns the values as they are, for FBP"
        )
    return _scan_of(path, counts, sinogram, facts)


def _scan_of(path: str | os.PathLike[str], counts: np.ndarray, sinogram: PETSinogram, facts: PETSinogramFacts) -> Scan:
    with naming(Path(path)):
        return Scan(
            counts,
            sinogram,
            duration=facts.duration,
            radionuclide=facts.radionuclide,
            energy_window=facts.energy_window,
            description=facts.description,
        )


def _pet_summary(path: str | os.PathLike[str], overrides: dict[str, object]) -> dict[str, object]:
    """What a sinogram holds; with randoms subtracted it is no scan, but can be described."""
    counts, sinogram, facts = read_interfile_pet(path, **overrides)
    said = scan_summary(_scan_of(path, np.maximum(counts, 0), sinogram, facts))
    lowest = float(counts.min())
    if lowest < 0:
        said |= {
            "holds": "sinogram with randoms subtracted, which read_scan refuses",
            "total counts": float(counts.sum(dtype=float)),
            "lowest count": lowest,
        }
    return said


def _petlink_summary(scan: PETLink) -> dict[str, object]:
    prompts = delays = 0
    for chunk in tracked(scan.chunks(), f"events of {scan.path.name}", scan.n_chunks):
        prompts, delays = prompts + len(chunk.prompts), delays + len(chunk.delays)
    facts = {
        "format": "PETLINK list-mode, 32 bit",
        "holds": "events",
        "prompts": prompts,
        "delays": delays,
        "seconds": scan.duration(),
        "complete": "yes" if scan.is_complete else f"no: {scan.n_words} words, the header announces {scan.announced}",
        **sinogram_facts(scan.sinogram),
        **(scan.facts or {}),
    }
    return {name: value for name, value in facts.items() if value is not None}


def image_kind(path: str | os.PathLike[str]) -> str:
    """Return the format an image of this name is written in, "hdf5", "nifti", "interfile" or "dicom".

    Raises ValueError for an unknown suffix; ask before a long computation.
    """
    kind = _kind_by_name(path)
    if kind is None:
        raise ValueError(f"{path}: unknown suffix; choose from {_KNOWN}")
    return kind


def _kind_by_name(path: str | os.PathLike[str]) -> str | None:
    name = Path(path).name.lower()
    return next((kind for kind, pattern in _PATTERNS.items() if re.search(pattern + "$", name)), None)


def _kind_of(path: str | os.PathLike[str]) -> str:
    if Path(path).is_dir() or is_dicom(path):
        return "dicom"
    kind = _kind_by_name(path)
    if kind is not None:
        return kind
    with require_file(path).open("rb") as stream:
        start = stream.read(4096)
    if h5py.is_hdf5(path):
        return "hdf5"
    # line by line: one pattern for all of it would try every run of blank lines from each of them
    if any(_FIRST_LINE.match(line) for line in start.splitlines()):
        return "interfile"
    if start[:2] in (b"\x02\x00", b"\x08\x00") and start[2:4] < b"\x30":  # DICOM of old, without a preamble
        return "dicom"
    raise FormatError(f"{path}: neither the suffix nor the content is of a known format; choose from {_KNOWN}")
