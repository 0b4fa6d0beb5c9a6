"""From scans to problems and images: equal to models written by hand and to the command, bit for bit."""

import pickle
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from cli_cases import RING, emrecon, emrecon_or_raise, listmode, measured

from emrecon import formats, recon
from emrecon.projectors import (
    AcquisitionModel,
    GaussianBlur,
    ImageGrid,
    LinearResponse,
    ListmodeProjector,
    Normalisation,
    PETProjector,
    PETSinogram,
    Scan,
    SPECTGeometry,
    SPECTProjector,
    TimeOfFlight,
    attenuation_factors,
    collimator,
    crystal_rates,
    events_product,
)
from emrecon.recon.problem import cubes
from emrecon.sims import poisson, uniform_cylinder

GRID = ImageGrid((16, 16, 6), 5.0)
CAMERA = SPECTGeometry.circular(12, 70, (16, 6), 5.0)
BODY = uniform_cylinder(radius=28, height=24)
RESPONSE = LinearResponse(0.03, 2.0)
OTHER = replace(RING, name="other", crystals=1.1 * RING.crystals)
MU = BODY.attenuation(GRID, 140.5).astype(np.float32)


def spect_scan(**options):
    expected = SPECTProjector(GRID, CAMERA, MU, RESPONSE)(3 * BODY.activity(GRID)) + 0.5
    return Scan(poisson(expected, seed=0), CAMERA, background=0.5, radionuclide="Tc-99m", **options)


def command(tmp_path, scan, *options):
    """The image of `emrecon reconstruct`."""
    path = scan
    if isinstance(scan, Scan):
        path = tmp_path / "scan.h5"
        formats.write_scan(path, scan)
    emrecon_or_raise("reconstruct", path, *options, "--iterations", 2, "--quiet", "--out", tmp_path / "x.h5")
    return formats.read_image(tmp_path / "x.h5")[0]


def by_hand(parts, start, n=2):
    return recon.run(recon.osem(parts, start), n)


# ---- SPECT -----------------------------------------------------------------------------------------------------------


def test_spect_is_the_model_by_hand_and_the_command(tmp_path):
    scan = spect_scan()
    image = recon.reconstruct(recon.spect_problem(scan, mu=MU, response=RESPONSE, subsets=4), iterations=2)
    model = AcquisitionModel(SPECTProjector(GRID, CAMERA, MU, RESPONSE), background=0.5)
    likelihood = recon.PoissonLikelihood(scan.counts, model)
    expected = recon.run(recon.osem(likelihood, np.ones(GRID.shape, np.float32), 4), 2)
    np.testing.assert_array_equal(image, expected)
    formats.write_image(tmp_path / "mu.h5", MU, GRID)
    options = ("--mu", tmp_path / "mu.h5", "--response", "0.03,2", "--subsets", 4)
    np.testing.assert_array_equal(image, command(tmp_path, scan, *options))


def test_spect_without_corrections():
    scan = spect_scan()
    problem = recon.spect_problem(scan)
    assert (problem.n_subsets, problem.grid, problem.modality) == (8, scan.default_grid(), "SPECT")
    assert "SPECTProjector" in str(problem)
    expected = by_hand([scan_part(scan, k, 8) for k in range(8)], np.ones(GRID.shape, np.float32))
    np.testing.assert_array_equal(recon.reconstruct(problem, iterations=2), expected)
    f = recon.PoissonLikelihood(scan, scan.model(SPECTProjector(GRID, CAMERA)))
    assert problem.value(expected) == pytest.approx(float(f.value(expected)), rel=1e-6)


def scan_part(scan, k, n):
    return recon.PoissonLikelihood(scan, scan.model(SPECTProjector(GRID, CAMERA))).subset(k, n)


@pytest.mark.parametrize("scatter", [0.25, np.full(CAMERA.shape, 0.25, np.float32), np.full((6,), 0.25)])
def test_scatter_is_added_to_the_background(scatter):
    problem = recon.spect_problem(spect_scan(), scatter=scatter, subsets=1)
    (part,) = problem.parts
    np.testing.assert_allclose(np.broadcast_to(part.model.background, CAMERA.shape), 0.75, rtol=1e-6)


