"""PETSIRD: crystals are where the file puts them, events keep their ends, damage is told."""

import contextlib
import copy
import io
import sys
from dataclasses import replace

import numpy as np
import pytest

from emrecon.formats import FormatError
from emrecon.formats.petsird import petsird_blocks, read_petsird, read_petsird_header
from emrecon.projectors import ImageGrid, ListmodeProjector, PETProjector, PETScanner, PETSinogram, TimeOfFlight

petsird = pytest.importorskip("petsird")
generator = pytest.importorskip("petsird.helpers.generator")
helpers = pytest.importorskip("petsird.helpers")
geometry = pytest.importorskip("petsird.helpers.geometry")

RING = generator.CylindricalBlocksInfo(
    radius=60.0,
    crystal_length=(10.0, 4.0, 5.0),
    num_crystals_per_module=(1, 4, 2),
    num_modules_along_ring=12,
    num_modules_along_axis=2,
    arc=2 * np.pi,
    start_angle=0.1,
    module_spacing_along_axis=11.0,
    number_of_tof_bins=6,
    tof_resolution=45.0,
    LLD=450.0,
    ULD=650.0,
    number_of_event_energy_bins=2,
    energy_resolution=0.1,
    material_id=1,
)
TWO_TYPES = [  # the generator's own, with fewer crystals
    replace(generator.mtype0_def, num_crystals_per_module=(2, 2, 3), num_modules_along_ring=8),
    replace(generator.mtype1_def, num_crystals_per_module=(1, 3, 4), num_modules_along_ring=5),
]
N_FIRST, N_SECOND = 8 * 2 * 12, 5 * 12


def make_header(definitions=(RING,)):
    """A header of the package's generator, with single efficiencies that are not all equal."""
    scanner = generator.get_scanner_info(list(definitions))
    rng = np.random.default_rng(1)
    stored = scanner.detection_efficiencies.detection_bin_efficiencies
    for kind, values in enumerate(stored):
        stored[kind] = list(rng.uniform(0.5, 1.5, len(values)))
    return petsird.Header(scanner=scanner)


def make_events(header, n, pair=(0, 0)):
    """Random events of the generator, which uses one list for all of them."""
    events = generator.get_events(header, pair, n)
    return [petsird.CoincidenceEvent(detection_bins=list(e.detection_bins), tof_idx=e.tof_idx) for e in events]


def event_block(prompts, start=0, stop=10, delayed=None):
    """A time block of events, in ms."""
    interval = petsird.TimeInterval(start=start, stop=stop)
    events = petsird.EventTimeBlock(time_interval=interval, prompt_events=prompts, delayed_events=delayed or [])
    return petsird.TimeBlock.EventTimeBlock(events)


def bed_block(shift):
    """A time block that moves the bed along z."""
    matrix = np.eye(3, 4, dtype=np.float32)
    matrix[2, 3] = shift
    moved = petsird.BedMovementTimeBlock(transform=petsird.RigidTransformation(matrix=matrix))
    return petsird.TimeBlock.BedMovementTimeBlock(moved)


def content(header, *blocks):
    """The bytes of a file."""
    stream = io.BytesIO()
    with petsird.BinaryPETSIRDWriter(stream) as writer:
        writer.write_header(header)
        writer.write_time_blocks(iter(blocks))
        writer.close()
        return stream.getvalue()


@pytest.fixture(scope="module")
def header():
    return make_header()


@pytest.fixture(scope="module")
def prompts(header):
    return make_events(header, 60)


@pytest.fixture(scope="module")
def path(header, prompts, tmp_path_factory):
    path = tmp_path_factory.mktemp("petsird") / "a.petsird"
    delayed = [[prompts[:7]]]
    blocks = event_block([[prompts[:40]]], 0, 20, delayed), event_block([[prompts[40:]]], 20, 50, [[[]]])
    path.write_bytes(content(header, *blocks))
    return path


def file_of(tmp_path, header, *blocks):
    """A file with a changed header."""
    path = tmp_path / "changed.petsird"
    path.write_bytes(content(header, *blocks))
    return path


def middle(scanner, kind, detection_bin):
    """The middle of a crystal as the package's helpers compute it."""
    place = helpers.expand_detection_bin(scanner, kind, detection_bin)
    return np.mean([corner.c for corner in geometry.get_detecting_box(scanner, kind, place).corners], axis=0)


