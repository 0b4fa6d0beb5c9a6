"""Time SPECT projections, ours against PyTomography: attenuation and distance-dependent response, float32.

    python benchmarks/speed_spect.py --sizes 64 128 256

Both see the same image, camera, attenuation and collimator in one process, and take turns. Plans, tables and compiled
code are made in a warm-up that is not timed. Also timed: a batch of 2-D images, the first call with an empty and with a
filled cache of compiled code, and, where there are CuPy and a CUDA device, ours on the GPU.

Run it on a machine that does nothing else. Where another process takes one core of two, ours takes twice as long, but
torch, whose threads wait for each other many times in a view, takes up to ten times as long, and the ratio means
nothing. The share of the cores that a run really got, processor time / (elapsed time x threads), is noted for this
reason, and a low one is warned of. The fastest runs are noted, too: they suffer least.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from _common import RESULTS, machine, machine_line, peer_matrix, write_json
from rich.console import Console
from rich.table import Column, Table

FIELD_OF_VIEW = 425.0  # mm, at every size
RADIUS = 250.0  # mm
MEMORY_LIMIT = 4 * 2**30
WORKS = ("forward", "adjoint")
LOWEST_SHARE = 0.8  # of the cores, below which a timing is not to be quoted
WARM_UP_VIEWS = 6  # of the peer


def main() -> None:
    """Time everything that was asked for, print it and write it."""
    options = _options()
    if options.child:
        print(json.dumps({"memory": child_memory, "compile": child_compile}[options.child]()))
        return
    console, about = Console(), machine()
    results: dict[str, Any] = {"machine": about, "threads": threads(options.peer), "settings": _settings(options)}
    results["projections"] = [time_size(n, options) for n in options.sizes]
    results["batch_2d"] = time_batch(options)
    results["first_call"] = time_first_call()
    if gpu := time_gpu(options):
        results["gpu"] = gpu
    if options.memory:
        results["memory"] = _child("memory")
    report(console, results)
    console.print(machine_line(about))
    write_json(options.out, results)
    if options.memory and results["memory"]["growth_bytes"] >= MEMORY_LIMIT:
        sys.exit("the projector takes more memory than it may")


# ---- what is projected ----------------------------------------------------------------------------------------------


def phantom(grid: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the activity, a hot sphere in an elliptic cylinder, and the attenuation of water in 1/cm; float32."""
    x, y, z = grid.coordinates()
    body = ((x / 160) ** 2 + (y / 110) ** 2 < 1) & (np.abs(z) < 0.45 * FIELD_OF_VIEW)
    sphere = (x - 60) ** 2 + (y + 20) ** 2 + z**2 < 25**2
    return (body + 7 * sphere).astype(np.float32), (0.15 * body).astype(np.float32)


def setting(n: int, n_views: int, *, flat: bool = False) -> tuple[Any, np.ndarray]:
    """Return (projector, image) for n x n bins and n slices, or one slice where flat, at a fixed field of view."""
    from emrecon.projectors import ImageGrid, SPECTGeometry, SPECTProjector, collimator

    depth, size = 1 if flat else n, FIELD_OF_VIEW / n
    grid = ImageGrid((n, n, depth), (size, size, size))
    camera = SPECTGeometry.circular(n_views, RADIUS, (n, depth), size)
    image, mu = phantom(grid)
    response = collimator("siemens-lehr").response(140.5)
    return SPECTProjector(grid, camera, attenuation=mu, response=response), image


# ---- timings --------------------------------------------------------------------------------------------------------