@pytest.mark.parametrize(
    ("nuclide", "window", "line", "shown"),
    [
        ("Lu-177", (101.7, 124.3), 112.95, "Lu-177, 113 keV, window 101.7 to 124.3 keV"),
        ("Lu-177", None, 208.366, "Lu-177, 208.4 keV, no energy window is known"),
        ("Y-90", (50.0, 250.0), 120.0, "Y-90, no photon line, window 50 to 250 keV"),
        (None, None, 140.5, "radionuclide not known"),
    ],
)
def test_the_summary_says_what_is_imaged(nuclide, window, line, shown):
    scan = Scan(np.ones(CAMERA.shape, np.float32), CAMERA, radionuclide=nuclide, energy_window=window)
    problem = recon.spect_problem(scan, response=collimator("ge-megp").response(line), subsets=2)
    assert shown in str(problem)
    assert problem.notes == (
        ("the response is of 120 keV, and Y-90 has no photon line in the window",) if nuclide == "Y-90" else ()
    )


def test_responses_of_other_photons_and_thin_septa_are_noted():
    scan = Scan(np.ones(CAMERA.shape, np.float32), CAMERA, radionuclide="Lu-177", energy_window=(101.7, 124.3))
    other = recon.spect_problem(scan, response=collimator("ge-megp").response(208.366), subsets=1)
    assert other.notes == ("the response is of 208.4 keV, and the energy window of 101.7 to 124.3 keV excludes it",)
    iodine = replace(scan, radionuclide="I-131", energy_window=None)
    for name, through in (("siemens-lehr", r"let 6\d % of photons of 364.5 keV through"), ("siemens-me", "let 13 %")):
        (note,) = recon.spect_problem(iodine, response=collimator(name).response(364.489), subsets=1).notes
        assert re.search(through, note), note
    assert recon.spect_problem(iodine, response=collimator("siemens-he").response(364.489), subsets=1).notes == ()
    (note,) = recon.spect_problem(iodine, response=collimator("siemens-he").response(284.305), subsets=1).notes
    assert "of 284.3 keV, and I-131 has its photons in the window at 364.5 keV" in note


# ---- attenuation maps of every path ----------------------------------------------------------------------------------

MAPS = {  # what is done to a map in 1/cm, and what the error says
    "1/mm": (lambda mu: mu / 10, r"in 1/mm, not in 1/cm: .* water .* has 0\.\d+ /cm; multiply it by 10"),
    "1/m": (lambda mu: mu * 100, "not in 1/cm: .* divide it by 100"),
    "in ten-thousandths": (lambda mu: mu * 1e4, "divide it by 10000"),
    "Hounsfield units": (lambda mu: 1000 * (mu / 0.09 - 1), "Hounsfield units; convert them by hounsfield_to_mu"),
    "offset Hounsfield units": (lambda mu: 1000 * mu / mu.max(), "Hounsfield units \\(after subtracting 1000"),
    "NaN": (lambda mu: np.where(mu > 0, np.nan, mu), "NaN or infinite"),
    "far below zero": (lambda mu: mu - 0.05, "below zero, down to -0.05 /cm; .*interpolation"),
}


def problem_of(kind, mu, grid=None, **options):
    """A SPECT or PET problem of uniform counts with a map."""
    if kind == "SPECT":
        scan = Scan(np.ones(CAMERA.shape, np.float32), CAMERA, radionuclide="Tc-99m")
        return recon.spect_problem(scan, mu=mu, mu_grid=grid, subsets=2, **options)
    scan, _, _ = measured()
    return recon.pet_problem(scan, mu=mu, mu_grid=grid, subsets=2, **options)


def grid_of(kind):
    return GRID if kind == "SPECT" else measured()[2]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["SPECT", "PET"])
@pytest.mark.parametrize("name", MAPS)
def test_units_of_attenuation_are_judged_by_its_water(kind, name, tmp_path):
    change, message = MAPS[name]
    grid = grid_of(kind)
    mu = change(BODY.attenuation(grid, 140.5 if kind == "SPECT" else 511)).astype(np.float32)
    with pytest.raises(recon.ArgumentError, match=message) as caught:
        problem_of(kind, mu)
    assert caught.value.argument == "mu"
    scan = Scan(np.ones(CAMERA.shape, np.float32), CAMERA, 0.1) if kind == "SPECT" else measured()[0]
    formats.write_scan(tmp_path / "scan.h5", scan)
    formats.write_image(tmp_path / "mu.nii.gz", mu, grid)
    done = emrecon("reconstruct", tmp_path / "scan.h5", "--mu", tmp_path / "mu.nii.gz", "--out", tmp_path / "x.h5")
    assert done.returncode != 0
    assert "--mu" in done.stderr or name == "NaN"


