"""Where an image comes from: the version, the command, its inputs with their digests, the method and the physics.

A record is written with an image and read back from it: as a header extension of NIfTI, in the native HDF5 file, and
as a JSON file beside every image but HDF5 (`image.json` of `image.nii.gz`, `image.dcm.json` of DICOM). It never holds a
patient's name.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from emrecon import __version__
from emrecon.projectors import SPECTGeometry, Study
from emrecon.projectors.core.errors import FormatError
from emrecon.projectors.core.files import atomic_path
from emrecon.projectors.core.progress import tracked
from emrecon.projectors.core.texts import read_json

SCHEMA = "emrecon provenance 1"
SUV_FACTOR = "SUV per Bq/mL"
"""The fact of a record that turns an image in Bq/mL into SUV."""

_NIFTI = re.compile(r"\.nii(\.gz)?$", re.IGNORECASE)
_DATA = (".v", ".i33")  # of Interfile images, beside their headers
_LONGEST_FREE_TEXT = 1024  # characters of DICOM's DerivationDescription
_PATIENT = ("PatientName", "PatientID", "OtherPatientIDs", "OtherPatientNames", "PatientBirthName")
_TECHNICAL = ("<", "image ", "camera ", "sampling ", "kernels ")  # of a problem's summary, for the shortest text
_AT_ONCE = 2**22  # bytes
_NAMED = ("weights", "config")  # whose names are not of patients
_NOTHING: Mapping[str, object] = MappingProxyType({})


@dataclass(frozen=True)
class InputFile:
    """A file, or a folder of files, that an image was made from.

    Args:
        role : what it was: "projections", "--mu".
        name : what it is called here, by its role: "projections.dcm", "mu" (see `plain_name`).
        sha256 : of its bytes; of a folder, of the sorted digests of its files.
        size : bytes.
        n_files : 1, or how many the folder holds.
    """

    role: str
    name: str
    sha256: str
    size: int
    n_files: int = 1

    def __str__(self) -> str:
        n = f", {self.n_files} files" if self.n_files > 1 else ""
        return f"{self.name} ({self.size} bytes{n}), SHA-256 {self.sha256}"


@dataclass(frozen=True)
class Orbit:
    """Where the heads of a SPECT camera were.

    Args:
        angles, radius, head : of every view: degrees, mm, number of the head.
        bins : along u and z.  pixel_size : mm.
    """

    angles: tuple[float, ...]
    radius: tuple[float, ...]
    head: tuple[int, ...]
    bins: tuple[int, int]
    pixel_size: tuple[float, float]

    @classmethod
    def of(cls, camera: SPECTGeometry) -> Orbit:
        """Return the orbit of a camera."""
        angles, radius, head = (tuple(values.tolist()) for values in (camera.angles, camera.radius, camera.head))
        return cls(angles, radius, head, camera.n_bins, camera.pixel_size)

    @property
    def camera(self) -> SPECTGeometry:
        """The camera again, without its shifts."""
        return SPECTGeometry(self.angles, self.radius, self.bins, self.pixel_size, head=self.head)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Pass:
    """One point of the way to the image: after how many iterations and seconds, f(x), and how much the image changed.

    objective : None where it was not computed.  change : ``|x - previous| / |previous|``, None for
    the first.
    """

    iteration: int
    seconds: float
    objective: float | None = None
    change: float | None = None


@dataclass(frozen=True)
class Provenance:
    """Where an image comes from.

    Args:
        command : the command line, or the call in Python; of paths their last parts.
        method : by name, with its `parameters`, such as {"subsets": "8", "iterations": "4"}.
        unit : of the values of the image, empty where they are not calibrated.
        inputs : the files it was made from.
        acquisition, physics, notes : in words, one line each: what was measured and how, what was modelled, and what
            the user was told to look at.
        convergence : how the method came to the image.
        orbit : of a SPECT camera.
        calibration : in words, how the values became those of the unit.
        placement : (x, y, z) mm by which the scan's coordinates lie in the patient's, None where that is not known;
            NIfTI and DICOM images are in the patient's already, HDF5 and Interfile in the scan's.
        subject : what a standardised uptake value needs and other facts that tell nobody's name: {"weight (kg)": 70.0}.
        seconds : that it took.
        date : when, ISO 8601 with the time zone.
        image : name of the file that holds the image, and `image_sha256` of its bytes, in a file beside it.
        version : of emrecon.
    """

    command: str
    method: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    unit: str = ""
    inputs: tuple[InputFile, ...] = ()
    acquisition: tuple[str, ...] = ()
    physics: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    convergence: tuple[Pass, ...] = ()
    orbit: Orbit | None = None
    calibration: tuple[str, ...] = ()
    placement: tuple[float, float, float] | None = None
    subject: Mapping[str, float | str] = field(default_factory=dict)
    seconds: float | None = None
    date: str = field(default_factory=lambda: datetime.now().astimezone().isoformat(timespec="seconds"))
    image: str = ""
    image_sha256: str = ""
    version: str = __version__

    @property
    def how(self) -> str:
        """The method with its parameters in a line: "osem, 8 subsets, 4 iterations"."""
        return ", ".join([self.method, *(_parameter(name, value) for name, value in self.parameters.items())])

    def text(self, longest: int = _LONGEST_FREE_TEXT) -> str:
        """Return a line or some for people, as for DICOM's DerivationDescription; cut where it is too long."""
        modelled = (" ".join(line.split()) for line in self.physics)
        said = [f"emrecon {self.version}: {self.how}", *(line for line in modelled if not line.startswith(_TECHNICAL))]
        said += [line for line in self.calibration if "decay corrected" in line]
        said += [f"from {item.name} (SHA-256 {item.sha256[:16]})" for item in self.inputs] + [self.command]
        whole = "; ".join(part for part in said if part)
        return whole if len(whole) <= longest else f"{whole[: longest - 4]} ..."

    def json(self, more: Mapping[str, object] = _NOTHING) -> str:
        """Return the record as JSON, an entry a line, with `more` keys."""
        values = {"schema": SCHEMA, **asdict(self), **more}
        lines = (f" {json.dumps(name)}: {_json(value)}" for name, value in values.items())
        return "{\n" + ",\n".join(lines) + "\n}\n"

    def facts(self) -> dict[str, object]:
        """Return the record as names and plain values, for `emrecon info`."""
        said: dict[str, object] = {
            "made by": f"emrecon {self.version}, {self.date}",
            "command": self.command,
            "method": self.how,
            "unit": self.unit or None,
            **{f"input {i}": f"{item.role}: {item}" for i, item in enumerate(self.inputs, 1)},
            **{f"acquisition {i}": line for i, line in enumerate(self.acquisition, 1)},
            **{f"physics {i}": " ".join(line.split()) for i, line in enumerate(self.physics, 1)},
            **{f"calibration {i}": line for i, line in enumerate(self.calibration, 1)},
            **{f"note {i}": line for i, line in enumerate(self.notes, 1)},
            "took (s)": self.seconds,
        }
        return {name: value for name, value in said.items() if value is not None}


