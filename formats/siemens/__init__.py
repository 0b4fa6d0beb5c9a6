"""Siemens' files of the Biograph: PETLINK list-mode and component normalisation."""

from .norm import read_siemens_norm
from .petlink import PETLink, is_petlink, read_petlink
from .petlink_frames import histogram_petlink, split_petlink

__all__ = [
    "PETLink",
    "histogram_petlink",
    "is_petlink",
    "read_petlink",
    "read_siemens_norm",
    "split_petlink",
]