@dataclass
class Stopwatch:
    """Elapsed and processor seconds of named pieces of work."""

    elapsed: dict[str, list[float]] = field(default_factory=dict)
    processor: dict[str, list[float]] = field(default_factory=dict)

    def time(self, name: str, work: Callable[[], Any]) -> Any:
        """Do the work and note how long it took."""
        start, used = time.perf_counter(), time.process_time()
        result = work()
        self.elapsed.setdefault(name, []).append(time.perf_counter() - start)
        self.processor.setdefault(name, []).append(time.process_time() - used)
        return result

    def columns(self, name: str, n_threads: int, factor: float = 1.0) -> dict[str, float]:
        """Return the median and the fastest time in ms, times a factor, and the share of the cores, of named work."""
        share = sum(self.processor[name]) / (n_threads * sum(self.elapsed[name]))
        return {
            f"{name}_ms": round(1000 * factor * median(self.elapsed[name]), 3),
            f"{name}_fastest_ms": round(1000 * factor * min(self.elapsed[name]), 3),
            f"{name}_share": round(share, 2),
        }


def time_size(n: int, options: argparse.Namespace) -> dict[str, Any]:
    """Time forward and adjoint projections of an n^3 image, ours and the peer's in turns, each warmed up."""
    A, image = setting(n, options.views)
    data, watch = A(image), Stopwatch()
    A.T(data)
    peer = Peer(A, image, data, options.peer_views) if options.peer else None
    peer_repeats = _peer_repeats(n, options) if peer else 0
    for repeat in range(max(options.repeats, peer_repeats)):
        if repeat < options.repeats:
            A(image)  # not timed: the peer leaves cold caches
            watch.time("forward", lambda: A(image))
            watch.time("adjoint", lambda: A.T(data))
        if peer and repeat < peer_repeats:
            peer.warm_up()
            watch.time("peer_forward", peer.forward)
            watch.time("peer_adjoint", peer.adjoint)
    row: dict[str, Any] = {"size": n, "views": options.views, "repeats": options.repeats}
    for name in WORKS:
        row |= watch.columns(name, _thread_count())
    return row | (_peer_columns(row, watch, peer, peer_repeats) if peer else {})


