"""What several ranks and one process compute alike; run as a script it is one rank, which saves what it finds."""

import os
import socket
import subprocess
import sys
import tempfile
from itertools import islice
from pathlib import Path

import numpy as np

from emrecon import projectors, recon
from emrecon.projectors import AcquisitionModel, ListmodeProjector, PETProjector, PETScanner, PETSinogram, Scan
from emrecon.recon.ranks import ALONE

GRID = projectors.ImageGrid((8, 8, 2), 6.0)
RING = PETScanner.polygon(sides=8, crystals_per_side=3, radius=60, rings=2, ring_pitch=6, name="tiny", n_radial=13)
METHODS = {
    "bsrem": "rdp:0.02,2",
    "svrg": "rdp:0.02,2",
    "saga": "quadratic:0.01",
    "lbfgsb": "quadratic:0.01",
    "map-em": "quadratic:0.01",
    "spdhg": "tv:0.02",
    "pdhg": "tv:0.02",
}


def spect_scan(n_views=7):
    """Counts of a few ellipses; 7 views in 2 or 4 subsets are not the same number for each of 4 ranks."""
    camera = projectors.SPECTGeometry.circular(n_views=n_views, radius=80, n_bins=(8, 2), pixel_size=6.0)
    rng = np.random.default_rng(1)
    image = np.zeros(GRID.shape, np.float32)
    image[2:6, 2:6] = 5 + rng.random((4, 4, 2))
    mu = np.where(image > 0, 0.1, 0).astype(np.float32)
    A = projectors.SPECTProjector(GRID, camera, mu, projectors.LinearResponse(0.03, 2.0))
    model = AcquisitionModel(A, 1.5, 0.4)
    return Scan(rng.poisson(model(image)).astype(np.float32), camera, background=0.4, factors=1.5), mu


def pet_scan():
    """Counts of a cylinder in a tiny ring."""
    sinogram, rng = PETSinogram(RING), np.random.default_rng(2)
    image = np.zeros(GRID.shape, np.float32)
    image[2:6, 3:6] = 2.0
    counts = rng.poisson(PETProjector(GRID, sinogram)(image) * 0.8 + 0.2).astype(np.float32)
    return Scan(counts, sinogram, background=0.2)


class Events:
    """List-mode data in blocks, of which ranks read parts."""

    def __init__(self, first=0.0, last=1.0):
        self.sinogram, self.first, self.last = PETSinogram(RING), first, last

    def part(self, k, n):
        width = (self.last - self.first) / n
        return Events(self.first + k * width, self.first + (k + 1) * width)

    def chunks(self, size=37):
        whole = self.read()
        for at in range(0, len(whole.prompts), size):
            yield Lists(whole.prompts[at : at + size], whole.delays[at : at + size])

    def read(self):
        rng = np.random.default_rng(5)
        lists = []
        for n in (400, 80):
            bins = [rng.integers(size, size=n) for size in self.sinogram.shape]
            bins[1] = rng.integers(4, 9, size=n)
            pairs = self.sinogram.crystal_pairs[bins[0], 0, bins[1]]
            rings = rng.integers(2, size=(n, 2)) * self.sinogram.scanner.n_crystals
            lists.append((pairs + rings).astype(np.int32)[round(self.first * n) : round(self.last * n)])
        return Lists(*lists)


class Lists:
    def __init__(self, prompts, delays):
        self.prompts, self.delays = prompts, delays


class Misfit:
    """A likelihood of one's own: |A x - y|^2 / 2."""

    def __init__(self, y, A):
        self.y, self.A = y, A
        self.sensitivity = A.T(A(A.ones_image()))

    def value(self, x):
        return ((self.A(x) - self.y) ** 2).sum() / 2

    def gradient(self, x):
        return self.A.T(self.A(x) - self.y)

    def subset(self, k, n):
        return Misfit(self.y[k::n], self.A.subset(k, n))