@pytest.mark.parametrize("kind", ["SPECT", "PET"])
def test_values_slightly_below_zero_are_zero(kind):
    grid = grid_of(kind)
    mu = BODY.attenuation(grid, 140.5 if kind == "SPECT" else 511)
    dented = np.where(mu == 0, -0.001, mu)
    problem = problem_of(kind, dented)
    assert re.fullmatch(r"\d+ values of mu slightly below zero \(down to -0.001 /cm\) are set to 0", problem.notes[0])
    x = np.ones(grid.shape, np.float32)
    assert float(problem.value(x)) == pytest.approx(float(problem_of(kind, mu).value(x)), rel=1e-6)


@pytest.mark.parametrize("kind", ["SPECT", "PET"])
def test_a_map_that_ends_inside_the_image_is_noted(kind):
    grid = grid_of(kind)
    mu = BODY.attenuation(grid, 140.5 if kind == "SPECT" else 511).astype(np.float32)
    low, high = grid.shape[2] // 3, 2 * grid.shape[2] // 3
    part = ImageGrid(
        (*grid.shape[:2], high - low), grid.voxel_size, (*grid.origin[:2], grid.origin[2] + low * grid.voxel_size[2])
    )
    problem = problem_of(kind, mu[..., low:high], part)
    assert re.match("the attenuation map covers only z -?\\d+ to -?\\d+ mm of", problem.notes[0]), problem.notes
    assert "of the counts lie in" in problem.notes[1]
    assert "slices without any attenuation" in problem.notes[1]
    wide = ImageGrid((grid.shape[0] + 8, grid.shape[1] + 8, grid.shape[2]), grid.voxel_size)
    assert problem_of(kind, BODY.attenuation(wide, 140.5 if kind == "SPECT" else 511), wide).notes == ()


def test_a_map_for_another_energy_is_noted():
    (note,) = problem_of("SPECT", BODY.attenuation(GRID, 511).astype(np.float32)).notes
    assert note.startswith("most of the attenuation map has 0.096 /cm, and water at 140.5 keV has 0.154 /cm")


def test_a_projector_alone_logs_what_seems_to_be_in_other_units(caplog):
    SPECTProjector(GRID, CAMERA, MU / 10)
    assert "seems to be in 1/mm" in caplog.text
    with pytest.raises(ValueError, match="below zero"):
        SPECTProjector(GRID, CAMERA, MU - 0.001)


def test_lengths_in_cm_are_noticed(tmp_path):
    near = SPECTGeometry.circular(12, 7.0, (16, 6), 5.0)
    (note,) = recon.spect_problem(Scan(np.ones(near.shape, np.float32), near), subsets=2).notes
    assert note == "the collimator is 7 mm from the axis and the detector 80 mm wide; is the radius in cm?"
    formats.write_scan(tmp_path / "scan.h5", Scan(np.ones(CAMERA.shape, np.float32), CAMERA, 0.1))
    done = emrecon("reconstruct", tmp_path / "scan.h5", "--mu-cylinder", "2.8:0.15", "--out", tmp_path / "x.h5")
    assert "cm?" in done.stderr


def test_spect_on_another_grid():
    grid = cubes(GRID, 7.0)
    assert grid.shape == (11, 11, 4)
    np.testing.assert_allclose(grid.centre, GRID.centre, atol=1e-9)
    problem = recon.spect_problem(spect_scan(), grid=grid)
    assert recon.reconstruct(problem, iterations=1).shape == grid.shape


def test_frames_are_a_batch():
    scan = spect_scan()
    both = replace(scan, counts=np.stack([scan.counts, 2 * scan.counts]))
    image = recon.reconstruct(recon.spect_problem(both, mu=MU, subsets=2), iterations=2)
    single = recon.reconstruct(recon.spect_problem(scan, mu=MU, subsets=2), iterations=2)
    assert image.shape == (2, *GRID.shape)
    np.testing.assert_allclose(image[0], single, rtol=1e-5, atol=1e-6)