def _parameter(name: str, value: str) -> str:
    if name in ("subsets", "iterations"):
        return f"{value} {name[:-1] if value == '1' else name}"
    if name == "filter":
        return f"filter of {float(value):g} mm" if value.replace(".", "", 1).isdigit() else f"filter {value}"
    return name if value == "yes" else f"{name} {value}"


def _json(value: object) -> str:
    if isinstance(value, tuple) and value:
        return "[\n  " + ",\n  ".join(map(_json, value)) + "\n ]"
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def sidecar_of(path: str | os.PathLike[str]) -> Path:
    """Return the JSON file that belongs beside an image: `image.json` of `image.nii.gz`, `image.dcm.json` of DICOM."""
    path = Path(path)
    if path.suffix.lower() == ".json":
        return path
    return path.with_name(_NIFTI.sub("", path.name) + ".json")


def has_record_beside(path: str | os.PathLike[str]) -> bool:
    """Whether a record stands beside an image of this name: all but HDF5 files, which hold it themselves."""
    return Path(path).suffix.lower() not in (".h5", ".hdf5")


def check_record(path: str | os.PathLike[str]) -> None:
    """Raise FileExistsError where writing the record of an image would replace another file than its older record."""
    place = sidecar_of(path)
    if not place.exists():
        return
    try:
        older = read_record(place)
    except FormatError:
        reason = "a file of that name is there already and is no record of an image; choose another name for the image"
    else:
        # another image in NIfTI of the name holds its record itself
        if older.image in ("", Path(path).name) or _NIFTI.search(older.image) or not _beside(place, older).exists():
            return
        reason = f"it is the record of {older.image}, which this image would replace; choose another name for the image"
    raise FileExistsError(errno.EEXIST, f"cannot write the record of {Path(path).name} beside it: {reason}", str(place))


