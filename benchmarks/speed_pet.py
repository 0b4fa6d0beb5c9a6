"""Time PET projections: ours, a plain Joseph kernel and, where it can be imported, libparallelproj; float32.

    python benchmarks/speed_pet.py

A scanner like the Discovery MI, all 415 radial bins and all 1296 planes of 8 of its 272 views, 4.3 million lines, and
an image of 215 x 215 x 71 voxels of 2.78 mm. All takers see the same image and lines in one process and take turns.
Plans, line ends and compiled code are made in a warm-up that is not timed. The plain kernel (tests/plain_joseph.py)
follows one line at a time and has no transpose: our adjoint is compared with the plain *forward* projection, too.
libparallelproj (conda only, imported as parallelproj_core) is left out where it is not installed.

Also timed: time of flight against none, list-mode events, a batch of flat images, the first call with an empty and with
a filled cache of compiled code, and, where there are CuPy and a CUDA device, the same on the GPU.

Run it on a machine that does nothing else; the share of the cores that ours really got is noted, and a low one is
warned of. `--quick` runs everything on small sizes, to see that it works, and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numba
import numpy as np
from _common import RESULTS, machine, machine_line, write_json
from rich.console import Console
from rich.table import Column, Table
from speed_spect import LOWEST_SHARE, Stopwatch, resident_memory

from emrecon.projectors import ImageGrid, ListmodeProjector, PETProjector, PETScanner, PETSinogram
from emrecon.projectors.core.threads import thread_count

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from plain_joseph import plain_joseph

WORKS = ("forward", "adjoint")
SCANNER = PETScanner.named("dmi")
LEAST_RATIOS = {"forward": 4.0, "adjoint": 3.0}  # plain forward time / ours
MOST_FOR_TOF = 6.0  # times the projection without
LEAST_EVENTS = 1e6  # per second, forward and adjoint with TOF, on two cores
HEAD = (75.0, 95.0, 85.0)  # mm, half axes of the ellipsoid that events come from


def main() -> None:
    """Time everything that was asked for, print it and write it."""
    options = _options()
    if options.child:
        print(json.dumps({"memory": child_memory, "compile": child_compile}[options.child]()))
        return
    numba.set_num_threads(min(thread_count(), numba.config.NUMBA_NUM_THREADS))  # of the plain kernel
    console, about = Console(), machine()
    results: dict[str, Any] = {"machine": about, "threads": thread_count(), "settings": _settings(options)}
    results["sinogram"] = time_sinogram(options)
    results["tof"] = time_tof(options, results["sinogram"])
    results["listmode"] = time_listmode(options)
    results["batch_2d"] = time_batch(options)
    results["first_call"] = time_first_call()
    if options.memory:
        results["memory"] = _child("memory")
    if gpu := time_gpu(options):
        results["gpu"] = gpu
    results["requirements"] = requirements(results, options)
    report(console, results)
    console.print(machine_line(about))
    if options.quick:
        console.print("[bold]--quick: small sizes, nothing to quote and nothing written")
    else:
        write_json(options.out, results)


# ---- what is projected ----------------------------------------------------------------------------------------------


def setting(options: argparse.Namespace, *, tof: bool = False) -> tuple[PETProjector, np.ndarray]:
    """Return (projector, image) of the sinogram timings."""
    step = 272 if options.quick else 34
    sinogram = PETSinogram(SCANNER, tof=SCANNER.time_of_flight if tof else None, views=np.arange(0, 272, step))
    grid = ImageGrid((64, 64, 71), (9.34, 9.34, 2.78)) if options.quick else ImageGrid((215, 215, 71), 2.78)
    return PETProjector(grid, sinogram), body(grid)


def body(grid: ImageGrid) -> np.ndarray:
    """Return a warm elliptic cylinder with a hot sphere; float32."""
    x, y, z = grid.coordinates()
    cylinder = ((x / 180) ** 2 + (y / 120) ** 2 < 1) & (np.abs(z) < 90)
    return (cylinder + 4.0 * ((x - 60) ** 2 + y**2 + z**2 < 25**2)).astype(np.float32)


def listmode(options: argparse.Namespace) -> tuple[ListmodeProjector, np.ndarray]:
    """Return (projector, image) of the list-mode timings."""
    grid = ImageGrid((128, 128, 90), (2.0, 2.0, 2.2))
    x, y, z = grid.coordinates()
    image = sum((axis / half) ** 2 for axis, half in zip((x, y, z), HEAD)) < 1
    events = head_events(20_000 if options.quick else options.events)
    return ListmodeProjector(grid, SCANNER, events, tof=True), image.astype(np.float32)


def head_events(n: int, seed: int = 0) -> np.ndarray:
    """Draw coincidences (n, 3) with TOF bins from annihilations in an ellipsoid, in random order as they come."""
    rng, parts = np.random.default_rng(seed), []
    while sum(map(len, parts)) < n:
        parts.append(_draw(rng, 1 << 18))
    return np.concatenate(parts)[:n].astype(np.int32)


def _draw(rng: np.random.Generator, n: int) -> np.ndarray:
    points = rng.normal(size=(n, 3))
    points *= rng.random((n, 1)) ** (1 / 3) / np.linalg.norm(points, axis=1, keepdims=True) * HEAD
    phi, cosine = rng.uniform(0, 2 * np.pi, n), rng.uniform(-1, 1, n)
    along = np.stack([np.cos(phi), np.sin(phi), cosine / np.sqrt(1 - cosine**2)], 1)
    # |points + t along| = radius in the transverse plane
    middle = -(points[:, :2] * along[:, :2]).sum(1)
    half = np.sqrt(middle**2 + SCANNER.radius**2 - (points[:, :2] ** 2).sum(1))
    ends = [points + (middle + sign * half)[:, None] * along for sign in (-1, 1)]
    seen = np.all([np.abs(end[:, 2]) < SCANNER.rings.max() for end in ends], axis=0)
    first, second = (_crystals(end[seen]) for end in ends)
    positions, tof = SCANNER.positions, SCANNER.time_of_flight
    assert tof is not None
    line = positions[second] - positions[first]
    line /= np.linalg.norm(line, axis=1, keepdims=True)
    s = ((points[seen] - (positions[first] + positions[second]) / 2) * line).sum(1)
    bins = np.floor((s + rng.normal(0, tof.sigma, len(s))) / tof.bin_width + tof.n_bins / 2).astype(int)
    return np.stack([first, second, bins], 1)[(bins >= 0) & (bins < tof.n_bins)]


def _crystals(points: np.ndarray) -> np.ndarray:
    """The crystals next to points on the cylinder."""
    n, heights = SCANNER.n_crystals, SCANNER.rings
    within = np.round(np.arctan2(points[:, 0], -points[:, 1]) / (2 * np.pi) * n).astype(int) % n
    ring = np.abs(points[:, 2, None] - heights).argmin(1)
    numbers: np.ndarray = ring * n + within
    return numbers


# ---- others ---------------------------------------------------------------------------------------------------------


class Parallelproj:
    """libparallelproj's projections of the same image along the same lines, from NumPy or CuPy arrays.

    Its TOF bins count towards the second end, as ours.
    """

    def __init__(self, core: Any, xp: Any, A: Any, image: Any, data: Any) -> None:
        tof = A.tof if isinstance(A, ListmodeProjector) else A.sinogram.tof
        self.core, self.xp, self.shape = core, xp, A.in_shape
        self.ends = [xp.ascontiguousarray(xp.asarray(ends, dtype=np.float32)) for ends in line_ends(A)]
        self.place = [xp.asarray(values, dtype=np.float32) for values in (A.grid.origin, A.grid.voxel_size)]
        self.image, self.kind, self.timing = xp.asarray(image), "", []
        # TOF bins are the last axis there
        moved = xp.moveaxis(xp.asarray(data), 2, -1) if tof and not isinstance(A, ListmodeProjector) else data
        self.data = xp.ascontiguousarray(xp.asarray(moved))
        if tof:
            one = [xp.asarray([value], dtype=np.float32) for value in (tof.sigma, 0.0)]
            bins = [xp.asarray(A.events[:, 2], dtype=np.int16)] if isinstance(A, ListmodeProjector) else []
            self.kind, self.timing = "tof_lm_" if bins else "tof_sino_", [tof.bin_width, *one, *bins, tof.n_bins, 3.0]

    def forward(self) -> Any:
        """Project the image."""
        out = self.xp.zeros(self.data.shape, dtype=np.float32)
        getattr(self.core, f"joseph3d_{self.kind}fwd")(*self.ends, self.image, *self.place, out, *self.timing)
        return out

    def adjoint(self) -> Any:
        """Project the data back."""
        image = self.xp.zeros(self.shape, dtype=np.float32)
        getattr(self.core, f"joseph3d_{self.kind}back")(*self.ends, image, *self.place, self.data, *self.timing)
        return image

    def difference(self) -> float:
        """Return how far it is from ours, |theirs - ours| / |ours|."""
        return float(self.xp.linalg.norm(self.forward() - self.data) / self.xp.linalg.norm(self.data))


def line_ends(A: Any) -> tuple[np.ndarray, ...]:
    """Return both ends of every line of a projector."""
    if isinstance(A, ListmodeProjector):
        return tuple(A.scanner.positions[A.events[:, side]] for side in range(2))
    return tuple(A.sinogram.line_ends())


def parallelproj(*, cuda: bool = False) -> Any | None:
    """Return the module parallelproj_core, or None where it is not installed (or has no CUDA, where that is asked)."""
    try:
        import parallelproj_core  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return None
    return None if cuda and not parallelproj_core.cuda_enabled else parallelproj_core


# ---- timings --------------------------------------------------------------------------------------------------------


def time_sinogram(options: argparse.Namespace) -> dict[str, Any]:
    """Time ours, the plain kernel and libparallelproj on a sinogram without TOF, in turns."""
    A, image = setting(options)
    data = A(image)
    row = take_turns(A, image, data, options, plain=options.plain)
    lines = float(math.prod(A.out_shape))
    return row | {"lines": int(lines)} | {f"{n}_lines_per_s": round(1000 * lines / row[f"{n}_ms"]) for n in WORKS}


def time_tof(options: argparse.Namespace, plain_row: dict[str, Any]) -> dict[str, Any]:
    """Time the same with TOF bins; `tof_ratio` is how many times longer it takes than without."""
    A, image = setting(options, tof=True)
    row = take_turns(A, image, A(image), options)
    ratios = {f"{name}_tof_ratio": round(row[f"{name}_ms"] / plain_row[f"{name}_ms"], 2) for name in WORKS}
    return row | {"tof_bins": A.out_shape[2]} | ratios


def time_listmode(options: argparse.Namespace) -> dict[str, Any]:
    """Time list-mode projections with TOF; events per second of a forward and an adjoint projection together."""
    A, image = listmode(options)
    row, n = take_turns(A, image, A(image), options), A.out_shape[0]
    rates = {
        f"{who}events_per_s": round(1000 * n / sum(row[f"{who}{name}_ms"] for name in WORKS))
        for who in ("", "parallelproj_")
        if f"{who}forward_ms" in row
    }
    return row | {"events": n} | rates


def time_batch(options: argparse.Namespace) -> dict[str, Any]:
    """Time a batch of 64 flat images in a scanner of one ring."""
    ring = SCANNER.crystals[:1] * [1, 1, 0]
    n = 64 if options.quick else 215
    sinogram = PETSinogram(PETScanner(ring, n_radial=SCANNER.n_radial))
    grid = ImageGrid((n, n, 1), (2.78 * 215 / n, 2.78 * 215 / n, 2.78))
    A = PETProjector(grid, sinogram.subset(0, 8) if options.quick else sinogram)
    images = np.linspace(0.5, 1.5, 64, dtype=np.float32)[:, None, None, None] * body(grid)
    return {"images": 64, "size": n, "views": A.sinogram.n_views} | take_turns(
        A, images, A(images), options, peer=False
    )


def take_turns(
    A: Any, image: np.ndarray, data: np.ndarray, options: argparse.Namespace, *, plain: bool = False, peer: bool = True
) -> dict[str, Any]:
    """Time ours and the others in turns, each warmed up."""
    works: dict[str, Callable[[], Any]] = {"forward": lambda: A(image), "adjoint": lambda: A.T(data)}
    row: dict[str, Any] = {"repeats": options.repeats}
    if plain:
        ends = line_ends(A)
        works["plain_forward"] = lambda: plain_joseph(image, A.grid, *ends)
        difference = np.linalg.norm(works["plain_forward"]() - data) / np.linalg.norm(data)
        row["plain_difference"] = round(float(difference), 6)
    if peer and (core := parallelproj()):
        other = Parallelproj(core, np, A, image, data)
        works |= {"parallelproj_forward": other.forward, "parallelproj_adjoint": other.adjoint}
        row["parallelproj_difference"] = round(other.difference(), 6)
    watch = Stopwatch()
    for work in works.values():
        work()
    for _ in range(options.repeats):
        for name, work in works.items():
            watch.time(name, work)
    for name in works:
        row |= watch.columns(name, thread_count())
    return row | ratios(row)


def ratios(row: dict[str, Any]) -> dict[str, float]:
    """Return how many times longer the others take; the plain forward projection stands in for its adjoint."""
    others = {("parallelproj", name): f"parallelproj_{name}_ms" for name in WORKS}
    others |= {("plain", name): "plain_forward_ms" for name in WORKS}
    return {
        f"{name}_ratio_{who}": round(row[column] / row[f"{name}_ms"], 2)
        for (who, name), column in others.items()
        if column in row
    }


# ---- GPU ------------------------------------------------------------------------------------------------------------


def time_gpu(options: argparse.Namespace) -> dict[str, Any] | None:
    """Time the same on the GPU with events; None where there is no CuPy or no device."""
    try:
        import cupy

        name = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
    except Exception:  # no CuPy, no driver and no device each raise something else
        return None
    result: dict[str, Any] = {"device": name, "cupy": cupy.__version__, "repeats": options.repeats}
    settings = {"sinogram": setting(options), "tof": setting(options, tof=True), "listmode": listmode(options)}
    for kind, (A, image) in settings.items():
        row = _gpu_row(cupy, A, cupy.asarray(image), options)
        lines = float(math.prod(A.out_shape)) / (A.out_shape[2] if kind == "tof" else 1)
        rates = {f"{work}_lines_per_s": round(1000 * lines / row[f"{work}_ms"]) for work in WORKS}
        result[kind] = row | {"lines": int(lines)} | rates
    return result


def _gpu_row(cupy: Any, A: Any, image: Any, options: argparse.Namespace) -> dict[str, Any]:
    data = A(image)
    works: dict[str, Callable[[], Any]] = {"forward": lambda: A(image), "adjoint": lambda: A.T(data)}
    if core := parallelproj(cuda=True):
        other = Parallelproj(core, cupy, A, image, data)
        works |= {"parallelproj_forward": other.forward, "parallelproj_adjoint": other.adjoint}
    times: dict[str, list[float]] = {name: [] for name in works}
    for repeat in range(options.repeats + 1):
        for name, work in works.items():
            seconds = _gpu_time(cupy, work)
            if repeat:  # the first is the warm-up
                times[name].append(seconds)
    row = {f"{name}_ms": round(median(values), 3) for name, values in times.items()}
    return row | ratios(row)


def _gpu_time(cupy: Any, work: Callable[[], Any]) -> float:
    start, end = cupy.cuda.Event(), cupy.cuda.Event()
    cupy.cuda.Device().synchronize()
    start.record()
    work()
    end.record()
    cupy.cuda.Device().synchronize()  # the other library may use a stream of its own
    return float(cupy.cuda.get_elapsed_time(start, end))


# ---- what needs a process of its own --------------------------------------------------------------------------------


def time_first_call() -> dict[str, Any]:
    """Return seconds of the first projections with an empty, then with a filled cache of compiled code."""
    with tempfile.TemporaryDirectory() as folder:
        names = ("empty_cache", "filled_cache")
        return {name: _child("compile", NUMBA_CACHE_DIR=folder) for name in names}


def child_compile() -> dict[str, float]:
    """Time the first calls of projectors so small that compiling, or loading code, is all there is."""
    scanner = PETScanner.polygon(sides=6, crystals_per_side=4, radius=60, rings=3, ring_pitch=5)
    grid, watch = ImageGrid((8, 8, 4), 8.0), Stopwatch()
    image = np.ones(grid.shape, np.float32)
    A = PETProjector(grid, PETSinogram(scanner))
    E = ListmodeProjector(grid, scanner, np.array([[0, 12], [1, 40]]))
    data = watch.time("first_forward", lambda: A(image))
    watch.time("first_adjoint", lambda: A.T(data))
    watch.time("second_forward", lambda: A(image))
    values = watch.time("first_events_forward", lambda: E(image))
    watch.time("first_events_adjoint", lambda: E.T(values))
    return {f"{name}_s": round(seconds[0], 5) for name, seconds in watch.elapsed.items()}


def child_memory() -> dict[str, Any]:
    """Return by how much the peak of resident memory grows in a forward and an adjoint projection without TOF."""
    options = argparse.Namespace(quick=False)
    A, image = setting(options)
    small = replace(A.sinogram, views=A.sinogram.views[:1], n_radial=9)
    PETProjector(A.grid, small).T(PETProjector(A.grid, small)(image))
    before = resident_memory("VmRSS")
    A.T(A(image))
    growth = resident_memory("VmHWM") - before
    return {
        "threads": thread_count(),
        "before_bytes": before,
        "growth_bytes": growth,
        "data_bytes": 4 * math.prod(A.out_shape),
    }


def _child(task: str, **environment: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", task]
    done = subprocess.run(command, env=os.environ | environment, stdout=subprocess.PIPE, text=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


# ---- output ---------------------------------------------------------------------------------------------------------


def requirements(results: dict[str, Any], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return what is required, what was measured, and whether it is met."""
    rows = []
    for name in WORKS:
        if options.plain:
            ratio = results["sinogram"][f"{name}_ratio_plain"]
            rows.append((f"plain forward time / our {name} time", ">=", LEAST_RATIOS[name], ratio))
    for name in WORKS:
        ratio = results["tof"][f"{name}_tof_ratio"]
        rows.append((f"{name} with TOF / without", "<=", MOST_FOR_TOF, ratio))
    rows.append(
        ("list-mode TOF events per s, forward + adjoint", ">=", LEAST_EVENTS, results["listmode"]["events_per_s"])
    )
    return [
        {"name": name, "need": f"{sign} {limit:g}", "value": value, "ok": bool(_met(value, sign, limit))}
        for name, sign, limit, value in rows
    ]