def test_tensors_stay_tensors():
    torch = pytest.importorskip("torch")
    scan = spect_scan()
    tensors = replace(scan, counts=torch.from_numpy(np.array(scan.counts, np.float32)))
    image = recon.reconstruct(recon.spect_problem(tensors, mu=MU, subsets=2), iterations=2)
    assert isinstance(image, torch.Tensor)
    expected = recon.reconstruct(recon.spect_problem(scan, mu=MU, subsets=2), iterations=2)
    np.testing.assert_allclose(image.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_a_signature_tells_problems_apart():
    scan = spect_scan()
    own = recon.spect_problem(scan, mu=MU).signature
    assert own == recon.spect_problem(spect_scan(), mu=MU).signature
    others = [
        recon.spect_problem(scan),
        recon.spect_problem(scan, mu=MU, subsets=4),
        recon.spect_problem(scan, mu=0.9 * MU),
        recon.spect_problem(scan, mu=MU, response=RESPONSE),
        recon.spect_problem(scan, mu=MU, scatter=0.1),
        recon.spect_problem(replace(scan, background=0.4), mu=MU),
    ]
    assert len({own, *(problem.signature for problem in others)}) == 7


@pytest.mark.parametrize(
    ("options", "argument", "message"),
    [
        ({"mu": MU[:, :, :3]}, "mu", "mu of shape (16, 16, 3) does not fit the grid of (16, 16, 6); resample it"),
        ({"scatter": -1.0}, "scatter", "scatter must be finite and not negative"),
        ({"scatter": np.full(CAMERA.shape, np.nan)}, "scatter", "finite"),
        ({"scatter": np.ones((3, 3))}, "scatter", "does not broadcast to counts of (12, 16, 6)"),
        ({"subsets": 13}, "subsets", "subsets is 13, but the scan has only 12 views"),
        ({"subsets": 0}, "subsets", "at least 1, got 0"),
        ({"subsets": 2.0}, "subsets", "whole number"),
    ],
)
def test_arguments_of_spect_are_named(options, argument, message):
    with pytest.raises(recon.ArgumentError) as error:
        recon.spect_problem(spect_scan(), **options)
    assert error.value.argument == argument
    assert message in str(error.value)
    assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)


def test_other_data_and_types_are_refused():
    pet, _, _ = measured()
    for make, given, message in (
        (recon.spect_problem, pet, r"spect_problem takes SPECT data.*use pet_problem\?"),
        (recon.pet_problem, spect_scan(), r"pet_problem takes PET data.*use spect_problem\?"),
        (recon.spect_problem, pet.counts, "spect_problem takes a Scan, a WindowedScan, .* got ndarray"),
        (recon.pet_problem, pet.counts, "list-mode events .*got ndarray"),
    ):
        with pytest.raises(TypeError, match=message):
            make(given)
    for options, message in (
        ({"mu": "mu.nii"}, "mu expects an array"),
        ({"grid": (16, 16, 6)}, "grid must be an ImageGrid, got tuple"),
        ({"scatter": [1.0, 2.0]}, "scatter must be a number or an array of counts, got a list"),
        ({"response": 3.0}, "response needs a method sigma"),
    ):
        with pytest.raises(TypeError, match=message):
            recon.spect_problem(spect_scan(), **options)
    with pytest.raises(TypeError, match="norm must be a Normalisation, got ndarray"):
        recon.pet_problem(pet, norm=np.ones(3))


# ---- PET sinograms ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tof", [None, TimeOfFlight(5, 40.0, 60.0)])
def test_a_sinogram_is_the_model_by_hand_and_the_command(tmp_path, tof):
    scan, mu, grid = measured(tof)
    problem = recon.pet_problem(scan, mu=mu, psf=5.0, subsets=4)
    image = recon.reconstruct(problem, iterations=2)
    parts = []
    for k in range(4):
        views, part = scan.geometry.subset(k, 4), scan.subset(k, 4)
        plain = views.without_tof()
        factors = plain.multiplicity() * attenuation_factors(PETProjector(grid, plain), mu.astype(np.float32))
        system = PETProjector(grid, views) @ GaussianBlur(grid, 5.0)
        model = AcquisitionModel(system, factors if tof is None else factors[:, :, None], 0.5)
        parts.append(recon.PoissonLikelihood(part.counts, model))
    start = (sum(part.sensitivity for part in parts) > 0).astype(np.float32)
    np.testing.assert_array_equal(image, by_hand(parts, start))
    formats.write_image(tmp_path / "mu.h5", mu, grid)
    options = ("--mu", tmp_path / "mu.h5", "--psf", 5, "--subsets", 4)
    np.testing.assert_array_equal(image, command(tmp_path, scan, *options))
    same = recon.pet_problem(scan, mu=mu, psf=GaussianBlur(grid, 5.0), subsets=4)
    assert same.signature == problem.signature
    assert "psf      5 mm" in problem.summary


