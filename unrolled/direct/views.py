"""Scans of some of the views that a network was trained on: which of them are measured, and the model of all."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch

from emrecon.projectors import AcquisitionModel, SPECTGeometry, SPECTProjector
from emrecon.projectors.core.arrays import to_numpy
from emrecon.recon import PoissonLikelihood
from emrecon.recon.likelihoods import CountsLikelihood

from ..networks.scaling import counts_of
from .completion import PartialLikelihood, partly_measured
from .scans import ScanDescription, described, differences, is_turn, of_slices

_NEAR = 1.0  # degrees: views nearer than that are the same
_OF_VIEWS = ("views", "first_angle", "extent")


def among_views(likelihood: CountsLikelihood, scan: ScanDescription, dimensions: int) -> CountsLikelihood:
    """Return the likelihood of all views of a training, of which those of a scan are measured.

    Views belong together by their angle, to a degree. Radius, factors and background of the others are interpolated
    along the turn; the projector is that of the scan with all views. A scan with all views is returned as it is.

    Args:
        scan : of the training, `described`.
        dimensions : of the network; with 2 the slices do not matter.

    Raises ValueError for a scan that differs in anything else, for views that are not among those of the training, and
    for one of fewer views that is no SPECT scan.
    """
    projector = likelihood.model.projector
    here = described(projector)
    trained = of_slices(scan) if dimensions == 2 else scan
    now = of_slices(here) if dimensions == 2 else here
    fewer = here["views"] < scan["views"]
    found = differences(trained, now, _OF_VIEWS if fewer else ())
    if found:
        raise ValueError("this network was trained on another scan: " + "; ".join(found))
    if not fewer:
        return likelihood
    if not isinstance(projector, SPECTProjector) or not isinstance(likelihood, PoissonLikelihood):
        raise ValueError(
            f"this network was trained on {scan['views']} views, and the scan has {here['views']}; only SPECT scans of "
            "fewer views can be completed, others by partly_measured"
        )
    return cast(CountsLikelihood, _with_all(likelihood, projector, scan, _places(here, scan)))


def _places(here: ScanDescription, scan: ScanDescription) -> np.ndarray:
    """The number of each view among those of the training."""
    own, there = (_angles(which) for which in (here, scan))
    apart = np.abs((own[:, None] - there[None] + 180) % 360 - 180)
    places, far = apart.argmin(1), apart.min(1)
    if far.max() > _NEAR:
        wrong = int(far.argmax())
        raise ValueError(
            f"view {wrong} of the scan is not among the {scan['views']} views of the training: it is "
            f"{far[wrong]:.1f} degrees from the nearest of them; a network completes scans of some of its views"
        )
    if len(set(places.tolist())) < len(places):
        raise ValueError("two views of the scan are at the same angle; a network of data takes each view once")
    return places


def _with_all(
    likelihood: PoissonLikelihood, projector: SPECTProjector, scan: ScanDescription, places: np.ndarray
) -> PartialLikelihood:
    weights = _weights(_angles(scan), places, is_turn(scan))
    camera = projector.geometry
    radius, shift = (weights @ np.broadcast_to(values, len(places)) for values in (camera.radius, camera.shift))
    gantry = _gantry_angles(scan, camera)
    geometry = SPECTGeometry(gantry, radius, camera.n_bins, camera.pixel_size, shift, camera.axial_shift)
    complete = SPECTProjector(
        projector.grid,
        geometry,
        projector.attenuation,
        projector.response,
        sampling=projector.sampling,
        blur=projector.blur,
        aperture=projector.aperture,
    )
    y, model = torch.as_tensor(counts_of(likelihood)), likelihood.model
    table = torch.as_tensor(weights, dtype=y.dtype, device=y.device)

    def of_all(values: Any) -> Any:
        if isinstance(values, (int, float)):
            return values
        given = torch.as_tensor(values if isinstance(values, torch.Tensor) else to_numpy(values)).to(y)
        if given.ndim < 3 or given.shape[-3] == 1:
            return given
        return torch.einsum("wv,...vbr->...wbr", table, given)

    counts = torch.zeros((*y.shape[:-3], len(gantry), *y.shape[-2:]), dtype=y.dtype, device=y.device)
    counts[..., places, :, :] = y
    measured = torch.zeros((len(gantry), 1, 1), dtype=torch.bool, device=y.device)
    measured[places] = True
    whole = AcquisitionModel(complete, of_all(model.factors), of_all(model.background), model.scale)
    return partly_measured(PoissonLikelihood(counts, whole), measured)


def _angles(scan: ScanDescription) -> np.ndarray:
    """Of the axes of all views, degrees."""
    axes = np.asarray(scan["axes"], float)
    return np.asarray(np.rad2deg(np.arctan2(axes[:, 1], axes[:, 0])))


def _gantry_angles(scan: ScanDescription, camera: SPECTGeometry) -> np.ndarray:
    """The gantry angles whose axes are those of the training."""
    probe = SPECTGeometry(np.array([0.0, 1.0]), 1.0, camera.n_bins, camera.pixel_size)  # type: ignore[arg-type]
    axes = np.asarray(probe.directions[1])
    zero, one = np.rad2deg(np.arctan2(axes[:, 1], axes[:, 0]))
    sign = np.sign((one - zero + 180) % 360 - 180)
    return np.asarray(sign * (_angles(scan) - zero) % 360)


def _weights(angles: np.ndarray, places: np.ndarray, turn: bool) -> np.ndarray:
    """(all views, measured views): linear interpolation along the views, around the turn where there is one."""
    n = len(angles)
    order = np.argsort(places)
    known = places[order]
    made = np.zeros((n, len(places)))
    for view in range(n):
        after = int(np.searchsorted(known, view))
        low, high = after - 1, after
        if after < len(known) and known[after] == view:
            made[view, order[after]] = 1
        elif turn or 0 < after < len(known):
            start, end = known[low % len(known)], known[high % len(known)]
            span = (end - start) % n or n
            share = ((view - start) % n) / span
            made[view, order[low % len(known)]] += 1 - share
            made[view, order[high % len(known)]] += share
        else:
            made[view, order[0 if after == 0 else -1]] = 1
    return made
