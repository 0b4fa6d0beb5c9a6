"""Values of crystals brought to the pairs of sinogram bins and events: normalisation and randoms."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from .scanner import PETScanner
from .sinogram import PETSinogram


def pair_products(sinogram: PETSinogram, crystals: ArrayLike, ring_pairs: ArrayLike | None = None) -> np.ndarray:
    """Return the sum over a bin's crystal pairs of c_i c_j (times a value of the ring pair), float32::

        out[v, k, p] = sum of crystals[r, i] * crystals[s, j] * ring_pairs[r, s]

    Args:
        crystals : (rings, crystals per ring); virtual crystals count as 0.
        ring_pairs : (rings, rings), default 1.

    Returns (views, radial, planes), whatever the TOF bins.

    Raises ValueError where shapes do not fit the scanner.
    """
    scanner = sinogram.scanner
    values = np.where(scanner.virtual, 0, _fitting(crystals, scanner.virtual.shape, "crystals")).astype(np.float32)
    n = scanner.n_rings
    rings = np.ones((n, n)) if ring_pairs is None else _fitting(ring_pairs, (n, n), "ring_pairs")
    first, second = (values[:, sinogram.crystal_pairs[..., side]] for side in range(2))  # (ring, view, mash, radial)
    out = np.empty((sinogram.n_planes, sinogram.n_views, sinogram.n_radial), np.float32)
    for plane, pairs in enumerate(sinogram.ring_pairs):
        total = sum(np.float32(rings[r, s]) * first[r] * second[s] for r, s in pairs)
        out[plane] = np.sum(total, axis=1)
    return np.ascontiguousarray(np.moveaxis(out, 0, -1))


def _fitting(values: ArrayLike, shape: tuple[int, ...], name: str) -> np.ndarray:
    array = np.asarray(values, float)
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {array.shape}")
    if not np.isfinite(array).all() or array.min() < 0:
        raise ValueError(f"{name} must be finite and not negative")
    return array


@dataclass(frozen=True, eq=False)
class Normalisation:
    """The detection efficiency of crystal pairs as a product of components; 1 where a component is None::

        efficiency = crystal_i crystal_j live_i live_j geometric(k, r + s) interference(k, v mod block) axial(r, s)

    Args:
        scanner : what it belongs to.
        crystal : (rings, crystals per ring) single crystals.
        geometric : (2 rings - 1, radial) by sum of ring numbers and radial bin, centred as in `PETSinogram.radial`.
        interference : (radial, crystals per block) by radial bin and view within a block.
        axial : (rings, rings) by ring pair.
        dead_time : (rings, 2) coefficients per single event/s in a block, live = 1 + a rate + b rate^2.

    Efficiencies of virtual crystals count as 0.

    Source: the components and their use are those of Siemens ECAT and e7 scanners (Casey, Gadagkar & Newport 1995).

    Raises ValueError for shapes that do not fit the scanner.
    """

    scanner: PETScanner
    crystal: np.ndarray | None = None
    geometric: np.ndarray | None = None
    interference: np.ndarray | None = None
    axial: np.ndarray | None = None
    dead_time: np.ndarray | None = None

    def __post_init__(self) -> None:
        n, per_ring = self.scanner.n_rings, self.scanner.n_crystals
        expected = {
            "crystal": (n, per_ring),
            "geometric": (2 * n - 1, None),
            "interference": (None, None),
            "axial": (n, n),
            "dead_time": (n, 2),
        }
        for name, shape in expected.items():
            values = getattr(self, name)
            if values is None:
                continue
            array = np.array(values, float)
            if array.ndim != 2 or any(e not in (None, a) for e, a in zip(shape, array.shape)):
                raise ValueError(f"Normalisation {name} of shape {array.shape} does not fit {self.scanner}: {shape}")
            if not np.isfinite(array).all() or (name != "dead_time" and array.min() < 0):
                raise ValueError(f"Normalisation {name} must be finite and not negative")
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        if self.interference is not None and per_ring % self.interference.shape[1]:
            raise ValueError(
                f"a ring of {per_ring} crystals cannot be divided into blocks of {self.interference.shape[1]}"
            )

    def factors(self, sinogram: PETSinogram, singles: ArrayLike | None = None) -> np.ndarray:
        """Return the efficiency of every bin, summed over its crystal pairs, (views, radial, planes) float32.

        Args:
            singles : (rings, crystals per ring) single events/s in the block of each crystal, for the dead time.
        """
        fine = sinogram.mashing == 1
        if self.interference is not None and not fine:
            raise ValueError("Normalisation with interference needs a sinogram without mashing; compress its factors")
        out = pair_products(sinogram, self._single(singles), self.axial)
        if self.geometric is not None:
            planes = [np.mean(self.geometric[pairs.sum(1)], axis=0) for pairs in sinogram.ring_pairs]
            out *= np.stack([_radial(row, sinogram.radial) for row in planes], 1).astype(np.float32)
        if self.interference is not None:
            block = self.interference.shape[1]
            rows = _radial(self.interference.T, sinogram.radial)[sinogram.views % block]
            out *= rows[..., None].astype(np.float32)
        return out

    def of_events(self, sinogram: PETSinogram, events: ArrayLike, singles: ArrayLike | None = None) -> np.ndarray:
        """Return the efficiency of the crystal pair of every event, (n,) float32.

        Args:
            sinogram : one without compression that holds the events' crystal pairs; others get 0.
        """
        single = np.where(self.scanner.virtual, 0, self._single(singles)).ravel()
        events = np.asarray(events)[:, :2].astype(np.int64)
        out = single[events[:, 0]] * single[events[:, 1]]
        fine = PETSinogram(self.scanner, sinogram.max_ring_difference, n_radial=sinogram.n_radial)
        view, radial, plane = fine.bins_of(events).T
        for table in (self.geometric, None if self.interference is None else self.interference.T):
            if table is not None:
                _radial(table, fine.radial)  # wide enough?
        k = np.where(view >= 0, radial - fine.n_radial // 2, 0)
        rings = np.array([pairs[0] for pairs in fine.ring_pairs])[plane]
        if self.axial is not None:
            out = out * self.axial[rings[:, 0], rings[:, 1]]
        if self.geometric is not None:
            out = out * self.geometric[rings.sum(1), k + self.geometric.shape[1] // 2]
        if self.interference is not None:
            block = self.interference.shape[1]
            out = out * self.interference[k + self.interference.shape[0] // 2, view % block]
        return np.where(view >= 0, out, 0).astype(np.float32)

    def _single(self, singles: ArrayLike | None) -> np.ndarray:
        """The efficiency of single crystals, with their dead time where `singles` are given."""
        shape = self.scanner.virtual.shape
        crystal = np.ones(shape) if self.crystal is None else self.crystal
        if singles is None:
            return crystal
        if self.dead_time is None:
            raise ValueError("this Normalisation has no dead_time to apply to singles; leave singles out")
        rate = _fitting(singles, shape, "singles")
        linear, square = self.dead_time[:, :1], self.dead_time[:, 1:]
        return np.clip(crystal * (1 + linear * rate + square * rate**2), 0, None)


def _radial(values: np.ndarray, radial: np.ndarray) -> np.ndarray:
    """Take the radial bins k of a table whose last axis is centred on k = 0; ValueError where it is too short."""
    index = radial + values.shape[-1] // 2
    if index.min() < 0 or index.max() >= values.shape[-1]:
        raise ValueError(f"the table has {values.shape[-1]} radial bins, too few for the {radial.size} of the sinogram")
    taken: np.ndarray = values[..., index]
    return taken


def crystal_rates(
    sinogram: PETSinogram,
    events: ArrayLike,
    efficiency: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    *,
    n_iterations: int = 100,
) -> np.ndarray:
    """Estimate the singles of every crystal from delayed coincidences, so that pair (i, j) expects a_i a_j of them::

        a_i <- a_i sqrt( F_i / (a_i sum of a_j over all pairs of the sinogram with i) ),   F_i : delays with crystal i

    which maximises the Poisson likelihood of the delays. Randoms of a bin are `pair_products(sinogram, a)`, those of
    an event a_i a_j: smooth, where the delays themselves are a few counts in millions of bins.

    Args:
        events : (n, 2) delayed coincidences; those outside the sinogram are left out.
        efficiency : (rings, crystals), known efficiencies e; a = e b then, and b is estimated.
        groups : (rings, crystals) integers; crystals of one group share b (blocks, say, where counts are few).

    Returns a, (rings, crystals per ring) in delays^(1/2); their number is that of the events to rounding.

    Raises ValueError without delays.

    Source: the model of products is that of Hogg et al. 2001, who estimate efficiencies with it.
    """
    fans = fans_of_events(sinogram, events, efficiency)
    if not fans.any():
        raise ValueError("there are no delayed coincidences of real crystals inside the sinogram")
    return rates_of_fans(sinogram, fans, efficiency, groups, n_iterations=n_iterations)


def fans_of_events(sinogram: PETSinogram, events: ArrayLike, efficiency: ArrayLike | None = None) -> np.ndarray:
    """Return how many coincidences each crystal takes part in, (rings, crystals), for `rates_of_fans`.

    Args:
        events : (n, 2) crystal numbers; those outside the sinogram, and of crystals without efficiency, are left out.
        efficiency : (rings, crystals), 0 for crystals that count nothing.

    Those of parts of the events add up.
    """
    scanner = sinogram.scanner
    shape, n = scanner.virtual.shape, scanner.n_crystals
    whole = PETSinogram(scanner, sinogram.max_ring_difference, n_radial=sinogram.n_radial)
    events = np.asarray(events)[:, :2]
    known = np.ones(shape) if efficiency is None else _fitting(efficiency, shape, "efficiency")
    known = np.where(scanner.virtual, 0, known)
    inside = whole.bins_of(events)[:, 0] >= 0
    inside &= (known.ravel()[np.where(inside[:, None], events, 0)] > 0).all(1)
    return np.bincount(events[inside].ravel().astype(np.int64), minlength=shape[0] * n).reshape(shape).astype(float)


def rates_of_fans(
    sinogram: PETSinogram,
    fans: ArrayLike,
    efficiency: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    *,
    n_iterations: int = 100,
) -> np.ndarray:
    """Estimate the singles of every crystal as `crystal_rates` does, from sums over fans instead of events.

    Args:
        fans : (rings, crystals), the delayed coincidences that each crystal takes part in: every one counts for two.

    Raises ValueError without delays.
    """
    scanner = sinogram.scanner
    shape, n = scanner.virtual.shape, scanner.n_crystals
    whole = PETSinogram(scanner, sinogram.max_ring_difference, n_radial=sinogram.n_radial)
    known = np.ones(shape) if efficiency is None else _fitting(efficiency, shape, "efficiency")
    known = np.where(scanner.virtual, 0, known)
    fans = np.asarray(_fitting(fans, shape, "fans"), float)
    delays = fans.sum() / 2
    if not delays > 0:
        raise ValueError("there are no delayed coincidences to estimate the rates of crystals from")
    partners = np.zeros((n, n))
    pairs = whole.crystal_pairs[:, 0].reshape(-1, 2)
    partners[pairs[:, 0], pairs[:, 1]] = partners[pairs[:, 1], pairs[:, 0]] = 1
    rings = (whole.michelogram >= 0).astype(float)
    label = np.arange(known.size) if groups is None else np.unique(np.asarray(groups).ravel(), return_inverse=True)[1]
    if label.size != known.size:
        raise ValueError(f"groups must hold one number per crystal ({known.size}), got {label.size}")

    def grouped(values: np.ndarray) -> np.ndarray:
        return np.bincount(label, values.ravel())

    counts = grouped(fans)
    rate = np.full(counts.size, np.sqrt(delays / (known @ partners * (rings @ known)).sum() * 2))
    for _ in range(n_iterations):
        single = known * rate[label].reshape(shape)
        expected = grouped(single * (rings @ single @ partners))
        rate = rate * np.sqrt(np.divide(counts, expected, out=np.zeros_like(counts), where=expected > 0))
    single = known * rate[label].reshape(shape)
    total = (single * (rings @ single @ partners)).sum() / 2
    return np.asarray(single * np.sqrt(delays / total))


def events_product(events: ArrayLike, crystals: np.ndarray) -> np.ndarray:
    """Return c_i c_j of the crystal pair of every event, (n,) float32."""
    events, values = np.asarray(events), np.asarray(crystals).ravel()
    product: np.ndarray = (values[events[:, 0]] * values[events[:, 1]]).astype(np.float32)
    return product
