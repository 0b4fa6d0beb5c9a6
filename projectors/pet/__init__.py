"""PET: scanners, sinograms and events, projectors, randoms, scatter, rebinning."""

from .histories import Histories, photon_histories
from .interop import as_parallelproj_lors, as_parallelproj_tof, from_operator
from .lines import EquallySpacedLines
from .listmode import ListmodeProjector
from .pairs import Normalisation, crystal_rates, events_product, pair_products, rates_of_fans
from .projector import PETProjector
from .rebinning import ArcCorrection, SingleSliceRebinning, SinogramCompression
from .scanner import PETScanner, pet_scanners
from .scatter import ScatterSampling, single_scatter
from .sinogram import PETSinogram
from .tails import scale_to_tails, tail_mask
from .tof import TimeOfFlight

__all__ = [
    "ArcCorrection",
    "EquallySpacedLines",
    "ListmodeProjector",
    "Normalisation",
    "PETProjector",
    "PETScanner",
    "PETSinogram",
    "ScatterSampling",
    "SingleSliceRebinning",
    "SinogramCompression",
    "TimeOfFlight",
    "as_parallelproj_lors",
    "as_parallelproj_tof",
    "crystal_rates",
    "events_product",
    "from_operator",
    "pair_products",
    "rates_of_fans",
    "pet_scanners",
    "scale_to_tails",
    "Histories",
    "photon_histories",
    "single_scatter",
    "tail_mask",
]
