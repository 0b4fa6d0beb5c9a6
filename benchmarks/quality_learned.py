"""Learned reconstruction against classical: brain PET with MR and brain SPECT, 2-D, low counts, held-out brains.

    python benchmarks/quality_learned.py --work DIR          everything: about nine hours on two cores
    python benchmarks/quality_learned.py --work DIR --stage report

Scans are those of the library's recipes `brain-pet` and `brain-spect`: simulated on half the voxel size with a slightly
wrong attenuation map and response. 1000 brains train, 50 validate, 50 test; nothing here is fitted to test brains.

Networks are trained end to end on the relative squared error to the truth, at one level of counts, with new noise in
every step; the shared denoisers of MAPEM-Net and FBSEM-Net see OSEM images first; BCD-Net is trained module by module.
What is not trained has its settings chosen by the NRMSE of validation scans, at the same level of counts; elsewhere all
methods are used as they are.

- error of 20 test scans at the counts of training, at a quarter and at four times of them; NRMSE and SSIM
- contrast of hot lesions, (lesion - ring around) / (the same in truth), for lesions that the MR shows and does not show
- false transfer: the same difference where only the MR has a lesion, root mean square, over that of a hot lesion
- bias and standard deviation over 20 realisations of one scan, means over the brain of |mean - truth| and sd, over the
  mean of the truth
- seconds for one scan and learned numbers
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _common import RESULTS, machine, machine_line, write_json
from _learned import (
    BATCH,
    BLIND,
    CLIP,
    EMA,
    FIRST_STEPS,
    NETWORKS,
    RATE,
    SHIPPED,
    STEPS,
    Case,
    World,
    arguments_of,
    inputs,
    network,
    train_denoiser,
    train_network,
)
from _learned_methods import METHODS, Method, chosen, dip_network, plug_and_play
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from emrecon import recon, sims
from emrecon.cli.train import SCALE_RULE
from emrecon.projectors import AcquisitionModel
from emrecon.unrolled.training.weights import Card, count_parameters, save_weights

ROOT = Path(__file__).resolve().parents[1]
LEVELS = (0.25, 1.0, 4.0)
N_SCANS, N_SLOW, N_REALISATIONS = 20, 5, 20  # N_SLOW: of deep image priors, at counts other than those of training
LONGER = {"BCD-Net": 800, "BCD-Net, no MR": 800, "LPD": 1600}  # steps; BCD-Net: of a module
DENOISER_STEPS = 1200
ORDER = (
    "OSEM",
    "OSEM + Gaussian",
    "MAP-RDP",
    "MAP-Bowsher",
    "KEM",
    "DIPRecon",
    "DIP-OT",
    "PnP",
    "post-U-Net",
    "BCD-Net, no MR",
    "MAPEM-Net, no MR",
    "BCD-Net",
    "EMnet",
    "LPD",
    "FBSEM-Net, detached",
    "FBSEM-Net",
    "MAPEM-Net, detached",
    "MAPEM-Net",
)
WITHOUT_MR = ("OSEM", "OSEM + Gaussian", "MAP-RDP", *BLIND)
SHOWN = ("OSEM + Gaussian", "MAP-RDP", "KEM", "DIPRecon", "PnP", "post-U-Net", "FBSEM-Net", "MAPEM-Net")

Reconstruct = Callable[[World, Case], torch.Tensor]


def main() -> None:
    """Run the stages that are asked for."""
    options = _options()
    worlds = [World(name, options.work / "data" / name) for name in options.scan]
    torch.set_num_threads(options.threads)
    for world in worlds:
        nets = options.work / "nets" / world.name
        if "data" in options.stage:
            world.prepare()
        if "train" in options.stage:
            train_all(world, nets)
        if "images" in options.stage:
            reconstruct_all(world, nets, options.work / "images" / world.name, options.only)
        if "time" in options.stage:
            time_all(world, nets, options.work / "images" / world.name)
        if "weights" in options.stage:
            ship(world, nets)
    if "report" in options.stage:
        report(worlds, options.work)


# ---- training --------------------------------------------------------------------------------------------------------


def folder_of(nets: Path, name: str) -> Path:
    """Return where a network's training is."""
    return nets / name.replace(", ", "-").lower()


