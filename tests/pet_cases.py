"""Small PET systems that between them use every branch of the projectors."""

import numpy as np

from emrecon.projectors import (
    AcquisitionModel,
    EquallySpacedLines,
    ImageGrid,
    ListmodeProjector,
    PETProjector,
    PETScanner,
    PETSinogram,
    TimeOfFlight,
)
from emrecon.recon import ListmodeLikelihood, PoissonLikelihood

SCANNER = PETScanner.polygon(
    sides=6,
    crystals_per_side=4,
    virtual_crystals=1,
    radius=60,
    depth=3,
    rings=3,
    ring_pitch=5,
    ring_block=2,
    block_gap=1.5,
)
ONE_RING = PETScanner.polygon(sides=6, crystals_per_side=4, radius=60, rings=1, ring_pitch=5)
TOF = TimeOfFlight(7, 20.0, 45.0)
GRID = ImageGrid((7, 6, 5), (8.0, 7.0, 4.0), (-25, -15, -9))
FLAT = ImageGrid((7, 6, 1), (8.0, 7.0, 4.0))

SINOGRAMS = {
    "span 1": (GRID, PETSinogram(SCANNER)),
    "span 3": (GRID, PETSinogram(SCANNER, span=3)),
    "mashed, trimmed": (GRID, PETSinogram(SCANNER, mashing=2, n_radial=14, max_ring_difference=1)),
    "TOF": (GRID, PETSinogram(SCANNER, tof=TOF)),
    "arc corrected": (GRID, PETSinogram(SCANNER, n_radial=11, lines=EquallySpacedLines(9, 6.5))),
    "flat": (FLAT, PETSinogram(ONE_RING)),
    "flat TOF": (FLAT, PETSinogram(ONE_RING, tof=TOF)),
}
OF_CRYSTALS = [case for case, (_, sinogram) in SINOGRAMS.items() if sinogram.lines is None]
"""The cases whose bins are crystal pairs."""


def projector(case):
    """The PET projector of one of `SINOGRAMS`."""
    return PETProjector(*SINOGRAMS[case])


def events_of_every_bin(sinogram):
    """One event for every bin of a sinogram without compression, (bins, 2 or 3) in the order of the flat data."""
    index = np.indices(sinogram.shape).reshape(len(sinogram.shape), -1)
    rings = np.array([pairs[0] for pairs in sinogram.ring_pairs])[index[-1]]
    crystals = sinogram.crystal_pairs[index[0], 0, index[1]]
    columns = list((rings * sinogram.scanner.n_crystals + crystals).T)
    return np.stack(columns + ([index[2]] if sinogram.tof else []), 1)


def listmode(timed, n=200, seed=0):
    """A list-mode projector for some random events."""
    sinogram = PETSinogram(SCANNER, tof=TOF if timed else None)
    events = events_of_every_bin(sinogram)
    chosen = np.random.default_rng(seed).integers(0, len(events), n)
    return ListmodeProjector(GRID, SCANNER, events[chosen], tof=sinogram.tof)


def likelihoods_of_one_scan(timed, seed=0):
    """(sinogram likelihood, list-mode likelihood, events, sinogram) of the same counts."""
    sinogram, rng = PETSinogram(SCANNER, tof=TOF if timed else None), np.random.default_rng(seed)
    A = PETProjector(GRID, sinogram)
    factors = rng.uniform(0.5, 1.5, A.out_shape)
    randoms = rng.uniform(0.1, 0.3, A.out_shape)
    model = AcquisitionModel(A, factors, randoms)
    counts = rng.poisson(model(rng.uniform(0, 0.1, GRID.shape)))
    bins = np.repeat(np.arange(counts.size), counts.ravel())
    events = events_of_every_bin(sinogram)[bins]
    own = AcquisitionModel(
        ListmodeProjector(GRID, SCANNER, events, tof=sinogram.tof), factors.ravel()[bins], randoms.ravel()[bins]
    )
    binned = PoissonLikelihood(counts.astype(float), model)
    return binned, ListmodeLikelihood(own, A.T(factors)), events, sinogram
