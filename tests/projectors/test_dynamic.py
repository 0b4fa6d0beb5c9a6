"""Dynamic and gated scans: batches equal single frames, decay against integration, events against brute force."""

import pickle
from itertools import pairwise

import numpy as np
import pytest
import torch
from pet_cases import FLAT, GRID, ONE_RING, SCANNER, TOF, events_of_every_bin
from scipy.integrate import quad
from spect_cases import irregular_geometry

from emrecon.projectors import (
    AcquisitionModel,
    GaussianBlur,
    ImageGrid,
    LinearResponse,
    ListmodeProjector,
    PETProjector,
    PETSinogram,
    SPECTGeometry,
    SPECTProjector,
    isotope,
)
from emrecon.projectors.scan.dynamic import DynamicScan, GatedScan, all_views_at_once
from emrecon.projectors.scan.frames import Frames, Gates, decay_factors, histogram_events, split_events
from emrecon.recon import ListmodeLikelihood, PoissonLikelihood, em_step, mlem, osem, run

TWENTY = Frames.parse("8x5,6x20,6x60")
THIN = ImageGrid((7, 6, 3), 4.0, origin=(-10, -17, -4))
SYSTEMS = {
    "SPECT": SPECTProjector(
        THIN, irregular_geometry((9, 3), 4.0), np.full(THIN.shape, 0.15), LinearResponse(0.03, 3.0)
    ),
    "PET": PETProjector(GRID, PETSinogram(SCANNER, span=3)),
    "TOF PET": PETProjector(FLAT, PETSinogram(ONE_RING, tof=TOF)),
}


def geometry_of(A):
    return A.geometry if isinstance(A, SPECTProjector) else A.sinogram


def noisy(A, dtype="float64", frames=TWENTY, **changes):
    """A dynamic scan of a random activity that grows from frame to frame."""
    rng = np.random.default_rng(0)
    more = {
        "background": rng.uniform(0.1, 0.3, (len(frames), *A.out_shape)).astype(dtype),
        "factors": rng.uniform(0.5, 1, A.out_shape).astype(dtype),
        "radionuclide": "C-11",
    }
    empty = DynamicScan(np.zeros((len(frames), *A.out_shape)), geometry_of(A), frames, **more)
    activity = rng.uniform(0.2, 1, A.in_shape) * np.linspace(0.5, 2, len(frames))[:, None, None, None]
    counts = rng.poisson(empty.model(A)(activity)).astype(dtype)
    return DynamicScan(counts, geometry_of(A), frames, **{**more, **changes})


# ---- frames ---------------------------------------------------------------------------------------------------------


def test_frames_from_protocols_and_durations():
    frames = Frames.parse("2x10, 3 x 60s,300", start=5)
    np.testing.assert_array_equal(frames.durations, [10, 10, 60, 60, 60, 300])
    np.testing.assert_array_equal(frames.starts, [5, 15, 25, 85, 145, 205])
    assert frames == Frames.from_durations([10, 10, 60, 60, 60, 300], 5)
    np.testing.assert_array_equal(frames.ends[:-1], frames.starts[1:])
    np.testing.assert_array_equal(frames.middle[:2], [10, 20])
    assert (len(frames), len(frames[2:4]), str(frames)) == (6, 2, "6 frames of 10 to 300 s from 5 to 505 s")
    assert pickle.loads(pickle.dumps(frames)) == frames
    assert len(TWENTY) == 20
    assert Frames.from_durations(np.full(1000, 0.1), 1e4).ends[-1] == pytest.approx(10100)


def test_times_belong_to_frames():
    frames = Frames([0, 10, 30], [10, 10, 5])
    times = [-1, 0, 9.999, 10, 20, 29, 30, 34.9, 35, np.nan]
    assert frames.index_of(times).tolist() == [-1, 0, 0, 1, -1, -1, 2, 2, -1, -1]


