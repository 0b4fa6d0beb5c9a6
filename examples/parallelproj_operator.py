"""Plug in the projector of another program: parallelproj's lines inside our likelihoods and engines.

`from_operator` takes anything with `in_shape`, `out_shape`, a call and `adjoint`. Where parallelproj (a conda package)
is installed its Joseph kernel runs here; otherwise a stand-in with the same protocol that holds the lines as a sparse
matrix of SciPy.
"""

import numpy as np
from common import options, save
from scipy.sparse import csr_array

from emrecon import projectors, recon, sims


class ParallelprojLines:
    """parallelproj 1: its two functions, called with the ends of our lines."""

    def __init__(self, grid, sinogram):
        self.xstart, self.xend = (ends.reshape(-1, 3) for ends in projectors.as_parallelproj_lors(sinogram))
        self.origin, self.voxel = np.asarray(grid.origin, np.float32), np.asarray(grid.voxel_size, np.float32)
        self.in_shape, self.out_shape = grid.shape, sinogram.shape

    def __call__(self, x):
        import parallelproj

        y = parallelproj.joseph3d_fwd(self.xstart, self.xend, x, self.origin, self.voxel)
        return y.reshape(self.out_shape)

    def adjoint(self, y):
        import parallelproj

        lines = self.xstart, self.xend, self.in_shape, self.origin, self.voxel
        return parallelproj.joseph3d_back(*lines, np.ascontiguousarray(y).reshape(-1))


class MatrixOfLines:
    """The stand-in: points along every line, each counted in the voxel nearest to it."""

    def __init__(self, grid, sinogram, points=400):
        first, second = (ends.reshape(-1, 3) for ends in projectors.as_parallelproj_lors(sinogram))
        self.in_shape, self.out_shape = grid.shape, sinogram.shape
        where = first[:, None] + ((np.arange(points) + 0.5) / points)[:, None] * (second - first)[:, None]
        voxel = np.rint((where - grid.origin) / grid.voxel_size).astype(int)
        inside = ((voxel >= 0) & (voxel < grid.shape)).all(-1)
        line, _ = np.nonzero(inside)
        step = np.linalg.norm(second - first, axis=1) / points
        column = np.ravel_multi_index(tuple(voxel[inside].T), grid.shape)
        self.matrix = csr_array((step[line], (line, column)), (len(first), np.prod(grid.shape)), dtype=np.float32)

    def __call__(self, x):
        return (self.matrix @ x.reshape(-1)).reshape(self.out_shape)

    def adjoint(self, y):
        return (self.matrix.T @ y.reshape(-1)).reshape(self.in_shape)


def main():
    """OSEM of one scan by the other program's projector and by ours."""
    choice = options(__doc__)
    try:
        import parallelproj  # noqa: F401

        lines = ParallelprojLines
    except ImportError:
        lines = MatrixOfLines
    print(f"projector: {lines.__name__}")
    ring = projectors.PETScanner.polygon(sides=12, crystals_per_side=8, radius=200, rings=1, ring_pitch=4)
    sinogram = projectors.PETSinogram(ring, n_radial=63)
    grid = projectors.ImageGrid((40, 40, 1), (6.0, 6.0, 4.0))
    theirs = projectors.from_operator(
        lines(grid, sinogram), subset=lambda k, n: lines(grid, sinogram.subset(k, n)), dtype="float32"
    )
    ours = projectors.PETProjector(grid, sinogram)
    truth = sims.random_ellipses(seed=3).activity(grid)
    counts = sims.poisson(0.5 * ours(truth) + 1, seed=0)
    images = {"truth": truth}
    for name, projector in (("the other projector", theirs), ("ours", ours)):
        f = recon.PoissonLikelihood(counts, projectors.AcquisitionModel(projector, 0.5, background=1.0))
        images[name] = recon.run(recon.osem(f, n_subsets=4), 2 if choice.quick else 5)
    print(f"the two differ by {recon.nrmse(images['the other projector'], images['ours']):.3f}")
    save(choice.out / "parallelproj_operator.png", images)


if __name__ == "__main__":
    main()
