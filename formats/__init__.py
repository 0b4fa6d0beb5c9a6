"""Files: read and write scans and images, choosing the format by the file's name or content.

The core: `read_scan`, `write_scan`, `read_image`, `write_image` and `describe` serve every format, and raise
`FormatError` for a file that cannot be used. HDF5 is the native format and the only one that keeps everything;
Interfile (STIR, SIMIND) and NIfTI are for exchange. Frames, gates, energy windows and beds: `read_dynamic`,
`write_dynamic`, `read_windowed_scan`, `write_windowed_scan`, `read_beds`, `write_beds`; `read_acquisition` returns
whichever a file holds. Scanners' files: `read_petlink`, `read_petsird`, `read_siemens_norm`,
`read_dicom_pet`, `write_dicom_pet`. `read_mu` makes the attenuation map of a scan from its CT, `read_masks`
puts organs and lesions on a grid. Everything else stands below the core by theme.
"""

if __name__ != "emrecon.formats":
    raise ImportError("this folder is a part of emrecon: `pip install .` first, then `import emrecon.formats`")

from emrecon.projectors.core import FormatError, atomic_path

from .acquisition import acquisition_in_words
from .attenuation import Measured, grid_in_scan, read_mu
from .dicom import (
    ImageFacts,
    PETFacts,
    PETImage,
    decay_reference_time,
    read_dicom_ct,
    read_dicom_pet,
    suv_factor,
    write_dicom_ct,
    write_dicom_image,
    write_dicom_pet,
)
from .dicom.nm import (
    NM_IMAGE_OVERRIDES,
    NM_OVERRIDES,
    VENDOR_HABITS,
    NMHabits,
    NMImage,
    PlanarImages,
    read_dicom_nm,
    read_dicom_nm_image,
    read_planar,
    write_dicom_nm,
)
from .hdf5 import (
    describe_dynamic,
    read_beds,
    read_windowed_series,
    write_beds,
    write_dynamic,
    write_windowed_scan,
    write_windowed_series,
)
from .images import holds_image, image_unit
from .interfile import (
    ImageAxes,
    PETSinogramFacts,
    parse_header,
    read_interfile,
    read_interfile_dynamic,
    read_interfile_gated,
    read_interfile_image,
    read_interfile_pet,
    write_interfile,
    write_interfile_image,
    write_interfile_pet,
)
from .masks import read_masks
from .nifti import read_nifti, write_nifti
from .petsird import (
    PETSIRDBlock,
    PETSIRDEfficiencies,
    PETSIRDHeader,
    PETSIRDScan,
    petsird_blocks,
    read_petsird,
    read_petsird_header,
)
from .recording import record_run
from .records import (
    InputFile,
    Orbit,
    Pass,
    Provenance,
    check_record,
    has_record_beside,
    patient_words,
    plain_name,
    sidecar_of,
    used_file,
    without_files,
    without_words,
    write_record,
)
from .registry import (
    axes_beside,
    describe,
    image_kind,
    read_acquisition,
    read_dynamic,
    read_gated,
    read_image,
    read_provenance,
    read_scan,
    read_times,
    read_windowed_scan,
    write_image,
    write_scan,
)
from .siemens import PETLink, histogram_petlink, is_petlink, read_petlink, read_siemens_norm, split_petlink
from .subjects import patient_note, study_of_file
from .terms import read_term
from .times import ImageTimes

__all__ = [
    # the core
    "read_scan",
    "write_scan",
    "read_image",
    "write_image",
    "describe",
    "FormatError",
    "read_term",
    "read_provenance",
    "Provenance",
    "read_dynamic",
    "write_dynamic",
    "read_windowed_scan",
    "write_windowed_scan",
    "read_windowed_series",
    "write_windowed_series",
    "read_beds",
    "write_beds",
    "read_acquisition",
    "ImageTimes",
    "read_times",
    "read_petlink",
    "read_petsird",
    "read_siemens_norm",
    "read_mu",
    "read_masks",
    "read_dicom_ct",
    "read_dicom_pet",
    "write_dicom_pet",
    "read_dicom_nm",
    "read_dicom_nm_image",
    "read_planar",
    # the native file
    "atomic_path",
    "describe_dynamic",
    "axes_beside",
    "Measured",
    "grid_in_scan",
    "patient_note",
    "study_of_file",
    "image_kind",
    "holds_image",
    "image_unit",
    "read_gated",
    # where an image comes from
    "Orbit",
    "Pass",
    "InputFile",
    "acquisition_in_words",
    "check_record",
    "has_record_beside",
    "patient_words",
    "plain_name",
    "sidecar_of",
    "used_file",
    "without_files",
    "without_words",
    "write_record",
    "record_run",
    # Interfile and NIfTI
    "ImageAxes",
    "PETSinogramFacts",
    "parse_header",
    "read_interfile",
    "read_interfile_dynamic",
    "read_interfile_gated",
    "read_interfile_image",
    "read_interfile_pet",
    "read_nifti",
    "write_interfile",
    "write_interfile_image",
    "write_interfile_pet",
    "write_nifti",
    # list-mode
    "PETLink",
    "PETSIRDBlock",
    "PETSIRDEfficiencies",
    "PETSIRDHeader",
    "PETSIRDScan",
    "histogram_petlink",
    "is_petlink",
    "petsird_blocks",
    "read_petsird_header",
    "split_petlink",
    # DICOM
    "ImageFacts",
    "NMHabits",
    "NMImage",
    "NM_IMAGE_OVERRIDES",
    "NM_OVERRIDES",
    "PETFacts",
    "PETImage",
    "PlanarImages",
    "decay_reference_time",
    "suv_factor",
    "VENDOR_HABITS",
    "write_dicom_ct",
    "write_dicom_image",
    "write_dicom_nm",
]
