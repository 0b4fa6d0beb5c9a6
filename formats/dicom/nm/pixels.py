"""The numbers of a multi-frame file: decoded, checked against the header, and scaled."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from emrecon.projectors.core.errors import FormatError, require_affordable

from ..series import _require_decoder
from .header import floats_of, matrix_of, tag, whole_of

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_KINDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


def stored_of(path: Path, header: Dataset) -> np.ndarray:
    """Return the stored numbers (frames, rows, columns); raises FormatError where the file does not hold them all."""
    import pydicom
    from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

    shape = matrix_of(path, header)
    if (whole_of(path, header, "SamplesPerPixel") or 1) != 1:
        raise FormatError(f"{path} holds colours ({tag('SamplesPerPixel')}); is it a screen capture?")
    require_affordable(path, 8 * shape[0] * shape[1] * shape[2], "NumberOfFrames, Rows and Columns")
    try:
        dataset = pydicom.dcmread(path, force=True)
    except Exception as error:  # pydicom raises many kinds of errors for damaged files
        raise FormatError(f"{path}: cannot be read ({_short(error)}); truncated or damaged?") from error
    if not any(name in dataset for name in _KINDS):
        raise FormatError(f"{path} holds no pixels ({tag('PixelData')}); truncated?")
    if "TransferSyntaxUID" not in dataset.file_meta:  # files without preamble
        implicit = dataset.original_encoding[0]
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    _require_decoder(path, dataset.file_meta.TransferSyntaxUID)
    try:
        values = np.asarray(pydicom.pixels.pixel_array(dataset, raw=True))
    except Exception as error:  # as above
        raise FormatError(f"{path}: the pixels cannot be read ({_short(error)}); truncated or damaged?") from error
    if values.size != shape[0] * shape[1] * shape[2]:
        raise FormatError(
            f"{path}: {values.size} pixels ({tag('PixelData')}) are not {shape[0]} frames ({tag('NumberOfFrames')}) of "
            f"{shape[1]} rows and {shape[2]} columns; truncated or damaged?"
        )
    return values.reshape(shape)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def rescaled(path: Path, header: Dataset, stored: np.ndarray, scale: float | None = None) -> np.ndarray:
    """Return stored x RescaleSlope + RescaleIntercept, or stored x scale; whole numbers stay so where nothing is done.

    Raises FormatError for a slope of zero, and values that are not finite.
    """
    slope, intercept = scale, 0.0
    if slope is None:
        parts = [floats_of(path, header, name) for name in ("RescaleSlope", "RescaleIntercept")]
        slope, intercept = (usual if part is None else float(part[0]) for part, usual in zip(parts, (1.0, 0.0)))
    if slope == 0:
        raise FormatError(f"{path}: {tag('RescaleSlope')} is 0, which gives no usable values; pass scale=")
    values = stored if (slope, intercept) == (1.0, 0.0) else _scaled(stored, slope, intercept)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise FormatError(f"{path}: {int((~np.isfinite(values)).sum())} values are NaN or infinite; damaged?")
    return values


def _scaled(stored: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = stored * np.float64(slope) + intercept
        # float32 holds 24 bits: counts that a camera stores in 16 come back without loss
        return scaled.astype(np.float32 if stored.dtype.itemsize <= 2 or stored.dtype == np.float32 else np.float64)


def check_not_negative(path: Path, counts: np.ndarray) -> None:
    """Raise FormatError where counts are negative."""
    lowest = counts.min()
    if lowest < 0:
        raise FormatError(
            f"{path}: {int((counts < 0).sum())} counts are negative, down to {lowest:g}; corrected data, or a wrong "
            f"{tag('PixelRepresentation')} or {tag('RescaleIntercept')}?"
        )


def pixel_size_of(path: Path, header: Dataset) -> tuple[float, float] | None:
    """Return PixelSpacing as (columns, rows) mm apart, None where it is missing."""
    spacing = floats_of(path, header, "PixelSpacing")
    if spacing is None:
        return None
    if spacing.size != 2 or spacing.min() <= 0:
        raise FormatError(
            f"{path}: {tag('PixelSpacing')} is {spacing.tolist()}, expected two positive mm; pass pixel_size="
        )
    return float(spacing[1]), float(spacing[0])
