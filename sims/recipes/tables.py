"""The tables of a recipe, typed: grid, scanner, counts, outputs, and what the whole describes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import Field as Limit
from pydantic import model_serializer

from .recipe_file import Table
from .varied_bodies import PhantomTable

Positive = Annotated[float, Limit(gt=0)]
Fraction = Annotated[float, Limit(ge=0, lt=1)]
Count = Annotated[int, Limit(ge=1, le=10**9)]
Whole = Annotated[int, Limit(ge=0)]
Total = Annotated[float, Limit(gt=0, le=1e12)]
FractionRange = Fraction | tuple[Fraction, Fraction]

OUTPUTS = {
    "counts": "measured counts, one array for each level",
    "expected": "expected counts of level 1, trues + scatter + randoms",
    "background": "expected scatter and randoms that a reconstruction is given",
    "scatter": "expected scatter of level 1, exact",
    "randoms": "expected randoms of level 1, exact; of SPECT the counts from the room",
    "factors": "calibration, time, decay, attenuation and efficiencies that a reconstruction is given",
    "truth": "mean activity concentration of every voxel at the start of the scan",
    "mu": "the attenuation map that a reconstruction is given",
    "ct": "CT numbers, 1000 (mu / mu_water - 1) at 70 keV",
    "guide": "an MR-like image",
    "labels": "the number of the region at every voxel's centre",
    "lesions": "the part of every voxel that lesions fill",
    "reconstruction": "images of every level",
}


class GridTable(Table):
    """The voxels of truth and reconstruction, centred on the scanner's axis; one slice makes a recipe 2-D."""

    shape: tuple[Count, Count, Count]
    voxel_size: tuple[Positive, Positive, Positive]


class SPECTTable(Table):
    """A SPECT camera with its protocol; see `SPECTSimulator` and `SPECTGeometry.circular`.

    Args:
        scatter : true for `EffectiveSource`, in volumes; "convolution" for `ConvolvedScatter`, which has the
            scatter_fraction and serves slices as well.
        windows : limits in keV of further energy windows, for [background] scatter = "tew".
    """

    views: Count
    bins: tuple[Count, Count]
    pixel_size: tuple[Positive, Positive]
    radius: Positive
    start: float = 0.0
    extent: float = 360.0
    direction: str = "ccw"
    collimator: str | None = None
    response: tuple[float, float] | None = None  # slope, intercept of sigma in mm
    intrinsic_fwhm: Positive | None = None
    radionuclide: str = "Tc-99m"
    energy_window: tuple[float, float] | None = None
    scatter: bool | Literal["convolution"] = False
    scatter_fraction: Fraction | None = None
    windows: tuple[tuple[Positive, Positive], ...] = ()
    sensitivity: Positive = 90.0
    duration: Positive = 20.0
    room: Annotated[float, Limit(ge=0)] = 0.0
    dead_time: Positive | None = None


class RingTable(Table):
    """A scanner of one's own; see `PETScanner.polygon`.  tof : number of bins, ps of a bin, FWHM in ps."""

    sides: Count
    crystals_per_side: Count
    radius: Positive
    rings: Count
    ring_pitch: Positive
    crystal_pitch: Positive | None = None
    energy_resolution: Fraction | None = None
    tof: tuple[Count, Positive, Positive] | None = None


class PETTable(Table):
    """A PET scanner with its protocol; see `PETSimulator` and `PETSinogram`.

    scatter : "histories" is single scatter by simulation and multiple scatter by photon histories.
    histories : how many decays are followed for it (default: 2 million).
    """

    scanner: str | None = None
    ring: RingTable | None = None
    rings: Count | None = None
    n_radial: Count | None = None
    span: Count | tuple[Count, ...] = 1
    max_ring_difference: Whole | None = None
    mashing: Count = 1
    tof: bool = False
    tof_mashing: Count = 1
    radionuclide: str = "F-18"
    sensitivity: Positive = 7.4
    duration: Positive = 180.0
    resolution: Annotated[float, Limit(ge=0)] = 4.8
    scatter: Literal["convolution", "single", "histories", "none"] = "convolution"
    histories: Count | None = None
    scatter_fraction: FractionRange | None = 0.25
    randoms: Literal["uniform", "object"] = "uniform"
    randoms_fraction: FractionRange = 0.08
    crystal_spread: Annotated[float, Limit(ge=0)] = 0.0
    normalisation_error: Annotated[float, Limit(ge=0)] = 0.0
    dead_time: Positive | None = None


