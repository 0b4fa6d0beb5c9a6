"""PET sinograms in Interfile: every bin is where STIR's numbering puts it, whatever the file's order."""

import itertools
import os
import re

import numpy as np
import pytest
from pet_cases import SCANNER, SINOGRAMS

from emrecon import formats
from emrecon.formats import FormatError
from emrecon.formats.interfile.header import load_header, read_values
from emrecon.formats.interfile.images import interfile_axes, read_interfile_image, write_interfile_image
from emrecon.formats.interfile.pet import PETSinogramFacts, read_interfile_pet
from emrecon.formats.interfile.pet_writing import write_interfile_pet
from emrecon.formats.interfile.scanners import SYSTEMS
from emrecon.projectors import (
    EquallySpacedLines,
    ImageGrid,
    PETProjector,
    PETScanner,
    PETSinogram,
    TimeOfFlight,
    pet_scanners,
)

RINGS, CRYSTALS, RADIAL = 5, 24, 9
VIEWS, PLANES = CRYSTALS // 2, 19
HEADER = """!INTERFILE  :=
!imaging modality := PT
name of data file := a.s
originating system := Small
!GENERAL DATA :=
patient orientation := head_in
patient rotation :=  supine
!GENERAL IMAGE DATA :=
!type of data := PET
imagedata byte order := LITTLEENDIAN
!PET STUDY (General) :=
!PET data type := Emission
applied corrections := {None}
!number format := float
!number of bytes per pixel := 4
number of dimensions := 4
matrix axis label [4] := segment
!matrix size [4] := 5
matrix axis label [3] := view
!matrix size [3] := 12
matrix axis label [2] := axial coordinate
!matrix size [2] := { 3,4,5,4,3}
matrix axis label [1] := tangential coordinate
!matrix size [1] := 9
minimum ring difference per segment := { -2,-1,0,1,2}
maximum ring difference per segment := { -2,-1,0,1,2}
Scanner parameters:=
Scanner type := Small
Number of rings                          := 5
Number of detectors per ring             := 24
Inner ring diameter (cm)                 := 20
Average depth of interaction (cm)        := 0.5
Distance between rings (cm)              := 0.6
Default bin size (cm)                    := 0.3
View offset (degrees)                    := 0
Maximum number of non-arc-corrected bins := 9
Energy resolution := 0.15
Reference energy (in keV) := 511
end scanner parameters:=
effective central bin size (cm) := 0.208815
number of energy windows:=1
energy window lower level[1] := 430
energy window upper level[1] := 610
number of time frames := 1
image duration (sec)[1] := 30
image relative start time (sec)[1] := 5
start vertical bed position (mm) := 1
start horizontal bed position (mm) := -7
!END OF INTERFILE :=
"""
TIMING = """Maximum number of (unmashed) TOF time bins := 15
Size of unmashed TOF time bins (ps) := 100
TOF timing resolution (ps) := 300
"""


def change(header, key, value):
    """Return a header in which a key has another value, is added or, for None, removed."""
    line = "" if value is None else f"{key} := {value}\n"
    pattern = re.compile(rf"^!?[ ]*{re.escape(key)}\s*:=.*\n", re.MULTILINE | re.IGNORECASE)
    if pattern.search(header):
        return pattern.sub(line, header, count=1)
    return header.replace("!END OF INTERFILE", line + "!END OF INTERFILE", 1)


def changed(header, changes):
    for key, value in changes.items():
        header = change(header, key, value)
    return header


def save(folder, header=HEADER, values=None, dtype="<f4", changes=()):
    """Write a header and its data; return the header's path."""
    (folder / "a.hs").write_text(changed(header, dict(changes)))
    values = np.zeros(VIEWS * RADIAL * PLANES) if values is None else values
    (folder / "a.s").write_bytes(np.asarray(values).astype(dtype).tobytes())
    return folder / "a.hs"


def pair_value(first, second, ring1, ring2, timing=0):
    """A number that no other pair of crystals of the small scanner has; `timing` counts towards the first end."""
    first, second, timing = (np.asarray(a) for a in (first, second, timing))
    return (((ring1 * CRYSTALS + first) * RINGS + ring2) * CRYSTALS + second) * 8 + timing + 3


