"""PET headers of arc-corrected data, blocks on a cylinder, crystal maps, and scanners that have only a name."""

import re
from dataclasses import replace

import numpy as np
import pytest
from stir_cases import ABSORBER, PROMPTS, RADIAL, RADIUS, RINGS, VIEWS, arc_sinogram, stir_pair

from emrecon import formats
from emrecon.formats import FormatError
from emrecon.projectors import ArcCorrection, EquallySpacedLines, Normalisation, PETProjector, PETScanner
from emrecon.recon import pet_problem

BIN = 8.0
ARC = PROMPTS.replace("{None}", "{Randoms, arc correction}").replace(
    "!END", "effective central bin size (cm) := 0.8\n!END"
)


def arc_pair(folder, header=ARC):
    stir_pair(folder, values=arc_sinogram(ABSORBER, BIN))
    (folder / "prompts.hs").write_text(header)
    return folder / "prompts.hs"


def test_arc_corrected_bins_are_equally_spaced_lines(tmp_path):
    scan = formats.read_scan(arc_pair(tmp_path))
    sinogram = scan.geometry
    expected = np.broadcast_to(BIN * (np.arange(RADIAL) - RADIAL // 2), (VIEWS, RADIAL))
    np.testing.assert_allclose(sinogram.radial_positions, expected)
    x1, y1, x2, y2 = np.moveaxis(sinogram.transaxial_ends, -1, 0)
    np.testing.assert_allclose(np.hypot(x1, y1), RADIUS)
    angle = np.rad2deg(np.arctan2(y2 - y1, x2 - x1)) - 90  # lines run along (-sin, cos)
    np.testing.assert_allclose((angle + 90) % 180 - 90, (sinogram.angles[:, None] + 90) % 180 - 90 + np.zeros(RADIAL))
    mu, grid = formats.read_image(tmp_path / "mu.hv")
    projected = PETProjector(grid, sinogram)(mu.astype(np.float32)) / 10
    assert projected.sum() == pytest.approx(scan.counts.sum(), rel=0.06)
    assert np.corrcoef(projected.ravel(), scan.counts.ravel())[0, 1] > 0.98
    assert "of 8 mm (arc corrected)" in str(sinogram)
    assert sinogram.default_grid().voxel_size[0] == BIN
    assert sinogram.subset(1, 3).lines == sinogram.rebinned().lines == EquallySpacedLines(VIEWS, BIN)


def test_arc_corrected_data_are_reconstructed_and_kept(tmp_path):
    scan = formats.read_scan(arc_pair(tmp_path))
    problem = pet_problem(replace(scan, background=0.1))
    assert problem.start.min() >= 0
    for name in ("again.hs", "again.h5"):
        formats.write_scan(tmp_path / name, scan)
        again = formats.read_scan(tmp_path / name)
        np.testing.assert_array_equal(again.counts, scan.counts)
        assert again.geometry.lines.bin_size == BIN
        np.testing.assert_allclose(again.geometry.transaxial_ends, scan.geometry.transaxial_ends)
    assert re.search(r"applied corrections := \{arc correction\}", (tmp_path / "again.hs").read_text())
    flat = scan.geometry.rebinned()
    straight = ArcCorrection(flat)
    assert straight.bin_size == BIN
    values = np.random.default_rng(0).random(flat.shape, np.float32)
    np.testing.assert_allclose(straight(values)[..., ::-1], values, rtol=1e-5)  # planes from low to high z
    np.testing.assert_allclose(straight.geometry.angles, flat.angles)


def test_arc_corrected_data_have_no_crystal_pairs(tmp_path):
    sinogram = formats.read_scan(arc_pair(tmp_path)).geometry
    for need in (
        lambda: Normalisation(sinogram.scanner, crystal=np.ones((RINGS, 24))).factors(sinogram),
        lambda: sinogram.crystal_pairs,
    ):
        with pytest.raises(ValueError, match="equally spaced lines and belong to no crystals"):
            need()


def test_sizes_and_views_of_arc_corrected_bins(tmp_path):
    """STIR's smalllong.hs has views that no crystals share; the size may be an override, or the scanner's own."""
    path = arc_pair(tmp_path, ARC.replace("per ring := 24", "per ring := 22"))
    sinogram = formats.read_scan(path).geometry
    assert (sinogram.n_views, sinogram.lines.bin_size) == (VIEWS, BIN)
    np.testing.assert_allclose(sinogram.angles, 180 / VIEWS * np.arange(VIEWS))
    unsized = ARC.replace("effective central bin size (cm) := 0.8\n", "")
    assert formats.read_scan(arc_pair(tmp_path, unsized)).geometry.lines.bin_size == 12  # `default bin size`
    path = arc_pair(tmp_path, unsized.replace("Default bin size (cm) := 1.2\n", ""))
    with pytest.raises(
        FormatError, match=r"`effective central bin size \(cm\)` is missing; pass its value as bin_size="
    ):
        formats.read_scan(path)
    assert formats.read_scan(path, bin_size=BIN).geometry.lines.bin_size == BIN
    turned = formats.read_scan(arc_pair(tmp_path, ARC.replace("!END", "View offset (degrees) := 5\n!END"))).geometry
    plain = formats.read_scan(arc_pair(tmp_path)).geometry
    c, s = np.cos(np.deg2rad(5)), np.sin(np.deg2rad(5))
    turn = np.array([[c, s], [-s, c]])
    np.testing.assert_allclose(turned.transaxial_ends[..., :2], plain.transaxial_ends[..., :2] @ turn)


def test_filtered_back_projection_turns_with_the_scanner(tmp_path):
    """The view offset of a header turns all lines, and so the angles that a filter is used with."""
    for header in (PROMPTS, ARC):
        plain, turned = (
            ArcCorrection(formats.read_scan(arc_pair(tmp_path, text)).geometry.rebinned()).geometry.angles
            for text in (header, header.replace("!END", "View offset (degrees) := 20\n!END"))
        )
        np.testing.assert_allclose(turned, plain + 20)


def test_scanners_with_a_name_alone(tmp_path):
    """STIR's Utah phantom: 16 rings of 384 crystals, 96 views, the radius in STIR's own table."""
    header = re.sub(r"Scanner type.*?(?=!END)", "", ARC, flags=re.DOTALL)
    more = "originating system := PRT-1\nnumber of rings := 5\nnumber of detectors per ring := 24\n"
    sinogram = formats.read_scan(arc_pair(tmp_path, header.replace("!END", more + "!END"))).geometry
    assert (sinogram.scanner.radius, sinogram.lines.bin_size) == (pytest.approx(380), pytest.approx(3.1088))
    assert np.ptp(sinogram.scanner.rings) == pytest.approx(4 * 6.75)
    with pytest.raises(FormatError, match=r"`inner ring diameter \(cm\)` is missing; pass its value as radius="):
        formats.read_scan(arc_pair(tmp_path, header.replace("!END", more.replace("PRT-1", "Unheard") + "!END")))


BLOCKS = """Number of blocks per bucket in transaxial direction := 2
Number of blocks per bucket in axial direction := 1
Number of crystals per block in axial direction := 5
Number of crystals per block in transaxial direction := 3
Scanner geometry (BlocksOnCylindrical/Cylindrical/Generic) := BlocksOnCylindrical
Distance between crystals in axial direction (cm) := 0.6
Distance between crystals in transaxial direction (cm) := 2
Distance between blocks in axial direction (cm) := 3.2
Distance between blocks in transaxial direction (cm) := 7
"""


def test_blocks_on_a_cylinder(tmp_path):
    """4 buckets of 2 x 3 crystals: each crystal where STIR's own loops over buckets, blocks and crystals put it."""
    path = arc_pair(tmp_path, PROMPTS.replace("!END", BLOCKS + "!END"))
    scanner = formats.read_scan(path).geometry.scanner
    half = np.pi / 4
    first = half - half / 70 * 2 * (10 + (70 - 3 * 20))
    for bucket in range(4):
        for block in range(2):
            for crystal in range(3):
                a = first + bucket * np.pi / 2
                u = (block - 0.5) * 70 + (crystal - 1) * 20
                expected = (105 * np.sin(a) + u * np.cos(a), -105 * np.cos(a) + u * np.sin(a))
                position = scanner.crystals[0, bucket * 6 + block * 3 + crystal]
                np.testing.assert_allclose(position[:2], expected, atol=1e-9)
    np.testing.assert_allclose(scanner.rings, [12, 6, 0, -6, -12])
    two = BLOCKS.replace("block in axial direction := 5", "block in axial direction := 1").replace("3.2", "0.7")
    rings = formats.read_scan(arc_pair(tmp_path, PROMPTS.replace("!END", two + "!END"))).geometry.scanner.rings
    np.testing.assert_allclose(np.diff(rings), -7)
    bad = BLOCKS.replace("transaxial direction := 3", "transaxial direction := 5")
    with pytest.raises(FormatError, match="are not whole buckets of 1 x 2 blocks of 5 x 5 crystals"):
        formats.read_scan(arc_pair(tmp_path, PROMPTS.replace("!END", bad + "!END")))


def map_of(scanner):
    """A crystal map as STIR reads it, with z towards the feet and from ring 0 on."""
    lines = ["# ring,crystal,x,y,z"]
    for ring, row in enumerate(scanner.crystals):
        lines += [f"{ring},{i},{x:.6f},{y:.6f},{50 - z:.6f}" for i, (x, y, z) in enumerate(row)]
    return "\n".join(lines) + "\n"


GENERIC = "Scanner geometry (BlocksOnCylindrical/Cylindrical/Generic) := Generic\nName of crystal map := map.txt\n"
POLYGON = PETScanner.polygon(sides=6, crystals_per_side=4, radius=95, rings=RINGS, ring_pitch=7)


def test_crystal_maps(tmp_path):
    path = arc_pair(tmp_path, PROMPTS.replace("!END", GENERIC + "!END"))
    with pytest.raises(FileNotFoundError, match=r"map.txt does not exist"):
        formats.read_scan(path)
    content = map_of(POLYGON)
    (tmp_path / "map.txt").write_text(content)
    scan = formats.read_scan(path)
    np.testing.assert_allclose(scan.geometry.scanner.crystals, POLYGON.crystals, atol=1e-5)
    (tmp_path / "other.txt").write_text(re.sub(r"^(\d+),(\d+),", r"\1\t\2\t0\t", content, flags=re.MULTILINE))
    plain = arc_pair(tmp_path, PROMPTS)
    again = formats.read_scan(plain, crystal_map=tmp_path / "other.txt").geometry.scanner
    np.testing.assert_allclose(again.crystals, scan.geometry.scanner.crystals)
    for wrong, message in [
        (content.replace("0,0,", "0,1,", 1), "must number 5 rings and 24 crystals once each"),
        (content.replace("0,0,", "0,0,0,", 1), "must be ring, crystal"),
        (content.replace("0,0,", "here,0,", 1), "holds no number"),
        (re.sub(r"^(\d+),(\d+),", r"\1,\2,\2,", content, flags=re.MULTILINE), "several layers"),
        ("#", "0 lines of crystals, but the header has 5 rings of 24"),
    ]:
        (tmp_path / "map.txt").write_text(wrong)
        with pytest.raises(FormatError, match=message):
            formats.read_scan(plain, crystal_map=tmp_path / "map.txt")
