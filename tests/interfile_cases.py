"""Small Interfile headers of SPECT projections, and their data."""

import re

import numpy as np

RNG = np.random.default_rng(4)
VIEWS, ROWS, BINS = 6, 3, 4
FILE = RNG.poisson(50, (VIEWS, ROWS, BINS))
COUNTS = FILE.transpose(0, 2, 1)
STIR = """!INTERFILE  :=
!imaging modality := nucmed
name of data file := a.s
;data offset in bytes := 7
!type of data := Tomographic
imagedata byte order := LITTLEENDIAN
!number format := float
!number of bytes per pixel := 4
!SPECT STUDY (General) :=
!matrix size [2] := 3
!scaling factor (mm/pixel) [2] := 6.64
!matrix size [1] := 4
!scaling factor (mm/pixel) [1] := 3.32
!number of projections := 6
!extent of rotation := 360
!process status := acquired
!direction of rotation := CW
start angle := 180
orbit := circular
radius := 150
!END OF INTERFILE :=
radius := 3
"""
SIMIND = """ !INTERFILE :=
!imaging modality := nucmed
!originating system := simind
!data offset in bytes := 0
!name of data file := A.a00
;# Radionuclide := ^99m^Technetium
imagedata byte order := LITTLEENDIAN
energy window lower level[1] :=  126.45
energy window upper level [ 1 ] :=  154.55
!number of energy windows := 1
!matrix size [1] := 4
!matrix size [2] := 3
!number format := short float
!number of bytes per pixel := 4
scaling factor (mm/pixel) [1] := 3.950
scaling factor (mm/pixel) [2] := +3.950000+00
!number of projections := 6
!extent of rotation := 180
!time per projection (sec) := 1.5D+01
!direction of rotation := CCW
start angle := 0.000
orbit := Circular
;#Radius := 15.000
!END OF INTERFILE :=
"""


def save(folder, header=STIR, values=FILE, dtype="<f4", name="a.s", **changes):
    """Write a header, with keys replaced (None removes one), and its data; return the header's path."""
    for key, value in changes.items():
        header = change(header, key.replace("_", " "), value)
    (folder / "a.hs").write_text(header)
    (folder / name).write_bytes(np.asarray(values).astype(dtype).tobytes())
    return folder / "a.hs"


def change(header, key, value):
    line = "" if value is None else f"{key} := {value}\n"
    pattern = re.compile(rf"^!?{re.escape(key)}\s*:=.*\n", re.MULTILINE | re.IGNORECASE)
    if pattern.search(header):
        return pattern.sub(line.replace("\\", r"\\"), header, count=1)
    return header.replace("!END OF INTERFILE", line + "!END OF INTERFILE", 1)