def stir_file(segments, order, span=1, timings=(0,)):
    """What STIR writes: loops over the axes of `order`, slowest first, with the planes of every segment as they are.

    A bin that holds several ring pairs gets the sum over them. span : or the ring differences of every segment.
    """
    values = []
    n = CRYSTALS
    planes = {}
    for s in segments:
        low, high = span[s] if isinstance(span, dict) else (s * span - span // 2, s * span + span // 2)
        pairs = [(r, r + d) for d in range(low, high + 1) for r in range(RINGS)]
        pairs = [pair for pair in pairs if 0 <= pair[1] < RINGS]
        planes[s] = [[p for p in pairs if sum(p) == total] for total in sorted({sum(p) for p in pairs})]
    ranges = {"view": range(VIEWS), "tang": range(-(RADIAL // 2), RADIAL - RADIAL // 2), "tof": timings}
    outer, inner = order[: order.index("segment")], order[order.index("segment") + 1 :]
    for slow in itertools.product(*(ranges[axis] for axis in outer)):
        for s in segments:
            for fast in itertools.product(*(planes[s] if axis == "axial" else ranges[axis] for axis in inner)):
                at = dict(zip((*outer, *inner), (*slow, *fast)))
                v, k = at["view"], at["tang"]
                first, second = (v + (k >> 1)) % n, (v - ((k + 1) >> 1) + n // 2) % n
                values.append(sum(pair_value(first, second, *pair, at.get("tof", 0)) for pair in at["axial"]))
    return np.array(values, float)


def expected(sinogram):
    """What `stir_file` puts into every bin of a sinogram."""
    first, second = np.moveaxis(sinogram.crystal_pairs[:, 0], -1, 0)
    # a high TOF bin is near the second end, a high timing position near the first
    timings = [0] if sinogram.tof is None else -np.rint(sinogram.tof.centres / sinogram.tof.bin_width).astype(int)
    bins = [
        [sum(pair_value(first, second, *pair, t) for pair in pairs) for pairs in sinogram.ring_pairs] for t in timings
    ]
    values = np.moveaxis(np.array(bins), (0, 1), (2, 3))
    return values[:, :, 0] if sinogram.tof is None else values


SEGMENTS = {
    "ascending": (-2, -1, 0, 1, 2),
    "as here": (0, 1, -1, 2, -2),
    "as ECAT": (0, -1, 1, -2, 2),
    "any": (2, 0, -2, 1, -1),
}


@pytest.mark.parametrize("segments", list(SEGMENTS.values()), ids=list(SEGMENTS))
@pytest.mark.parametrize(
    "order",
    [
        ("segment", "view", "axial", "tang"),
        ("segment", "axial", "view", "tang"),
        ("view", "segment", "tang", "axial"),
    ],
)
def test_every_bin_is_where_the_crystals_say(tmp_path, segments, order):
    changes = axis_keys(order) | {
        f"matrix size [{4 - order.index('axial')}]": as_list(RINGS - abs(s) for s in segments),
        "minimum ring difference per segment": as_list(segments),
        "maximum ring difference per segment": as_list(segments),
    }
    counts, sinogram, facts = read_interfile_pet(save(tmp_path, HEADER, stir_file(segments, order), "<f4", changes))
    assert sinogram.shape == (VIEWS, RADIAL, PLANES)
    assert (sinogram.span, sinogram.max_ring_difference, sinogram.mashing) == (1, 2, 1)
    np.testing.assert_array_equal(counts, expected(sinogram))
    assert counts.dtype == np.float32
    assert facts == PETSinogramFacts(
        "header",
        "Small",
        duration=30,
        start=5,
        energy_window=(430, 610),
        patient_orientation="head_in",
        patient_rotation="supine",
        bed_position=(-7, 1),
    )
    inner, fewer, _ = read_interfile_pet(tmp_path / "a.hs", segments=1)
    assert (fewer.max_ring_difference, fewer.n_planes) == (1, 13)
    np.testing.assert_array_equal(inner, counts[..., :13])


def axis_keys(order):
    names = {"tang": "tangential coordinate", "axial": "axial coordinate", "tof": "timing positions"}
    sizes = {"tang": RADIAL, "view": VIEWS, "segment": 5, "axial": "{3,4,5,4,3}", "tof": 5}
    keys = {"number of dimensions": len(order)}
    for index, axis in enumerate(reversed(order), 1):
        keys[f"matrix axis label [{index}]"] = names.get(axis, axis)
        keys[f"matrix size [{index}]"] = sizes[axis]
    return keys


def as_list(values):
    return "{" + ",".join(map(str, values)) + "}"


@pytest.mark.parametrize("order", [("segment", "view", "axial", "tang"), ("segment", "axial", "view", "tang")])
def test_span_3(tmp_path, order):
    changes = axis_keys(order) | {
        "matrix size [4]": 3,
        f"matrix size [{4 - order.index('axial')}]": "{5,9,5}",
        "minimum ring difference per segment": "{2,-1,-4}",
        "maximum ring difference per segment": "{4,1,-2}",
    }
    path = save(tmp_path, values=stir_file((1, 0, -1), order, 3), changes=changes)
    counts, sinogram, _ = read_interfile_pet(path)
    assert (sinogram.span, sinogram.max_ring_difference, sinogram.n_planes) == (3, 4, 19)
    np.testing.assert_array_equal(counts, expected(sinogram))
    counts, sinogram, _ = read_interfile_pet(path, segments=0)
    assert (sinogram.span, sinogram.max_ring_difference, sinogram.n_planes) == (3, 1, 9)
    np.testing.assert_array_equal(counts, expected(sinogram))


@pytest.mark.parametrize("order", [(-2, -1, 0, 1, 2), (0, 1, -1, 2, -2)])
def test_tof_bins_are_turned_round(tmp_path, order):
    axes = ("tof", "segment", "view", "axial", "tang")
    changes = axis_keys(axes) | {"TOF mashing factor": 3}
    if order[0] == 0:
        changes["TOF bin order"] = as_list(order)
    header = HEADER.replace("end scanner", TIMING + "end scanner")
    values = stir_file(SEGMENTS["ascending"], axes, timings=order)
    counts, sinogram, _ = read_interfile_pet(save(tmp_path, header, values, "<f4", changes))
    assert sinogram.tof == TimeOfFlight.from_ps(5, 300, 300)
    assert sinogram.scanner.time_of_flight == TimeOfFlight.from_ps(15, 100, 300)
    np.testing.assert_array_equal(counts, expected(sinogram))


def test_tof_keys_of_older_versions_and_overrides(tmp_path):
    axes = ("tof", "segment", "view", "axial", "tang")
    values, old = stir_file(SEGMENTS["ascending"], axes, timings=range(-2, 3)), ("Number of TOF time bins := 411\n")
    old += "Size of timing bin (ps) := 10\nTiming resolution (ps) := 400\n"
    changes = axis_keys(axes) | {"%TOF mashing factor": 82}  # STIR's ROOT demonstration has these numbers
    path = save(tmp_path, HEADER.replace("end scanner", old + "end scanner"), values, "<f4", changes)
    _, sinogram, _ = read_interfile_pet(path)
    assert sinogram.tof == TimeOfFlight.from_ps(5, 820, 400)
    with pytest.raises(FormatError, match="expected a TimeOfFlight of 5 bins"):
        read_interfile_pet(path, tof=TimeOfFlight(4, 1, 1))
    path = save(tmp_path, HEADER, values, "<f4", changes)
    with pytest.raises(FormatError, match=r"5 TOF bins, the scanner has no TOF bins; pass tof="):
        read_interfile_pet(path)
    counts, sinogram, _ = read_interfile_pet(path, tof=TimeOfFlight(5, 30.0, 60.0))
    np.testing.assert_array_equal(counts, expected(sinogram))
    changes["TOF bin order"] = "{0,1,2,3,4}"
    with pytest.raises(FormatError, match="5 timing positions"):
        read_interfile_pet(save(tmp_path, HEADER, values, "<f4", changes), tof=sinogram.tof)


def test_one_timing_position(tmp_path):
    axes = ("tof", "segment", "view", "axial", "tang")
    values = stir_file(SEGMENTS["ascending"], axes)
    changes = axis_keys(axes) | {"matrix size [5]": 1}
    counts, sinogram, _ = read_interfile_pet(save(tmp_path, values=values, changes=changes))
    assert sinogram.tof is None
    np.testing.assert_array_equal(counts, expected(sinogram))


def test_the_circle_of_the_header(tmp_path):
    scanner = read_interfile_pet(save(tmp_path, changes={"View offset (degrees)": 15}))[1].scanner
    assert (scanner.n_rings, scanner.n_crystals, scanner.n_radial, scanner.bin_size) == (5, 24, 9, 3)
    assert (scanner.name, scanner.energy_resolution, scanner.time_of_flight) == ("Small", 0.15, None)
    np.testing.assert_allclose(scanner.rings, [12, 6, 0, -6, -12])
    np.testing.assert_allclose(np.hypot(*scanner.crystals[0, :, :2].T), 105)
    np.testing.assert_allclose(scanner.crystals[0, 5, :2], (105, 0), atol=1e-9)  # 75 degrees and 15: the left


def test_mashed_views(tmp_path):
    n = 6 * RADIAL * PLANES
    counts, sinogram, _ = read_interfile_pet(save(tmp_path, values=np.arange(n), changes={"matrix size [3]": 6}))
    assert (sinogram.mashing, counts.shape) == (2, (6, RADIAL, PLANES))
    with pytest.raises(FormatError, match=r"the 8 views of .* cannot be joined to 12"):
        read_interfile_pet(save(tmp_path, changes={"Number of detectors per ring": 16}))


def announced(folder, header, changes=()):
    """Write a header and an empty file as large as it announces (one byte per value; the disk holds none of them)."""
    header = changed(header, {"number format": "unsigned integer", "number of bytes per pixel": 1} | dict(changes))
    (folder / "a.hs").write_text(header)
    sizes = [int(n) for n in re.findall(r"matrix size \[\d\] := (\d+)", header)]
    planes = sum(map(int, re.search(r"matrix size \[2\] := \{(.*)\}", header)[1].split(",")))
    segments = int(re.search(r"matrix size \[4\] := (\d+)", header)[1])
    with (folder / "a.s").open("wb") as stream:
        stream.truncate(int(np.prod(sizes)) // segments * planes)
    return folder / "a.hs"


MMR = {
    "originating system": "Siemens mMR",
    "Scanner type": "Siemens mMR",
    "matrix size [3]": 252,
    "matrix size [1]": 344,
    "Number of rings": 64,
    "Number of detectors per ring": 504,
    "Inner ring diameter (cm)": 65.6,
    "Average depth of interaction (cm)": 0.7,
    "Distance between rings (cm)": 0.40625,
    "Default bin size (cm)": 0.208626,
    "Maximum number of non-arc-corrected bins": 344,
}
MMR_2 = MMR | {"matrix size [2]": "{62,63,64,63,62}"}


def test_stirs_mmr_headers(tmp_path):
    """The numbers of STIR's Siemens_mMR_seg2.hs and template_span11.hs."""
    counts, sinogram, facts = read_interfile_pet(announced(tmp_path, HEADER, MMR_2))
    assert counts.shape == (252, 344, 314)
    assert sinogram == PETSinogram(PETScanner.named("mmr"), max_ring_difference=2)
    assert (facts.scanner, facts.system) == ("mmr", "Siemens mMR")
    span_11 = MMR | {
        "matrix size [4]": 11,
        "matrix size [2]": "{ 27,49,71,93,115,127,115,93,71,49,27}",
        "minimum ring difference per segment": "{ -60,-49,-38,-27,-16,-5,6,17,28,39,50}",
        "maximum ring difference per segment": "{ -50,-39,-28,-17,-6,5,16,27,38,49,60}",
    }
    path = announced(tmp_path, HEADER, span_11)
    _, sinogram, _ = read_interfile_pet(path, segments=0)
    assert (sinogram.span, sinogram.n_planes) == (11, 127)
    assert read_interfile_pet(path)[1] == PETSinogram(PETScanner.named("mmr"), 60, span=11)


def test_a_scanner_is_known_by_its_numbers_or_its_name(tmp_path):
    def scanner(**changes):
        keys = MMR_2 | {key.replace("_", " "): value for key, value in changes.items()}
        _, sinogram, facts = read_interfile_pet(announced(tmp_path, HEADER, keys), segments=0)
        return sinogram.scanner, facts.scanner

    assert scanner(originating_system="mine", Scanner_type=None)[1] == "mmr"
    unnumbered = {"Number of rings": None, "Number of detectors per ring": None, "originating system": "2008"}
    assert scanner(**unnumbered)[1] == "mmr"
    wider, source = scanner(**{"Inner ring diameter (cm)": 70})
    assert (source, round(wider.radius)) == ("header", 357)
    turned, source = scanner(**{"View offset (degrees)": -5})
    assert source == "mmr"
    named = PETScanner.polygon(
        sides=56,
        crystals_per_side=9,
        virtual_crystals=1,
        radius=328,
        depth=7,
        crystal_pitch=4.0625,
        rings=64,
        ring_pitch=4.0625,
        phase=-5,
    )
    np.testing.assert_allclose(turned.crystals, named.crystals, atol=1e-9)
    path = announced(tmp_path, HEADER, MMR_2)
    _, circle, facts = read_interfile_pet(path, scanner="header", segments=0)
    assert facts.scanner == "header"
    np.testing.assert_allclose(np.hypot(*circle.scanner.crystals[0, :, :2].T), 335)
    own = read_interfile_pet(path, scanner=wider, segments=0)
    assert own[1].scanner is wider
    assert own[2].scanner == "caller"
    assert read_interfile_pet(path, scanner="mMR", segments=0)[1].scanner == PETScanner.named("mmr")


def test_the_table_of_systems_is_that_of_the_library():
    assert set(SYSTEMS) == set(pet_scanners())
    for name, system in SYSTEMS.items():
        scanner = PETScanner.named(name)
        assert (system.rings, system.crystals) == (scanner.n_rings, scanner.n_crystals)
        assert scanner.radius == pytest.approx(system.inner_radius + system.depth, rel=3e-3)
        assert np.ptp(scanner.rings) / (scanner.n_rings - 1) == pytest.approx(system.ring_pitch, rel=1e-2)


GE = {0: (-1, 1), 1: (2, 3), -1: (-3, -2)}


def test_ge_joins_three_ring_differences_in_segment_0_and_two_elsewhere(tmp_path):
    """As STIR's header of the SIGNA PET/MR has it, with fewer rings."""
    changes = {
        "matrix size [4]": 3,
        "matrix size [2]": "{5,9,5}",
        "minimum ring difference per segment": "{-3,-1,2}",
        "maximum ring difference per segment": "{-2,1,3}",
    }
    file = stir_file((-1, 0, 1), ("segment", "view", "axial", "tang"), GE)
    path = save(tmp_path, values=file, changes=changes)
    counts, sinogram, _ = read_interfile_pet(path)
    assert (sinogram.span, sinogram.max_ring_difference, sinogram.n_planes) == ((3, 2), 3, 19)
    assert "span 3 and 2," in str(sinogram)
    np.testing.assert_array_equal(counts, expected(sinogram))
    write_interfile_pet(tmp_path / "b.hs", counts, sinogram)
    again, same, _ = read_interfile_pet(tmp_path / "b.hs")
    np.testing.assert_array_equal(again, counts)
    assert (same.span, same.max_ring_difference) == ((3, 2), 3)
    scan = formats.read_scan(path)
    formats.write_scan(tmp_path / "a.h5", scan)
    assert formats.read_scan(tmp_path / "a.h5").geometry == scan.geometry
    counts, sinogram, _ = read_interfile_pet(path, segments=0)
    assert sinogram.span == 3
    np.testing.assert_array_equal(counts, expected(sinogram))


@pytest.mark.parametrize("ends", ["{-3,-1,3} {-2,1,4}", "{-3,-1,1} {-2,1,2}", "{-3,-1,2} {-2,1,2}"])
def test_segments_follow_one_another_and_are_mirrored(tmp_path, ends):
    low, high = ends.split()
    changes = {"minimum ring difference per segment": low, "maximum ring difference per segment": high}
    file = stir_file((-1, 0, 1), ("segment", "view", "axial", "tang"), GE)
    path = save(tmp_path, values=file, changes=changes | {"matrix size [4]": 3, "matrix size [2]": "{5,9,5}"})
    with pytest.raises(FormatError, match=r"segments 1 and -1 hold ring differences .*segments=0"):
        read_interfile_pet(path)


def test_arc_corrected_data_have_equally_spaced_lines(tmp_path):
    path = save(tmp_path, changes={"applied corrections": "{arc correction}"})
    sinogram = read_interfile_pet(path)[1]
    assert sinogram.lines == EquallySpacedLines(12, 2.08815)
    np.testing.assert_allclose(sinogram.radial_positions, np.tile(2.08815 * np.arange(-4, 5), (12, 1)), atol=1e-12)
    with pytest.raises(ValueError, match=r"arc corrected: .* belong to no crystals"):
        _ = sinogram.crystal_pairs
    assert read_interfile_pet(path, arc_corrected=False)[1].lines is None
    assert read_interfile_pet(path, bin_size=3)[1].lines == EquallySpacedLines(12, 3.0)
    with pytest.warns(UserWarning, match="`applied corrections` is missing; as STIR does"):
        assert read_interfile_pet(save(tmp_path, changes={"applied corrections": None}))[1].lines is not None
    unsized = dict.fromkeys(("effective central bin size (cm)", "Default bin size (cm)"))
    with pytest.raises(FormatError, match=r"`effective central bin size \(cm\)` is missing; pass .* as bin_size="):
        read_interfile_pet(save(tmp_path, changes=unsized | {"applied corrections": "arc corrected"}))
    path = save(tmp_path, changes={"applied corrections": "{Randoms, Scatter}"})
    assert read_interfile_pet(path)[2].corrections == ("Randoms", "Scatter")


LONG = {  # as STIR's smalllong.hs: 27 planes of ring differences up to 8, and 64 views that share no crystals
    "applied corrections": "{arc correction}",
    "matrix size [4]": 1,
    "matrix size [3]": 64,
    "matrix size [2]": "{27}",
    "matrix size [1]": 75,
    "minimum ring difference per segment": "{-8}",
    "maximum ring difference per segment": "{8}",
    "Number of rings": 14,
    "Number of detectors per ring": 112,
    "Inner ring diameter (cm)": 60,
    "Average depth of interaction (cm)": 0.7,
    "Distance between rings (cm)": 0.654,
    "effective central bin size (cm)": 0.3,
}


def test_views_of_arc_corrected_data_need_not_be_those_of_crystals(tmp_path):
    values = np.random.default_rng(0).random((64, 27, 75)).astype(np.float32)
    counts, sinogram, facts = read_interfile_pet(save(tmp_path, values=values, changes=LONG))
    assert counts.shape == sinogram.shape == (64, 75, 27)
    np.testing.assert_array_equal(counts, values.transpose(0, 2, 1))
    np.testing.assert_allclose(sinogram.angles, 180 / 64 * np.arange(64))
    assert (facts.corrections, facts.scanner) == (("arc correction",), "header")
    assert sinogram.default_grid().voxel_size == (3.0, 3.0, pytest.approx(3.27))
    write_interfile_pet(tmp_path / "b.hs", counts, sinogram, facts)
    again = read_interfile_pet(tmp_path / "b.hs")
    np.testing.assert_array_equal(again[0], counts)
    assert again[1].lines == sinogram.lines
    np.testing.assert_allclose(again[1].transaxial_ends, sinogram.transaxial_ends, atol=1e-9)


def test_lines_of_arc_corrected_data_are_those_that_stir_counts(tmp_path):
    """A point's track in a sinogram: s = x cos(phi) + y sin(phi), phi from the header alone."""
    changes = LONG | {"View offset (degrees)": 5}
    _, sinogram, _ = read_interfile_pet(save(tmp_path, values=np.zeros(64 * 27 * 75), changes=changes))
    grid = ImageGrid((41, 41, 27), (3.0, 3.0, 3.27))
    x, y, _ = grid.coordinates()
    image = np.zeros(grid.shape, np.float32)
    image[30, 12] = 1
    track = PETProjector(grid, sinogram)(image)[..., 13]
    phi = np.deg2rad(180 / 64 * np.arange(64) + 5)
    s = x[30, 0, 0] * np.cos(phi) + y[0, 12, 0] * np.sin(phi)
    centre = (track * 3.0 * np.arange(-37, 38)).sum(1) / track.sum(1)
    np.testing.assert_allclose(centre, s, atol=1)  # a point is a voxel wide
    assert abs((centre - s).mean()) < 0.1
    assert np.abs(centre - s).mean() < 0.25


def test_mashed_arc_corrected_views_are_in_the_middle(tmp_path):
    changes = LONG | {"matrix size [3]": 28}
    _, sinogram, _ = read_interfile_pet(save(tmp_path, values=np.zeros(28 * 27 * 75), changes=changes))
    np.testing.assert_allclose(sinogram.angles, 180 / 28 * np.arange(28) + 0.5 * 360 / 112)


BLOCKS = {  # three buckets of two blocks of 2 x 2 crystals around, two along the axis
    "Scanner geometry (BlocksOnCylindrical/Cylindrical/Generic)": "BlocksOnCylindrical",
    "Number of rings": 4,
    "Number of detectors per ring": 12,
    "matrix size [4]": 1,
    "matrix size [3]": 6,
    "matrix size [2]": "{4}",
    "minimum ring difference per segment": "{0}",
    "maximum ring difference per segment": "{0}",
    "Number of blocks per bucket in transaxial direction": 2,
    "Number of blocks per bucket in axial direction": 1,
    "Number of crystals per block in axial direction": 2,
    "Number of crystals per block in transaxial direction": 2,
    "Distance between crystals in axial direction (cm)": 0.3,
    "Distance between crystals in transaxial direction (cm)": 0.4,
    "Distance between blocks in axial direction (cm)": 1.0,
    "Distance between blocks in transaxial direction (cm)": 1.1,
}


def test_blocks_on_a_cylinder(tmp_path):
    zeros = np.zeros(6 * 9 * 4)
    _, sinogram, facts = read_interfile_pet(save(tmp_path, values=zeros, changes=BLOCKS))
    crystals = sinogram.scanner.crystals
    assert facts.scanner == "header"
    np.testing.assert_allclose(sinogram.scanner.rings, [6.5, 3.5, -3.5, -6.5])
    turn = np.pi / 3 - 2 * np.pi / 3 / 11 * (2 + 3)  # half a bucket's angle less half a crystal and the gap
    for bucket in range(3):
        angle = turn + bucket * 2 * np.pi / 3
        out, along = np.array([np.sin(angle), -np.cos(angle)]), np.array([np.cos(angle), np.sin(angle)])
        for k, place in enumerate((-7.5, -3.5, 3.5, 7.5)):
            np.testing.assert_allclose(crystals[0, 4 * bucket + k, :2], 105 * out + place * along, atol=1e-9)
    for key, value, message in (
        ("Number of crystals per block in axial direction", 3, "4 rings and 12 crystals per ring are not whole"),
        ("Distance between blocks in axial direction (cm)", None, "distance between blocks in axial direction"),
        ("Number of detector layers", 2, "2 layers"),
        ("Scanner geometry (BlocksOnCylindrical/Cylindrical/Generic)", "Sphere", "scanner geometry is 'sphere'"),
    ):
        with pytest.raises(FormatError, match=message):
            read_interfile_pet(save(tmp_path, values=zeros, changes=BLOCKS | {key: value}))


GENERIC = {
    "Scanner geometry (BlocksOnCylindrical/Cylindrical/Generic)": "Generic",
    "Name of crystal map": "map.txt",
}


def crystal_map(scanner, layer=()):
    """Lines of a map in STIR's axes, in an order of their own."""
    place = scanner.crystals
    rows = [(r, i, *layer, *place[r, i, :2], -place[r, i, 2]) for r in range(RINGS) for i in range(CRYSTALS)]
    order = np.random.default_rng(0).permutation(len(rows))
    return "#ring\tdetector\tx\ty\tz\n" + "".join("\t".join(map(str, rows[k])) + "\n" for k in order)


@pytest.mark.parametrize("layer", [(), (0,)])
def test_a_crystal_map(tmp_path, layer):
    circle = read_interfile_pet(save(tmp_path))[1].scanner
    pushed = circle.crystals.copy()
    pushed[..., :2] *= 1 + 0.02 * np.cos(np.arange(CRYSTALS))[None, :, None]
    (tmp_path / "map.txt").write_text(crystal_map(PETScanner(pushed), layer))
    _, sinogram, _ = read_interfile_pet(save(tmp_path, changes=GENERIC))
    np.testing.assert_allclose(sinogram.scanner.crystals, pushed, atol=1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[:-1], "119 lines of crystals, but the header has 5 rings of 24"),
        (lambda lines: [*lines[:-1], "0\t0\tx\ty\tz"], "holds no number"),
        (lambda lines: [*lines[:-1], "0\t0\t1\t0\t0"], None),
        (lambda lines: [*lines[:-1], "0\t0\tnan\t0\t0"], "lines of crystals"),
    ],
)
def test_crystal_maps_that_make_no_sense(tmp_path, change, message):
    circle = read_interfile_pet(save(tmp_path))[1].scanner
    (tmp_path / "map.txt").write_text("\n".join(change(crystal_map(circle).splitlines())))
    with pytest.raises(FormatError, match=message):
        read_interfile_pet(save(tmp_path, changes=GENERIC))


@pytest.mark.parametrize(("name", "kind"), [("../map.txt", FormatError), ("none.txt", FileNotFoundError)])
def test_crystal_maps_are_beside_the_header(tmp_path, name, kind):
    with pytest.raises(kind, match=r"map|none"):
        read_interfile_pet(save(tmp_path, changes=GENERIC | {"Name of crystal map": name}))


def test_a_circle_without_a_diameter_takes_its_radius(tmp_path):
    path = save(tmp_path, changes={"Inner ring diameter (cm)": None})
    with pytest.raises(FormatError, match=r"`inner ring diameter \(cm\)` is missing; pass its value as radius="):
        read_interfile_pet(path)
    assert read_interfile_pet(path, radius=380)[1].scanner.radius == pytest.approx(380)


def test_frames_and_their_factors(tmp_path):
    one = stir_file(SEGMENTS["ascending"], ("segment", "view", "axial", "tang"))
    changes = {"number of time frames": 2, "image duration (sec)[2]": 60, "image scaling factor[2]": 0.5}
    path = save(tmp_path, values=[one, 4 * one], changes=changes)
    with pytest.raises(FormatError, match=r"2 sets .*number of time frames := 2.*window=1 to 2"):
        read_interfile_pet(path)
    first, _, _ = read_interfile_pet(path, window=1)
    second, _, facts = read_interfile_pet(path, window=2)
    np.testing.assert_array_equal(second, 2 * first)
    assert (facts.frame, facts.n_frames, facts.duration, facts.start) == (2, 2, 60, None)


SIEMENS = """!INTERFILE:=
%comment:=sinogram
!originating system:=2008
%SMS-MI version number:=3.4
!name of data file:=a.s
!type of data:=PET
image data byte order:=LITTLEENDIAN
!PET data type:=emission
number format:=signed integer
!number of bytes per pixel:=2
number of dimensions:=3
matrix axis label[1]:=bin
matrix axis label[2]:=projection
matrix axis label[3]:=plane
matrix size[1]:=344
matrix size[2]:=252
matrix size[3]:=190
%axial compression:=1
%maximum ring difference:=1
number of rings:=64
%number of segments:=3
%segment table:={64,63,63}
%total number of sinograms:=190
%compression:=off
number of scan data types:=2
scan data type description[1]:=prompts
scan data type description[2]:=randoms
!image duration (sec):=600
isotope name:=F-18
"""


def test_siemens_sinograms(tmp_path):
    (tmp_path / "a.s.hdr").write_text(SIEMENS)
    planes = np.array([0, *range(1, 190)])
    prompts = np.broadcast_to(planes[:, None, None], (190, 252, 344))
    with (tmp_path / "a.s").open("wb") as stream:
        np.concatenate([prompts, prompts + 1000]).astype("<i2").tofile(stream)
    with pytest.raises(
        FormatError, match=r"2 sets of sinograms; choose one: window=1 \(prompts\), window=2 \(randoms\)"
    ):
        read_interfile_pet(tmp_path / "a.s.hdr")
    counts, sinogram, facts = read_interfile_pet(tmp_path / "a.s.hdr", window=1)
    assert sinogram == PETSinogram(PETScanner.named("mmr"), max_ring_difference=1)
    # the scanner stores what is segment -1 here before what is +1
    np.testing.assert_array_equal(counts[3, 5], [*range(64), *range(127, 190), *range(64, 127)])
    assert (facts.content, facts.duration, facts.radionuclide, facts.frame) == ("prompts", 600, "F-18", 1)
    randoms, _, facts = read_interfile_pet(tmp_path / "a.s.hdr", window=2)
    np.testing.assert_array_equal(randoms, counts + 1000)
    assert facts.content == "randoms"
    for key, value, message in [
        ("%compression", "on", "uncompressed"),
        ("%segment table", "{64,63}", "holds 127 planes, matrix size 190"),
        ("%axial compression", "9" * 30, "too large"),
        ("matrix axis label[3]", "TOF angle", "'tof angle'; expected one of tangential"),
    ]:
        (tmp_path / "a.s.hdr").write_text(change(SIEMENS + "!END OF INTERFILE:=\n", key, value))
        with pytest.raises(FormatError, match=message):
            read_interfile_pet(tmp_path / "a.s.hdr", window=1)


MCT = """!INTERFILE:=
!originating system:=1104
%SMS-MI header name space:=sinogram subheader
!name of data file:=a.s
image data byte order:=LITTLEENDIAN
!PET data type:=emission
data format:=sinogram
number format:=signed integer
!number of bytes per pixel:=2
number of dimensions:=3
matrix axis label [1]:=bin
matrix axis label [2]:=projection
matrix axis label [3]:=plane
matrix size [1]:=5
matrix size [2]:=24
matrix size [3]:=163
%axial compression:=1
%maximum ring difference:=1
number of rings:=55
%segment table:={55,54,54}
%number of TOF time bins:=13
%TOF mashing factor:=1
number of scan data types:=2
scan data type description [1]:=prompts
scan data type description [2]:=randoms
"""


def test_siemens_tof_sinograms(tmp_path):
    """The mCT's: no type of data; TOF bins outermost, 0, +1, -1, ... towards the first end; randoms without them."""
    (tmp_path / "a.s.hdr").write_text(MCT)
    values = np.arange(13)[:, None, None, None] * 200 + np.arange(163)[:, None, None] + np.zeros((24, 5))
    randoms = 3000 + np.zeros((163, 24, 5))
    (tmp_path / "a.s").write_bytes(np.concatenate([values.ravel(), randoms.ravel()]).astype("<i2").tobytes())
    with pytest.raises(FormatError, match=r"2 types of data; choose one: window=1 \(prompts\), window=2 \(randoms\)"):
        read_interfile_pet(tmp_path / "a.s.hdr")
    scan = formats.read_scan(tmp_path / "a.s.hdr", window=1)  # not taken as SPECT
    sinogram = scan.geometry
    assert (sinogram.scanner.name, sinogram.tof.n_bins, sinogram.mashing) == ("Siemens Biograph mCT", 13, 14)
    file = scan.counts[7, 2]
    # a high bin is near the second end: -6, -5, ..., 6 towards the first end are the file's 12, 10, ..., 0, ..., 9, 11
    np.testing.assert_array_equal(file[:, 0] // 200, [11, 9, 7, 5, 3, 1, 0, 2, 4, 6, 8, 10, 12])
    np.testing.assert_array_equal(file[6], [*range(55), *range(109, 163), *range(55, 109)])
    delayed, plain, facts = read_interfile_pet(tmp_path / "a.s.hdr", window=2)
    assert (plain.tof, facts.content, set(delayed.ravel())) == (None, "randoms", {3000})
    cut = (tmp_path / "a.s").read_bytes()[:-1]
    (tmp_path / "a.s").write_bytes(cut)
    with pytest.raises(FormatError, match="truncated"):
        read_interfile_pet(tmp_path / "a.s.hdr", window=2)


def test_the_main_header_names_the_others(tmp_path):
    (tmp_path / "a.mhdr").write_text("!INTERFILE:=\n%data set [1]:={1000000000,a_0.s.hdr,a_0.s}\n")
    for reader in (formats.read_scan, formats.read_image, formats.describe):
        with pytest.raises(FormatError, match=r"a main header.* 'a_0.s.hdr'"):
            reader(tmp_path / "a.mhdr")


def test_clinical_sizes_are_limited_by_the_file_alone(tmp_path):
    """An mCT sinogram has 336 x 400 x 13 x 621 values: mapped, not read, so that a part of it costs a part."""
    n = 2**30 + 24
    changes = {"number format": "unsigned integer", "number of bytes per pixel": 1}
    header = load_header(save(tmp_path, changes=changes), {}, ())
    os.truncate(tmp_path / "a.s", n)
    values = read_values(header, (n,), "sinograms")
    assert (values.size, values[-1]) == (n, 0)
    with pytest.raises(FormatError, match="truncated"):
        read_values(header, (n + 1,), "sinograms")


BAD_HEADERS = {
    "SPECT": ({"type of data": "Tomographic"}, "SPECT data; use read_scan"),
    "image": ({"PET data type": "Image"}, "an image, not a sinogram; use read_image"),
    "curve": ({"type of data": "Curve"}, "'curve', expected PET"),
    "no differences": ({"minimum ring difference per segment": None}, "pass its value as min_ring_difference="),
    "fractions": ({"minimum ring difference per segment": "{-2,-1,0.5,1,2}"}, "whole numbers"),
    "fewer": ({"maximum ring difference per segment": "{-2,-1,0,1}"}, "5 segments, but 5 numbers of planes, 5 minimum"),
    "one number": ({"matrix size [2]": "19"}, "5 segments, but 1 numbers of planes"),
    "more": ({"matrix size [4]": "7"}, "7 segments"),
    "no planes": ({"matrix size [2]": "{3,4,0,4,3}"}, "above zero"),
    "no segment 0": (
        {"minimum ring difference per segment": "{1,2,3,4,5}", "maximum ring difference per segment": "{1,2,3,4,5}"},
        "exactly one segment must be segment 0",
    ),
    "one side": (
        {"minimum ring difference per segment": "{-1,0,1,2,3}", "maximum ring difference per segment": "{-1,0,1,2,3}"},
        r"segments -1 to 3; pass segments=1",
    ),
    "planes": ({"matrix size [2]": "{3,5,4,4,3}"}, "segment -1 has 5 planes, but 5 rings make 4"),
    "rings": ({"Number of rings": "6"}, "segment -2 has 3 planes, but 6 rings make 4"),
    "radial": ({"matrix size [1]": "24"}, "truncated"),
    "label": ({"matrix axis label [1]": "colour"}, "'colour'; expected one of tangential coordinate"),
    "labels": ({"matrix axis label [1]": "view"}, "labels are the same"),
    "order": ({"matrix axis label [2]": "segment", "matrix axis label [4]": "axial coordinate"}, "matrix size"),
    "no radius": ({"Inner ring diameter (cm)": None}, "pass its value as radius="),
    "no spacing": ({"Distance between rings (cm)": "0"}, "above zero; pass the right value as scanner="),
    "absurd": ({"Number of rings": "1e9"}, "damaged header"),
    "many": ({"Number of detectors per ring": "1e9"}, "damaged header"),
    "blocks": (
        {"Scanner geometry (BlocksOnCylindrical/Cylindrical/Generic)": "BlocksOnCylindrical"},
        r"`number of crystals per block in transaxial direction` is missing",
    ),
    "layers": ({"Number of detector layers": "2"}, "2 layers"),
    "huge": ({"matrix size [1]": "1000000000"}, "the header announces 912000000000"),
    "format": ({"number format": "ascii"}, "expected one of: unsigned integer"),
    "scales": ({"image scaling factor[1]": "{1,2,3,4,5}"}, "differ or are zero"),
}


@pytest.mark.parametrize(("changes", "message"), list(BAD_HEADERS.values()), ids=list(BAD_HEADERS))
def test_bad_headers(tmp_path, changes, message):
    with pytest.raises(FormatError, match=message) as caught:
        read_interfile_pet(save(tmp_path, changes=changes))
    assert str(tmp_path) in str(caught.value)
    assert len(str(caught.value)) < 700


def test_many_timing_positions_are_refused_before_they_are_listed(tmp_path):
    axes = ("tof", "segment", "view", "axial", "tang")
    with pytest.raises(FormatError, match=r"the header announces \d+; is the file truncated"):
        read_interfile_pet(save(tmp_path, changes=axis_keys(axes) | {"matrix size [5]": "1000000000"}))


def test_axial_outside_segment(tmp_path):
    changes = {
        "matrix axis label [2]": "segment",
        "matrix size [2]": "5",
        "matrix axis label [4]": "axial coordinate",
        "matrix size [4]": "{3,4,5,4,3}",
    }
    with pytest.raises(FormatError, match="axial coordinate is slower than the segment"):
        read_interfile_pet(save(tmp_path, changes=changes))
    # with a single segment there is nothing to mix up
    single = changes | {
        "matrix size [2]": "1",
        "matrix size [4]": "{5}",
        "minimum ring difference per segment": "{0}",
        "maximum ring difference per segment": "{0}",
    }
    values = stir_file((0,), ("segment", "axial", "view", "tang"))
    counts, sinogram, _ = read_interfile_pet(save(tmp_path, values=values, changes=single))
    np.testing.assert_array_equal(counts, expected(sinogram))


def test_overrides(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "b.bin").write_bytes(b"ab" + np.arange(6 * 5 * 5).astype(">i2").tobytes())
    counts, sinogram, facts = read_interfile_pet(
        save(tmp_path),
        n_views=6,
        n_radial=5,
        n_planes=5,
        min_ring_difference=0,
        max_ring_difference=[0],
        duration=12,
        radionuclide="F18",
        energy_window=(400, 600),
        description="text",
        byte_order="BIGENDIAN",
        number_format="signed integer",
        bytes_per_pixel=2,
        data_offset=2,
        data_file=tmp_path / "elsewhere" / "b.bin",
        scale=2,
    )
    assert sinogram.shape == (6, 5, 5)
    np.testing.assert_array_equal(counts, 2 * np.arange(150).reshape(6, 5, 5).transpose(0, 2, 1))
    assert (facts.duration, facts.radionuclide, facts.energy_window) == (12, "F-18", (400, 600))
    assert facts.description == "text"
    for overrides, kind, message in [
        ({"spam": 3}, TypeError, "did you mean span=?"),
        ({"segments": 3}, FormatError, r"pass segments=2"),
        ({"scanner": "ecat"}, FormatError, "unknown PET scanner 'ecat'; choose from mmr"),
        ({"scanner": 3}, FormatError, "expected a PETScanner or its name"),
        ({"radionuclide": "Xx-1"}, FormatError, "unknown radionuclide"),
        ({"n_radial": 2.5}, FormatError, "whole number"),
        ({"n_planes": [1, 2]}, FormatError, "2 numbers of planes"),
        ({"data_file": "nowhere.s"}, FileNotFoundError, r"nowhere\.s does not exist"),
    ]:
        with pytest.raises(kind, match=message):
            read_interfile_pet(save(tmp_path), **overrides)


def test_time_frames_become_a_dynamic_scan(tmp_path):
    values = np.arange(2 * VIEWS * RADIAL * PLANES)
    times = {"image duration (sec)[1]": 30, "image duration (sec)[2]": 60, "image relative start time (sec)[1]": 5}
    frames = times | {"image relative start time (sec)[2]": 40, "number of time frames": 2}
    path = save(tmp_path, values=values, changes=frames)
    scan = formats.read_dynamic(path, radionuclide="F-18")
    np.testing.assert_array_equal(scan.frames.starts, [5, 40])
    np.testing.assert_array_equal(scan.frames.durations, [30, 60])
    for i in (1, 2):
        counts, sinogram, _ = read_interfile_pet(path, window=i)
        np.testing.assert_array_equal(scan.counts[i - 1], counts)
    assert (scan.geometry, scan.radionuclide) == (sinogram, "F-18")
    for key in ("number of time slots", "number of bed positions"):
        with pytest.raises(FormatError, match=f"{key} is '3'; write one file"):
            read_interfile_pet(save(tmp_path, changes={key: 3}))


def test_values_may_be_negative_but_not_infinite(tmp_path):
    values = np.zeros(VIEWS * RADIAL * PLANES)
    values[7] = -3
    path = save(tmp_path, values=values)
    assert read_interfile_pet(path)[0].min() == -3
    with pytest.raises(FormatError, match=r"1 values are negative, so randoms.*use the prompts"):
        formats.read_scan(path)
    said = formats.describe(path)
    assert (said["lowest count"], said["total counts"]) == (-3, -3)
    assert "randoms subtracted" in said["holds"]
    values[7] = np.inf
    with pytest.raises(FormatError, match="1 values are NaN or infinite"):
        read_interfile_pet(save(tmp_path, values=values))


# ---- writing ---------------------------------------------------------------------------------------------------------

RING = PETScanner.polygon(sides=24, crystals_per_side=1, radius=100, depth=5, rings=RINGS, ring_pitch=6, name="Small")
TURNED = PETScanner.polygon(sides=24, crystals_per_side=1, radius=105, rings=1, ring_pitch=6, phase=-4.399)
TOF = TimeOfFlight.from_ps(15, 100, 300)
TIMED = PETScanner(RING.crystals, time_of_flight=TOF, n_radial=11, bin_size=3.25, energy_resolution=0.12)
WRITTEN = {
    "span 1": PETSinogram(RING),
    "span 3": PETSinogram(RING, span=3, n_radial=10),
    "mashed": PETSinogram(RING, max_ring_difference=1, mashing=3),
    "one ring": PETSinogram(TURNED),
    "TOF": PETSinogram(TIMED, tof=True),
    "TOF, joined": PETSinogram(TIMED, tof=TOF.mashed(5), span=3),
    "TOF of its own": PETSinogram(RING, tof=TimeOfFlight(4, 40.0, 70.0)),
    "TOF summed": PETSinogram(TIMED),
    "one TOF bin": PETSinogram(TIMED, tof=TOF.mashed(15)),
}


def counts_of(sinogram, dtype="f4"):
    return np.random.default_rng(3).integers(0, 100, sinogram.shape).astype(dtype)


def assert_same(sinogram, other):
    for name in ("span", "max_ring_difference", "mashing", "n_radial", "shape"):
        assert getattr(sinogram, name) == getattr(other, name)
    np.testing.assert_allclose(sinogram.scanner.crystals, other.scanner.crystals, atol=1e-8)
    if sinogram.tof is None:
        assert other.tof is None
    else:
        widths = [(tof.n_bins, tof.bin_width, tof.fwhm) for tof in (sinogram.tof, other.tof)]
        assert widths[0] == pytest.approx(widths[1])


@pytest.mark.parametrize("case", WRITTEN)
def test_round_trip(tmp_path, case):
    sinogram, counts = WRITTEN[case], counts_of(WRITTEN[case])
    write_interfile_pet(tmp_path / "a.hs", counts, sinogram)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.hs", "a.s"]
    again, read, facts = read_interfile_pet(tmp_path / "a.hs")
    np.testing.assert_array_equal(again, counts)
    assert_same(sinogram, read)
    assert facts == PETSinogramFacts("header", sinogram.scanner.name or "unknown")
    for name in ("name", "n_radial", "energy_resolution"):
        mine = getattr(sinogram.scanner, name)
        assert getattr(read.scanner, name) == (CRYSTALS - 1 if mine is None and name == "n_radial" else mine)
    assert (read.scanner.time_of_flight is None) == (sinogram.scanner.time_of_flight is None and not sinogram.tof)


@pytest.mark.parametrize("name", pet_scanners())
def test_scanners_of_the_library_come_back_exactly(tmp_path, name):
    sinogram = PETSinogram(PETScanner.named(name), max_ring_difference=1, n_radial=5)
    write_interfile_pet(tmp_path / "a.hs", counts_of(sinogram), sinogram)
    counts, again, facts = read_interfile_pet(tmp_path / "a.hs")
    np.testing.assert_array_equal(counts, counts_of(sinogram))
    assert again == sinogram
    assert facts.scanner == name


@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", "u4", "f4", "f8", ">i4", "i8"])
def test_number_formats_are_kept(tmp_path, dtype):
    sinogram = WRITTEN["span 1"]
    write_interfile_pet(tmp_path / "a.hs", counts_of(sinogram, dtype), sinogram)
    counts, _, _ = read_interfile_pet(tmp_path / "a.hs")
    np.testing.assert_array_equal(counts, counts_of(sinogram))
    assert counts.dtype == (np.int32 if dtype == "i8" else np.dtype(dtype).newbyteorder("="))


def test_facts_come_back(tmp_path):
    facts = PETSinogramFacts(
        "header",
        "Small",
        "transmission",
        ("Randoms", "Dead time"),
        duration=20.5,
        start=3.25,
        radionuclide="Ga-68",
        energy_window=(435.0, 650.0),
        patient_orientation="feet_in",
        patient_rotation="prone",
        bed_position=(-1.5, 2.0),
        description="a, b",
    )
    with pytest.raises(ValueError, match=r"patient lies feet_in and prone, .* scanner is not turned around"):
        write_interfile_pet(tmp_path / "a.hs", counts_of(WRITTEN["span 1"]), WRITTEN["span 1"], facts)
    around = PETSinogram(RING.rotated(LYING["feet_in", "prone"]))
    write_interfile_pet(tmp_path / "a.hs", counts_of(around), around, facts)
    assert read_interfile_pet(tmp_path / "a.hs")[2] == facts


# the patient's x, y, z in the axes of the gantry, those of a patient who lies head in and supine
LYING = {
    ("head_in", "supine"): [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    ("feet_in", "supine"): [[-1, 0, 0], [0, 1, 0], [0, 0, -1]],
    ("head_in", "prone"): [[-1, 0, 0], [0, -1, 0], [0, 0, 1]],
    ("feet_in", "prone"): [[1, 0, 0], [0, -1, 0], [0, 0, -1]],
    ("head_in", "left"): [[0, 1, 0], [-1, 0, 0], [0, 0, 1]],  # the left side down
    ("head_in", "right"): [[0, -1, 0], [1, 0, 0], [0, 0, 1]],
}


@pytest.mark.parametrize("position", LYING)
@pytest.mark.parametrize("corrected", [False, True], ids=["crystals", "arc corrected"])
def test_the_scanner_is_turned_around_the_patient(tmp_path, position, corrected):
    """Lines are in the patient's axes, whatever way the patient lies; writing and reading keep them there."""
    lines = EquallySpacedLines(VIEWS, 4.0) if corrected else None
    upright = PETSinogram(RING, n_radial=9, lines=lines)
    around = PETSinogram(RING.rotated(LYING[position]), n_radial=9, lines=lines)
    for mine, there in zip(upright.line_ends(), around.line_ends()):
        np.testing.assert_allclose(there, mine @ np.array(LYING[position]).T, atol=1e-9)
    way, turned = position
    facts = PETSinogramFacts(patient_orientation=way, patient_rotation=turned)
    write_interfile_pet(tmp_path / "a.hs", counts_of(around), around, facts)
    counts, again, _ = read_interfile_pet(tmp_path / "a.hs")
    np.testing.assert_array_equal(counts, counts_of(around))
    np.testing.assert_allclose(again.scanner.crystals, around.scanner.crystals, atol=1e-8)
    gantry = read_interfile_pet(tmp_path / "a.hs", patient_orientation="head_in", patient_rotation="supine")[1]
    np.testing.assert_allclose(gantry.scanner.crystals, RING.crystals, atol=1e-8)
    if turned in ("supine", "prone"):
        image = np.random.default_rng(4).random((3, 4, 5)).astype(np.float32)
        grid = ImageGrid(image.shape, (1.0, 2.0, 3.0), (4.0, -5.0, 6.0))
        axes = interfile_axes(tmp_path / "a.hs")
        write_interfile_image(tmp_path / "x.hv", image, grid, axes=axes)
        for beside in (axes, None):
            read, there = read_interfile_image(tmp_path / "x.hv", axes=beside)
            np.testing.assert_array_equal(read, image)
            np.testing.assert_allclose(there.origin, grid.origin)
        stored = np.fromfile(tmp_path / "x.v", "<f4").reshape(5, 4, 3).transpose(2, 1, 0)
        # the file is in the axes of the gantry, whose slice 0 is at the side of the head of a patient head in
        signs = np.diag(LYING[position]) * (1, 1, -1)
        np.testing.assert_array_equal(stored, image[tuple(slice(None, None, sign) for sign in signs)])


@pytest.mark.parametrize("facts", [None, PETSinogramFacts()])
def test_a_turned_scanner_is_written_as_a_patient_who_lies_so(tmp_path, facts):
    around = PETSinogram(PETScanner.named("mmr").rotated(LYING["feet_in", "supine"]), max_ring_difference=0, n_radial=5)
    write_interfile_pet(tmp_path / "a.hs", counts_of(around), around, facts)
    read, facts = read_interfile_pet(tmp_path / "a.hs")[1:]
    assert facts.patient_orientation == "feet_in"
    np.testing.assert_allclose(read.scanner.crystals, around.scanner.crystals, atol=1e-8)
    assert read.scanner.is_same_as(PETScanner.named("mmr"))


def test_the_file_is_stirs(tmp_path):
    """What STIR's own loops would read, and the bin size it computes for the mMR."""
    sinogram = PETSinogram(RING, span=3, n_radial=RADIAL)
    write_interfile_pet(tmp_path / "a.hs", expected(sinogram), sinogram)
    order = ("segment", "view", "axial", "tang")
    np.testing.assert_array_equal(np.fromfile(tmp_path / "a.s", "<i4"), stir_file((0, 1, -1), order, 3))
    header = (tmp_path / "a.hs").read_text()
    labels = re.findall(r"matrix axis label \[(\d)\] := (.*)", header)
    assert labels == [("4", "segment"), ("3", "view"), ("2", "axial coordinate"), ("1", "tangential coordinate")]
    # STIR sizes the lists of ring differences by the axes, so those come first
    assert (
        header.index("matrix size [2]") < header.index("minimum ring difference") < header.index("Scanner parameters")
    )
    mmr = PETSinogram(PETScanner.named("mmr"), max_ring_difference=0, n_radial=3)
    write_interfile_pet(tmp_path / "a.hs", counts_of(mmr), mmr)
    assert "effective central bin size (cm) := 0.208814" in (tmp_path / "a.hs").read_text()
    assert "Inner ring diameter (cm) := 65.6\n" in (tmp_path / "a.hs").read_text()


def test_a_source_near_the_first_end_is_late_in_the_file(tmp_path):
    """STIR's timing positions grow with t2 - t1: the photon that reaches the first crystal first."""
    grid = ImageGrid((1, 1, 1), 4.0, (0.0, -60.0, 0.0))  # in front, on the line from crystal 0 to crystal 12
    sinogram = PETSinogram(PETScanner(RING.crystals[:1] * (1, 1, 0)), tof=TimeOfFlight(9, 20.0, 30.0), n_radial=3)
    write_interfile_pet(tmp_path / "a.hs", PETProjector(grid, sinogram)(np.ones(grid.shape, np.float32)), sinogram)
    file = np.fromfile(tmp_path / "a.s", "<f4").reshape(9, VIEWS, 3)  # [timing position][view][tangential]
    assert sinogram.crystal_pairs[0, 0, 1].tolist() == [0, 12]
    assert file[:, 0, 1].argmax() == 7  # 60 mm are three bins of 20 mm


@pytest.mark.parametrize("case", ["span 1", "TOF"])
def test_scanners_that_a_header_cannot_describe(tmp_path, case):
    sinogram = SINOGRAMS[case][1]
    counts = counts_of(sinogram)
    with pytest.raises(ValueError, match="approximate=True writes the nearest circle"):
        write_interfile_pet(tmp_path / "a.hs", counts, sinogram)
    assert not list(tmp_path.iterdir())
    write_interfile_pet(tmp_path / "a.hs", counts, sinogram, approximate=True)
    again, read, _ = read_interfile_pet(tmp_path / "a.hs", scanner=SCANNER, tof=sinogram.tof)
    np.testing.assert_array_equal(again, counts)
    assert read == sinogram
    circle = read_interfile_pet(tmp_path / "a.hs")[1].scanner
    assert circle.radius == pytest.approx(SCANNER.radius, rel=0.01)
    assert np.linalg.norm(circle.crystals - SCANNER.crystals, axis=-1).max() < 10


def test_what_cannot_be_written(tmp_path):
    sinogram = WRITTEN["span 1"]
    counts = counts_of(sinogram)
    for arguments, message in [
        ((tmp_path / "a.hv", counts, sinogram), "must end in .hs"),
        ((tmp_path / "a.s", counts, sinogram), r"\.hs, \.hv"),
        ((tmp_path / "a.hs", counts[1:], sinogram), r"shape \(11, 23, 25\) for a sinogram of \(12, 23, 25\)"),
        ((tmp_path / "a.hs", counts[::2], sinogram.subset(0, 2)), "all views"),
        ((tmp_path / "a.hs", counts * np.nan, sinogram), "NaN"),
        ((tmp_path / "a.hs", counts + 1j, sinogram), "real numbers"),
        ((tmp_path / "a.hs", counts, sinogram, PETSinogramFacts(corrections=("Arc correction",))), "arc correction"),
    ]:
        with pytest.raises(ValueError, match=message):
            write_interfile_pet(*arguments)
    with pytest.raises(FileNotFoundError, match="folder does not exist"):
        write_interfile_pet(tmp_path / "none" / "a.hs", counts, sinogram)
    assert not list(tmp_path.iterdir())
    write_interfile_pet(tmp_path / "a.hs", counts, sinogram)
    with pytest.raises(FileExistsError):
        write_interfile_pet(tmp_path / "a.hs", counts, sinogram, overwrite=False)


def test_tensors_are_written(tmp_path):
    torch = pytest.importorskip("torch")
    sinogram = WRITTEN["span 1"]
    write_interfile_pet(tmp_path / "a.hs", torch.from_numpy(counts_of(sinogram)), sinogram)
    np.testing.assert_array_equal(read_interfile_pet(tmp_path / "a.hs")[0], counts_of(sinogram))