def test_randoms_take_the_place_of_the_background_and_scatter_is_added():
    scan, _, _ = measured()
    for options, expected in (({}, 0.5), ({"randoms": 0.2}, 0.2), ({"randoms": 0.2, "scatter": 0.1}, 0.3)):
        (part,) = recon.pet_problem(scan, subsets=1, **options).parts
        assert part.model.background == pytest.approx(expected)
    (part,) = recon.pet_problem(scan, subsets=1, scatter=np.full(scan.counts.shape, 0.25, np.float32)).parts
    np.testing.assert_allclose(part.model.background, 0.75)


def test_a_norm_weighs_the_crystals():
    scan, _, _ = measured()
    efficient = np.where(RING.virtual, 0, 2.0)
    (plain,) = recon.pet_problem(scan, subsets=1).parts
    (weighed,) = recon.pet_problem(scan, norm=Normalisation(RING, efficient), subsets=1).parts
    np.testing.assert_allclose(weighed.model.factors, 4 * plain.model.factors, rtol=1e-6)
    factored = replace(scan, factors=np.ones(scan.counts.shape, np.float32))
    with pytest.raises(recon.ArgumentError, match="factors of its own") as error:
        recon.pet_problem(factored, norm=Normalisation(RING, efficient))
    assert error.value.argument == "norm"


@pytest.mark.parametrize(
    ("options", "argument", "message"),
    [
        ({"mu": np.ones((3, 3, 3))}, "mu", "does not fit the grid"),
        ({"psf": -1.0}, "psf", "psf must be the FWHM in mm"),
        ({"psf": "wide"}, "psf", "psf must be the FWHM in mm"),
        ({"psf": GaussianBlur(GRID, 4.0)}, "psf", "psf blurs images of (16, 16, 6)"),
        ({"randoms": np.ones(3)}, "randoms", "does not broadcast"),
        ({"subsets": 99}, "subsets", "only 32 views"),
        ({"max_ring_difference": 1}, "max_ring_difference", "list-mode only"),
        (
            {"norm": Normalisation(OTHER)},
            "norm",
            "norm belongs to other",
        ),
    ],
)
def test_arguments_of_pet_are_named(options, argument, message):
    scan, _, _ = measured()
    with pytest.raises(recon.ArgumentError) as error:
        recon.pet_problem(scan, **options)
    assert error.value.argument == argument
    assert message in str(error.value)


# ---- list-mode -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_events_are_the_model_by_hand_and_the_command(tmp_path):
    path = listmode(tmp_path)
    events = formats.read_petlink(path)
    grid = cubes(recon.pet_grid(events, 1), 16.0)
    problem = recon.pet_problem(events, grid=grid, max_ring_difference=1, psf=6.0, subsets=2)
    image = recon.reconstruct(problem, iterations=2)
    bins = PETSinogram(events.sinogram.scanner, 1, n_radial=events.sinogram.n_radial)
    found = events.read()
    view = bins.bins_of(found.prompts)[:, 0]
    singles = crystal_rates(bins, found.delays, n_iterations=30)
    parts = []
    for k in range(2):
        mine, views = found.prompts[(view >= 0) & (view % 2 == k)], bins.subset(k, 2)
        blur = GaussianBlur(grid, 6.0)
        lines = ListmodeProjector(grid, bins.scanner, mine) @ blur
        model = AcquisitionModel(lines, 1.0, events_product(mine, singles))
        sensitivity = (PETProjector(grid, views) @ blur).T(views.multiplicity())
        parts.append(recon.ListmodeLikelihood(model, sensitivity))
    start = (sum(part.sensitivity for part in parts) > 0).astype(np.float32)
    np.testing.assert_array_equal(image, by_hand(parts, start))
    options = ("--max-ring-difference", 1, "--voxel", 16, "--psf", 6, "--subsets", 2)
    np.testing.assert_array_equal(image, command(tmp_path, path, *options))
    assert "delays" in problem.summary


def some_events(n=500):
    """List-mode data that no file holds: lines through the middle of a small scanner."""
    rng, bins = np.random.default_rng(0), PETSinogram(RING)
    pairs = bins.crystal_pairs[rng.integers(0, bins.n_views, n), 0, rng.integers(15, 26, n)]
    lists = SimpleNamespace(prompts=pairs.astype(np.int32), delays=np.zeros((0, 2), np.int32))
    return SimpleNamespace(sinogram=bins, read=lambda: lists)