def test_merged_frames():
    frames = Frames.parse("4x10,2x30")
    assert frames.merge(2) == Frames([0, 20, 40], [20, 20, 60])
    assert frames.merge([4, 1, 1]) == Frames([0, 40, 70], [40, 30, 30])
    gap = Frames([0, 10, 30, 40], [10] * 4)
    assert gap.merge(2) == Frames([0, 30], [20, 20])
    tenths = Frames.from_durations(np.full(3000, 0.1)).merge(3)
    assert tenths.index_of(tenths.starts[1:] - 1e-9).tolist() == list(range(999))
    with pytest.raises(ValueError, match="frames 1 and 2 have a gap"):
        gap.merge([1, 2, 1])
    for sizes in (3, 0, [3, 2], [5, 0, -1, 0]):
        with pytest.raises(ValueError, match="cannot be joined in groups"):
            gap.merge(sizes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0, 5], [10, 5]), r"frame 0 ends at 10 s, after frame 1 starts at 5 s; are frames out of order"),
        (([10, 0], [5, 5]), "out of order"),
        (([0, 10], [10, 0]), "must be positive seconds, the shortest is 0"),
        (([0], [1, 2]), "1 starts and 2 durations"),
        (([0], [np.nan]), "list of finite numbers"),
        (([], []), "list of finite numbers"),
    ],
)
def test_frames_that_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        Frames(*arguments)


@pytest.mark.parametrize("protocol", ["", "10x", "x10", "10x-5", "ten", "2x1e9x3", "3x0"])
def test_protocols_that_cannot_be(protocol):
    with pytest.raises(ValueError, match=r"a protocol must look like|positive seconds"):
        Frames.parse(protocol)


# ---- decay ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nuclide", ["O-15", "F-18", "Lu-177"])
@pytest.mark.parametrize("reference", [0.0, 1000.0, -500.0])
def test_decay_is_the_integral(nuclide, reference):
    frames = Frames([3.0, 20, 700, 2000], [1e-3, 60, 600, 5000])
    k = np.log(2) / isotope(nuclide).half_life
    for t, T, found in zip(frames.starts, frames.durations, decay_factors(frames, nuclide, reference)):
        mean = quad(lambda s: np.exp(-k * (s - reference)), t, t + T, epsabs=0, epsrel=1e-12)[0] / T
        assert found == pytest.approx(mean, rel=1e-11)


def test_decay_of_the_shortest_frames_is_stable():
    frames = Frames([0.0], [1e-9])
    assert abs(decay_factors(frames, "Ge-68")[0] - 1) < 1e-15
    with pytest.raises(ValueError, match="unknown radionuclide"):
        decay_factors(frames, "Xx-1")


@pytest.mark.parametrize("name", SYSTEMS)
def test_an_activity_that_only_decays_is_constant_after_correction(name):
    """Expected counts by numerical integration over the time of every view, with a camera that turns."""
    A = SYSTEMS[name]
    frames = Frames([30.0, 100, 400], [60, 200, 900])
    k = np.log(2) / isotope("C-11").half_life
    truth = np.random.default_rng(1).uniform(0.5, 1, A.in_shape)
    projections, n = A(truth), A.out_shape[0]
    counts = np.empty((3, *A.out_shape))
    for f, (t, T) in enumerate(zip(frames.starts, frames.durations)):
        for v in range(n):
            a, b = (v / n, (v + 1) / n) if name == "SPECT" else (0, 1)
            counts[f, v] = projections[v] * quad(lambda s: np.exp(-k * (s - 30)), t + a * T, t + b * T)[0]
    scan = DynamicScan(counts, geometry_of(A), frames, radionuclide="C-11", reference=30.0)
    np.testing.assert_allclose(scan.model(A)(np.stack([truth] * 3)), counts, rtol=1e-9)
    np.testing.assert_allclose(scan.summed().model(A)(truth), counts.sum(0), rtol=1e-9)
    images = run(osem(PoissonLikelihood(scan.counts, scan.model(A)), n_subsets=2), 5)
    # where views decay unlike in another frame, iterations take other ways to the same end
    np.testing.assert_allclose(images[1:], images[:1].repeat(2, 0), rtol=5e-3 if name == "SPECT" else 1e-7)
    np.testing.assert_allclose(
        em_step(np.stack([truth] * 3), PoissonLikelihood(scan.counts, scan.model(A))), [truth] * 3
    )
    uncorrected = scan.model(A, decay=False)
    mean = run(mlem(PoissonLikelihood(scan.counts, uncorrected)), 20).sum((1, 2, 3))
    assert mean[2] < 0.8 * mean[0]


