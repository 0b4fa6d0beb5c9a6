"""Interfile: headers, SPECT projections, PET sinograms, images."""

from .pet import PETSinogramFacts, read_interfile_pet
from .pet_writing import write_interfile_pet
from .spect import parse_header, read_interfile, read_interfile_image, write_interfile, write_interfile_image

__all__ = [
    "PETSinogramFacts",
    "parse_header",
    "read_interfile",
    "read_interfile_image",
    "read_interfile_pet",
    "write_interfile",
    "write_interfile_image",
    "write_interfile_pet",
]
