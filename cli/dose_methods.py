"""How `emrecon dose` makes a dose of an activity: kernels, Monte Carlo, or a trained network."""

from __future__ import annotations

import importlib
from functools import partial
from pathlib import Path
from typing import Any

import typer

from emrecon.projectors import ImageGrid
from emrecon.recon.dosimetry import DoseMethod, simulated_dose
from emrecon.recon.dosimetry.dose import METHODS as KERNELS

from . import learned

METHODS = (*KERNELS, "monte-carlo", "network")
HISTORIES = 1_000_000


def check_use(method: str, weights: Path | None, density: Path | None, histories: int | None) -> None:
    """Refuse options that the method would not use, and a network without its weights or density."""
    if method == "network" and weights is None:
        raise typer.BadParameter("--method network needs a file of weights, .safetensors", param_hint="--weights")
    if method == "network" and density is None:
        raise typer.BadParameter("--method network needs the density of the body", param_hint="--density")
    if method != "network" and weights is not None:
        raise typer.BadParameter("it is used along with --method network only", param_hint="--weights")
    if method != "monte-carlo" and histories is not None:
        raise typer.BadParameter("it is used along with --method monte-carlo only", param_hint="--histories")


def dose_method(
    method: str, weights: Path | None, histories: int | None, nuclide: str, grid: ImageGrid
) -> tuple[str | DoseMethod, dict[str, str]]:
    """Return what `treatment_dose` takes as its method, and what the record says of it.

    Raises typer.BadParameter for weights of another kind, nuclide, or size of voxels.
    """
    if method == "monte-carlo":
        n = histories or HISTORIES
        return partial(simulated_dose, histories=n), {"method": method, "histories": f"{n}"}
    if method != "network":
        return method, {"method": method}
    assert weights is not None
    network, card = _network(weights)
    try:
        network.check(grid, nuclide)
    except ValueError as error:
        raise typer.BadParameter(f"{weights.name}: {error}", param_hint="--weights") from None
    return network.dose, {"method": method, "network": card.architecture, "weights": f"SHA-256 {card.sha256}"}


def _network(weights: Path) -> tuple[Any, Any]:
    learned.require("torch")
    learned.require("safetensors.torch")
    files = importlib.import_module("emrecon.unrolled.training.weights")
    networks = importlib.import_module("emrecon.unrolled.enhancement").DOSE_NETWORKS
    if not weights.is_file():
        raise typer.BadParameter(f"{weights} is no file", param_hint="--weights")
    card = files.read_card(weights)
    if card.architecture not in networks:
        raise typer.BadParameter(
            f"{weights.name} holds a {card.architecture!r}, which makes no dose; networks of dose are "
            f"{', '.join(networks)}",
            param_hint="--weights",
        )
    found: tuple[Any, Any] = files.load_network(weights, networks)
    return found
