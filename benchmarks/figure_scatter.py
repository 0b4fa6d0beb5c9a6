"""The picture in docs/scatter.md: simulated and Monte Carlo scatter, from the numbers of agreement_scatter.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from _common import RESULTS
from matplotlib.axes import Axes
from matplotlib.figure import Figure


def main() -> None:
    """Write docs/images/scatter.png."""
    results = json.loads((RESULTS / "agreement_scatter.json").read_text(encoding="utf-8"))
    profiles = {name: np.array(values) for name, values in results["profiles"].items()}
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    radial, tof = figure.subplots(1, 2)
    _radial(radial, profiles)
    _tof(tof, profiles)
    decays = results["decays"] / 1e6
    figure.suptitle(
        f"{decays:g} million decays: Monte Carlo (dots) and simulation (lines), nothing scaled", fontsize=10
    )
    figure.savefig(Path(__file__).resolve().parent.parent / "docs/images/scatter.png", dpi=100)


def _radial(axis: Axes, profiles: dict[str, Any]) -> None:
    s, counts, model = (profiles[f"radial_{name}"] for name in ("mm", "counts", "model"))
    for k, (name, colour) in enumerate((("no scatter", "C7"), ("one", "C0"), ("more", "C3"))):
        axis.plot(s, counts[k], ".", color=colour, label=name)
        if k < 2:
            axis.plot(s, model[k], "-", color=colour, linewidth=0.9)
    axis.set(yscale="log", ylim=(100, None), xlim=(-260, 260), xlabel="distance from the axis (mm)", ylabel="counts")
    axis.legend(title="scatters", fontsize=8, frameon=False)


def _tof(axis: Axes, profiles: dict[str, Any]) -> None:
    position, s = profiles["tof_mm"], profiles["radial_mm"]
    for k, wanted in enumerate((-120, -60, 0, 60)):
        near = int(np.abs(s - wanted).argmin())
        axis.plot(position, profiles["tof_radial_counts"][:, near], ".", color=f"C{k}", label=f"at {s[near]:.0f} mm")
        axis.plot(position, profiles["tof_radial_model"][:, near], "-", color=f"C{k}", linewidth=0.9)
    axis.set(title="single scatter in TOF bins", xlabel="position along the line (mm)", ylabel="counts")
    axis.legend(fontsize=8, frameon=False)


if __name__ == "__main__":
    main()