# ---- batches --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-10), ("float32", 1e-5)])
@pytest.mark.parametrize("name", SYSTEMS)
def test_twenty_frames_in_one_call_equal_frame_by_frame(name, dtype, tolerance):
    A = SYSTEMS[name]
    scan = noisy(A, dtype)
    together = run(osem(PoissonLikelihood(scan.counts, scan.model(A)), n_subsets=3), 3)
    assert together.shape == (20, *A.in_shape)
    assert together.dtype == dtype
    for i, frame in enumerate(scan):
        alone = run(osem(PoissonLikelihood(frame, frame.model(A)), n_subsets=3), 3)
        assert alone.shape == A.in_shape
        np.testing.assert_allclose(together[i], alone, rtol=tolerance, atol=tolerance * alone.max())


@pytest.mark.parametrize("name", SYSTEMS)
def test_subsets_of_views_are_those_of_the_model(name):
    A = SYSTEMS[name]
    scan = noisy(A)
    x = np.random.default_rng(2).uniform(size=(20, *A.in_shape))
    for k in range(3):
        part = scan.subset(k, 3)
        np.testing.assert_allclose(part.model(A.subset(k, 3))(x), scan.model(A).subset(k, 3)(x), rtol=1e-12)
        np.testing.assert_array_equal(part.counts, scan.counts[:, k::3])
        np.testing.assert_array_equal(part[4].counts, scan.frame(4).subset(k, 3).counts)


def test_tensors_follow_and_carry_gradients():
    A = SYSTEMS["SPECT"]
    scan = noisy(A)
    norm = torch.tensor(scan.factors, requires_grad=True)
    own = DynamicScan(torch.tensor(scan.counts), scan.geometry, TWENTY, factors=norm, radionuclide="C-11")
    likelihood = PoissonLikelihood(own.counts, own.model(A))
    assert isinstance(run(mlem(likelihood), 1), torch.Tensor)
    x = torch.ones((20, *A.in_shape), dtype=torch.float64)
    likelihood.value(x).sum().backward()
    assert norm.grad.shape == A.out_shape
    plain = DynamicScan(scan.counts, scan.geometry, TWENTY, factors=scan.factors, radionuclide="C-11")
    np.testing.assert_allclose(own.model(A)(x).detach().numpy(), plain.model(A)(x.numpy()), rtol=1e-12)
    np.testing.assert_allclose(own.summed(3, 9).counts.numpy(), scan.counts[3:9].sum(0))


def test_an_operator_on_the_images_goes_in_front():
    A, blur = SYSTEMS["SPECT"], GaussianBlur(THIN, 6.0)
    scan, x = noisy(A), np.random.default_rng(3).uniform(size=(20, *THIN.shape))
    np.testing.assert_allclose(scan.model(A @ blur)(x), scan.model(A)(blur(x)), rtol=1e-12)


# ---- sums, slices, schedules ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", ["number", "bins", "one", "frames"])
def test_sums_of_frames(parts):
    A, rng = SYSTEMS["PET"], np.random.default_rng(5)
    shape = {"number": (), "bins": A.out_shape, "one": (1, *A.out_shape), "frames": (20, *A.out_shape)}[parts]
    values = {name: rng.uniform(0.5, 1, shape) if shape else 0.7 for name in ("background", "factors")}
    scan = noisy(A, **values)
    x = rng.uniform(size=A.in_shape)
    for first, last in ((0, None), (3, 9), (-2, None), (4, 5)):
        frames = list(scan)[first:last]
        total = scan.summed(first, last)
        np.testing.assert_allclose(total.counts, sum(frame.counts for frame in frames), rtol=1e-12)
        np.testing.assert_allclose(total.model(A)(x), sum(frame.model(A)(x) for frame in frames), rtol=1e-12)
        assert total.duration == pytest.approx(TWENTY.durations[first:last].sum())
        assert total.radionuclide == "C-11"
    whole, part = scan.model(A)(np.stack([x] * 20)), scan[3:9].model(A)(np.stack([x] * 6))
    np.testing.assert_allclose(part, whole[3:9], rtol=1e-12)
    assert scan[3:9].frames == TWENTY[3:9]
    np.testing.assert_allclose(scan[-1].model(A)(x), whole[-1], rtol=1e-12)
    for wrong in (20, -21):
        with pytest.raises(IndexError, match="no part"):
            scan[wrong]
    with pytest.raises(ValueError, match="selects none of the"):
        scan.summed(5, 5)


