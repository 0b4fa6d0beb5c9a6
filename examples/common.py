"""What the examples share: their options, and a picture of images side by side."""

import argparse
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def options(description, data=None):
    """Return the options of an example: `quick`, `out`, and a positional `data` where there is a help text for it."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if data is not None:
        parser.add_argument("data", nargs="?", type=Path, help=data)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--out", type=Path, default=Path("."), help="folder of the picture")
    return parser.parse_args()


def save(path, images, rotate=False):
    """Write a PNG of the middle slices of images {title: (x, y, z)}; `rotate` shows the coronal slices instead."""
    figure = Figure(figsize=(2.6 * len(images), 2.8), layout="constrained")
    FigureCanvasAgg(figure)
    for axis, (title, image) in zip(figure.subplots(1, len(images), squeeze=False)[0], images.items()):
        shown = image[:, image.shape[1] // 2].T[::-1] if rotate else image[:, :, image.shape[2] // 2].T
        axis.imshow(shown, cmap="gray_r", vmin=0, vmax=np.percentile(shown, 99.8))
        axis.set_title(title, fontsize=9)
        axis.set_axis_off()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)
    print(f"wrote {path}")
