"""Reconstruct from the command line with a file of options: `emrecon reconstruct --config study.toml`.

    emrecon reconstruct --config study.toml
    emrecon reconstruct --config study.toml --method svrg --prior rdp:0.05,2 --iterations 8 --out map.nii.gz

study.toml lies beside this script and can be adapted to a scan of your own. Options given on the command line win over
those of the file. This script simulates the scan that the file names, runs both commands and shows their images.
"""

import subprocess
import sys
from pathlib import Path

from common import options, save

from emrecon import formats, projectors, sims

CONFIG = Path(__file__).resolve().parent / "study.toml"


def write_study(folder, n):
    """Simulate projections and an attenuation map, and write them where study.toml expects them."""
    camera = projectors.SPECTGeometry.circular(n_views=24, radius=150, n_bins=(n, n // 2), pixel_size=264 / n)
    grid = projectors.ImageGrid((n, n, n // 2), 264 / n)
    response = projectors.LinearResponse(slope=0.0163, intercept=1.466)
    simulated = sims.SPECTSimulator(grid, camera, response)(sims.spect_cylinder(), seed=0, counts=4e6)
    folder.mkdir(parents=True, exist_ok=True)
    formats.write_scan(folder / "study.hs", projectors.Scan(simulated.scan.counts, camera))
    formats.write_image(folder / "mu.nii.gz", simulated.mu, grid)


def reconstruct(folder, *more):
    """Run the command in the folder of the scan, as one would in a terminal."""
    command = [sys.executable, "-m", "emrecon", "reconstruct", "--config", str(CONFIG), "--quiet", *more]
    subprocess.run(command, cwd=folder, check=True)


def main():
    """Simulate, run both commands, and show what they wrote."""
    choice = options(__doc__)
    write_study(choice.out, 20 if choice.quick else 40)
    reconstruct(choice.out)
    images = {"OSEM, as in the file": formats.read_image(choice.out / "osem.nii.gz")[0]}
    if not choice.quick:
        others = ["--method", "svrg", "--prior", "rdp:0.05,2", "--iterations", "8", "--out", "map.nii.gz"]
        reconstruct(choice.out, *others)
        images["relative difference prior"] = formats.read_image(choice.out / "map.nii.gz")[0]
    save(choice.out / "config_file.png", images, rotate=True)


if __name__ == "__main__":
    main()
