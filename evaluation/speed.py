"""The suite `speed`: projections against other packages, engines by the pass, networks by the scan."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from emrecon import recon
from emrecon.projectors import (
    AcquisitionModel,
    ImageGrid,
    PETProjector,
    PETScanner,
    PETSinogram,
    SPECTGeometry,
    SPECTProjector,
    collimator,
)
from emrecon.projectors.core.threads import thread_count

from .machine import PeakMemory
from .sections import Cell, Interval, Section, Table, Text
from .statistics import t_interval
from .suite import Options, Results, Suite, Unit

_FIELD, _RADIUS = 425.0, 250.0  # mm
_VIEWS = 120
_TESTED = ("forward", "adjoint")
NETWORKS = ("mapem-net", "fbsem-net", "em-net", "bcd-net", "lpd", "post-unet")
ENGINES = ("mlem", "osem", "map-em", "bsrem", "svrg", "saga", "spdhg", "lbfgsb", "kem")


@dataclass(frozen=True)
class Size:
    """How large the problems are."""

    spect: tuple[int, ...]
    pet_voxels: int
    pet_views: int
    engine: int
    repeats: int
    passes: int


SIZES = {
    "full": Size((64, 128), 215, 8, 64, 7, 5),
    "quick": Size((32,), 48, 2, 24, 3, 2),
}


# ---- what is timed ---------------------------------------------------------------------------------------------------


def spect_setting(n: int, n_views: int) -> tuple[SPECTProjector, np.ndarray]:
    """Return a SPECT projector of n^3 voxels with attenuation and response, and an image."""
    size = _FIELD / n
    grid = ImageGrid((n, n, n), (size, size, size))
    x, y, z = grid.coordinates()
    body = ((x / 160) ** 2 + (y / 110) ** 2 < 1) & (np.abs(z) < 0.45 * _FIELD)
    image = (body + 7 * ((x - 60) ** 2 + (y + 20) ** 2 + z**2 < 25**2)).astype(np.float32)
    camera = SPECTGeometry.circular(n_views, _RADIUS, (n, n), size)
    response = collimator("siemens-lehr").response(140.5)
    return SPECTProjector(grid, camera, attenuation=(0.15 * body).astype(np.float32), response=response), image


def pet_setting(n: int, n_views: int) -> tuple[PETProjector, np.ndarray]:
    """Return a PET projector of n x n x 71 voxels along all lines of some views of a Discovery MI, and an image."""
    scanner = PETScanner.named("dmi")
    sinogram = PETSinogram(scanner, views=np.arange(0, 272, 272 // n_views))
    grid = ImageGrid((n, n, 71), (597.7 / n, 597.7 / n, 2.78))
    x, y, z = grid.coordinates()
    body = ((x / 180) ** 2 + (y / 120) ** 2 < 1) & (np.abs(z) < 90)
    image = (body + 4.0 * ((x - 60) ** 2 + y**2 + z**2 < 25**2)).astype(np.float32)
    return PETProjector(grid, sinogram), image


def _timed(work: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Seconds of pieces of work that take turns, after one that is not timed."""
    for one in work.values():
        one()
    found: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(repeats):
        for name, one in work.items():
            began = time.perf_counter()
            one()
            found[name].append(time.perf_counter() - began)
    return found


def _spect(n: int, repeats: int, folder: Path) -> Mapping[str, Any]:
    projector, image = spect_setting(n, _VIEWS)
    data: Any = projector(image)
    work: dict[str, Callable[[], Any]] = {"forward": lambda: projector(image), "adjoint": lambda: projector.T(data)}
    about: dict[str, Any] = {"lines": int(data.size), "voxels": n**3, "threads": thread_count(), "peer": None}
    try:
        import torch

        from .peers import peer_matrix

        matrix, tensor = peer_matrix(projector), torch.as_tensor(image)
    except ImportError:
        return about | {"seconds": _timed(work, repeats)}
    theirs = matrix.forward(tensor)
    work |= {"peer forward": lambda: matrix.forward(tensor), "peer adjoint": lambda: matrix.backward(theirs)}
    difference = float(np.linalg.norm(theirs.numpy() - data) / np.linalg.norm(data))
    return about | {"peer": "PyTomography", "difference": difference, "seconds": _timed(work, repeats)}