def steps_of(name: str) -> int:
    """Return the steps of a training, of BCD-Net those of every module."""
    return LONGER.get(name, STEPS)


def train_all(world: World, nets: Path) -> None:
    """Train what is not trained yet."""
    for name in NETWORKS:
        train_network(world, name, folder_of(nets, name), steps_of(name))
    train_denoiser(world, nets / "denoiser", DENOISER_STEPS)


def ship(world: World, nets: Path) -> None:
    """Write the weights that come with the library, with their cards."""
    for name in SHIPPED:
        architecture = NETWORKS[name][0]
        model = train_network(world, name, folder_of(nets, name), steps_of(name))
        case = world.case(world.samples("test"), slice(None), seed=1001)
        with torch.no_grad():
            images = model(**inputs(name, case))
        training = {
            "loss": "relative-mse",
            "denoiser_alone": {"steps": FIRST_STEPS[world.name], "batch_size": 16},
            "steps": STEPS,
            "batch_size": BATCH.get(name, 16),
            "optimiser": "Adam",
            "learning_rate": RATE,
            "schedule": "cosine",
            "clip": CLIP,
            "ema": EMA,
            "noise": "drawn anew in every step",
        }
        simulation = sims.load_recipe(world.recipe.name)
        card = Card(
            architecture,
            arguments_of(name),
            {
                "guide": "guide",
                "level": 1.0,
                "training": {"simulation": simulation.model_dump(mode="json"), "training": training},
            },
            SCALE_RULE,
            {
                "test nrmse": float(recon.nrmse(images, case.truth, dimensions=3).mean()),
                "test ssim": float(recon.ssim(images, case.truth, dimensions=3).mean()),
            },
            f"{name} for slices of brain {world.name.upper()} with MR at low counts, trained on simulated brains of "
            f"the recipe brain-{world.name} by benchmarks/quality_learned.py. Not for patients. Apache-2.0.",
        )
        path = ROOT / "unrolled" / f"pretrained_{architecture}-brain-{world.name}.safetensors"
        written = save_weights(path, model, card)
        print(f"{path.name}: {written.parameters} parameters, {written.metrics}", flush=True)


# ---- images ----------------------------------------------------------------------------------------------------------


def reconstruct_all(world: World, nets: Path, out: Path, only: list[str]) -> None:
    """Reconstruct all sets with all methods; what is in the folder is not made again."""
    out.mkdir(parents=True, exist_ok=True)
    validation, test = world.samples("validation"), world.samples("test")
    for name in only or ORDER:
        path = out / f"{name}.pt"
        if path.exists():
            continue
        method, about = method_of(world, nets, name, validation)
        images = {"realisations": method(world, realisations(world, test))}
        for level in LEVELS:
            n = N_SCANS if level == 1 or not name.startswith("DIP") else N_SLOW
            images[f"level {level:g}"] = method(world, scans(world, test, level, n))
        torch.save({"images": images, **about}, path)
        now = recon.nrmse(images["level 1"], scans(world, test, 1.0).truth, dimensions=3)
        print(f"{world.name}, {name}: NRMSE {float(now.mean()):.4f}, {about}", flush=True)


