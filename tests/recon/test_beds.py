"""Several beds: one lattice, time and decay, stitched and joint images against a camera that sees all at once."""

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from battery import check_operator
from bed_cases import BEGIN, PIXEL, RESPONSE, ROWS, beds_of, body, camera, long_scan

from emrecon import recon
from emrecon.projectors import (
    BedProjector,
    BedScan,
    ImageGrid,
    LinearResponse,
    Scan,
    SPECTGeometry,
    SPECTProjector,
    Study,
    bed_slices,
    grid_slices,
    isotope,
)


@pytest.fixture(scope="module")
def whole():
    """What a long camera sees, reconstructed: the image, its map and grid."""
    scan, mu, grid = long_scan()
    image = recon.reconstruct(recon.spect_problem(scan, mu=mu, response=RESPONSE, subsets=4), iterations=6)
    return image, mu, grid


def options(whole):
    return {"mu": whole[1], "mu_grid": whole[2], "response": RESPONSE, "subsets": 4}


def stitched(beds, **more):
    problems = recon.bed_problems(beds, **more)
    return recon.stitch([recon.reconstruct(problem, iterations=6) for problem in problems], problems)


def profile(image):
    return image[5:11, 5:11].mean((0, 1))


@pytest.mark.parametrize("combine", ["stitched", "joint"])
@pytest.mark.parametrize(("steps", "durations"), [(7, [10, 20]), (6.5, [10, 20, 15])])
def test_beds_show_what_a_long_camera_does(whole, combine, steps, durations):
    beds = beds_of(len(durations), step=steps * PIXEL, durations=durations, pauses=1800)
    if combine == "stitched":
        image, grid = stitched(beds, **options(whole))
    else:
        problem = recon.beds_problem(beds, **options(whole))
        image, grid = recon.reconstruct(problem, iterations=6), problem.grid
    assert grid == beds.default_grid()
    start = round((grid.origin[2] - whole[2].origin[2]) / PIXEL)
    reference = whole[0][..., start : start + grid.shape[2]]
    inner = slice(2, -2)  # the ends of the long camera see further
    np.testing.assert_allclose(profile(image)[inner], profile(reference)[inner], rtol=0.02)


def test_steps_that_are_no_multiple_of_a_voxel(whole):
    image, grid = stitched(beds_of(2, step=6.6 * PIXEL), **options(whole))
    z = grid.coordinates()[2].ravel()
    warm = (np.abs(np.abs(z) - 20) < 8) & (np.abs(z) < 40)
    middle = image[4:7, 6:10, :].mean((0, 1))
    assert warm.sum() >= 4
    np.testing.assert_allclose(middle[warm], 10, rtol=0.03)


def test_the_grids_are_parts_of_one_lattice():
    for voxel in (None, 4.0, 7.5):
        beds = beds_of(3, step=6.6 * PIXEL)
        grid = beds.default_grid(voxel)
        parts = [bed_slices(grid, one) for one in beds.geometries]
        assert parts[0].start == 0
        assert parts[-1].stop == grid.shape[2]
        for part, (low, high) in zip(parts, beds.extents):
            own = grid_slices(grid, part)
            ends = own.origin[2] + (np.array([0, own.shape[2]]) - 0.5) * own.voxel_size[2]
            assert ends[0] <= low + 0.01
            assert ends[1] >= high - 0.01
            assert ends[1] - ends[0] < high - low + 2 * own.voxel_size[2]
    with pytest.raises(ValueError, match="look past the grid"):
        bed_slices(grid, camera(ROWS, 900.0))


def test_time_and_decay_of_beds():
    beds = beds_of(2, durations=[10, 20], pauses=3600)
    weights, notes = beds.measured()
    nuclide = isotope("Tc-99m")
    later = 160 + 3600
    expected = 2 * nuclide.mean_decay(320) / nuclide.mean_decay(160) * nuclide.decay(later)
    np.testing.assert_allclose(weights, [1, expected], rtol=1e-12)
    assert not notes
    timed, _ = beds.timed()
    assert timed[1].factors == pytest.approx(expected)
    assert timed.measured()[0].tolist() == [1, 1]
    later_first = BedScan((replace(beds[0], study=beds[1].study), replace(beds[1], study=beds[0].study)))
    assert later_first.reference == 1
    assert later_first.measured()[0][1] == 1
    silent = BedScan(tuple(replace(bed, study=None) for bed in beds))
    weights, notes = silent.measured()
    np.testing.assert_allclose(weights, [1, 2])
    assert "no start" in notes[0]
    weights, notes = BedScan(tuple(replace(bed, study=None, duration=None) for bed in beds)).measured()
    assert weights.tolist() == [1, 1]
    assert "no duration" in notes[0]
    together = BedScan((beds[0], replace(beds[1], study=beds[0].study)))
    assert "still measured" in together.measured()[1][0]
    doubled = BedScan(tuple(replace(bed, factors=bed.duration) for bed in beds))
    assert "about their seconds per view" in doubled.measured()[1][0]
    with pytest.raises(ValueError, match="bed 2 says no duration"):
        BedScan((beds[0], replace(beds[1], duration=None))).measured()
    zoned = replace(beds[1], study=Study(start=BEGIN.astimezone() + timedelta(hours=1)))
    with pytest.raises(ValueError, match="time zone"):
        BedScan((beds[0], zoned)).measured()


