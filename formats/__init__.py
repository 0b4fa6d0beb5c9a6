"""Files: read and write scans and images, choosing the format by the file's name or content.

`read_scan`, `write_scan`, `read_image`, `write_image` and `describe` serve every format. HDF5 is the native one and
the only one that keeps everything; Interfile (STIR, SIMIND) and NIfTI are for exchange.
"""

if __name__ != "emrecon.formats":
    raise ImportError("this folder is a part of emrecon: `pip install .` first, then `import emrecon.formats`")

from emrecon.projectors.core import FormatError, atomic_path

from .dicom import PETFacts, PETImage, decay_reference_time, read_dicom_ct, read_dicom_pet, suv_factor, write_dicom_pet
from .hdf5 import describe_dynamic, read_dynamic, read_gated, read_windowed_scan, write_dynamic, write_windowed_scan
from .interfile import (
    PETSinogramFacts,
    parse_header,
    read_interfile,
    read_interfile_image,
    read_interfile_pet,
    write_interfile,
    write_interfile_image,
    write_interfile_pet,
)
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
from .registry import describe, image_kind, read_image, read_scan, write_image, write_scan
from .siemens import PETLink, histogram_petlink, is_petlink, read_petlink, read_siemens_norm, split_petlink

__all__ = [
    "FormatError",
    "PETFacts",
    "PETImage",
    "PETLink",
    "PETSIRDBlock",
    "PETSIRDEfficiencies",
    "PETSIRDHeader",
    "PETSIRDScan",
    "PETSinogramFacts",
    "atomic_path",
    "decay_reference_time",
    "describe",
    "describe_dynamic",
    "histogram_petlink",
    "image_kind",
    "is_petlink",
    "parse_header",
    "petsird_blocks",
    "read_dicom_ct",
    "read_dicom_pet",
    "read_dynamic",
    "read_gated",
    "read_image",
    "read_interfile",
    "read_interfile_image",
    "read_interfile_pet",
    "read_nifti",
    "read_petlink",
    "read_petsird",
    "read_petsird_header",
    "read_scan",
    "read_siemens_norm",
    "read_windowed_scan",
    "split_petlink",
    "suv_factor",
    "write_dicom_pet",
    "write_dynamic",
    "write_image",
    "write_interfile",
    "write_interfile_image",
    "write_interfile_pet",
    "write_nifti",
    "write_scan",
    "write_windowed_scan",
]