def method_of(world: World, nets: Path, name: str, validation: Any) -> tuple[Reconstruct, dict[str, Any]]:
    """Return a method, ready, and its settings and parameters."""
    if name in NETWORKS:
        model = train_network(world, name, folder_of(nets, name), steps_of(name))
        return _applied(name, model), {"settings": {}, "parameters": count_parameters(model)}
    parameters, method = 0, METHODS.get(name)
    if name == "PnP":
        denoiser = train_denoiser(world, nets / "denoiser", DENOISER_STEPS)
        parameters, method = count_parameters(denoiser), plug_and_play(denoiser)
    assert isinstance(method, Method)
    settings, _ = chosen(world, method, validation)
    made: Method = method
    about = {"settings": settings, "parameters": parameters}
    if name.startswith("DIP"):
        about["fitted"] = count_parameters(dip_network(name))
    return lambda world, case: made(world, case, **settings), about


def _applied(name: str, model: Any) -> Reconstruct:
    def apply(_: World, case: Case) -> torch.Tensor:
        with torch.no_grad():
            image: torch.Tensor = model(**inputs(name, case))
            return image

    return apply


def scans(world: World, test: Any, level: float, n: int = N_SCANS) -> Case:
    """Return the first n of the held-out scans at a level of counts."""
    case = world.case(test, slice(0, N_SCANS), seed=int(1000 * level), level=level)
    if n == N_SCANS:
        return case
    model, mu = case.likelihood.model, case.mu[:n]
    own = AcquisitionModel(world.projector(mu.numpy()), model.factors[:n], model.background[:n])
    return Case(recon.PoissonLikelihood(case.likelihood.data[:n], own), case.guide[:n], case.truth[:n], mu)


def realisations(world: World, test: Any) -> Case:
    """Return realisations of the first held-out scan."""
    return world.case(test, torch.zeros(N_REALISATIONS, dtype=torch.long), seed=99)


def time_all(world: World, nets: Path, out: Path) -> None:
    """Write the seconds of one scan into the folder: the median of three after one to warm up, of one for DIP."""
    case = world.case(world.samples("test"), slice(0, 1), seed=5)
    seconds: dict[str, float] = {}
    for name in ORDER:
        if not (out / f"{name}.pt").exists():
            continue
        about = torch.load(out / f"{name}.pt", weights_only=True)
        if name in METHODS:
            settings, method = about["settings"], METHODS[name]
        elif name == "PnP":
            settings, method = (
                about["settings"],
                plug_and_play(train_denoiser(world, nets / "denoiser", DENOISER_STEPS)),
            )
        else:
            settings, method = {}, _applied(name, network(name).eval())  # weights do not change the time
        spent = []
        for _ in range(1 if name.startswith("DIP") else 4):
            fresh = world.items(case)[0]
            begun = time.perf_counter()
            method(world, fresh, **settings)
            spent.append(time.perf_counter() - begun)
        seconds[name] = float(np.median(spent[-3:]))
        print(f"{world.name}, {name}: {seconds[name]:.2f} s", flush=True)
    write_json(out / "seconds.json", {"machine": machine(), "seconds": seconds})


# ---- numbers ---------------------------------------------------------------------------------------------------------


def report(worlds: list[World], work: Path) -> None:
    """Print and write numbers and pictures."""
    about = machine()
    results: dict[str, Any] = {"machine": about, "scans": N_SCANS, "realisations": N_REALISATIONS, "levels": LEVELS}
    console = Console(width=170)
    console.print(machine_line(about))
    for world in worlds:
        made = {name: work / "images" / world.name / f"{name}.pt" for name in ORDER}
        found = {name: torch.load(path, weights_only=True) for name, path in made.items() if path.exists()}
        numbers = {name: quality(world, part) for name, part in found.items()}
        timed = work / "images" / world.name / "seconds.json"
        if timed.exists():
            times = json.loads(timed.read_text(encoding="utf-8"))
            for name, seconds in times["seconds"].items():
                numbers[name]["seconds"] = seconds
            results.setdefault("timed on", times["machine"])
        results[world.name] = numbers
        console.print(table_of(world, numbers))
        (work / f"{world.name}.md").write_text(markdown_of(numbers) + "\n", encoding="utf-8")
        picture(world, found, numbers).savefig(ROOT / "docs" / "images" / f"learned_{world.name}.png", dpi=110)
    curves(results, worlds).savefig(ROOT / "docs" / "images" / "learned_levels.png", dpi=110)
    write_json(RESULTS / "quality_learned.json", results)


