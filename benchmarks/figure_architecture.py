"""Draw docs/images/architecture.png: packages and rooms as tests/test_layering.py lists them, and the way of a scan."""

import ast
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

ROOT = Path(__file__).resolve().parents[1]
PLACES = {  # left, bottom, width of a package
    "projectors": (0.0, 0.0, 10.0),
    "formats": (0.0, 1.6, 3.0),
    "sims": (0.0, 3.2, 3.0),
    "recon": (3.3, 1.6, 6.7),
    "unrolled": (3.3, 3.2, 4.6),
    "figures": (8.2, 3.2, 1.8),
    "evaluation": (0.0, 4.8, 10.0),
    "cli": (0.0, 6.4, 10.0),
}
COLOURS = {
    "projectors": "#d9e4f2", "formats": "#e3efdc", "sims": "#f6ead1",
    "recon": "#f3dcdc", "unrolled": "#e6dcf1", "cli": "#e8e8e8", "figures": "#dcefef",
    "evaluation": "#f0e6f0",
}  # fmt: skip
WAY = (
    "file",
    "formats\n.read_scan",
    "Scan",
    "spect_problem\npet_problem",
    "likelihoods\nof subsets",
    "engine",
    "image",
    "metrics,\nfiles",
)


def storeys():
    """The rooms of each package, read from the layering test without running it."""
    for node in ast.parse((ROOT / "tests" / "test_layering.py").read_text()).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "STOREYS":
            return ast.literal_eval(node.value)
    raise ValueError("tests/test_layering.py has no STOREYS")


def box(axis, left, bottom, width, height, text, colour, size=9, top=False):
    """Draw a rounded box with a title in it."""
    style = {"boxstyle": "round,pad=0.02,rounding_size=0.08", "facecolor": colour, "edgecolor": "#666666"}
    axis.add_patch(FancyBboxPatch((left, bottom), width, height, linewidth=0.8, **style))
    high = bottom + height - 0.25 if top else bottom + height / 2
    axis.text(left + width / 2, high, text, ha="center", va="center", fontsize=size, weight="bold" if top else "normal")


def main():
    """Draw and write."""
    figure = Figure(figsize=(10, 9.2))
    FigureCanvasAgg(figure)
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set_axis_off()
    axis.set_xlim(-0.2, 10.2)
    axis.set_ylim(-0.15, 9.6)
    rooms = storeys()
    for package, (left, bottom, width) in PLACES.items():
        box(axis, left, bottom, width, 1.35, f"emrecon.{package}", COLOURS[package], 11, top=True)
        inner = [room for room in rooms.get(package, []) if (ROOT / package / room).is_dir()]
        for i, room in enumerate(inner):
            step = (width - 0.2) / len(inner)
            box(axis, left + 0.1 + i * step + 0.04, bottom + 0.2, step - 0.08, 0.55, room, "white", 7.5)
    axis.text(9.1, 4.06, "slices, MIP, overlays, orbits", ha="center", va="center", fontsize=6.8)
    axis.text(5.0, 6.85, "options, panels, TOML files, printing: no physics", ha="center", va="center", fontsize=8.5)
    axis.text(
        5.0, 7.92, "a package imports those below it (sims and recon do not know each other)", ha="center", fontsize=9
    )
    axis.text(5.0, 9.35, "The way of a scan", ha="center", fontsize=11, weight="bold")
    step = 10.0 / len(WAY)
    for i, name in enumerate(WAY):
        box(axis, i * step + 0.06, 8.45, step - 0.3, 0.65, name, "#fffbe6", 7)
        if i:
            axis.annotate("", (i * step + 0.04, 8.77), (i * step - 0.22, 8.77), arrowprops={"arrowstyle": "->"})
    figure.savefig(ROOT / "docs" / "images" / "architecture.png", dpi=90)


if __name__ == "__main__":
    main()
