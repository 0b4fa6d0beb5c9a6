"""The physics of the scan: geometry, materials, collimators, and the linear operators they make.

The core, by what one does:

- say where things are: `ImageGrid`, `SPECTGeometry`, `PETScanner` and `PETSinogram`, `TimeOfFlight`;
- project: `SPECTProjector` with the response of a `collimator`, `PETProjector`, `ListmodeProjector`, `GaussianBlur`;
  each is a `LinearOperator`, those with views a `Projector`: `A(x)`, `A.T(y)`, `A @ B`;
- attenuate: `hounsfield_to_mu`, `linear_attenuation`, a whole CT by `attenuation_from_ct`;
- expect counts: `AcquisitionModel`, factors * A(x) + background; keep measured ones with their geometry in a `Scan`.

The rest are further operators, tables, corrections and containers; every room (`emrecon.projectors.spect`, `.pet`, ...)
lists its own, and `emrecon.projectors.core` what a new operator is built from.
"""

if __name__ != "emrecon.projectors":
    raise ImportError("this folder is a part of emrecon: `pip install .` first, then `import emrecon.projectors`")

from .core import DenseOperator, Diagonal, GaussianBlur, ImageGrid, LinearOperator, MeasuredBlur, Projector
from .core.renaming import renamed
from .core.resampling import Resampling, resample
from .parallel import ParallelBeamGeometry, ParallelBeamProjector
from .pet import (
    ArcCorrection,
    EquallySpacedLines,
    ListmodeProjector,
    Normalisation,
    PETProjector,
    PETScanner,
    PETSinogram,
    ScatterSampling,
    SingleSliceRebinning,
    SinogramCompression,
    TimeOfFlight,
    as_parallelproj_lors,
    as_parallelproj_tof,
    crystal_rates,
    events_product,
    from_operator,
    pair_products,
    pet_scanners,
    scale_to_tails,
    single_scatter,
    tail_mask,
)
from .physics import (
    AttenuationMap,
    BodyMask,
    Calibration,
    Radionuclide,
    accepted_fraction,
    attenuation_factors,
    attenuation_from_ct,
    find_body,
    hounsfield_to_mu,
    isotope,
    isotopes,
    klein_nishina,
    klein_nishina_total,
    linear_attenuation,
    materials,
    scattered_energy,
    suv,
)
from .scan import (
    AcquisitionModel,
    BedScan,
    ChosenWindows,
    DeadTime,
    DynamicScan,
    EnergyWindow,
    Frames,
    GatedScan,
    Gates,
    RecoveryTable,
    Scan,
    ScanSeries,
    Study,
    WindowedScan,
    WindowedSeries,
    all_views_at_once,
    decay_factors,
    dual_energy_window,
    histogram_events,
    peak_window,
    planar_sensitivity,
    scan_seconds,
    scatter_windows,
    smooth_projections,
    spect_calibration,
    split_events,
    triple_energy_window,
    view_decay,
)
from .spect import (
    CollimatorResponse,
    EffectiveSource,
    GaussianResponse,
    LinearResponse,
    MeasuredResponse,
    ParallelHoleCollimator,
    SPECTGeometry,
    SPECTProjector,
    SPECTScatterProjector,
    collimator,
    collimators,
)

__all__ = [
    # the core
    "ImageGrid",
    "SPECTGeometry",
    "SPECTProjector",
    "collimator",
    "PETScanner",
    "PETSinogram",
    "PETProjector",
    "ListmodeProjector",
    "TimeOfFlight",
    "AcquisitionModel",
    "Scan",
    "GaussianBlur",
    "LinearOperator",
    "Projector",
    "hounsfield_to_mu",
    "linear_attenuation",
    # operators
    "DenseOperator",
    "Diagonal",
    "MeasuredBlur",
    "from_operator",
    "resample",
    # materials, radionuclides, Compton scatter, units
    "materials",
    "Radionuclide",
    "isotope",
    "isotopes",
    "klein_nishina",
    "klein_nishina_total",
    "scattered_energy",
    "accepted_fraction",
    "attenuation_factors",
    "AttenuationMap",
    "attenuation_from_ct",
    "find_body",
    "BodyMask",
    "Calibration",
    "suv",
    # SPECT
    "ParallelHoleCollimator",
    "collimators",
    "CollimatorResponse",
    "GaussianResponse",
    "LinearResponse",
    "MeasuredResponse",
    "EffectiveSource",
    "SPECTScatterProjector",
    # PET
    "pet_scanners",
    "Normalisation",
    "crystal_rates",
    "events_product",
    "pair_products",
    "ScatterSampling",
    "single_scatter",
    "scale_to_tails",
    "tail_mask",
    "SinogramCompression",
    "SingleSliceRebinning",
    "ArcCorrection",
    "EquallySpacedLines",
    "as_parallelproj_lors",
    "as_parallelproj_tof",
    # ideal parallel beams
    "ParallelBeamGeometry",
    "ParallelBeamProjector",
    # frames, gates, energy windows, counting
    "DynamicScan",
    "GatedScan",
    "ScanSeries",
    "Study",
    "BedScan",
    "Frames",
    "Gates",
    "all_views_at_once",
    "decay_factors",
    "histogram_events",
    "split_events",
    "EnergyWindow",
    "WindowedScan",
    "ChosenWindows",
    "peak_window",
    "scatter_windows",
    "WindowedSeries",
    "dual_energy_window",
    "triple_energy_window",
    "smooth_projections",
    "DeadTime",
    "RecoveryTable",
    "Resampling",
    "planar_sensitivity",
    "scan_seconds",
    "spect_calibration",
    "view_decay",
]

__getattr__ = renamed(__name__, {"Collimator": "ParallelHoleCollimator", "Isotope": "Radionuclide"})