def test_any_object_with_bins_and_events_is_enough():
    problem = recon.pet_problem(some_events(), mu=None, subsets=2)
    image = recon.reconstruct(problem, iterations=3)
    x, y, _ = problem.grid.coordinates()
    near = (np.hypot(x, y) < 30)[..., 0]
    assert image[near].mean() > 5 * image[~near].mean()


def test_randoms_and_scatter_of_events():
    given = np.linspace(0.1, 0.2, 500)
    both = recon.pet_problem(some_events(), randoms=given, scatter=0.1, subsets=1)
    (part,) = both.parts
    np.testing.assert_allclose(part.model.background, given + 0.1, rtol=1e-6)
    (part,) = recon.pet_problem(some_events(), randoms=0.1, scatter=0.2, subsets=2).parts[:1]
    assert part.model.background == pytest.approx(0.3)
    with pytest.raises(recon.ArgumentError, match="does not broadcast") as error:
        recon.pet_problem(some_events(), scatter=np.ones(3))
    assert error.value.argument == "scatter"


def test_events_that_are_not_enough():
    none = some_events(0)
    with pytest.raises(ValueError, match="no prompts within ring differences up to 2; is the file cut off"):
        recon.pet_problem(none)
    few = recon.pet_problem(some_events(3), subsets=16)
    assert few.n_subsets == 1
    assert "3 counts are few for 16 subsets" in few.notes[-1]
    with pytest.raises(recon.ArgumentError, match="max_ring_difference must be 0 to 2"):
        recon.pet_problem(some_events(), max_ring_difference=3)


# ---- images ----------------------------------------------------------------------------------------------------------


def small_problem():
    return recon.spect_problem(spect_scan(), mu=MU, response=RESPONSE, subsets=4)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("MAP_EM", {"prior": "huber:0.05,1"}),
        ("svrg", {"prior": "rdp:0.05,2", "kappa": True, "order": "random:5"}),
        ("L-BFGS-B", {"prior": "non-local:0.01,1,0.5"}),
        ("spdhg", {"prior": "tv:0.05"}),
        ("kem", {"guide": BODY.activity(GRID), "kernel": "12,3"}),
    ],
)
def test_methods_go_on_exactly(method, options):
    problem = small_problem()
    seen = []
    whole = recon.reconstruct(problem, method, 4, callbacks=[seen.append], **options)
    assert [at.iteration for at in seen] == [1, 2, 3, 4]
    parts = recon.reconstruct(problem, method, 4, start=seen[1], **options)
    np.testing.assert_array_equal(whole, parts)
    assert np.isfinite(whole).all()


def test_the_first_pass_prior_and_order_by_hand():
    problem = small_problem()
    first = next(recon.osem(list(problem.parts), problem.start)).image
    prior = 0.3 * recon.RelativeDifference(2.0, epsilon=1e-3 * float(first.max()), voxel_size=(5, 5, 5))
    expected = recon.run(recon.svrg(list(problem.parts), prior, first, order=recon.RandomOrder(5)), 3)
    image = recon.reconstruct(problem, "svrg", 3, prior="rdp:0.3,2", order="random:5")
    np.testing.assert_array_equal(image, expected)
    same = recon.reconstruct(problem, "svrg", 3, prior=prior, order=recon.RandomOrder(5))
    np.testing.assert_array_equal(same, expected)


def test_a_stopping_rule_ends_the_run():
    seen = []
    recon.reconstruct(small_problem(), iterations=50, callbacks=[seen.append, recon.RelativeChange(0.5)])
    assert len(seen) < 50


@pytest.mark.parametrize(
    ("options", "argument", "message"),
    [
        ({"method": "oesm"}, "method", "unknown method 'oesm'; did you mean 'osem'? choose from osem, map-em"),
        ({"iterations": 0}, "iterations", "at least 1"),
        ({"method": "kem"}, "guide", "kem needs a guide image"),
        ({"method": "kem", "guide": MU[:3]}, "guide", "guide of shape (3, 16, 6) does not fit the grid"),
        ({"method": "kem", "guide": np.full(GRID.shape, np.nan)}, "guide", "NaN"),
    ],
)
def test_arguments_of_reconstruct_are_named(options, argument, message):
    with pytest.raises(recon.ArgumentError) as error:
        recon.reconstruct(small_problem(), **options)
    assert error.value.argument == argument
    assert message in str(error.value)