def test_rings_come_in_our_order(path):
    scanner = read_petsird(path).scanner
    assert scanner.crystals.shape == (4, 48, 3)
    assert scanner.is_cylinder
    assert np.allclose(scanner.rings, [10.5, 5.5, -0.5, -5.5], atol=1e-4)
    x, y, _ = scanner.crystals[0].T
    turned = np.arctan2(x, -y) - 2 * np.pi * np.arange(48) / 48
    assert abs(np.angle(np.exp(1j * turned)).mean()) <= np.pi / 48 + 1e-6
    assert scanner.energy_resolution == pytest.approx(0.1)
    assert PETSinogram(scanner, tof=True).shape == (24, 47, 6, 16)


def test_events_keep_their_ends(path, header, prompts):
    scan = read_petsird(path)
    ends = scan.scanner.positions[scan.events[:, :2]]
    expected = [[middle(header.scanner, 0, number) for number in event.detection_bins] for event in prompts]
    assert np.allclose(ends, expected, atol=1e-3)
    assert scan.events.dtype == np.int32
    assert np.array_equal(scan.events[:, 2], [event.tof_idx for event in prompts])
    assert np.array_equal(scan.delayed, scan.events[:7])


def test_elements_say_where_crystals_are_in_the_file(path, header):
    facts = read_petsird_header(path)
    for number in (0, 17, 101, 191):
        kind, module, element = (int(value) for value in facts.elements[number])
        place = petsird.ExpandedDetectionBin(module_index=module, element_index=element, energy_index=1)
        expected = middle(header.scanner, kind, helpers.make_detection_bin(header.scanner, kind, place))
        assert np.allclose(facts.scanner.positions[number], expected, atol=1e-3)


def test_time_of_flight(path):
    scan = read_petsird(path)
    assert scan.tof.n_bins == 6
    assert scan.tof.bin_width == pytest.approx(40)
    assert scan.tof.fwhm == pytest.approx(45)
    assert read_petsird(path, tof=False).events.shape == (60, 2)
    assert read_petsird(path, tof=False).tof is None


def test_a_high_tof_bin_is_near_the_second_end(tmp_path, header):
    # PETSIRD: (arrival at the first end - arrival at the second) c / 2, so the last bin has the second end first
    opposite = 6 * 2 * 8 * RING.number_of_event_energy_bins
    event = petsird.CoincidenceEvent(detection_bins=[opposite, 0], tof_idx=3)
    scan = read_petsird(file_of(tmp_path, header, event_block([[[event]]])))
    grid = ImageGrid((21, 21, 9), (5.0, 5.0, 4.0))
    image = ListmodeProjector(grid, scan.scanner, scan.events, tof=True).T(np.ones(1))
    weights = image / image.sum()
    centre = np.array([float((weights * axis).sum()) for axis in grid.coordinates()])
    first, second = scan.scanner.positions[scan.events[0, :2]]
    assert np.dot(centre - (first + second) / 2, second - first) > 0


def test_times(path):
    scan = read_petsird(path)
    assert scan.duration == pytest.approx(0.05)
    assert np.allclose(scan.intervals, [[0, 0.02], [0.02, 0.05]])
    assert np.allclose(scan.times, [0.01] * 40 + [0.035] * 20)


def test_blocks_are_the_whole(path):
    scan, blocks = read_petsird(path), list(petsird_blocks(path))
    assert np.array_equal(np.concatenate([block.events for block in blocks]), scan.events)
    assert [len(block.delayed) for block in blocks] == [7, 0]


