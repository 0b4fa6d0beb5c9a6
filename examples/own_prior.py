"""A prior of your own: a class with three formulas runs in every engine, with a weight, torch gradients and batches.

This one pulls the image towards a template t (say, the scan of the week before) where the two are alike, and leaves
alone what differs much: U(x) = sum w^2 / 2 log(1 + ((x - t) / w)^2), the Geman-McClure family's logarithmic member.
"""

import numpy as np
from common import options, save

from emrecon import projectors, recon, sims


class TowardsTemplate(recon.SmoothPrior):
    """U(x) = sum w^2 / 2 log(1 + d^2), with d = (x - t) / w."""

    def __init__(self, template, width):
        self.template, self.width = template, width

    def _value(self, x):
        d = (x - self.template) / self.width
        return self.width**2 / 2 * np.log1p(d * d).sum((-3, -2, -1), dtype=np.float64)

    def _gradient(self, x):
        d = (x - self.template) / self.width
        return self.width * d / (1 + d * d)

    def _hessian_vector(self, x, v):
        d2 = ((x - self.template) / self.width) ** 2
        return (1 - d2) / (1 + d2) ** 2 * v

    def _hessian_diagonal(self, x):
        return self._hessian_vector(x, np.ones_like(x))


def main():
    """Reconstruct few counts with the new prior, and with the relative difference prior beside it."""
    choice = options(__doc__)
    n = 32 if choice.quick else 64
    grid = projectors.ImageGrid((n, n, 1), 320 / n)
    camera = projectors.SPECTGeometry.circular(n_views=n, radius=150, n_bins=(n, 1), pixel_size=320 / n)
    simulated = sims.SPECTSimulator(grid, camera)(sims.random_ellipses(seed=7), seed=0, counts=1e5)
    truth = simulated.truth

    template = truth.copy()
    template[n // 2 : n // 2 + n // 8, n // 2 : n // 2 + n // 8] = 0  # something is new since then
    problem = recon.spect_problem(simulated.scan, mu=simulated.mu, subsets=4)
    sensitivity = sum(part.sensitivity for part in problem.parts)
    curvature = float(np.median(sensitivity[sensitivity > 0]) / truth[truth > 0].mean())  # a natural unit of beta
    prior = 0.03 * curvature * TowardsTemplate(template, width=0.2 * float(truth.max()))
    usual = 0.02 * curvature * truth.mean() * recon.RelativeDifference(gamma=2, epsilon=1e-3 * float(truth.max()))
    passes = 4 if choice.quick else 16
    images = {"truth": truth, "template": template}
    for name, chosen in (("relative difference", usual), ("towards the template", prior)):
        images[name] = recon.reconstruct(problem, "svrg", passes, prior=chosen)
    print({name: f"{recon.nrmse(image, truth):.3f}" for name, image in images.items()})
    save(choice.out / "own_prior.png", images)


if __name__ == "__main__":
    main()