def _met(value: float, sign: str, limit: float) -> bool:
    return value >= limit if sign == ">=" else value <= limit


def report(console: Console, results: dict[str, Any]) -> None:
    """Print everything as tables."""
    titles = ("ours (ms)", "plain forward (ms)", "ratio", "parallelproj (ms)", "ratio")
    table = Table("work", *(Column(title, justify="right") for title in titles))
    table.title = f"PET projections; {results['threads']} threads"
    for label, row in _labelled(results):
        for name in WORKS:
            table.add_row(f"{name} {label}", *_cells(row, name))
    console.print(table)
    console.print("the plain kernel has no transpose: adjoints are compared with its forward projection")
    if "parallelproj_forward_ms" not in results["sinogram"]:
        console.print("parallelproj_core is not installed (conda only): not compared")
    for name, row in results["first_call"].items():
        calls = (f"{key[:-2].replace('_', ' ')} {1000 * value:.1f} ms" for key, value in row.items())
        console.print(f"{name.replace('_', ' ')}: {', '.join(calls)}")
    if memory := results.get("memory"):
        console.print(f"memory: {memory['growth_bytes'] / 2**20:.0f} MiB on {memory['threads']} threads")
    for kind, row in results.get("gpu", {}).items():
        if isinstance(row, dict):
            rates = ", ".join(f"{name} {row[f'{name}_lines_per_s'] / 1e6:.0f} million lines/s" for name in WORKS)
            console.print(f"{results['gpu']['device']}, {kind}: {rates}")
    for row in results["requirements"]:
        mark = "[green]ok[/]" if row["ok"] else "[bold red]missed[/]"
        console.print(f"{mark}  {row['name']}: {row['value']:g} (need {row['need']})")
    if (share := lowest_share(results)) < LOWEST_SHARE:
        console.print(f"[bold red]do not quote these times: a run got only {share:.0%} of its threads' time")