def _beside(place: Path, record: Provenance) -> Path:
    """The image that a record stands beside."""
    return place.parent / Path(record.image).name


def write_record(path: str | os.PathLike[str], provenance: Provenance, more: Mapping[str, object] = _NOTHING) -> Path:
    """Write the record of an image that is there already beside it; returns its path, raises as `check_record`.

    Args:
        more : further keys of the file, in the capitals of BIDS: `FrameTimesStart` and so on.
    """
    check_record(path)
    place = sidecar_of(path)
    whole = replace(provenance, image=Path(path).name, image_sha256=_digest_of_image(Path(path)))
    with atomic_path(place) as temporary:
        temporary.write_text(whole.json(more), "utf-8")
    return place


def read_record(path: str | os.PathLike[str]) -> Provenance:
    """Return the record in a JSON file; raises FormatError for another or a damaged one."""
    return provenance_of(read_json(path, "a record of emrecon"), path)


def provenance_of(content: Any, path: str | os.PathLike[str]) -> Provenance:
    """Return the record that decoded JSON holds; raises FormatError, naming the file, for anything else."""
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise FormatError(f"{path} is not a record of emrecon ({SCHEMA})")
    known = {item.name for item in fields(Provenance)}
    content = {name: value for name, value in content.items() if not name[:1].isupper()}  # those of BIDS
    unknown = sorted(set(content) - known - {"schema"})
    if unknown:
        raise FormatError(f"{path} is a record with unknown entries: {', '.join(unknown)[:80]}; of a newer emrecon?")
    try:
        return _decoded({name: value for name, value in content.items() if name != "schema"})
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise FormatError(f"{path}: the record cannot be read ({error}); edited by hand?") from error


def _decoded(values: dict[str, Any]) -> Provenance:
    texts = "command", "method", "unit", "date", "image", "image_sha256", "version"
    said: dict[str, Any] = {name: _typed(values[name], str, name) for name in texts if name in values}
    for name in ("acquisition", "physics", "calibration", "notes"):
        said[name] = tuple(_typed(line, str, name) for line in _typed(values.get(name, []), list, name))
    said["parameters"] = {name: _typed(value, str, name) for name, value in dict(values.get("parameters", {})).items()}
    said["subject"] = {name: _fact(value, name) for name, value in dict(values.get("subject", {})).items()}
    said["inputs"] = tuple(_used(item) for item in values.get("inputs", []))
    said["convergence"] = tuple(_pass(item) for item in values.get("convergence", []))
    said["orbit"] = None if values.get("orbit") is None else _orbit(values["orbit"])
    if values.get("placement") is not None:
        x, y, z = map(_number, values["placement"])
        said["placement"] = x, y, z
    said["seconds"] = _optional_number(values.get("seconds"))
    return Provenance(**said)


def _typed(value: Any, kind: type, name: str) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{name} is a {type(value).__name__}, expected {kind.__name__}")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise TypeError(f"{str(value)[:40]!r} is not a finite number")
    return value


def _optional_number(value: Any) -> float | None:
    return None if value is None else _number(value)


def _fact(value: Any, name: str) -> float | str:
    return value if isinstance(value, str) else _number(value)


def _used(item: dict[str, Any]) -> InputFile:
    role, name, sha256 = (_typed(item[key], str, key) for key in ("role", "name", "sha256"))
    return InputFile(role, name, sha256, int(_number(item["size"])), int(_number(item.get("n_files", 1))))


def _pass(item: dict[str, Any]) -> Pass:
    more = [_optional_number(item.get(name)) for name in ("objective", "change")]
    return Pass(int(_number(item["iteration"])), float(_number(item["seconds"])), *more)