def results(ranks=ALONE, folder=None):
    """Everything that must not depend on the number of ranks."""
    scan, mu = spect_scan()
    options = {"mu": mu, "response": projectors.LinearResponse(0.03, 2.0), "grid": GRID, "ranks": ranks}
    spect = recon.spect_problem(scan, subsets=3, **options)
    found = {"osem": recon.reconstruct(spect, "osem", 3)}
    x = found["osem"] + 0.1
    found["value"], found["start"] = spect.value(x), spect.start
    for method, prior in METHODS.items():
        found[method] = recon.reconstruct(spect, method, 3, prior=prior, neighbours=None)
    found["kem"] = recon.reconstruct(spect, "kem", 2, guide=mu, kernel="6,3,1")
    part = spect.parts[1]
    found["gradient"], found["hessian"] = part.gradient(x), part.hessian_vector(x, 0 * x + 1)
    found["value and gradient"] = np.append(part.value_and_gradient(x)[1].ravel(), part.value_and_gradient(x)[0])
    found["signature"] = np.array([len(spect.signature)])
    sinogram = pet_scan()
    pet = recon.pet_problem(sinogram, subsets=4, grid=GRID, psf=4.0, mu=mu, ranks=ranks)
    found["pet"] = recon.reconstruct(pet, "svrg", 3, prior="rdp:0.02,2")
    for name, scratch in (("events", None), ("events on disk", folder)):
        events = recon.pet_problem(Events(), subsets=2, grid=GRID, mu=mu, psf=4.0, ranks=ranks, scratch=scratch)
        found[name] = recon.reconstruct(events, "osem", 2)
        found[f"{name}, value"] = events.value(found[name] + 0.1)
    found["batch"] = recon.reconstruct(
        recon.spect_problem(
            Scan(np.stack([scan.counts, scan.counts[::-1]]), scan.geometry, background=0.4), subsets=2, **options
        ),
        "osem",
        2,
    )
    whole = recon.spect_problem(scan, subsets=1, mu=mu, grid=GRID).parts[0]
    own = Misfit(scan.counts, whole.model.projector)
    for name, f in {
        "poisson": whole,
        "gaussian": recon.GaussianLikelihood(scan.counts, whole.model, scan.counts + 1.0),
        "own": own,
    }.items():
        found[name] = next(islice(recon.svrg(recon.shard(f, ranks), n_subsets=2), 2, None)).image
    prompts = Events().read().prompts
    lines = AcquisitionModel(ListmodeProjector(GRID, RING, prompts), 1.0, 0.05)
    f = recon.ListmodeLikelihood(lines, PETProjector(GRID, PETSinogram(RING)).T(np.ones(PETSinogram(RING).shape, "f4")))
    found["listmode"] = next(islice(recon.mlem(recon.shard(f, ranks)), 2, None)).image
    found["shard of a problem"] = recon.reconstruct(
        recon.shard(recon.pet_problem(sinogram, subsets=4, grid=GRID), ranks), "osem", 2
    )
    return {name: np.asarray(value, float) for name, value in found.items()}


def unrolled(ranks=ALONE):
    """The image of an unrolled network, whose weights are the same everywhere."""
    import torch

    from emrecon.unrolled import UnrolledEM

    class Denoiser(torch.nn.Module):
        def forward(self, x, sigma=None, *, guide=None):
            return 0.9 * x + 0.1 * torch.roll(x, 1, -2)

    scan, mu = spect_scan()
    problem = recon.spect_problem(scan, mu=mu, subsets=2, grid=GRID, ranks=ranks)
    parts = [part.converted(lambda values: torch.from_numpy(np.array(values, np.float32))) for part in problem.parts]
    with torch.no_grad():
        return {"unrolled": np.asarray(UnrolledEM(Denoiser(), 2)(parts), float)}


def start(n, script, *arguments, **environment):
    """Start n ranks of a script or command; returns the processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    known = {"WORLD_SIZE": n, "LOCAL_WORLD_SIZE": n, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port} | environment
    threads = {"OMP_NUM_THREADS": 1, "EMRECON_NUM_THREADS": 1}
    base = os.environ | {name: str(value) for name, value in (known | threads).items()}
    return [
        subprocess.Popen(
            [sys.executable, *map(str, (*script, *arguments))],
            env=base | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(n)
    ]


def ends(processes, timeout=120):
    """(exit code, output, errors) of every rank."""
    found = [process.communicate(timeout=timeout) for process in processes]
    return [(process.returncode, *texts) for process, texts in zip(processes, found)]


def raised(ranks):
    """What ranks say where one of them meets an error, and where their data differ."""
    said = []
    part = recon.spect_problem(spect_scan()[0], grid=GRID, subsets=1, ranks=ranks).parts[0]
    for work in (
        lambda: part.value(np.zeros(GRID.shape, np.float32) + np.float32("nan") * (ranks.rank == 1)),
        lambda: ranks.require_same(str(ranks.rank > 0), "these differ"),
    ):
        try:
            work()
            said.append("")
        except ValueError as error:
            said.append(str(error))
    return said


def main():
    """Be one rank."""
    folder = Path(sys.argv[1])
    with recon.join_ranks(timeout=60) as ranks, tempfile.TemporaryDirectory() as scratch:
        found = results(ranks, scratch)
        if ranks.size == 2:
            found |= unrolled(ranks)
            found["said"] = np.array(raised(ranks))
        found["traffic"] = np.array([ranks.traffic.sums, ranks.traffic.n_bytes])
        np.savez(folder / f"{ranks.size}-{ranks.rank}.npz", **found)


if __name__ == "__main__":
    main()