def test_efficiencies_are_those_of_the_package(path, header, prompts):
    # a file's detection bins keep energies apart; read without a window, ours is the sum over them
    scan = read_petsird(path)
    ours = scan.efficiencies.of(scan.events)
    n_energies = RING.number_of_event_energy_bins
    for event, value in zip(prompts[:20], ours):
        crystals = [number // n_energies for number in event.detection_bins]
        pairs = [[n_energies * c + e for c, e in zip(crystals, energies)] for energies in np.ndindex(2, 2)]
        pairs = [sorted(pair, reverse=True) for pair in pairs]
        expected = sum(helpers.get_detection_efficiency(header.scanner, (0, 0), *map(int, pair)) for pair in pairs)
        assert value == pytest.approx(expected, rel=1e-5)
    assert np.allclose(scan.efficiencies.of(scan.events[:, [1, 0, 2]]), ours)
    same_module = np.flatnonzero((scan.header.elements[:, :2] == [0, 3]).all(1))
    assert scan.efficiencies.of([same_module[:2]]) == 0


def test_energy_windows(path, header, prompts):
    scan = read_petsird(path, energy_window=(550, 650))
    chosen = [event for event in prompts if all(number % 2 for number in event.detection_bins)]
    assert len(scan.events) == len(chosen) > 3
    values = [helpers.get_detection_efficiency(header.scanner, (0, 0), event) for event in chosen]
    assert np.allclose(scan.efficiencies.of(scan.events), values, rtol=1e-5)
    with pytest.raises(FormatError, match="no energy bin within 500 to 510"):
        read_petsird(path, energy_window=(500, 510))


def test_events_are_projected(path):
    scan = read_petsird(path)
    grid = ImageGrid((16, 16, 8), (4.0, 4.0, 4.0))
    image = np.ones(grid.shape)
    projector = ListmodeProjector(grid, scan.scanner, scan.events, tof=True)
    values = projector(image)
    assert values.shape == (60,)
    assert values.max() > 1
    assert projector.T(values).shape == grid.shape
    # the same events as bins of the sinogram that the ordered rings allow
    sinogram = PETSinogram(scan.scanner, tof=True)
    bins = sinogram.bins_of(scan.events)
    inside = bins[:, 0] >= 0
    assert inside.sum() > 30
    assert np.allclose(PETProjector(grid, sinogram)(image)[tuple(bins[inside].T)], values[inside], rtol=1e-6)


# ---- module types ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_types():
    header = make_header(TWO_TYPES)
    lists = [[make_events(header, 5, (a, b)) for b in range(a + 1)] for a in range(2)]
    return header, lists


def test_module_types_are_numbered_one_after_the_other(tmp_path, two_types):
    header, lists = two_types
    scan = read_petsird(file_of(tmp_path, header, event_block([*lists, lists[-1]])), tof=False)
    assert scan.scanner.crystals.shape == (1, N_FIRST + N_SECOND, 3)  # two layers and half a circle: no rings
    pairs = [((a, b), event) for a in range(2) for b in range(a + 1) for event in lists[a][b]]
    expected = [[middle(header.scanner, t, d) for t, d in zip(types, e.detection_bins)] for types, e in pairs]
    assert np.allclose(scan.scanner.positions[scan.events], expected, atol=1e-3)


def test_tof_of_one_pair_of_module_types(tmp_path, two_types):
    header, lists = two_types
    path = file_of(tmp_path, header, event_block(lists))
    with pytest.raises(FormatError, match=r"TOF bins differ between module types .* module_types="):
        read_petsird(path)
    scan = read_petsird(path, module_types=(1, 1))
    assert scan.tof == TimeOfFlight(5, 120.0, 6.0)
    assert scan.scanner.crystals.shape == (1, N_SECOND, 3)
    assert np.array_equal(scan.events[:, :2], [event.detection_bins for event in lists[1][1]])
    assert read_petsird(path, module_types=(0, 1)).tof is None
    mixed = read_petsird(path, module_types=(0, 1))
    values = [helpers.get_detection_efficiency(header.scanner, (1, 0), event) for event in lists[1][0]]
    assert np.all(mixed.efficiencies.of(mixed.events) > values)  # the sum over three energy bins
    with pytest.raises(FormatError, match="no pair"):
        read_petsird(path, module_types=(2, 0))


def test_scanners_of_the_library_come_back_in_their_order(tmp_path, header):
    ours = PETScanner.polygon(sides=6, crystals_per_side=4, radius=60, rings=3, ring_pitch=5)
    changed = copy.deepcopy(header)
    shuffled = np.random.default_rng(0).permutation(ours.positions)
    modules = changed.scanner.scanner_geometry.replicated_modules[0]
    identity = np.eye(3, 4, dtype=np.float32)
    crystals = modules.object.detecting_elements
    middle_of_box = np.mean([corner.c for corner in crystals.object.shape.corners], axis=0)
    moves = [np.concatenate([identity[:, :3], (p - middle_of_box)[:, None]], 1).astype(np.float32) for p in shuffled]
    crystals.transforms = [petsird.RigidTransformation(matrix=matrix) for matrix in moves]
    modules.transforms = [petsird.RigidTransformation(matrix=identity)]
    changed.scanner.detection_efficiencies = petsird.DetectionEfficiencies()
    facts = read_petsird_header(file_of(tmp_path, changed))
    assert np.allclose(facts.scanner.crystals, ours.crystals, atol=1e-4)
    assert facts.efficiencies is None


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("edges", "resolution", "message"),
    [
        ([-60, -30, 0, 10, 60], 45, "different widths"),
        ([-40, -20, 0, 20, 40, 60], 45, "not centred"),
        ([-30, -10, 10, 30], 0, "resolution of 0 mm"),
    ],
)
def test_tof_bins_that_cannot_be_modelled(tmp_path, header, edges, resolution, message):
    changed = copy.deepcopy(header)
    changed.scanner.tof_bin_edges[0][0].edges = np.array(edges, np.float32)
    changed.scanner.tof_resolution[0][0] = resolution
    path = file_of(tmp_path, changed, event_block([[[]]]))
    with pytest.raises(FormatError, match=message):
        read_petsird(path)
    assert read_petsird(path, tof=False).events.shape == (0, 2)