class BackgroundTable(Table):
    """How well a reconstruction knows scatter and randoms; see `BackgroundEstimate`.

    Args:
        scatter : "exact" (the noise-free expectation, which no clinic has), "tew" or "sss".
        randoms : "exact" or "delayed".
        smoothing : FWHM in mm of the Gaussian that smooths the estimate of "tew".
    """

    scatter: Literal["exact", "tew", "sss"] = "exact"
    randoms: Literal["exact", "delayed"] = "exact"
    smoothing: Annotated[float, Limit(ge=0)] = 15.0


class CountsTable(Table):
    """How many counts are expected in all: one number, or the ends of a range that is drawn from evenly in its log.

    Args:
        total : None takes the phantoms' activity as kBq/mL.
        levels : fractions of the counts; the events of a lower level are a part of those of the higher ones.
        noise : False keeps expected instead of Poisson counts.
    """

    total: Total | tuple[Total, Total] | None = None
    levels: tuple[Annotated[float, Limit(gt=0, le=1)], ...] = Limit(default=(1.0,), min_length=1)
    noise: bool = True


class SecondTable(Table):
    """A second tracer in the same body and scan, see `TwoTracerSource`.

    Args:
        uptake : as of the torso.
        radionuclide : its own; [pet] has that of the first.
        delay : s from the beginning of the scan, when the first tracer is there, to the injection of the second.
        frames : s of each frame.
        share : the ends of the range of its part of the counts.
    """

    uptake: str | dict[str, float]
    radionuclide: str
    delay: Annotated[float, Limit(ge=0)] = 0.0
    frames: tuple[Positive, ...] = Limit(min_length=2)
    share: tuple[Fraction, Fraction] = (0.3, 0.7)


class MismatchTable(Table):
    """See `Mismatch`."""

    refine: Annotated[int, Limit(ge=1, le=8)] = 2
    attenuation: Positive = 0.98
    shift: tuple[float, float, float] = (1.0, 0.0, 0.0)
    response: Positive = 1.03
    background: Positive = 1.0


class ReconstructionTable(Table):
    """Images that go with every level: MLEM or OSEM of the model that is given, from ones.

    Args:
        subsets : 1 is MLEM.
        filter_fwhm : mm of a Gaussian afterwards, 0 for none.
        response : whether the resolution is modelled.
    """

    iterations: Count = 10
    subsets: Count = 1
    filter_fwhm: Annotated[float, Limit(ge=0)] = 0.0
    response: bool = True


class Recipe(Table):
    """A set of simulated scans; one sample is one phantom.

    Args:
        n : how many by default.
        split : shares of the samples, in this order.
        outputs : names out of `OUTPUTS`.
        batch : samples that are simulated together (default: 64 of one slice, 1 volume).
    """

    name: str
    description: str = ""
    n: Count = 1000
    seed: Whole = 0
    split: dict[str, Positive] = Limit(default={"train": 0.8, "validation": 0.1, "test": 0.1})
    outputs: tuple[str, ...] = ("counts", "mu", "truth")
    batch: Count | None = None
    grid: GridTable
    phantom: PhantomTable
    spect: SPECTTable | None = None
    pet: PETTable | None = None
    counts: CountsTable = CountsTable()
    background: BackgroundTable = BackgroundTable()
    mismatch: MismatchTable | None = MismatchTable()
    reconstruction: ReconstructionTable | None = None
    second: SecondTable | None = None

    @model_serializer(mode="wrap")
    def _as_before(self, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """Without what recipes of earlier versions have not, so that their samples are still theirs."""
        made = handler(self)
        if made.get("second") is None:
            made.pop("second", None)
        return made