def quality(world: World, part: dict[str, Any]) -> dict[str, Any]:
    """Return all numbers of a method."""
    test = world.samples("test")
    images, numbers = part["images"], {key: part[key] for key in ("settings", "parameters", "fitted") if key in part}
    for level in LEVELS:
        found = images[f"level {level:g}"]
        truth = scans(world, test, level).truth[: len(found)]
        errors = recon.nrmse(found, truth, dimensions=3)
        similar = recon.ssim(found, truth, dimensions=3)
        numbers[f"scans at {level:g}"] = len(found)
        numbers[f"nrmse at {level:g}"] = float(errors.mean())
        numbers[f"standard error at {level:g}"] = float(errors.std() / len(errors) ** 0.5)
        numbers[f"ssim at {level:g}"] = float(similar.mean())
    numbers |= lesions(world, scans(world, test, 1.0).truth, images["level 1"])
    truth = realisations(world, test).truth[0].double()
    many = recon.ensemble_statistics(images["realisations"], truth)
    brain = truth > 0.1 * truth.max()
    numbers["bias"] = float((many.mean - truth).abs()[brain].mean() / truth[brain].mean())
    numbers["sd"] = float(many.deviation[brain].mean() / truth[brain].mean())
    return numbers


def lesions(world: World, truth: torch.Tensor, images: torch.Tensor) -> dict[str, Any]:
    """Return contrast recovery of hot lesions by who shows them, and what lesions of the MR alone leave behind."""
    recovered: dict[str, list[float]] = {"both": [], "emission": []}
    left = []
    for i in range(len(truth)):
        for region in world.lesions("test", i, truth[i]):
            made, true = (float(x[region.inside].mean() - x[region.around].mean()) for x in (images[i], truth[i]))
            if region.seen == "guide":
                left.append((made - true) / region.reference)
            elif region.hot:
                recovered[region.seen].append(made / true)
    return {
        "contrast, in the MR": float(np.mean(recovered["both"])),
        "contrast, not in the MR": float(np.mean(recovered["emission"])),
        "hot lesions": [len(recovered["both"]), len(recovered["emission"])],
        "false transfer": float(np.sqrt(np.mean(np.square(left)))),
    }


COLUMNS = {
    "NRMSE": "nrmse at 1",
    "+-": "standard error at 1",
    "x 1/4": "nrmse at 0.25",
    "x 4": "nrmse at 4",
    "SSIM": "ssim at 1",
    "CR, in MR": "contrast, in the MR",
    "CR, not in MR": "contrast, not in the MR",
    "false transfer": "false transfer",
    "bias": "bias",
    "SD": "sd",
    "seconds": "seconds",
    "learned": "parameters",
}


def table_of(world: World, numbers: dict[str, dict[str, Any]]) -> Table:
    """Return the table of one scan."""
    table = Table(title=f"brain {world.name.upper()}, {world.recipe.counts.total:g} counts")
    for column in ("method", *COLUMNS):
        table.add_column(column, justify="left" if column == "method" else "right", no_wrap=True)
    for name, values in numbers.items():
        cells = [values.get(key) for key in COLUMNS.values()]
        table.add_row(name + ("" if name in WITHOUT_MR else " *"), *map(_cell, cells))
    table.caption = "* sees the MR"
    return table


def markdown_of(numbers: dict[str, dict[str, Any]]) -> str:
    """Return the table of one scan as the docs have it."""
    lines = [f"| method | {' | '.join(COLUMNS)} |", f"|---|{'---|' * len(COLUMNS)}"]
    for name, values in numbers.items():
        cells = " | ".join(_cell(values.get(key)) for key in COLUMNS.values())
        lines.append(f"| {name}{'' if name in WITHOUT_MR else ' *'} | {cells} |")
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:.2f}" if value >= 1 else f"{value:.3f}"


