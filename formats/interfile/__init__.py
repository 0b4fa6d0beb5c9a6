"""Interfile: headers, SPECT projections, PET sinograms, images."""

from .header import parse_header
from .images import ImageAxes, read_interfile_image, write_interfile_image
from .pet import PETSinogramFacts, read_interfile_pet
from .pet_writing import write_interfile_pet
from .series import read_interfile_dynamic, read_interfile_gated
from .spect import read_interfile, write_interfile

__all__ = [
    "ImageAxes",
    "PETSinogramFacts",
    "parse_header",
    "read_interfile",
    "read_interfile_dynamic",
    "read_interfile_gated",
    "read_interfile_image",
    "read_interfile_pet",
    "write_interfile",
    "write_interfile_image",
    "write_interfile_pet",
]