@pytest.mark.parametrize(("number", "tof"), [(10**6, 0), (100, 6)])
def test_events_the_scanner_does_not_have(tmp_path, header, number, tof):
    event = petsird.CoincidenceEvent(detection_bins=[number, 1], tof_idx=tof)
    with pytest.raises(FormatError, match=r"changed\.petsird: an event has"):
        read_petsird(file_of(tmp_path, header, event_block([[[event]]])))


def test_a_bed_that_moves(tmp_path, header, prompts):
    blocks = [bed_block(0), event_block([[prompts]]), bed_block(100), event_block([[prompts]])]
    path = file_of(tmp_path, header, *blocks)
    with pytest.raises(FormatError, match="bed moves"):
        read_petsird(path)
    assert [block.bed[2, 3] for block in petsird_blocks(path)] == [0, 100]
    still = read_petsird(file_of(tmp_path, header, *blocks[2:]))
    assert still.bed[2, 3] == 100


def test_a_gantry_that_moves(tmp_path, header):
    matrix = np.array([[0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0]], np.float32)
    moves = petsird.GantryMovementTimeBlock(transforms=[petsird.RigidTransformation(matrix=matrix)])
    path = file_of(tmp_path, header, petsird.TimeBlock.GantryMovementTimeBlock(moves), event_block([[[]]]))
    with pytest.raises(FormatError, match="gantry moves"):
        read_petsird(path)


def test_files_without_coincidences(tmp_path, header):
    changed = copy.deepcopy(header)
    changed.scanner.prompt_event_policy = petsird.CoincidencePolicy.NONE
    with pytest.raises(FormatError, match="no coincidences"):
        read_petsird(file_of(tmp_path, changed))


def test_truncated_files(path, tmp_path):
    whole, cut = path.read_bytes(), tmp_path / "cut.petsird"
    for n in (3, 8, 1000, len(whole) // 2, len(whole) - 100, len(whole) - 1):
        cut.write_bytes(whole[:n])
        with pytest.raises(FormatError, match=r"cut\.petsird"):
            read_petsird(cut)


def test_damaged_files_fail_clearly_or_not_at_all(path, tmp_path):
    whole, damaged = path.read_bytes(), tmp_path / "damaged.petsird"
    rng = np.random.default_rng(0)
    first = whole.index(b"PETSIRD_TEST")  # behind the schema
    for _ in range(60):
        changed = bytearray(whole)
        place = rng.integers(first, min(first + 3000, len(whole)) if rng.random() < 0.5 else len(whole))
        changed[place] = rng.integers(256)
        damaged.write_bytes(changed)
        with contextlib.suppress(FormatError):
            read_petsird(damaged)


def test_other_files(tmp_path):
    for text in (b"\x89HDF\r\n\x1a\n" + bytes(1000), b"yardl\x07\0\0\0", b"yardl\x01\0\0\0\x02{}" + bytes(50)):
        other = tmp_path / "other"
        other.write_bytes(text)
        with pytest.raises(FormatError, match="not a binary PETSIRD file of the version"):
            read_petsird(other)
    with pytest.raises(FileNotFoundError):
        read_petsird(tmp_path / "none")
    with pytest.raises(FormatError, match="folder"):
        next(petsird_blocks(tmp_path))


def test_a_missing_package_is_named(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "petsird", None)
    with pytest.raises(ImportError, match=r"pip install 'emrecon\[petsird\]'"):
        read_petsird(path)
