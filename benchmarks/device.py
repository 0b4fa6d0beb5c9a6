"""Everything that only a CUDA device can tell, in one run: tests, correctness, times, waits, training, other packages.

    python benchmarks/device.py --minutes 8             on a device: writes results/device.json and results/device.md
    python benchmarks/device.py --emulated --out DIR    all of it, small, on the emulated device of the tests

Parts run one after another; each is written as soon as it is done, one that fails is noted and the next begins, and
none begins once the minutes are over. Times are medians by events after a warm-up. On the emulated device they are
those of the host and mean nothing.
"""

from __future__ import annotations

import argparse
import csv
import io
import math
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from _common import RESULTS, machine, machine_line, peer_matrix, write_json

from emrecon import recon
from emrecon.projectors import (
    AcquisitionModel,
    GaussianBlur,
    ImageGrid,
    LinearResponse,
    ListmodeProjector,
    PETProjector,
    PETScanner,
    PETSinogram,
    SPECTGeometry,
    SPECTProjector,
    TimeOfFlight,
)

ROOT = Path(__file__).resolve().parent.parent
GOALS = {
    ("spect", "forward_ms"): ("SPECT 128^3 x 96 views, forward", "<=", 4.6, "ms"),
    ("spect", "adjoint_ms"): ("SPECT 128^3 x 96 views, adjoint", "<=", 8.0, "ms"),
    ("sinogram", "forward_lines_per_s"): ("PET sinogram, forward", ">=", 1e9, "lines/s"),
    ("listmode", "events_per_s"): ("TOF events, forward and adjoint", ">=", 1e8, "events/s"),
}
METRICS = {
    "dram__throughput.avg.pct_of_peak_sustained_elapsed": "memory",
    "sm__throughput.avg.pct_of_peak_sustained_elapsed": "arithmetic",
    "sm__warps_active.avg.pct_of_peak_sustained_active": "occupancy",
    "gpu__time_duration.sum": "time",
}


@dataclass(frozen=True)
class Sizes:
    """How large the settings are."""

    correct: tuple[int, ...]  # voxels along each axis
    spect: tuple[int, int]  # voxels, views
    pet: tuple[int, int]  # crystals of a ring, rings
    events: int
    slices: tuple[int, int]  # batch and voxels of the network's step in two dimensions
    volume: int  # voxels along each axis of the step in three dimensions
    repeats: int


ON_DEVICE = Sizes((32, 64, 128), (128, 96), (504, 20), 20_000_000, (16, 128), 96, 20)
EMULATED = Sizes((4, 5, 6), (6, 6), (12, 2), 200, (2, 8), 6, 1)


@dataclass
class Run:
    """Settings, the time that is left, and what was found so far."""

    sizes: Sizes
    emulated: bool
    until: float
    out: Path
    found: dict[str, Any] = field(default_factory=dict)

    @property
    def left(self) -> float:
        """Seconds."""
        return self.until - time.monotonic()


# ---- settings --------------------------------------------------------------------------------------------------------


def spect(n: int, views: int) -> SPECTProjector:
    """A camera around a water cylinder, with attenuation and a response that widens."""
    grid = ImageGrid((n, n, n), 512 / n)
    camera = SPECTGeometry.circular(views, 250, (n, n), 512 / n)
    x, y, _ = grid.coordinates()
    mu = np.broadcast_to(0.15 * (np.hypot(x, y) < 130), grid.shape).astype(np.float32)
    return SPECTProjector(grid, camera, mu, LinearResponse(0.03, 2.0))


