"""Memory and time of one training step of unrolled networks in 3-D: SPECT, 64^3 voxels, 60 views, 6 modules.

Every case runs in a process of its own, whose largest resident memory is reported.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from typing import Any

import numpy as np
from _common import RESULTS, machine, machine_line

CASES = {
    "MAPEM-Net": ("mapem_net", {"tied": True}),
    "MAPEM-Net, checkpoint": ("mapem_net", {"tied": True, "grad": "checkpoint"}),
    "FBSEM-Net": ("fbsem_net", {"subsets": None}),
    "FBSEM-Net, checkpoint": ("fbsem_net", {"subsets": None, "grad": "checkpoint"}),
    "BCD-Net": ("bcd_net", {}),
}


def main() -> None:
    """Print and write the numbers of every case."""
    about = machine()
    print(machine_line(about))
    results: dict[str, Any] = {"machine": about}
    for name in CASES:
        done = subprocess.run([sys.executable, __file__, name], capture_output=True, text=True, check=True)
        results[name] = json.loads(done.stdout.splitlines()[-1])
        print(f"{name:24} {results[name]['gigabytes']:.2f} GB, {results[name]['seconds']:.1f} s a step")
    (RESULTS / "memory_training.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def one(name: str) -> None:
    """Measure one case in this process."""
    import torch

    from emrecon import projectors, recon, sims, unrolled

    preset, options = CASES[name]
    grid = projectors.ImageGrid((64, 64, 64), 4.8)
    camera = projectors.SPECTGeometry.circular(60, 200.0, (64, 64), 4.8)
    phantom = sims.spect_cylinder()
    response = projectors.collimator("siemens-lehr").response(140.5)
    A = projectors.SPECTProjector(grid, camera, phantom.attenuation(grid, 140.5), response)
    truth = torch.as_tensor(phantom.activity(grid))[None]
    counts = torch.as_tensor(np.asarray(sims.poisson(A(truth) + 0.5, seed=0)))
    f = recon.PoissonLikelihood(counts, projectors.AcquisitionModel(A, background=0.5))
    network = getattr(unrolled, preset)(3, n_modules=6, **options)
    optimiser = torch.optim.Adam(network.parameters(), 1e-3)
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        optimiser.zero_grad()
        (network(f) - truth).pow(2).mean().backward()
        optimiser.step()
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    print(json.dumps({"gigabytes": peak, "seconds": seconds[-1]}))


if __name__ == "__main__":
    one(sys.argv[1]) if len(sys.argv) > 1 else main()
