"""What the tests of the deep image prior share: a small network, and a scan of a head with its MR."""

from contextlib import contextmanager
from itertools import islice

import numpy as np
import torch
from torch import nn

from emrecon.projectors import AcquisitionModel, ImageGrid, ParallelBeamGeometry, ParallelBeamProjector
from emrecon.recon import PoissonLikelihood
from emrecon.unrolled.methods.dip import Fit
from emrecon.unrolled.networks.blocks import seeded

CONVOLUTIONS = {2: (nn.Conv2d, nn.BatchNorm2d), 3: (nn.Conv3d, nn.BatchNorm3d)}


@contextmanager
def one_thread():
    """Networks as small as these are slower on several threads, and much so on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def small_network(dimensions=2, channels=1, width=6, depth=2, out=1, seed=0):
    convolution, norm = CONVOLUTIONS[dimensions]

    with seeded(seed):
        layers = []
        for i in range(depth):
            layers += [convolution(width if i else channels, width, 3, padding=1), norm(width), nn.LeakyReLU()]
        return nn.Sequential(*layers, convolution(width, out, 1))


def phantom(n=32):
    """A head with four tissues and a lesion, and an MR that shows the tissues only."""
    x, y = np.meshgrid(*2 * [np.arange(n) - (n - 1) / 2], indexing="ij")
    tissues = (
        (np.hypot(x, y) < 0.42 * n, 1.0, 1.0),
        (np.hypot(x, y) < 0.34 * n, 4.0, 2.0),
        (np.hypot(x + 3, y) < 0.12 * n, 1.5, 3.0),
        (np.hypot(x - 5, y - 3) < 0.08 * n, 2.0, 1.5),
    )
    activity, mr = np.zeros((n, n, 1)), np.zeros((n, n, 1))
    for inside, a, m in tissues:
        activity[inside], mr[inside] = a, m
    activity[np.hypot(x - 1, y + 7) < 2] = 7
    return activity, mr


def scan(counts=20_000, n=32, seed=1, dtype=torch.float32):
    """A likelihood of a slice of the phantom, the truth and the MR."""
    activity, mr = phantom(n)
    lines = ParallelBeamGeometry.equally_spaced(24, n_bins=n + 8, bin_size=4.0)
    projector = ParallelBeamProjector(ImageGrid((n, n, 1), 4.0), lines)
    clean = projector(activity)
    factor = counts / clean.sum()
    background = 0.2 * factor * clean.mean()
    y = np.random.default_rng(seed).poisson(factor * clean + background)
    model = AcquisitionModel(projector, 1.0, background)
    truth, guide = (torch.as_tensor(values, dtype=dtype) for values in (factor * activity, mr))
    return PoissonLikelihood(torch.as_tensor(y, dtype=dtype), model), truth, guide


F, TRUTH, MR = scan(n=20)
QUICK = {"initial_steps": 10, "initial_fit": Fit("adam", 20, 1e-2)}


def take(iterates, n):
    return next(islice(iterates, n - 1, None))
