"""Scanners that STIR's headers name without their numbers: crystals on a circle, as STIR's own table has them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class STIRScanner:
    """A scanner's numbers; lengths in mm.

    Args:
        bins : radial bins before arc correction.  bin_size : after it.
        offset : degrees by which the first view is turned, STIR's intrinsic tilt.
    """

    names: tuple[str, ...]
    rings: int
    bins: int
    crystals: int
    inner_radius: float
    depth: float
    ring_pitch: float
    bin_size: float
    offset: float = 0.0


STIR_SCANNERS = (
    STIRScanner(("ECAT 931",), 8, 192, 512, 510.0, 7.0, 13.5, 3.129),
    STIRScanner(("ECAT 951",), 16, 192, 512, 510.0, 7.0, 6.75, 3.12932),
    STIRScanner(("ECAT 953",), 16, 160, 384, 382.5, 7.0, 6.75, 3.12932, -15.0),
    STIRScanner(("ECAT 921", "ECAT EXACT", "EXACT"), 24, 192, 384, 412.5, 7.0, 6.75, 3.375, -15.0),
    STIRScanner(("ECAT 925", "ECAT ART"), 24, 192, 384, 412.5, 7.0, 6.75, 3.375, -15.0),
    STIRScanner(("ECAT 961", "ECAT HR"), 24, 336, 784, 412.0, 7.0, 6.25, 1.65, -13.0),
    STIRScanner(("ECAT 962", "ECAT HR+"), 32, 288, 576, 412.0, 7.0, 4.85, 2.25),
    STIRScanner(("ECAT EXACT 3D", "EXACT 3D", "ECAT HR++", "ECAT 966"), 48, 288, 576, 412.0, 7.0, 4.85, 2.25),
    STIRScanner(("ECAT 1080", "Biograph 16", "1080"), 41, 336, 672, 412.0, 7.0, 4.0, 2.0),
    STIRScanner(("PRT-1", "RPT"), 16, 128, 384, 373.0, 7.0, 6.75, 3.1088),
    STIRScanner(("RATPET",), 8, 56, 112, 57.5, 7.0, 6.25, 1.65),
    STIRScanner(("GE Advance", "Advance"), 18, 283, 672, 463.475, 8.4, 8.5, 1.970177),
    STIRScanner(("GE Discovery LS", "Discovery LS"), 18, 283, 672, 463.475, 8.4, 8.5, 1.970177),
    STIRScanner(("GE Discovery ST", "Discovery ST"), 24, 249, 420, 443.1, 8.4, 6.54, 3.195, -4.54224),
    STIRScanner(("GE Discovery STE", "Discovery STE"), 24, 329, 560, 443.1, 8.4, 6.54, 2.397, -4.549),
    STIRScanner(("GE Discovery RX", "Discovery RX"), 24, 367, 630, 443.1, 9.4, 6.54, 2.13, -4.595),
    STIRScanner(("GE Discovery 600", "Discovery 600"), 24, 339, 512, 404.95, 8.4, 6.54, 2.3974, -4.549),
    STIRScanner(("Allegro", "Philips Allegro"), 29, 295, 644, 430.05, 12.0, 6.3, 4.3),
    STIRScanner(("GeminiTF", "Philips GeminiTF"), 44, 322, 644, 450.17, 8.0, 4.0, 4.0),
)
"""Source: the scanner table of STIR 6 (Thielemans et al. 2012, Phys Med Biol 57:867)."""


def stir_scanner(names: set[str]) -> STIRScanner | None:
    """Return the scanner of one of these names, in lower case without spaces, None where STIR's table has none."""
    return next((s for s in STIR_SCANNERS if names & {"".join(name.lower().split()) for name in s.names}), None)