@pytest.mark.slow
def test_one_call(whole):
    beds, guide = beds_of(2), np.zeros((16, 16, 17), np.float32)
    image, grid = recon.reconstruct_beds(beds, iterations=6, **options(whole))
    np.testing.assert_array_equal(image, stitched(beds, **options(whole))[0])
    joint, _ = recon.reconstruct_beds(beds, iterations=1, beds="joint", **options(whole))
    assert joint.shape == grid.shape
    guided, _ = recon.reconstruct_beds(beds, "map-em", 1, prior="bowsher:0.01,3", guide=guide, response=RESPONSE)
    assert guided.shape == grid.shape
    with pytest.raises(recon.ArgumentError, match="unknown beds 'both'; choose from stitched, joint"):
        recon.reconstruct_beds(beds, beds="both")


def test_gaps_and_small_overlaps_are_told():
    plain = {"response": RESPONSE, "subsets": 2}
    gap = recon.bed_problems(beds_of(2, step=13 * PIXEL), **plain)
    assert "nothing looks at z -9 to 9 mm" in gap[0].notes[0]
    image, grid = recon.stitch([problem.start for problem in gap], gap)
    assert not image[..., 10:13].any()
    assert image[..., 9].any()
    assert grid.shape[2] == 23
    near = recon.bed_problems(beds_of(2, step=9.5 * PIXEL), **plain)
    assert "overlap by 3 mm, less than the response is wide" in near[0].notes[0]
    assert not any("overlap" in note for note in recon.bed_problems(beds_of(2), **plain)[0].notes)


def test_weights_are_sensitivities_that_roll_off():
    beds = BedScan(tuple(replace(bed, duration=None, study=None) for bed in beds_of(2)))
    problems = recon.bed_problems(replace(beds, timed_factors=True), subsets=2)
    ones, twos = problems[0].start, 2 * problems[1].start
    image, _ = recon.stitch([ones, twos], problems)
    across = image[8, 8]
    assert across[:7] == pytest.approx(1)
    assert across[-7:] == pytest.approx(2)
    np.testing.assert_allclose(across[7:10] - 1, np.sin(np.pi / 2 * np.array([1, 3, 5]) / 6) ** 2, rtol=1e-4)
    longer = BedScan((beds[0], replace(beds[1], factors=3.0)), timed_factors=True)
    image, _ = recon.stitch([ones, twos], recon.bed_problems(longer, subsets=2))
    assert image[8, 8, 8] == pytest.approx(1 + 3 / 4, rel=1e-4)


def test_what_does_not_fit(whole):
    beds = beds_of(2)
    problems = recon.bed_problems(beds, subsets=2)
    with pytest.raises(ValueError, match="image of bed 2 has shape"):
        recon.stitch([problems[0].start, problems[1].start[..., :3]], problems)
    other = replace(problems[1], grid=replace(problems[1].grid, origin=(0.0, 0.0, 1.0)))
    with pytest.raises(ValueError, match="one lattice"):
        recon.stitch([problem.start for problem in problems], (problems[0], other))
    with pytest.raises(TypeError, match="takes a BedScan"):
        recon.bed_problems(beds[0])
    with pytest.raises(TypeError, match="use beds_problem"):
        recon.spect_problem(beds)
    with pytest.raises(recon.ArgumentError, match="3 entries for 2 beds"):
        recon.bed_problems(beds, scatter=[0, 0, 0])
    with pytest.raises(recon.ArgumentError, match="mu_grid is given"):
        recon.bed_problems(beds, mu_grid=whole[2])
    with pytest.raises(ValueError, match="part of the grid over all beds"):
        recon.joint_problem(problems, ImageGrid((16, 16, 17), 5.0))
    wider = Scan(
        np.ones((16, 20, ROWS)), replace(beds[1].geometry, n_bins=(20, ROWS)), duration=1.0, radionuclide="Tc-99m"
    )
    with pytest.raises(ValueError, match="different bins"):
        recon.beds_problem(BedScan((replace(beds[0], study=None), wider)), subsets=2)


@pytest.mark.slow
def test_methods_with_priors_take_all_beds_at_once():
    problem = recon.beds_problem(beds_of(2), response=RESPONSE, subsets=2)
    for method, prior in (("svrg", "quadratic:0.001"), ("pdhg", "tv:0.01")):
        image = recon.reconstruct(problem, method, iterations=2, prior=prior)
        assert image.shape == problem.grid.shape
        assert np.isfinite(image).all()
    assert "2 beds in one likelihood" in str(problem)


@pytest.mark.parametrize("attenuated", [False, True])
def test_projector_of_beds(attenuated):
    grid = ImageGrid((4, 3, 6), 4.0)
    mu = np.random.default_rng(0).random(grid.shape) * 0.2 if attenuated else None
    cameras = [SPECTGeometry([0, 100, 200.0], 30, (5, 3), 4.0, axial_shift=z) for z in (-6.0, 6.5)]
    first = [bed_slices(grid, one, 4.0) for one in cameras]
    parts = [
        SPECTProjector(grid_slices(grid, z), one, None if mu is None else mu[..., z], LinearResponse(0.03, 2))
        for z, one in zip(first, cameras)
    ]
    check_operator(BedProjector(grid.shape, parts, [z.start for z in first]), positive=True, gradients=not attenuated)
    with pytest.raises(ValueError, match="no part of an image"):
        BedProjector((4, 3, 5), parts, [z.start for z in first])


@pytest.mark.slow
def test_gradients_by_the_map_pass_through_beds():
    torch = pytest.importorskip("torch")
    activity, mu, grid = body(25)
    map_ = torch.tensor(mu, requires_grad=True)
    parts, first = [], []
    for bed in beds_of(2):
        own = bed_slices(grid, bed.geometry, 20.0)
        parts.append(SPECTProjector(grid_slices(grid, own), bed.geometry, map_[..., own], RESPONSE))
        first.append(own.start)
    y = BedProjector(grid.shape, parts, first)(torch.tensor(activity))
    y.sum().backward()
    assert float(map_.grad[8, 8, 12]) < 0