def lowest_share(results: dict[str, Any]) -> float:
    """Return the smallest share of the cores that any timed work of ours got."""
    rows = [results[kind] for kind in ("sinogram", "tof", "listmode", "batch_2d")]
    return float(min(row[f"{name}_share"] for row in rows for name in WORKS))


def _labelled(results: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    sinogram, tof, events, batch = (results[kind] for kind in ("sinogram", "tof", "listmode", "batch_2d"))
    rows = [
        (f"{sinogram['lines'] / 1e6:.1f} million lines", sinogram),
        (f"with {tof['tof_bins']} TOF bins", tof),
        (f"{events['events'] / 1e6:g} million TOF events", events),
        (f"{batch['images']} of {batch['size']}^2 x {batch['views']} views", batch),
    ]
    gpu = results.get("gpu", {})
    return rows + [(f"GPU {kind}", row) for kind, row in gpu.items() if isinstance(row, dict)]


def _cells(row: dict[str, Any], name: str) -> list[str]:
    cells = [f"{row[f'{name}_ms']:.1f}"]
    for who, column in (("plain", "plain_forward_ms"), ("parallelproj", f"parallelproj_{name}_ms")):
        there = column in row
        cells += [f"{row[column]:.1f}", f"{row[f'{name}_ratio_{who}']:.1f}"] if there else ["", ""]
    return cells


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "scanner": str(SCANNER),
        "sinogram": "8 of 272 views, 415 bins, 1296 planes; image 215 x 215 x 71 voxels of 2.78 mm",
        "listmode": "image 128 x 128 x 90 voxels of 2 x 2 x 2.2 mm, events from an ellipsoid, random order",
        "dtype": "float32",
        "statistic": "median and fastest; takers in turns, warmed up",
        "plain": "tests/plain_joseph.py, forward only; line ends made before" if options.plain else None,
        "parallelproj": getattr(parallelproj(), "__version__", None),
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Speed of PET projections, ours and others.")
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of each")
    parser.add_argument("--events", type=int, default=2_000_000, help="list-mode events")
    parser.add_argument("--no-plain", dest="plain", action="store_false", help="leave the plain kernel out")
    parser.add_argument("--memory", action="store_true", help="also measure memory")
    parser.add_argument("--quick", action="store_true", help="small sizes, one run, nothing written")
    parser.add_argument("--out", type=Path, default=RESULTS / "speed_pet.json", help="numbers, as JSON")
    parser.add_argument("--child", choices=("memory", "compile"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.repeats = 1
    return options


if __name__ == "__main__":
    main()