def _pet(n: int, n_views: int, repeats: int, folder: Path) -> Mapping[str, Any]:
    projector, image = pet_setting(n, n_views)
    data: Any = projector(image)
    work: dict[str, Callable[[], Any]] = {"forward": lambda: projector(image), "adjoint": lambda: projector.T(data)}
    about: dict[str, Any] = {
        "lines": int(data.size),
        "voxels": int(image.size),
        "threads": thread_count(),
        "peer": None,
    }
    try:
        from .peers import Parallelproj

        peer = Parallelproj(projector, image, data)
    except ImportError:
        return about | {"seconds": _timed(work, repeats)}
    difference = float(np.linalg.norm(peer.forward() - data) / np.linalg.norm(data))
    work |= {"peer forward": peer.forward, "peer adjoint": peer.adjoint}
    return about | {"peer": "libparallelproj", "difference": difference, "seconds": _timed(work, repeats)}


def _engines(n: int, passes: int, folder: Path) -> Mapping[str, Any]:
    """Seconds of a pass of each engine on one SPECT scan, and what a pass does to the likelihood."""
    projector, image = spect_setting(n, 60)
    expected = projector(image)
    model = AcquisitionModel(projector, float(2e5 / expected.sum()), 0.5)
    counts = np.random.default_rng(0).poisson(model(image)).astype(np.float32)
    f = recon.PoissonLikelihood(counts, model)
    first = recon.run(recon.osem(f, None, 6), 1)
    s = f.sensitivity
    beta = 0.01 * float(s[s > 0].mean())
    prior = beta * recon.RelativeDifference(2.0, epsilon=1e-3)
    kernel = recon.kernel_matrix(image + 0.01 * first, projector.grid, n_neighbours=24, window=5)
    made: dict[str, Callable[[], Iterator[Any]]] = {
        "mlem": lambda: recon.mlem(f),
        "osem": lambda: recon.osem(f, None, 6),
        "map-em": lambda: recon.map_em(f, beta * recon.LogCosh(1.0), first, 6),
        "bsrem": lambda: recon.bsrem(f, prior, first, 6),
        "svrg": lambda: recon.svrg(f, prior, first, 6),
        "saga": lambda: recon.saga(f, prior, first, 6),
        "spdhg": lambda: recon.spdhg(f, beta * recon.TotalVariation(), first, 6),
        "lbfgsb": lambda: recon.lbfgsb(f, prior, first),
        "kem": lambda: recon.kem(f, kernel, None, 6),
    }
    seconds: dict[str, list[float]] = {}
    for name in ENGINES:
        next(made[name]())  # plans and compiled code
        seconds[name] = _passes(made[name](), passes)
    return {"voxels": n**3, "lines": int(counts.size), "threads": thread_count(), "seconds": seconds}


def _passes(iterates: Iterator[Any], n: int) -> list[float]:
    found, began = [], time.perf_counter()
    for _ in islice(iterates, n):
        found.append(time.perf_counter() - began)
        began = time.perf_counter()
    return found


def _networks(repeats: int, folder: Path) -> Mapping[str, Any]:
    """Seconds and memory of networks on one slice of 64 x 64, with a guide; weights do not change them."""
    import torch

    from emrecon.unrolled import count_parameters, seeded
    from emrecon.unrolled.methods import PRESETS

    grid = ImageGrid((64, 64, 1), (3.6, 3.6, 3.6))
    x, y, _ = grid.coordinates()
    image = np.broadcast_to((x / 80) ** 2 + (y / 95) ** 2 < 1, grid.shape).astype(np.float32)
    camera = SPECTGeometry.circular(60, 140.0, (64, 1), 3.6)
    response = collimator("siemens-lehr").response(140.5)
    projector = SPECTProjector(grid, camera, attenuation=0.15 * image, response=response)
    truth = torch.as_tensor(image)[None]
    model = AcquisitionModel(projector, 1e5 / float(projector(truth).sum()), 0.5)
    likelihood = recon.PoissonLikelihood(torch.poisson(model(truth), generator=torch.Generator().manual_seed(0)), model)
    seconds: dict[str, list[float]] = {}
    memory: dict[str, int] = {}
    parameters: dict[str, int] = {}
    for name in NETWORKS:
        with seeded(0):
            network = PRESETS[name](dimensions=2, guide_channels=1).eval()

        def run(network: Any = network) -> None:
            with torch.no_grad():
                network(likelihood, guide=truth)

        peak = PeakMemory()
        seconds[name] = _timed({name: run}, repeats)[name]
        memory[name], parameters[name] = peak.bytes(), count_parameters(network)
    return {"seconds": seconds, "memory": memory, "parameters": parameters, "threads": thread_count()}