def test_what_views_of_a_camera_share_of_the_frame():
    heads = SPECTGeometry(np.arange(0, 360, 60), 100, (5, 3), 4.0, head=[0, 0, 0, 1, 1, 1])
    scan = DynamicScan(np.ones((2, *heads.shape)), heads, Frames.parse("2x30"), radionuclide="O-15")
    np.testing.assert_allclose(scan.seconds, 10)
    assert scan.frame(0).duration == pytest.approx(10)
    k = np.log(2) / isotope("O-15").half_life
    expected = [quad(lambda s: np.exp(-k * s), a, a + 10)[0] / 10 for a in (0, 10, 20, 0, 10, 20)]
    np.testing.assert_allclose(scan.decay[0], expected)
    still = DynamicScan(scan.counts, heads, scan.frames, schedule=all_views_at_once(heads))
    np.testing.assert_array_equal(still.seconds, [[30], [30]])
    np.testing.assert_array_equal(still.decay, 1)
    there = scan.schedule[0]
    and_back = DynamicScan(scan.counts, heads, scan.frames, radionuclide="O-15", schedule=[there, 1 - there[:, ::-1]])
    np.testing.assert_allclose(and_back[1:].decay[0, ::3], and_back.decay[1, 2::3] * np.exp(-20 * k))
    np.testing.assert_array_equal(and_back.subset(0, 2).decay, and_back.decay[:, ::2])


def test_dynamic_scans_that_cannot_be():
    A = SYSTEMS["PET"]
    good = {"counts": np.ones((2, *A.out_shape)), "geometry": A.sinogram, "frames": Frames.parse("2x10")}
    cases = [
        ({"counts": np.ones((3, *A.out_shape))}, ValueError, "counts must have shape"),
        ({"counts": np.ones(A.out_shape)}, ValueError, "counts must have shape"),
        ({"counts": -good["counts"]}, ValueError, "negative"),
        ({"counts": [1]}, TypeError, "DynamicScan counts expects an array"),
        ({"frames": [10, 10]}, TypeError, "must be Frames"),
        ({"background": np.ones((3, *A.out_shape))}, ValueError, "does not broadcast"),
        ({"factors": -1.0}, ValueError, "not negative"),
        ({"radionuclide": "Xx-1"}, ValueError, "unknown radionuclide"),
        ({"energy_window": (500, 400)}, ValueError, "energy_window"),
        ({"reference": np.inf}, ValueError, "reference must be finite"),
        ({"schedule": np.ones((3, 2))}, ValueError, "schedule of shape"),
        ({"schedule": all_views_at_once(A.sinogram)[:, ::-1]}, ValueError, "0 <= begin < end"),
    ]
    for changes, error, message in cases:
        with pytest.raises(error, match=message):
            DynamicScan(**{**good, **changes})
    assert pickle.loads(pickle.dumps(DynamicScan(**good))).frames == good["frames"]


# ---- gates ----------------------------------------------------------------------------------------------------------


def brute_phase(time, triggers, n, low, high):
    for a, b in pairwise(triggers):
        if a <= time < b:
            return int((time - a) / (b - a) * n) if low <= b - a <= high else -1
    return -1