class Peer:
    """PyTomography's projector of the same thing, in all views or, where asked, in some of them, equally spaced."""

    def __init__(self, A: Any, image: np.ndarray, data: np.ndarray, n_views: int | None) -> None:
        import torch

        total = A.geometry.n_views
        step = max(1, total // (n_views or total))
        part = A.subset(0, step)
        self.n_views, self.scaled_by = part.geometry.n_views, total / part.geometry.n_views
        self.matrix, self.image = peer_matrix(part), torch.from_numpy(image)
        self.data = torch.from_numpy(np.ascontiguousarray(data[::step]))
        self.difference = self.warm_up()

    def warm_up(self) -> float:
        """Project a few views there and back; return how far they are from ours, |theirs - ours| / |ours|."""
        n_subsets = max(1, self.n_views // WARM_UP_VIEWS)
        self.matrix.set_n_subsets(n_subsets)
        ours, theirs = self.data[::n_subsets], self.matrix.forward(self.image, 0)
        self.matrix.backward(ours, 0)
        return float((theirs - ours).norm() / ours.norm())

    def forward(self) -> Any:
        """Project the image."""
        return self.matrix.forward(self.image)

    def adjoint(self) -> Any:
        """Project the data back."""
        return self.matrix.backward(self.data)


def _peer_repeats(n: int, options: argparse.Namespace) -> int:
    if options.peer_repeats is not None:
        return int(options.peer_repeats)
    return 1 if n >= 256 else min(3, options.repeats)


def _peer_columns(row: dict[str, Any], watch: Stopwatch, peer: Peer, repeats: int) -> dict[str, Any]:
    columns: dict[str, Any] = {
        "peer_repeats": repeats,
        "peer_views": peer.n_views,
        "peer_scaled_by": peer.scaled_by,
        "peer_difference": round(peer.difference, 5),
    }
    for name in WORKS:
        columns |= watch.columns(f"peer_{name}", threads(True)["torch"], peer.scaled_by)
        columns[f"{name}_ratio"] = round(columns[f"peer_{name}_ms"] / row[f"{name}_ms"], 2)
        columns[f"{name}_fastest_ratio"] = round(columns[f"peer_{name}_fastest_ms"] / row[f"{name}_fastest_ms"], 2)
    return columns


def time_batch(options: argparse.Namespace) -> dict[str, Any]:
    """Time a batch of 128 two-dimensional images of 128 x 128 in 120 views."""
    A, image = setting(128, 120, flat=True)
    images = np.linspace(0.5, 1.5, 128, dtype=np.float32)[:, None, None, None] * image
    data, watch = A(images), Stopwatch()
    A.T(data)
    for _ in range(options.repeats):
        watch.time("forward", lambda: A(images))
        watch.time("adjoint", lambda: A.T(data))
    row: dict[str, Any] = {"images": 128, "size": 128, "views": 120, "repeats": options.repeats}
    for name in WORKS:
        row |= watch.columns(name, _thread_count())
    return row


def time_gpu(options: argparse.Namespace) -> dict[str, Any] | None:
    """Time 128^3 x 96 views on the GPU with events; None where there is no CuPy or no device."""
    try:
        import cupy

        name = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
    except Exception:  # no CuPy, no driver and no device each raise something else
        return None
    A, image = setting(128, 96)
    image = cupy.asarray(image)
    data = A(image)
    times = {
        "forward_ms": _gpu_time(cupy, lambda: A(image), options),
        "adjoint_ms": _gpu_time(cupy, lambda: A.T(data), options),
    }
    return {"device": name, "cupy": cupy.__version__, "size": 128, "views": 96, "repeats": options.repeats, **times}


def _gpu_time(cupy: Any, work: Callable[[], Any], options: argparse.Namespace) -> float:
    work()
    times = []
    for _ in range(options.repeats):
        start, end = cupy.cuda.Event(), cupy.cuda.Event()
        cupy.cuda.Device().synchronize()
        start.record()
        work()
        end.record()
        end.synchronize()
        times.append(cupy.cuda.get_elapsed_time(start, end))
    return round(median(times), 3)


def threads(with_peer: bool) -> dict[str, int]:
    """Return how many threads ours uses, and torch where it is timed."""
    if not with_peer:
        return {"emrecon": _thread_count()}
    import torch

    return {"emrecon": _thread_count(), "torch": torch.get_num_threads()}


def _thread_count() -> int:
    from emrecon.projectors.core.threads import thread_count

    return thread_count()


# ---- what needs a process of its own --------------------------------------------------------------------------------


def time_first_call() -> dict[str, Any]:
    """Return seconds of the first projections with an empty, then with a filled cache of compiled code."""
    with tempfile.TemporaryDirectory() as folder:
        names = ("empty_cache", "filled_cache")
        return {name: _child("compile", NUMBA_CACHE_DIR=folder) for name in names}


def child_compile() -> dict[str, float]:
    """Time the first and second calls of a projector so small that compiling, or loading code, is all there is."""
    A, image = setting(16, 4)
    watch = Stopwatch()
    data = watch.time("first_forward", lambda: A(image))
    watch.time("first_adjoint", lambda: A.T(data))
    watch.time("second_forward", lambda: A(image))
    return {f"{name}_s": round(seconds[0], 5) for name, seconds in watch.elapsed.items()}


def child_memory() -> dict[str, Any]:
    """Return by how much the peak of resident memory grows in a forward and an adjoint projection of 256^3, 120 views.

    Compiled code is loaded before; the image, the attenuation map and the projections count.
    """
    small, image = setting(16, 4)
    small.T(small(image))
    before = resident_memory("VmRSS")
    A, image = setting(256, 120)
    A.T(A(image))
    growth = resident_memory("VmHWM") - before
    return {"size": 256, "views": 120, "threads": _thread_count(), "before_bytes": before, "growth_bytes": growth}


def resident_memory(which: str) -> int:
    """Return this process's resident memory in bytes, now ("VmRSS") or at its peak ("VmHWM").

    Elsewhere than on Linux it is always the peak. Linux hands `ru_maxrss` down from the process that started this one,
    so that its own file is asked first.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith(which))
        return 1024 * int(line.split()[1])
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _child(task: str, **environment: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", task]
    done = subprocess.run(command, env=os.environ | environment, stdout=subprocess.PIPE, text=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


# ---- output ---------------------------------------------------------------------------------------------------------


def report(console: Console, results: dict[str, Any]) -> None:
    """Print everything as tables."""
    count = ", ".join(f"{name} {n}" for name, n in results["threads"].items())
    titles = ("ours (ms)", "PyTomography (ms)", "ratio", "ratio of fastest")
    numbers = (Column(title, justify="right") for title in titles)
    table = Table("work", *numbers, title=f"SPECT projections; threads: {count}")
    for label, row in _labelled(results):
        for name in WORKS:
            table.add_row(f"{name} {label} x {row['views']}", *_cells(row, name))
    console.print(table)
    for name, row in results["first_call"].items():
        calls = (f"{key[:-2].replace('_', ' ')} {1000 * value:.1f} ms" for key, value in row.items())
        console.print(f"{name.replace('_', ' ')}: {', '.join(calls)}")
    if memory := results.get("memory"):
        size = memory["growth_bytes"] / 2**30
        console.print(f"memory, 256^3 x 120 views: {size:.2f} GiB on {memory['threads']} threads")
    if (share := lowest_share(results)) < LOWEST_SHARE:
        console.print(f"[bold red]do not quote these times: a run got only {share:.0%} of its threads' time")


def lowest_share(results: dict[str, Any]) -> float:
    """Return the smallest share of the cores that any timed work got."""
    rows = (*results["projections"], results["batch_2d"])
    return min(value for row in rows for name, value in row.items() if name.endswith("_share"))


def _labelled(results: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    rows = [(f"{row['size']}^3", row) for row in results["projections"]]
    rows.append(("128 of 128^2", results["batch_2d"]))
    return rows + ([("GPU 128^3", results["gpu"])] if "gpu" in results else [])


def _cells(row: dict[str, Any], name: str) -> tuple[str, ...]:
    ours = f"{row[f'{name}_ms']:.1f}"
    if f"peer_{name}_ms" not in row:
        return (ours,)
    scaled = " (scaled)" if row["peer_scaled_by"] != 1 else ""
    ratios = (f"{row[f'{name}_{kind}']:.1f}" for kind in ("ratio", "fastest_ratio"))
    return ours, f"{row[f'peer_{name}_ms']:.1f}{scaled}", *ratios


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "views": options.views,
        "field_of_view_mm": FIELD_OF_VIEW,
        "radius_mm": RADIUS,
        "collimator": "siemens-lehr at 140.5 keV",
        "attenuation": "0.15 /cm in an elliptic cylinder of 160 mm x 110 mm",
        "dtype": "float32",
        "statistic": "median and fastest; each turn begins with an untimed projection (the peer's: of a few views)",
        "peer": "pytomography" if options.peer else None,
        "peer_time": "scaled up linearly by peer_scaled_by where peer_views is less than views",
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Speed of SPECT projections, ours against PyTomography.")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 256], help="n, for n^3 images and n x n bins")
    parser.add_argument("--views", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=7, help="timed runs of ours")
    parser.add_argument("--peer-repeats", type=int, help="timed runs of PyTomography (default 3, and 1 from 256 on)")
    parser.add_argument("--peer-views", type=int, help="give PyTomography about so many views and scale its time up")
    parser.add_argument("--no-peer", dest="peer", action="store_false", help="time ours only")
    parser.add_argument("--memory", action="store_true", help="also measure memory; fails at 4 GiB or more")
    parser.add_argument("--out", type=Path, default=RESULTS / "speed_spect.json", help="numbers, as JSON")
    parser.add_argument("--child", choices=("memory", "compile"), help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
