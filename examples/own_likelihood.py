"""A likelihood of your own: four names, no base class, and the engines run it.

Data that were corrected, scaled or averaged are not Poisson counts any more. Here each bin has its own known variance,
f(x) = sum (A x - y)^2 / (2 variance). The engines ask for value, gradient, sensitivity (the scale x / s of a step) and
subset.
"""

import numpy as np
from common import options, save

from emrecon import projectors, recon, sims


class WeightedGaussian:
    """f(x) = sum (A x - y)^2 / (2 v)."""

    def __init__(self, y, variance, A):
        self.y, self.variance, self.A = y, variance, A
        self.sensitivity = A.T(A(A.ones_image()) / variance)

    def value(self, x):
        return float(((self.A(x) - self.y) ** 2 / self.variance).sum(dtype=np.float64) / 2)

    def gradient(self, x):
        return self.A.T((self.A(x) - self.y) / self.variance)

    def subset(self, k, n):
        return WeightedGaussian(self.y[k::n], self.variance[k::n], self.A.subset(k, n))


def main():
    """Correct counts for scatter by subtraction, and minimise the Gaussian likelihood of what is left."""
    choice = options(__doc__)
    n = 32 if choice.quick else 64
    grid = projectors.ImageGrid((n, n, 1), 320 / n)
    camera = projectors.SPECTGeometry.circular(n_views=n, radius=150, n_bins=(n, 1), pixel_size=320 / n)
    phantom = sims.random_ellipses(seed=11)
    A = projectors.SPECTProjector(grid, camera, phantom.attenuation(grid, 140.5))
    truth = 20 * phantom.activity(grid)
    scatter = 0.3 * A(truth).mean()
    counts = sims.poisson(A(truth) + scatter, seed=0)

    f = WeightedGaussian(counts - scatter, np.maximum(counts, 1), A)
    prior = 0.02 * recon.Quadratic()
    passes = 5 if choice.quick else 20
    poisson = recon.PoissonLikelihood(counts, projectors.AcquisitionModel(A, background=float(scatter)))
    images = {
        "truth": truth,
        "Gaussian, L-BFGS": recon.run(recon.lbfgsb(f + prior), passes),
        "Gaussian, SVRG": recon.run(recon.svrg(f + prior, n_subsets=4), passes),
        "Poisson, L-BFGS": recon.run(recon.lbfgsb(poisson + prior), passes),
    }
    print({name: f"{recon.nrmse(image, truth):.3f}" for name, image in images.items()})
    save(choice.out / "own_likelihood.png", images)


if __name__ == "__main__":
    main()