# ---- pictures --------------------------------------------------------------------------------------------------------


def picture(world: World, found: dict[str, Any], numbers: dict[str, Any], rows: tuple[int, ...] = (0, 1)) -> Figure:
    """Return held-out brains by every method that is shown, in one scale of grey."""
    test = world.samples("test")
    case = scans(world, test, 1.0)
    columns = {"truth": case.truth, "MR": None} | {
        name: found[name]["images"]["level 1"] for name in SHOWN if name in found
    }
    figure = Figure(figsize=(1.45 * len(columns), 1.9 * len(rows)))
    axes = figure.subplots(len(rows), len(columns), squeeze=False, gridspec_kw={"wspace": 0.03, "hspace": 0.12})
    for row, i in zip(axes, rows):
        black = 0.85 * float(case.truth[i].max())
        for axis, (name, images) in zip(row, columns.items()):
            guide = case.guide[i] / case.guide[i].max()
            shown = black * (1 - guide) if images is None else images[i]
            axis.imshow(shown[8:-8, 2:-2, 0].T, cmap="gray_r", vmin=0, vmax=black)
            axis.set_axis_off()
            if i == rows[0]:
                axis.set_title(name, fontsize=7.5)
            if name in found:
                nrmse = float(recon.nrmse(images[i], case.truth[i]))
                axis.text(0.5, -0.02, f"{nrmse:.3f}", transform=axis.transAxes, ha="center", va="top", fontsize=7)
    figure.subplots_adjust(0.005, 0.05, 0.995, 0.92)
    return figure


def curves(results: dict[str, Any], worlds: list[World]) -> Figure:
    """Return error against counts, and bias against deviation, for each scan."""
    figure = Figure(figsize=(12.5, 4.2 * len(worlds)), layout="constrained")
    axes = figure.subplots(len(worlds), 2, squeeze=False)
    for (left, right), world in zip(axes, worlds):
        numbers, counts = results[world.name], np.array(LEVELS) * float(world.recipe.counts.total)
        for k, name in enumerate(ORDER):
            style: dict[str, Any] = {"color": f"C{k % 10}", "marker": "os^D"[k // 5], "ms": 5}
            if name not in numbers:
                continue
            values = [numbers[name][f"nrmse at {level:g}"] for level in LEVELS]
            left.plot(counts, values, label=name, ls=":" if name in WITHOUT_MR else "-", lw=1, **style)
            right.plot(numbers[name]["bias"], numbers[name]["sd"], ls="", **style)
            right.annotate(
                name,
                (numbers[name]["bias"], numbers[name]["sd"]),
                fontsize=6.5,
                xytext=(4, 3),
                textcoords="offset points",
            )
        left.set(
            xscale="log",
            xlabel="counts (networks were trained in the middle)",
            ylabel="NRMSE",
            title=f"brain {world.name.upper()}; dotted: without the MR",
        )
        left.set_xticks(counts, [f"{n:,.0f}" for n in counts])
        left.minorticks_off()
        left.legend(fontsize=6.5, loc="upper left", bbox_to_anchor=(1, 1))
        right.margins(x=0.15)
        right.set(
            xlabel="mean |bias| / mean activity",
            ylabel="mean SD / mean activity",
            title=f"{N_REALISATIONS} realisations of one scan",
        )
    return figure


def _options() -> Any:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of samples, networks and images")
    parser.add_argument("--scan", nargs="+", choices=("pet", "spect"), default=["pet", "spect"])
    stages = ("data", "train", "images", "time", "report", "weights")
    parser.add_argument("--stage", nargs="+", choices=stages, default=stages[:-1])
    parser.add_argument("--only", nargs="*", default=[], help="methods of the stage `images`")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    return parser.parse_args()


if __name__ == "__main__":
    main()