def sinogram(crystals: int, rings: int, *, tof: bool = False) -> PETProjector:
    """A cylinder of crystals, all pairs of rings, with TOF bins of 54 ps where they are asked for."""
    scanner = PETScanner.polygon(sides=6, crystals_per_side=crystals // 6, radius=400, rings=rings, ring_pitch=5.3)
    n = max(4, crystals // 4 // 2 * 2)
    grid = ImageGrid((n, n, max(1, 2 * rings - 1)), (500 / n, 500 / n, 2.65))
    timing = TimeOfFlight(13, 60.0, 60.0) if tof else None
    data = PETSinogram(scanner, n_radial=max(5, crystals // 2 // 2 * 2 - 1), tof=timing)
    return PETProjector(grid, data.subset(0, max(1, data.n_views // 32)))


def listmode(run: Run) -> ListmodeProjector:
    """Random TOF events of the same scanner."""
    crystals, rings = run.sizes.pet
    A, rng = sinogram(crystals, rings, tof=True), np.random.default_rng(0)
    n, scanner = crystals * rings, A.sinogram.scanner
    first = rng.integers(0, n, run.sizes.events)
    across = (first % crystals + crystals // 2 + rng.integers(-crystals // 5, crystals // 5 + 1, first.size)) % crystals
    second = rng.integers(0, rings, first.size) * crystals + across
    events = np.stack([first, second, rng.integers(0, 13, first.size)], 1).astype(np.int32)
    return ListmodeProjector(A.grid, scanner, events, tof=A.sinogram.tof)


def pair(A: Any, dtype: str = "float32") -> tuple[np.ndarray, np.ndarray]:
    """An image and data for a projector, not negative."""
    rng = np.random.default_rng(1)
    return rng.random(A.in_shape).astype(dtype), rng.random(A.out_shape).astype(dtype)


def timed(work: Callable[[], Any], repeats: int) -> float:
    """Median milliseconds by events on the current stream, after three runs as a warm-up."""
    import cupy

    for _ in range(min(3, repeats)):
        work()
    times = []
    for _ in range(repeats):
        start, end = cupy.cuda.Event(), cupy.cuda.Event()
        cupy.cuda.Device().synchronize()
        start.record()
        work()
        end.record()
        end.synchronize()
        times.append(cupy.cuda.get_elapsed_time(start, end))
    return round(float(median(times)), 4)


# ---- parts -----------------------------------------------------------------------------------------------------------


def environment(run: Run) -> dict[str, Any]:
    """Machine, driver, device, and the seconds until the first projection."""
    import cupy

    properties = cupy.cuda.runtime.getDeviceProperties(0)
    free, total = cupy.cuda.runtime.memGetInfo()
    begun = time.perf_counter()
    A = spect(4, 4)
    A(cupy.asarray(pair(A)[0])).get()
    told = {
        "device": properties["name"].decode(),
        "compute_capability": f"{properties['major']}.{properties['minor']}",
        "multiprocessors": properties["multiProcessorCount"],
        "memory_gib": round(total / 2**30, 1),
        "free_gib": round(free / 2**30, 1),
        "cupy": cupy.__version__,
        "driver": cupy.cuda.runtime.driverGetVersion(),
        "runtime": cupy.cuda.runtime.runtimeGetVersion(),
        "first_projection_s": round(time.perf_counter() - begun, 2),
    }
    if shutil.which("nvidia-smi") and not run.emulated:
        query = [
            "nvidia-smi",
            "--query-gpu=name,driver_version,clocks.sm,clocks.mem,power.limit",
            "--format=csv,noheader",
        ]
        told["nvidia_smi"] = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
    return told | {"machine": machine()}


def tests(run: Run) -> dict[str, Any]:
    """The tests marked `gpu`, in a process of their own."""
    if run.emulated:
        return {"note": "the tests marked gpu need a device; the emulated one has its own, in tests/device"}
    rooms = ["tests/projectors", "tests/recon", "tests/sims"]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "--tb=short", *rooms]
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=max(30.0, min(150.0, run.left / 2))
        )
    except subprocess.TimeoutExpired as error:
        return {"failed": "out of time", "output": str(error.stdout or "")[-4000:]}
    last = done.stdout.strip().splitlines()[-1:] or [done.stderr[-300:]]
    return {"code": done.returncode, "summary": last[0]} | (
        {"output": done.stdout[-6000:]} if done.returncode not in (0, 5) else {}
    )


def correctness(run: Run) -> dict[str, Any]:
    """|device in float32 - CPU in float64| / |CPU|, forward and back, and whether results repeat bit for bit."""
    import cupy

    rows = {}
    for n in run.sizes.correct:
        ring = max(12, n * 2 // 6 * 6)
        for name, A in (
            (f"SPECT {n}^3", spect(n, 12)),
            (f"PET, {ring} crystals", sinogram(ring, 2)),
            (f"PET with TOF, {ring} crystals", sinogram(ring, 2, tof=True)),
        ):
            x, y = pair(A)
            there, back = A(cupy.asarray(x)), A.T(cupy.asarray(y))
            rows[name] = {
                "forward": _difference(there.get(), A(x.astype(float))),
                "adjoint": _difference(back.get(), A.T(y.astype(float))),
                "repeats": bool((A.T(cupy.asarray(y)) == back).all()),
            }
    prior = recon.RelativeDifference(2.0, epsilon=0.01)
    x = np.random.default_rng(0).random((run.sizes.correct[-1],) * 3).astype(np.float32)
    rows["relative difference prior"] = {
        "gradient": _difference(prior.gradient(cupy.asarray(x)).get(), prior.gradient(x.astype(float)))
    }
    return rows


def _difference(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / max(np.linalg.norm(expected), 1e-30))


def times(run: Run) -> dict[str, Any]:
    """Projections forward and back, and what else an iteration needs."""
    import cupy

    sizes, rows = run.sizes, {}
    settings: dict[str, Callable[[], Any]] = {
        "spect": lambda: spect(*sizes.spect),
        "sinogram": lambda: sinogram(*sizes.pet),
        "sinogram with TOF": lambda: sinogram(*sizes.pet, tof=True),
        "listmode": lambda: listmode(run),
    }
    for name, make in settings.items():
        A = make()
        x, y = (cupy.asarray(values) for values in pair(A))
        row: dict[str, Any] = {
            "forward_ms": timed(lambda A=A, x=x: A(x), sizes.repeats),
            "adjoint_ms": timed(lambda A=A, y=y: A.T(y), sizes.repeats),
            "image": list(A.in_shape),
            "data": list(A.out_shape),
        }
        lines = math.prod(A.out_shape) / (A.out_shape[2] if name == "sinogram with TOF" else 1)
        both = row["forward_ms"] + row["adjoint_ms"]
        if name == "listmode":
            row["events_per_s"] = 1000 * lines / both
        elif name != "spect":
            row |= {f"{work}_lines_per_s": 1000 * lines / row[f"{work}_ms"] for work in ("forward", "adjoint")}
        rows[name] = row
        del A, x, y
        cupy.get_default_memory_pool().free_all_blocks()
    grid = ImageGrid((sizes.spect[0],) * 3, 4.0)
    x = cupy.asarray(np.random.default_rng(0).random(grid.shape).astype(np.float32))
    prior, blur = recon.RelativeDifference(2.0, epsilon=0.01), GaussianBlur(grid, 6.0)
    rows["relative difference prior"] = {"gradient_ms": timed(lambda: prior.gradient(x), sizes.repeats)}
    rows["Gaussian blur"] = {"forward_ms": timed(lambda: blur(x), sizes.repeats)}
    return rows


def kernels(run: Run) -> dict[str, Any]:
    """Bandwidth, arithmetic and occupancy of every kernel in percent, where Nsight Compute answers."""
    if run.emulated or shutil.which("ncu") is None:
        return {"note": "Nsight Compute (ncu) is not here"}
    command = ["ncu", "--csv", "--metrics", ",".join(METRICS), sys.executable, __file__, "--child"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=max(20.0, min(90.0, run.left))
        )
    except subprocess.TimeoutExpired:
        return {"note": "ncu ran out of time"}
    found = counters(done.stdout)
    return found or {"note": f"ncu gave nothing: {(done.stdout + done.stderr)[-400:]}"}


def counters(text: str) -> dict[str, Any]:
    """The mean of every metric by kernel, from ncu's CSV (other lines stand before it)."""
    begin = text.find('"ID"')
    if begin < 0:
        return {}
    sums: dict[str, dict[str, list[float]]] = {}
    for row in csv.DictReader(io.StringIO(text[begin:])):
        name = METRICS.get(row.get("Metric Name") or "")
        if name:
            value = float((row["Metric Value"] or "nan").replace(",", ""))
            sums.setdefault(row["Kernel Name"], {}).setdefault(name, []).append(value)
    return {kernel: {name: round(sum(v) / len(v), 2) for name, v in row.items()} for kernel, row in sums.items()}


def osem(run: Run) -> dict[str, Any]:
    """OSEM from counts to image, and the copies and waits of a pass."""
    import cupy

    n, views = run.sizes.spect
    A = spect(n, views)
    model = AcquisitionModel(A, 1.0, 0.1)
    expected = A(cupy.asarray(pair(A)[0])) + 0.1
    f = recon.PoissonLikelihood(expected, model)
    subsets = max(1, views // 6)
    iterates = recon.osem(f, None, subsets)
    next(islice(iterates, 1, 2))
    cupy.cuda.Device().synchronize()
    begun = time.perf_counter()
    final = next(islice(iterates, 1, 2)).image
    cupy.cuda.Device().synchronize()
    seconds = (time.perf_counter() - begun) / 2
    with _watched(run) as watched:
        next(iterates)
    wrong = not bool(cupy.all(cupy.isfinite(final)))
    pool = cupy.get_default_memory_pool()
    return {
        "image": n, "views": views, "subsets": subsets, "pass_s": round(seconds, 5), "not_finite": wrong,
        "memory_gib": round(pool.total_bytes() / 2**30, 3), "of_a_pass": dict(watched),
    }  # fmt: skip


@contextmanager
def _watched(run: Run) -> Iterator[Counter[str]]:
    """Yield a counter that is filled at the end: copies, waits and launches inside."""
    found: Counter[str] = Counter()
    if run.emulated:
        from emulated_cupy import counting

        with counting() as counts:
            yield found
        found.update(copies=counts.to_device + counts.to_host, waits=counts.waits, launches=counts.launches.total())
        return
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        yield found
    for event in profiler.events():
        name = event.name
        if name.startswith(("cudaMemcpy", "cuMemcpy")):
            found["copies"] += 1
        elif "Synchronize" in name:
            found["waits"] += 1
        elif name.startswith(("cudaLaunchKernel", "cuLaunchKernel")):
            found["launches"] += 1
    profiler.export_chrome_trace(str(run.out / "device_trace.json"))


def training(run: Run) -> dict[str, Any]:
    """Forward, backward and the optimiser's step of FBSEM-Net, in two and in three dimensions."""
    import torch

    from emrecon.unrolled.methods.presets import fbsem_net

    rows = {}
    batch, size = run.sizes.slices
    n = run.sizes.volume
    small = run.emulated
    for dimensions, grid, items in ((2, ImageGrid((size, size, 1), 4.0), batch), (3, ImageGrid((n, n, n), 4.0), 1)):
        camera = SPECTGeometry.circular(6 if small else 60, 250, (grid.shape[0], grid.shape[2]), 4.0)
        A = SPECTProjector(grid, camera, np.full(grid.shape, 0.1, np.float32), LinearResponse(0.03, 2.0))
        truth = torch.rand((items, *grid.shape)).to("cuda")
        f = recon.PoissonLikelihood(A(truth) + 0.1, AcquisitionModel(A, 1.0, 0.1))
        model = fbsem_net(dimensions, 1 if small else 2, subsets=2 if small else 6, width=2 if small else 32)
        model = _on_cuda(model, run)
        optimiser = torch.optim.Adam(model.parameters(), 1e-3)

        def step(model: Any = model, f: Any = f, truth: Any = truth, optimiser: Any = optimiser) -> None:
            optimiser.zero_grad()
            loss = (model(f) - truth).square().mean()
            loss.backward()
            optimiser.step()

        elapsed = timed(step, max(1, run.sizes.repeats // 4))
        rows[f"{dimensions}-D"] = {"batch": items, "image": list(grid.shape), "step_ms": elapsed}
        if not small:
            rows[f"{dimensions}-D"]["torch_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    return rows


def _on_cuda(model: Any, run: Run) -> Any:
    """The model on the device; on the emulated one its parameters are disguised in place."""
    if not run.emulated:
        return model.to("cuda")
    from emulated_cupy.tensors import disguise

    return disguise(model)


def pytomography(run: Run) -> dict[str, Any]:
    """PyTomography's projector of the same camera, on the same device and in the same process."""
    try:
        import pytomography as _  # noqa: F401
        import torch
    except ImportError:
        return {"note": "PyTomography is not installed"}
    if run.emulated:
        return {"note": "PyTomography knows no emulated device"}
    A = spect(*run.sizes.spect)
    matrix = peer_matrix(A, device="cuda")
    x, y = (torch.from_numpy(values).cuda() for values in pair(A))
    repeats = max(1, run.sizes.repeats // 4)
    return {
        "forward_ms": timed(lambda: matrix.forward(x), repeats),
        "adjoint_ms": timed(lambda: matrix.backward(y), repeats),
        "difference": _difference(matrix.forward(x).cpu().numpy(), A(x).cpu().numpy()),
    }


PARTS: dict[str, Callable[[Run], dict[str, Any]]] = {
    "environment": environment,
    "correctness": correctness,
    "times": times,
    "osem": osem,
    "training": training,
    "pytomography": pytomography,
    "kernels": kernels,
    "tests": tests,
}


# ---- output ----------------------------------------------------------------------------------------------------------


def goals(found: dict[str, Any]) -> list[dict[str, Any]]:
    """What was wanted, what was measured, and whether it is met."""
    rows = []
    for (setting, what), (name, sign, limit, unit) in GOALS.items():
        value = found.get("times", {}).get(setting, {}).get(what)
        if value is not None:
            met = value <= limit if sign == "<=" else value >= limit
            rows.append({"goal": name, "wanted": f"{sign} {limit:g} {unit}", "measured": value, "met": bool(met)})
    return rows


def page(found: dict[str, Any], emulated: bool) -> str:
    """The results in Markdown."""
    about = found.get("environment", {})
    lines = [f"# {about.get('device', 'no device')}", ""]
    if "machine" in about:
        lines += [machine_line(about["machine"]), ""]
    if emulated:
        lines += ["Emulated on the host: the times below are the host's and say nothing about a device.", ""]
    elif rows := goals(found):
        lines += _table("Goals", {row.pop("goal"): row for row in rows})
    for name, part in found.items():
        rows = {key: value for key, value in part.items() if isinstance(value, dict) and key != "machine"}
        single = {key: value for key, value in part.items() if not isinstance(value, dict)}
        lines += _table(name.capitalize(), rows | ({"": single} if single else {}))
    return "\n".join(lines) + "\n"


def _table(title: str, rows: dict[str, dict[str, Any]]) -> list[str]:
    columns = list(dict.fromkeys(key for row in rows.values() for key in row))
    lines = [f"## {title}", "", "| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, row in rows.items():
        lines.append(f"| {name} | " + " | ".join(_cell(row.get(column, "")) for column in columns) + " |")
    return [*lines, ""]


def _cell(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("\n", " ").replace("|", "/")[:300]


def measure(run: Run) -> int:
    """Run all parts and write after each; return how many failed."""
    failed = 0
    for name, part in PARTS.items():
        if run.left <= 0:
            run.found[name] = {"note": "no time was left"}
            continue
        begun = time.monotonic()
        try:
            run.found[name] = part(run)
        except Exception as error:  # a part must not cost the others
            failed += 1
            run.found[name] = {
                "failed": f"{type(error).__name__}: {error}",
                "traceback": traceback.format_exc()[-3000:],
            }
        run.found[name]["seconds"] = round(time.monotonic() - begun, 1)
        write_json(run.out / "device.json", {**run.found, "goals": goals(run.found), "emulated": run.emulated})
        (run.out / "device.md").write_text(page(run.found, run.emulated), encoding="utf-8")
        print(f"{name}: {run.found[name].get('failed', 'done')} ({run.found[name]['seconds']} s)", flush=True)
    return failed


def _child() -> None:
    """A few launches of every kernel, for Nsight Compute to look at."""
    import cupy

    for A in (spect(64, 12), sinogram(120, 4), sinogram(120, 4, tof=True)):
        x, y = (cupy.asarray(values) for values in pair(A))
        A(x), A.T(y)
    cupy.cuda.Device().synchronize()


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=7.5, help="no part begins after so many minutes")
    parser.add_argument("--emulated", action="store_true", help="small, on the emulated device of the tests")
    parser.add_argument("--out", type=Path, help="folder (default: benchmarks/results; emulated: a temporary one)")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        _child()
        return
    out = options.out or (Path(tempfile.mkdtemp(prefix="emrecon_device_")) if options.emulated else RESULTS)
    out.mkdir(parents=True, exist_ok=True)
    sizes = EMULATED if options.emulated else ON_DEVICE
    run = Run(sizes, options.emulated, time.monotonic() + 60 * options.minutes, out)
    with ExitStack() as stack:
        if options.emulated:
            sys.path.insert(0, str(ROOT / "tests"))
            from emulated_cupy import emulated_device

            stack.enter_context(emulated_device(tensors=True))
        failed = measure(run)
    print(f"written to {out}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
