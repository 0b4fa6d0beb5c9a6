"""Sinograms and images as STIR would have written them: line integrals in its own axes, by plain sampling."""

import numpy as np

RINGS, CRYSTALS, RADIAL, RADIUS, PITCH = 5, 24, 11, 105.0, 6.0
VIEWS, SLICES, PIXEL = CRYSTALS // 2, 2 * RINGS - 1, 12.0
PROMPTS = """!INTERFILE :=
!imaging modality := PT
name of data file := prompts.s
!type of data := PET
imagedata byte order := LITTLEENDIAN
applied corrections := {None}
!number format := float
!number of bytes per pixel := 4
number of dimensions := 4
matrix axis label [4] := segment
!matrix size [4] := 3
matrix axis label [3] := view
!matrix size [3] := 12
matrix axis label [2] := axial coordinate
!matrix size [2] := {4,5,4}
matrix axis label [1] := tangential coordinate
!matrix size [1] := 11
minimum ring difference per segment := {-1,0,1}
maximum ring difference per segment := {-1,0,1}
Scanner type := Small
Number of rings := 5
Number of detectors per ring := 24
Inner ring diameter (cm) := 20
Average depth of interaction (cm) := 0.5
Distance between rings (cm) := 0.6
Default bin size (cm) := 1.2
!END OF INTERFILE :=
"""
IMAGE = """!INTERFILE :=
{kind}
name of data file := mu.v
imagedata byte order := LITTLEENDIAN
number format := float
!number of bytes per pixel := 4
number of dimensions := 3
matrix axis label [1] := x
!matrix size [1] := 13
scaling factor (mm/pixel) [1] := 12
matrix axis label [2] := y
!matrix size [2] := 13
scaling factor (mm/pixel) [2] := 12
matrix axis label [3] := z
!matrix size [3] := 9
scaling factor (mm/pixel) [3] := 3
!END OF INTERFILE :=
"""
SINGLE_BLOCKS = """Number of blocks per bucket in transaxial direction := 1
Number of blocks per bucket in axial direction := 1
Number of crystals per block in axial direction := 5
Number of crystals per block in transaxial direction := 1
Scanner geometry (BlocksOnCylindrical/Cylindrical/Generic) := BlocksOnCylindrical
Distance between crystals in axial direction (cm) := 0.6
Distance between crystals in transaxial direction (cm) := 2
Distance between blocks in axial direction (cm) := 3
Distance between blocks in transaxial direction (cm) := 2
"""  # as good as the circle
STIRS = "!imaging modality := PT\n!type of data := PET\n!PET data type := Image\nprocess status := Reconstructed"
ABSORBER = np.zeros((SLICES, 13, 13), np.float32)  # [z][y][x] as in the file: at the first rings, to one side
ABSORBER[0:3, 4:7, 7:10] = 0.1


def integral(file, first, second, ring1, ring2):
    """The integral of the file's image along a line, in STIR's axes: z grows with the ring, slice 0 is at ring 0."""

    def crystal(i, ring):
        a = 2 * np.pi * i / CRYSTALS
        return np.array([RADIUS * np.sin(a), -RADIUS * np.cos(a), ring * PITCH])

    return _sampled(file, crystal(first, ring1), crystal(second, ring2))


def _sampled(file, one, two, steps=2000):
    points = one + (np.arange(steps)[:, None] + 0.5) / steps * (two - one)
    index = np.rint(points / (PIXEL, PIXEL, PITCH / 2) + (6, 6, 0)).astype(int)
    inside = ((index >= 0) & (index < (13, 13, SLICES))).all(1)
    x, y, z = index[inside].T
    return file[z, y, x].sum() * np.linalg.norm(two - one) / steps / 10  # mm to cm


def arc_integral(file, view, k, ring1, ring2, bin_size):
    """The same along the line of an arc-corrected bin: parallel and equally spaced in every view."""
    phi, s = np.pi * view / VIEWS, k * bin_size
    along, away = np.array([np.cos(phi), np.sin(phi)]), np.array([np.sin(phi), -np.cos(phi)])
    reach = np.sqrt(RADIUS**2 - s**2)
    ends = [np.append(s * along + side * reach * away, ring * PITCH) for side, ring in ((1, ring1), (-1, ring2))]
    return _sampled(file, *ends)


def arc_sinogram(file, bin_size):
    """The file's values [segment][view][axial][tangential] of `arc_integral`."""
    return np.array(
        [
            arc_integral(file, view, k, ring, ring + segment, bin_size)
            for segment in (-1, 0, 1)
            for view in range(VIEWS)
            for ring in range(max(0, -segment), min(RINGS, RINGS - segment))
            for k in range(-(RADIAL // 2), RADIAL - RADIAL // 2)
        ]
    )


def sinogram(file):
    """The file's values [segment][view][axial][tangential] of `integral`."""
    values = []
    for segment in (-1, 0, 1):
        for view in range(VIEWS):
            for ring in range(max(0, -segment), min(RINGS, RINGS - segment)):
                for k in range(-(RADIAL // 2), RADIAL - RADIAL // 2):
                    first, second = view + (k >> 1), view - ((k + 1) >> 1) + CRYSTALS // 2
                    values.append(integral(file, first, second, ring, ring + segment))
    return np.array(values)


def stir_pair(folder, image=ABSORBER, kind=STIRS, values=None):
    """A sinogram of an image's line integrals, or other values, and the image, as STIR would have written them."""
    (folder / "prompts.hs").write_text(PROMPTS)
    (folder / "prompts.s").write_bytes((sinogram(image) if values is None else values).astype("<f4").tobytes())
    (folder / "mu.hv").write_text(IMAGE.format(kind=kind))
    (folder / "mu.v").write_bytes(image.astype("<f4").tobytes())
    return folder / "prompts.hs", folder / "mu.hv"


def ring_map():
    """The crystals of the circle as a crystal map of STIR."""
    lines = ["# ring,crystal,x,y,z"]
    for ring in range(RINGS):
        angles = 2 * np.pi / CRYSTALS * np.arange(CRYSTALS)
        places = zip(RADIUS * np.sin(angles), -RADIUS * np.cos(angles))
        lines += [f"{ring},{i},{x},{y},{ring * PITCH}" for i, (x, y) in enumerate(places)]
    return "\n".join(lines)