def _orbit(item: dict[str, Any]) -> Orbit:
    lists = [tuple(_number(value) for value in item[name]) for name in ("angles", "radius", "head")]
    if len({len(values) for values in lists}) > 1 or not lists[0]:
        raise ValueError("angles, radius and head of the orbit differ in number")
    (nu, nz), (du, dz) = (map(_number, item[name]) for name in ("bins", "pixel_size"))
    found = Orbit(lists[0], lists[1], tuple(int(value) for value in lists[2]), (int(nu), int(nz)), (du, dz))
    return Orbit.of(found.camera)  # which checks the values


# ---- files and names -------------------------------------------------------------------------------------------------


def plain_name(role: str, path: str | os.PathLike[str]) -> str:
    """Return what a record or a report calls a file: its role and its suffix, such as "projections.dcm" or "mu".

    Files and folders of scans are called as people, so that nothing that leaves the house holds their names; digests
    say which they were. Weights keep theirs.
    """
    name = Path(path).absolute().name
    if role.lstrip("-") in _NAMED:
        return name
    suffix = re.search(r"(\.nii\.gz|\.[A-Za-z][A-Za-z0-9]{0,4})$", name)
    own = re.sub(r"[^A-Za-z0-9]+", "-", role.lstrip("-")).strip("-") or "file"
    return own + (suffix[0].lower() if suffix and not Path(path).is_dir() else "")


def without_files(text: str, files: Iterable[tuple[str, str | os.PathLike[str]]]) -> str:
    """Return a text in which files are called by `plain_name`.

    Args:
        files : (role, path) of each.
    """
    named = {form: plain_name(role, path) for role, path in files for form in (str(path), Path(path).absolute().name)}
    for form in sorted(named, key=len, reverse=True):
        text = re.sub(rf"(?<![\w./-]){re.escape(form)}(?![\w-]|\.\w)", named[form].replace("\\", r"\\"), text)
    return text


def used_file(role: str, path: str | os.PathLike[str]) -> InputFile:
    """Return a file or folder with its digest, called by `plain_name`."""
    path = Path(path)
    name = plain_name(role, path)
    if not path.is_dir():
        return InputFile(role, name, _digest(path), path.stat().st_size)
    files = [file for file in sorted(path.rglob("*")) if file.is_file()]
    digests = sorted(_digest(file) for file in tracked(files, f"digests of {role}"))
    whole = hashlib.sha256("\n".join(digests).encode()).hexdigest()
    return InputFile(role, name, whole, sum(file.stat().st_size for file in files), len(files))


def _digest(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as stream:
        while part := stream.read(_AT_ONCE):
            found.update(part)
    return found.hexdigest()


def _digest_of_image(path: Path) -> str:
    """The digest of an image's file; of an Interfile header together with the data beside it."""
    if path.is_dir():
        return used_file("image", path).sha256
    beside = [path.with_suffix(suffix) for suffix in _DATA] if path.suffix.lower() in (".hv", ".h33") else []
    digests = [_digest(file) for file in (path, *beside) if file.exists()]
    return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()


def is_stale(path: str | os.PathLike[str], provenance: Provenance) -> bool:
    """Whether an image has changed since its record was written beside it."""
    return bool(provenance.image_sha256) and _digest_of_image(Path(path)) != provenance.image_sha256


def patient_words(study: Study | None) -> tuple[str, ...]:
    """Return the words of a patient's name and the numbers, which no text that is kept may hold."""
    said = [] if study is None else [study.attributes.get(keyword, "") for keyword in _PATIENT]
    return tuple(sorted({word for text in said for word in re.split(r"[\^=\\,;\s]+", text) if len(word) > 1}))


def without_words(text: str, hidden: Iterable[str]) -> str:
    """Return a text with words left out, whatever their case: long ones anywhere, short ones where they stand alone."""
    for word in sorted(hidden, key=len, reverse=True):
        pattern = re.escape(word) if len(word) > 3 else rf"(?<![^\W_]){re.escape(word)}(?![^\W_])"
        text = re.sub(pattern, "...", text, flags=re.IGNORECASE)
    return text
