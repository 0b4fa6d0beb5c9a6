"""Files: read and write scans and images, choosing the format by the file's name or content.

`read_scan`, `write_scan`, `read_image`, `write_image` and `describe` serve every format. HDF5 is the native one and
the only one that keeps everything; Interfile (STIR, SIMIND) and NIfTI are for exchange.
"""

if __name__ != "emrecon.formats":
    raise ImportError("this folder is a part of emrecon: `pip install .` first, then `import emrecon.formats`")

from emrecon.projectors._files import atomic_path

from ._choose import describe, image_kind, read_image, read_scan, write_image, write_scan
from ._errors import FormatError
from .interfile import parse_header, read_interfile, read_interfile_image, write_interfile, write_interfile_image
from .nifti import read_nifti, write_nifti

__all__ = [
    "FormatError",
    "atomic_path",
    "describe",
    "image_kind",
    "parse_header",
    "read_image",
    "read_interfile",
    "read_interfile_image",
    "read_nifti",
    "read_scan",
    "write_image",
    "write_interfile",
    "write_interfile_image",
    "write_nifti",
    "write_scan",
]
