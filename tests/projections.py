"""Items that worker processes project; they must find this module on the path of Python."""

import numpy as np
import torch

from emrecon.projectors import ImageGrid, LinearResponse, SPECTGeometry, SPECTProjector

GRID, CAMERA = ImageGrid((20, 20, 16), 4.0), SPECTGeometry.circular(12, 100, (20, 16), 4.0)
A = SPECTProjector(GRID, CAMERA, np.full(GRID.shape, 0.1), LinearResponse(0.03, 3.0))
X = np.random.default_rng(0).random(GRID.shape).astype(np.float32)


class Projections(torch.utils.data.Dataset):
    """Items that are projected inside a worker."""

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return A(torch.tensor(X * (index + 1)))
