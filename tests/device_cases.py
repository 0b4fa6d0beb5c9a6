"""Every public operation that runs on a CUDA device, small, as functions of how arrays are put into a library."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import islice
from typing import Any

import numpy as np
from pet_cases import GRID, SINOGRAMS, likelihoods_of_one_scan, listmode
from pet_cases import projector as pet_projector
from spect_cases import OPTIONS, SHAPES
from spect_cases import projector as spect_projector

from emrecon import recon
from emrecon.projectors import (
    AcquisitionModel,
    ArcCorrection,
    BedProjector,
    DenseOperator,
    Diagonal,
    EffectiveSource,
    EnergyWindow,
    GaussianBlur,
    ImageGrid,
    LinearOperator,
    LinearResponse,
    MeasuredBlur,
    ParallelBeamGeometry,
    ParallelBeamProjector,
    Resampling,
    SingleSliceRebinning,
    SPECTGeometry,
    SPECTProjector,
    SPECTScatterProjector,
    attenuation_factors,
    dual_energy_window,
    resample,
    smooth_projections,
    triple_energy_window,
)
from emrecon.recon import PoissonLikelihood
from emrecon.sims import poisson, thin

Move = Callable[[Any], Any]
"""Puts a NumPy array into a library."""

Case = Callable[[Move], Any]
"""Works something out with arrays of a library; returns an array, or several."""

SHAPE = (7, 6, 3)
IMAGE = np.random.default_rng(1).uniform(0.1, 2, SHAPE)
GUIDE = np.random.default_rng(2).uniform(0, 5, SHAPE)


def both_ways(make: Callable[[], LinearOperator], batch: tuple[int, ...] = (2,)) -> Case:
    """An operator, made when it is asked for, and its transpose, on images and data in float32."""

    def run(move: Move) -> Any:
        operator, rng = make(), np.random.default_rng(0)
        x, y = (rng.random((*batch, *s)).astype(np.float32) for s in (operator.in_shape, operator.out_shape))
        return operator(move(x)), operator.T(move(y))

    return run


def operators() -> dict[str, Case]:
    """Projectors, blurs, resampling and what is made of them."""
    grid, finer = ImageGrid(SHAPE, 4.0), ImageGrid((5, 8, 4), (5.0, 3.0, 3.0))
    beams = ParallelBeamGeometry.equally_spaced(5, 9, 4.0, 3)
    camera, response = SPECTGeometry.circular(4, 60, (9, 3), 4.0), LinearResponse(0.03, 3.0)
    taps = np.outer(np.hanning(7), np.hanning(5))[..., None] * np.hanning(5)
    varying = [(GUIDE / 5, taps), (1 - GUIDE / 5, taps**2)]
    source = EffectiveSource((126.0, 154.0), n_photons=2000, highest_order=1, degree=3)
    matrix = np.random.default_rng(0).random((4, 126))

    def rays(**options: Any) -> ParallelBeamProjector:
        return ParallelBeamProjector(grid, beams, **options)

    def spect(shape: str, option: str, attenuation: str = "shared") -> Callable[[], LinearOperator]:
        return lambda: spect_projector(shape, option, attenuation)

    def beds() -> LinearOperator:
        one = spect_projector("thin", "gaussian", "none")
        return BedProjector((7, 6, 5), [one, one], [0, 2])

    def scatter() -> LinearOperator:
        return SPECTScatterProjector(SPECTProjector(grid, camera, np.full(SHAPE, 0.1), response), source, spacing=8.0)

    def kernel() -> recon.KernelOperator:
        return recon.kernel_matrix(GUIDE, grid, n_neighbours=5, window=3)

    shapes = [(shape, option) for shape in SHAPES for option in OPTIONS if option != "direct" or shape == "planar"]
    return {
        **{f"SPECT {shape}, {option}": both_ways(spect(shape, option)) for shape, option in shapes},
        **{f"SPECT {option}, mu per item": both_ways(spect("thin", option, "per item"), (3,)) for option in OPTIONS},
        "SPECT one image": both_ways(spect("deep", "gaussian"), ()),
        "SPECT beds": both_ways(beds),
        "SPECT scatter": both_ways(scatter, ()),
        **{f"PET {case}": both_ways(lambda case=case: pet_projector(case)) for case in SINOGRAMS},
        "PET events": both_ways(lambda: listmode(False)),
        "PET events with TOF": both_ways(lambda: listmode(True)),
        "PET no events": both_ways(lambda: listmode(False, 0)),
        "PET rebinning": both_ways(lambda: SingleSliceRebinning(SINOGRAMS["span 3"][1])),
        "PET arc correction": both_ways(lambda: ArcCorrection(SINOGRAMS["span 1"][1])),
        "parallel beams": both_ways(rays),
        "parallel beams, splat": both_ways(lambda: rays(sampling="splat"), (3,)),
        "parallel beams, subset": both_ways(lambda: rays().subset(1, 2)),
        "Gaussian blur": both_ways(lambda: GaussianBlur(grid, (6.0, 5.0, 7.0))),
        "Gaussian blur, empty ends": both_ways(lambda: GaussianBlur(grid, 6.0, ends="empty")),
        "measured blur": both_ways(lambda: MeasuredBlur(grid, taps)),
        "measured blur that varies": both_ways(lambda: MeasuredBlur(grid, varying, ends="empty")),
        "projection after a blur": both_ways(lambda: rays() @ GaussianBlur(grid, 6.0)),
        "resampling": both_ways(lambda: Resampling(grid, finer)),
        "filtered back projection": both_ways(lambda: recon.FilteredBackprojection(grid, beams)),
        "kernel": both_ways(kernel),
        "kernel of frames": both_ways(
            lambda: recon.SpatioTemporalKernel(recon.temporal_kernel(np.arange(3.0), 1.0), kernel()), ()
        ),
        "HYPR kernel": both_ways(lambda: recon.hypr_kernel(IMAGE, GaussianBlur(grid, 6.0))),
        "image gradient": both_ways(lambda: recon.ImageGradient(SHAPE)),
        "directional gradient": both_ways(lambda: recon.DirectionalGradient(recon.DirectionalTotalVariation(GUIDE))),
        "matrix": both_ways(lambda: DenseOperator(matrix, SHAPE, (4,))),
        "diagonal": both_ways(lambda: Diagonal(GUIDE)),
    }


# ---- priors --------------------------------------------------------------------------------------------------------


def smooth(prior: Any) -> Case:
    """Everything that a smooth prior gives, for a batch."""

    def run(move: Move) -> Any:
        x = move(np.stack([IMAGE, 2 * IMAGE[::-1]]))
        v = move(np.stack([GUIDE, IMAGE]))
        found = [prior.gradient(x)]
        for name, args in (
            ("value", (x,)),
            ("hessian_vector", (x, v)),
            ("hessian_diagonal", (x,)),
            ("curvature", (x,)),
        ):
            try:
                found.append(getattr(prior, name)(*args))
            except NotImplementedError:
                continue
        return found

    return run


def proximal(prior: Any) -> Case:
    """The value and the proximal map of a prior."""

    def run(move: Move) -> Any:
        x = move(np.stack([IMAGE, 2 * IMAGE[::-1]]))
        return prior.value(x), prior.prox(x, 0.2)

    return run


def priors() -> dict[str, Case]:
    """Smooth priors and those with a proximal map."""
    pairs = {
        "quadratic": recon.Quadratic(),
        "log cosh": recon.LogCosh(0.5),
        "Huber": recon.Huber(0.5, neighbours=6),
        "hyperbolic": recon.Hyperbolic(0.5, anatomy=recon.Similarity(GUIDE, 1.0)),
        "relative difference": recon.RelativeDifference(2.0, epsilon=0.02, kappa=GUIDE),
        "Bowsher": recon.bowsher(GUIDE, 4),
        "Bowsher, symmetric": recon.bowsher(GUIDE, 4, symmetric=True),
        "smoothed total variation": recon.SmoothedTotalVariation(0.1),
        "smoothed directional total variation": recon.SmoothedDirectionalTotalVariation(GUIDE, 0.1),
        "parallel level sets": recon.ParallelLevelSets(GUIDE, 0.1),
        "patches": recon.NonLocal(delta=0.5, window=3),
        "patches with a guide": recon.NonLocal(potential="quadratic", guide=GUIDE, width=1.0, window=3),
        "median root": recon.MedianRoot(),
    }
    flat = {
        "total variation": recon.TotalVariation(max_iterations=20),
        "total variation, by axes": recon.TotalVariation(isotropic=False, nonnegative=True, max_iterations=20),
        "directional total variation": recon.DirectionalTotalVariation(GUIDE, max_iterations=20),
    }
    found = {name: smooth(prior) for name, prior in pairs.items()}
    found["sum of priors"] = smooth(2.0 * pairs["quadratic"] + 0.5 * pairs["log cosh"])
    found["median root, held"] = lambda move: recon.MedianRoot().at(move(IMAGE)).gradient(move(IMAGE))
    return found | {name: proximal(prior) for name, prior in flat.items()}


# ---- engines -------------------------------------------------------------------------------------------------------


@cache
def scanner() -> SPECTProjector:
    """The camera that the engines meet."""
    return spect_projector("thin", "gaussian")


def scan_of(A: Any, move: Move, scale: float = 2.0, background: float = 0.5) -> PoissonLikelihood:
    """A likelihood whose counts are in the library of `move`."""
    rng = np.random.default_rng(0)
    model = AcquisitionModel(A, scale, background)
    counts = rng.poisson(model(rng.uniform(0.5, 5, A.in_shape))).astype(float)
    return PoissonLikelihood(move(counts), model)


def scan_with_a_stray_count(n: float) -> PoissonLikelihood:
    """A likelihood without background, and n counts in a bin that no voxel is seen by."""
    A = ParallelBeamProjector(ImageGrid(SHAPE, 4.0), ParallelBeamGeometry.equally_spaced(6, 21, 4.0, 3))
    counts = np.random.default_rng(0).poisson(A(IMAGE)).astype(float)
    counts[0, 0, 0] = n
    return PoissonLikelihood(counts, AcquisitionModel(A))


PRIOR = 0.3 * recon.RelativeDifference(2.0, epsilon=0.02)
ENGINES: dict[str, Callable[[Any], Any]] = {
    "mlem": lambda f: recon.mlem(f),
    "osem": lambda f: recon.osem(f, None, 3, order=recon.herman_meyer),
    "osl": lambda f: recon.osl(f, PRIOR, None, 2),
    "map_em": lambda f: recon.map_em(f, PRIOR),
    "bsrem": lambda f: recon.bsrem(f, PRIOR, None, 3, step=recon.Relaxation(1.0, 0.3)),
    "svrg": lambda f: recon.svrg(f, PRIOR, None, 3),
    "svrg, steps found": lambda f: recon.svrg(f, PRIOR, None, 3, step=recon.BarzilaiBorwein()),
    "svrg, trained steps": lambda f: recon.svrg(f, PRIOR, None, 3, preconditioner=recon.trained_steps()),
    "saga": lambda f: recon.saga(f, PRIOR, None, 3, step=recon.Constant(0.4)),
    "lbfgsb": lambda f: recon.lbfgsb(f, PRIOR, None, memory=4),
    "lbfgsb of SciPy": lambda f: [(0, recon.lbfgsb_scipy(f, PRIOR, None, n_iterations=5))],
    "pdhg": lambda f: recon.pdhg(f, recon.TotalVariation(nonnegative=True)),
    "spdhg": lambda f: recon.spdhg(f, recon.TotalVariation(nonnegative=True), None, 3),
}


def last(iterates: Any, n: int) -> Any:
    """The image after n passes."""
    *_, final = islice(iterates, n)
    return final[1]


def engines() -> dict[str, Case]:
    """Engines of reconstruction, each for a few passes."""
    found: dict[str, Case] = {
        name: lambda move, engine=engine: last(engine(scan_of(scanner(), move)), 4) for name, engine in ENGINES.items()
    }

    def listed(move: Move, timed: bool) -> Any:
        _, likelihood, _, _ = likelihoods_of_one_scan(timed)
        return last(recon.osem(likelihood.converted(move), None, 2), 3)

    def of_sinogram(move: Move) -> Any:
        likelihood, _, _, _ = likelihoods_of_one_scan(True)
        return last(recon.osem(likelihood.converted(move), None, 3), 3)

    def kernel_em(move: Move) -> Any:
        kernel = recon.kernel_matrix(GUIDE, n_neighbours=5, window=3)
        return last(recon.kem(scan_of(scanner(), move), kernel, None, 3), 3)

    def transmission(move: Move) -> Any:
        rays = ParallelBeamProjector(ImageGrid(SHAPE, 4.0), ParallelBeamGeometry.equally_spaced(5, 9, 4.0, 3))
        counts = np.random.default_rng(0).poisson(50.0 * np.exp(-rays(0.02 * IMAGE))).astype(float)
        f = recon.TransmissionLikelihood(move(counts), 50.0, rays, 0.5)
        return last(recon.ostr(f, None, 2, penalty=recon.Quadratic()), 3)

    def gaussian(move: Move) -> Any:
        model = AcquisitionModel(scanner(), 2.0, 0.5)
        y = model(IMAGE) + 0.1
        return last(recon.svrg(recon.GaussianLikelihood(move(y), model, move(0.5 + 0 * y)), PRIOR, None, 3), 3)

    def batch(move: Move) -> Any:
        f = scan_of(scanner(), lambda y: y)
        both = PoissonLikelihood(move(np.stack([f.data, 3 * f.data])), f.model)
        return last(recon.osem(both, None, 3), 3)

    def lost(move: Move) -> Any:
        f = scan_with_a_stray_count(1.0)
        return last(recon.osem(f.converted(move), None, 2), 3)

    return found | {
        "osem of events": lambda move: listed(move, False),
        "osem of events with TOF": lambda move: listed(move, True),
        "osem of a sinogram with TOF": of_sinogram,
        "osem of a batch": batch,
        "osem with counts nobody expects": lost,
        "kernel EM": kernel_em,
        "transmission": transmission,
        "least squares": gaussian,
    }


# ---- the rest ------------------------------------------------------------------------------------------------------


def measures() -> dict[str, Case]:
    """Likelihoods, metrics, observers, uncertainty, noise and corrections."""
    grid = ImageGrid(SHAPE, 4.0)
    other = IMAGE * np.random.default_rng(5).uniform(0.9, 1.1, SHAPE)
    inside, outside = (GUIDE > 3).astype(float), (GUIDE < 1).astype(float)
    noisy = np.random.default_rng(6).normal(1, 0.1, (24, 8, 8))

    def likelihood(move: Move) -> Any:
        f = scan_of(scanner(), move)
        x, v = move(IMAGE), move(GUIDE)
        return f.value(x), *f.value_and_gradient(x), f.hessian_vector(x, v), f.information(x), f.ones_image()

    def events(move: Move) -> Any:
        f = likelihoods_of_one_scan(True)[1].converted(move)
        x = move(np.full(GRID.shape, 0.05))
        return f.value(x), *f.value_and_gradient(x), f.hessian_vector(x, x), f.information(x)

    def observer(move: Move) -> Any:
        made = recon.ChannelisedHotelling(recon.laguerre_gauss_channels((8, 8), 2.0, 3))
        made = made.fit(move(noisy[:12]), move(noisy[12:] + 0.1))
        return made.scores(move(noisy)), recon.channel_outputs(
            move(noisy), recon.laguerre_gauss_channels((8, 8), 2.0, 3)
        )

    def ensemble(move: Move) -> Any:
        found = recon.ensemble_statistics(move(np.stack([IMAGE, other])), move(IMAGE))
        return [value for value in vars(found).values() if hasattr(value, "shape")]

    window, low = EnergyWindow(126.0, 154.0), EnergyWindow(110.0, 126.0)
    counts = np.random.default_rng(7).poisson(20.0, (4, 9, 3)).astype(float)
    return {
        "Poisson likelihood": likelihood,
        "likelihood of events": events,
        "observer": observer,
        "nrmse": lambda move: [recon.nrmse(move(other), move(IMAGE), denominator=d) for d in ("norm", "range", "mean")],
        "psnr": lambda move: recon.psnr(move(other), move(IMAGE)),
        "ssim": lambda move: recon.ssim(move(other), move(IMAGE)),
        "nrmse in a mask": lambda move: recon.nrmse(move(other), move(IMAGE), move(inside > 0)),
        "contrast to noise": lambda move: recon.contrast_to_noise(move(IMAGE), move(inside), move(outside)),
        "coefficient of variation": lambda move: recon.coefficient_of_variation(move(IMAGE), move(inside)),
        "recovery": lambda move: recon.recovery_coefficient(move(IMAGE), move(inside), 2.0),
        "ensemble": ensemble,
        "attenuation factors": lambda move: attenuation_factors(
            pet_projector("span 1"), move(np.full(GRID.shape, 0.01))
        ),
        "resampled": lambda move: resample(move(IMAGE), grid, ImageGrid((5, 8, 4), (5.0, 3.0, 3.0))),
        "smoothed projections": lambda move: smooth_projections(move(counts), 6.0, 4.0),
        "dual energy window": lambda move: dual_energy_window(window, (low, move(counts)), 0.5),
        "triple energy window": lambda move: triple_energy_window(window, (low, move(counts))),
        "fused": lambda move: recon.em_fuse(move(IMAGE), move(other), move(GUIDE + 1), 0.5),
        "Poisson counts": lambda move: poisson(move(IMAGE), 3),
        "Poisson counts of a total": lambda move: poisson(move(IMAGE), 3, 1e4),
        "thinned": lambda move: thin(move(counts), 0.5, 3),
        "bootstrap": lambda move: recon.bootstrap_counts(move(counts), 3, seed=2),
        "filtered back projection at once": lambda move: recon.fbp(
            move(counts), ParallelBeamGeometry.equally_spaced(4, 9, 4.0, 3), grid, "hann"
        ),
        "point response": lambda move: recon.local_point_response(
            scan_of(scanner(), move), PRIOR, move(IMAGE), (3, 3, 1)
        ),
        "standard deviation": lambda move: recon.standard_deviation_map(
            scan_of(scanner(), move), PRIOR, move(IMAGE), tolerance=0.2
        ),
        "iterated estimate": lambda move: recon.IteratedEstimate(scan_of(scanner(), move), None, 3, 2).image,
    }


BATTERY: dict[str, Callable[[], dict[str, Case]]] = {
    "operators": operators,
    "priors": priors,
    "engines": engines,
    "measures": measures,
}
