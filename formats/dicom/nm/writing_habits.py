"""What makers of gamma cameras leave out of NM files, or write in their own way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType

_CHOICES = {
    "radial_position": ("detector", "rotation", "missing"),
    "radii": ("per view", "average"),
    "start_angle": ("detector", "rotation"),
    "rotation_direction": ("true", "reversed"),
    "pixel_spacing": ("true", "before zoom"),
    "detectors": ("each", "stacked", "rotations"),
    "image_position": ("face", "corner", "centre", "missing"),
    "axes": ("patient", "gantry"),
    "beds": ("rotations", "files"),
    "dose_unit": ("MBq", "Bq"),
    "patient_position": ("codes", "both", "missing"),
}
VECTORS = ("window", "detector", "rotation", "interval", "slot", "phase", "slice", "view")


@dataclass(frozen=True)
class NMHabits:
    """How a camera writes its NM files; the defaults follow the standard.

    Args:
        manufacturer, model : where the scan's study does not name them.
        radial_position : RadialPosition stands in the items of the "detector" (most), of the "rotation", or is
            "missing".
        radii : "per view", or one "average" number.
        start_angle : that of every head stands in the items of the "detector", or that of the first head alone in those
            of the "rotation".
        rotation_direction : RotationDirection is "true" or says the opposite ("reversed").
        zero_angle : degrees, what StartAngle is too large by: 180 where the camera counts from the patient's front.
        zoom : ZoomFactor of the acquisition.
        pixel_spacing : PixelSpacing is "true", or that of the matrix "before zoom", too large by the zoom.
        detectors : "each" head is a detector; or the heads are "stacked" one after another as one detector that turned
            on; or each head is a detector with a rotation of its own ("rotations").
        frame_order : what varies slowest comes first, names of "window", "detector", "rotation", "interval", "slot",
            "phase", "slice", "view"; those left out follow in this order. ("shuffled",) is any order.
        image_position : ImagePositionPatient of a rotating head is the first pixel of its first view on the collimator
            "face"; the "corner" of the volume of bins x bins x rows, with axes of an anterior view; x of the rotation
            axis and 0 with the height of the axis in TableHeight, negative ("centre"); or "missing". Its z is that of
            the top row in each.
        axes : angles and rows are those of the "patient", as the standard has it, or of the "gantry", as if all
            patients lay head first and supine.
        beds : several beds are "rotations" of one file, or "files" of a folder.
        dose_unit : of RadionuclideTotalDose, "MBq" as the standard has it for NM, or "Bq".
        patient_position : stands in the "codes" of PatientOrientationCodeSequence, as the standard has it for NM; in
            "both" these and PatientPosition, as most cameras have it; or is "missing".
        radius_offset : mm that RadialPosition is too small by; the offset stands in private attributes of GE.

    Raises ValueError for unknown words and numbers out of range.
    """

    manufacturer: str = "emrecon"
    model: str = "synthetic camera"
    radial_position: str = "detector"
    radii: str = "per view"
    start_angle: str = "detector"
    rotation_direction: str = "true"
    zero_angle: float = 0.0
    zoom: float = 1.0
    pixel_spacing: str = "true"
    detectors: str = "each"
    frame_order: tuple[str, ...] = ()
    image_position: str = "face"
    axes: str = "patient"
    beds: str = "rotations"
    dose_unit: str = "MBq"
    patient_position: str = "codes"
    radius_offset: float = 0.0

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"unknown {name} {getattr(self, name)!r}; choose from {', '.join(choices)}")
        unknown = set(self.frame_order) - {*VECTORS, "shuffled"}
        if unknown:
            raise ValueError(f"unknown frame_order {sorted(unknown)}; choose from {', '.join(VECTORS)}, shuffled")
        if not self.zoom > 0:
            raise ValueError(f"zoom must be positive, got {self.zoom}")


VENDOR_HABITS: Mapping[str, NMHabits] = MappingProxyType(
    {
        "siemens": NMHabits(
            "SIEMENS NM", "Symbia Intevo", image_position="corner", beds="files", patient_position="both"
        ),
        "ge": NMHabits(
            *("GE MEDICAL SYSTEMS", "Discovery NM/CT 670"),
            radial_position="missing",
            image_position="centre",
            beds="files",
            patient_position="both",
        ),
        "philips": NMHabits(
            *("Philips Medical Systems", "BrightView XCT"),
            radii="average",
            frame_order=("rotation", "detector", "window", "view"),
            image_position="corner",
            patient_position="both",
        ),
        "mediso": NMHabits(
            *("Mediso", "AnyScan SC"),
            radial_position="rotation",
            detectors="rotations",
            image_position="corner",
            patient_position="both",
        ),
        "spectrum": NMHabits(
            *("Spectrum Dynamics Medical", "VERITON-CT"),
            frame_order=("view", "rotation", "window", "detector"),
            patient_position="both",
        ),
    }
)
"""The habits of makers' cameras, as public code and reports describe them: a start, not a promise for every model."""


def habits_of(vendor: str | None, changes: Mapping[str, object]) -> NMHabits:
    """Return the habits of a vendor with changes; raises ValueError for unknown vendors, TypeError for habits."""
    names = [field.name for field in fields(NMHabits)]
    unknown = sorted(set(changes) - set(names))
    if unknown:
        raise TypeError(f"write_dicom_nm: unknown habit {', '.join(unknown)}; choose from {', '.join(names)}")
    if vendor is None:
        return NMHabits(**changes)  # type: ignore[arg-type]  # checked by NMHabits
    if vendor not in VENDOR_HABITS:
        raise ValueError(f"unknown vendor {vendor!r}; choose from {', '.join(VENDOR_HABITS)}, or None for none")
    return replace(VENDOR_HABITS[vendor], **changes)  # type: ignore[arg-type]  # likewise