def test_phase_gates_against_brute_force():
    rng = np.random.default_rng(7)
    triggers = np.cumsum(rng.choice([0.4, 0.8, 0.9, 1.0, 1.7], 60)) + 3.0
    times = np.sort(rng.uniform(0, triggers[-1] + 3, 4000))
    gates = Gates.phase(triggers, 8, window=(0.7, 1.2))
    expected = [brute_phase(t, triggers, 8, 0.7, 1.2) for t in times]
    np.testing.assert_array_equal(gates.index_of(times), expected)
    beats = np.diff(triggers)
    np.testing.assert_allclose(gates.durations, beats[(beats > 0.7) & (beats < 1.2)].sum() / 8)
    np.testing.assert_allclose(Gates.phase(triggers, 5).durations.sum(), triggers[-1] - triggers[0])
    part = gates.between(10.0, 20.0)
    fine = np.arange(10, 20, 1e-3)
    counted = np.bincount(gates.index_of(fine) + 1, minlength=9)[1:] * 1e-3
    np.testing.assert_allclose(part.durations, counted, atol=0.02)
    inside = (times >= 10) & (times < 20)
    np.testing.assert_array_equal(part.index_of(times), np.where(inside, expected, -1))


def test_amplitude_gates_take_equal_times():
    times = np.linspace(0, 100, 5001)
    trace = np.sin(2 * np.pi * times / 4.1) + 0.01 * np.random.default_rng(0).normal(size=times.size)
    gates = Gates.amplitude(times, trace, 5)
    np.testing.assert_allclose(gates.durations, 20, rtol=2e-3)
    assert not gates.cyclic
    levels = np.quantile(trace, np.linspace(0, 1, 6))
    expected = np.clip(np.searchsorted(levels, trace) - 1, 0, 4)
    assert np.mean(gates.index_of(times) == expected) > 0.998
    kept = Gates.amplitude(times, trace, 2, accepted=(0.1, 0.5))
    np.testing.assert_allclose(kept.durations, 20, rtol=5e-3)
    index = kept.index_of(times)
    assert trace[index == 0].max() <= trace[index == 1].min()
    assert trace[index == 1].max() < np.quantile(trace, 0.502)
    assert index[trace < np.quantile(trace, 0.098)].max() == -1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Gates.phase([1.0], 4), "two triggers or more"),
        (lambda: Gates.phase([1.0, 3, 2], 4), "rising order"),
        (lambda: Gates.phase([0, 800, 1600], 4, (0.5, 1.5)), "none within 0.5 to 1.5 s; are they in milliseconds"),
        (lambda: Gates.phase([0, 1], 0), "n_gates must be a positive whole number"),
        (lambda: Gates.amplitude([0, 1], [1, 2, 3], 2), "as many amplitudes"),
        (lambda: Gates.amplitude([0, 1, 2], [1, 2, 3], 2, (0.5, 0.2)), "quantiles"),
        (lambda: Gates.amplitude(np.arange(9), np.ones(9), 3), "too few different amplitudes"),
        (lambda: Gates([0, 2, 1], np.array([0, 0]), 1), "edges that never fall"),
        (lambda: Gates([0, 1, 2], np.array([0, 3]), 2), "-1 to 1, got 0 to 3"),
    ],
)
def test_gates_that_cannot_be(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_gated_scans_are_one_batch():
    A, rng = SYSTEMS["SPECT"], np.random.default_rng(0)
    durations = rng.uniform(2, 5, (8, A.out_shape[0]))
    truth = rng.uniform(0.5, 2, (8, *A.in_shape))
    counts = rng.poisson(20 * durations[..., None, None] * A(truth) + 0.1).astype(float)
    scan = GatedScan(counts, A.geometry, durations, factors=20.0, background=0.1)
    together = run(osem(PoissonLikelihood(scan.counts, scan.model(A)), n_subsets=2), 3)
    for i in range(8):
        gate = scan.gate(i)
        alone = run(osem(PoissonLikelihood(gate, gate.model(A)), n_subsets=2), 3)
        np.testing.assert_allclose(together[i], alone, rtol=1e-10)
    assert (scan.n_gates, scan.cyclic, scan[:].cyclic, scan[2:5].cyclic) == (8, True, True, False)
    assert scan.gate(0).duration is None
    np.testing.assert_array_equal(scan.subset(1, 3)[2:5].durations, durations[2:5, 1::3])
    np.testing.assert_allclose(scan.summed().model(A)(truth[0]), scan.model(A)(truth[[0] * 8]).sum(0))
    plain = GatedScan(counts, A.geometry, durations[:, 0])
    assert plain.gate(-1).duration == durations[-1, 0]
    assert len(plain.subset(0, 2)) == 8
    for wrong, message in (
        (durations * [[0.0]] * 6, "positive seconds, got 0 in gate 0"),
        (durations[:, :4], "6 views"),
        (1.0, "gates"),
    ):
        with pytest.raises(ValueError, match=message):
            GatedScan(counts, A.geometry, wrong)


# ---- events ---------------------------------------------------------------------------------------------------------


def timed_events(sinogram, n=5000, end=400.0):
    rng = np.random.default_rng(4)
    events = events_of_every_bin(sinogram)
    return events[rng.integers(0, len(events), n)], np.sort(rng.uniform(-5, end, n))


@pytest.mark.parametrize("tof", [None, TOF])
def test_events_become_frames_and_gates(tof):
    sinogram = PETSinogram(SCANNER, tof=tof)
    events, times = timed_events(sinogram)
    frames = Frames([0, 20, 100], [20, 50, 250])
    scan = DynamicScan.from_events(sinogram, events, times, frames, radionuclide="F-18")
    expected = np.zeros((3, *sinogram.shape))
    for bins, time in zip(sinogram.bins_of(events), times):
        for f, (a, b) in enumerate(zip(frames.starts, frames.ends)):
            if a <= time < b:
                expected[(f, *bins)] += 1
    np.testing.assert_array_equal(scan.counts, expected)
    gates = Gates.phase(np.arange(0, 350, 0.9), 4).between(0, 350)
    gated = GatedScan.from_events(sinogram, events, times, gates)
    for g, own in enumerate(split_events(events, gates.index_of(times), 4)):
        np.testing.assert_array_equal(gated.counts[g], histogram_events(sinogram, own, np.zeros(len(own), int), 1)[0])
    np.testing.assert_allclose(gated.durations.sum(), np.arange(0, 350, 0.9)[-1])
    if tof:
        summed_bins = histogram_events(sinogram.without_tof(), events, frames.index_of(times), 3)
        np.testing.assert_array_equal(summed_bins, scan.counts.sum(3))


def test_events_in_chunks_and_events_that_do_not_fit():
    sinogram = PETSinogram(SCANNER)
    events, times = timed_events(sinogram)
    index = TWENTY.index_of(times)
    whole, parts = histogram_events(sinogram, events, index, 20), np.zeros((20, *sinogram.shape), np.float32)
    for some in np.array_split(np.arange(len(events)), 7):
        assert histogram_events(sinogram, events[some], index[some], 20, parts) is parts
    np.testing.assert_array_equal(parts, whole)
    assert whole.sum() == (index >= 0).sum()
    with pytest.raises(ValueError, match="5000 events and 3 times"):
        histogram_events(sinogram, events, index[:3], 20)
    with pytest.raises(ValueError, match="must be less than 4"):
        histogram_events(sinogram, events, index, 4)
    with pytest.raises(ValueError, match="must be a contiguous array"):
        histogram_events(sinogram, events, index, 20, parts[..., ::2])


def test_likelihoods_of_events_equal_those_of_the_frames():
    sinogram, rng = PETSinogram(SCANNER, tof=TOF), np.random.default_rng(0)
    A = PETProjector(GRID, sinogram)
    frames = Frames.parse("2x30,2x100")
    norm, randoms = rng.uniform(0.5, 1.5, A.out_shape), 0.1
    events, times = timed_events(sinogram, 2000, 260.0)
    scan = DynamicScan.from_events(
        sinogram, events, times, frames, factors=norm, background=randoms, radionuclide="C-11"
    )
    images = run(mlem(PoissonLikelihood(scan.counts.astype(float), scan.model(A))), 4)
    weights = frames.durations * decay_factors(frames, "C-11")
    for f, own in enumerate(split_events(events, frames.index_of(times), len(frames))):
        lines = ListmodeProjector(GRID, SCANNER, own, tof=TOF)
        factors = weights[f] * norm[tuple(sinogram.bins_of(own).T)]
        listed = ListmodeLikelihood(AcquisitionModel(lines, factors, randoms), A.T(weights[f] * norm))
        np.testing.assert_allclose(run(mlem(listed, np.ones(GRID.shape)), 4), images[f], rtol=1e-9)