# ---- the suite -------------------------------------------------------------------------------------------------------


def _units(options: Options) -> list[Unit]:
    if options.methods:
        raise ValueError("the suite speed times the library itself and takes no methods")
    size, about = SIZES[options.size], {"threads": options.threads}
    spect = [
        Unit(f"speed/spect-{n}", partial(_spect, n, size.repeats), (), {**about, "repeats": size.repeats})
        for n in size.spect
    ]
    pet = partial(_pet, size.pet_voxels, size.pet_views, size.repeats)
    return [
        *spect,
        Unit("speed/pet", pet, (), {**about, "repeats": size.repeats}),
        Unit("speed/engines", partial(_engines, size.engine, size.passes), (), {**about, "passes": size.passes}),
        Unit("speed/networks", partial(_networks, size.repeats), (), {**about, "repeats": size.repeats}),
    ]


def _sections(results: Results, options: Options) -> list[Section]:
    found = []
    projections = [name for name in results if name.startswith(("speed/spect", "speed/pet"))]
    if projections:
        found.append(Section("Projections", [_projections({name: results[name] for name in projections})]))
    if "speed/engines" in results:
        found.append(Section("Engines", [_engine_table(results["speed/engines"])]))
    if "speed/networks" in results:
        found.append(Section("Networks", [_network_table(results["speed/networks"])]))
    return [*found, Section("Reading", [_READING])]


def _milliseconds(values: list[float]) -> Interval:
    return t_interval([1000 * value for value in values])


def _projections(found: Mapping[str, Mapping[str, Any]]) -> Table:
    rows: list[list[Cell]] = []
    for name, numbers in found.items():
        for what in _TESTED:
            seconds = numbers["seconds"]
            ours, theirs = seconds[what], seconds.get(f"peer {what}")
            ratio = None if theirs is None else float(np.median(theirs) / np.median(ours))
            speed = numbers["lines"] / float(np.median(ours)) / 1e6
            peer = None if theirs is None else _milliseconds(theirs)
            rows.append(
                [
                    f"{name.partition('/')[2]}, {what}",
                    _milliseconds(ours),
                    speed,
                    numbers["peer"] or "none",
                    peer,
                    ratio,
                ]
            )
    columns = ["projection", "ms", "million lines/s", "peer", "peer (ms)", "peer / ours"]
    note = (
        "Means with intervals over repeats, the ratio of medians. SPECT: cubes, 120 views, attenuation and "
        "distance-dependent response. PET: all lines of some views of a Discovery MI. Peers where they are installed."
    )
    return Table("Projections", columns, rows, note, varies=True)


def _engine_table(numbers: Mapping[str, Any]) -> Table:
    rows: list[list[Cell]] = [[name, _milliseconds(values)] for name, values in numbers["seconds"].items()]
    note = (
        f"A pass over all data of one SPECT scan, {numbers['voxels']:,} voxels and {numbers['lines']:,} bins, six "
        "subsets where there are any; what an engine looks at beside (its objective, its prior) is part of it."
    )
    return Table("Seconds of a pass", ["engine", "ms"], rows, note, varies=True)


def _network_table(numbers: Mapping[str, Any]) -> Table:
    rows: list[list[Cell]] = [
        [name, _milliseconds(values), numbers["memory"][name] / 2**20, numbers["parameters"][name]]
        for name, values in numbers["seconds"].items()
    ]
    note = "One SPECT slice of 64 x 64 with a guide, as the presets build the networks; most memory of the process."
    return Table("Networks", ["network", "ms", "most memory (MB)", "parameters"], rows, note, varies=True)


_READING = Text(
    "How to read the tables",
    [
        "Times mean something on a machine that does nothing else. Plans, tables and compiled code are made before; "
        "ours and a peer's take turns in one process and see the same image. Threads are those of --threads.",
    ],
)

SUITE = Suite(
    "speed",
    "Speed: projections against other packages, engines, networks",
    10.0,
    _units,
    _sections,
    ("torch",),
)
