"""How reconstruction scales with ranks: passes of OSEM by 1, 2 and 4 processes of this machine, and what they send.

    python benchmarks/ranks.py --out benchmarks/results/ranks.json [--ranks 1 2 4] [--size 48] [--passes 3]

The script starts the ranks itself (gloo, one thread each), and writes seconds of a pass, efficiency and bytes summed.
On a machine with fewer cores than ranks the ranks wait for each other, and the efficiency is that of the cores. The
larger cases are worked out on paper from the same counts of bytes; their assumptions stand beside them.
"""

import argparse
import json
import os
import platform
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from emrecon import projectors, recon
from emrecon.projectors import AcquisitionModel, Scan
from emrecon.projectors.core.files import atomic_path

PAPER = {
    "events": 1e10,
    "events a second of one GPU, forward and back": 1e8,
    "bandwidth of an all-reduce over 8 GPUs, bytes/s": 3e11,
    "latency of an all-reduce, s": 5e-5,
    "image": (300, 300, 700),
    "subsets": 21,
    "bytes of an event on disk: 8 for the crystals, 4 for factors, 4 for the background": 16,
    "bytes/s read from the disk or page cache by each rank": 5e9,
}
"""What the extrapolation takes for granted: a total-body scan of 10^10 events on one node of 8 H100 with NVLink."""


def problem(size, ranks):
    """SPECT of a cylinder with attenuation and response."""
    grid = projectors.ImageGrid((size, size, size), 4.0)
    camera = projectors.SPECTGeometry.circular(n_views=64, radius=200, n_bins=(size, size), pixel_size=4.0)
    x, y, _ = grid.coordinates()
    body = np.broadcast_to(np.hypot(x, y) < 1.5 * size, grid.shape).astype(np.float32)
    response = projectors.LinearResponse(0.02, 2.0)
    model = AcquisitionModel(projectors.SPECTProjector(grid, camera, 0.15 * body, response), 1.0, 0.5)
    counts = np.random.default_rng(0).poisson(model(body)).astype(np.float32)
    scan = Scan(counts, camera, background=0.5)
    return recon.spect_problem(scan, mu=0.15 * body, response=response, subsets=8, ranks=ranks)


def rank(size, passes):
    """Be one rank, and print what was measured as JSON."""
    with recon.join_ranks() as ranks:
        made = problem(size, ranks)
        iterates = recon.osem(list(made.parts), made.start)
        next(iterates)  # plans and compiled kernels
        before, begun = (ranks.traffic.sums, ranks.traffic.n_bytes), time.perf_counter()
        for _ in range(passes):
            image = next(iterates).image
        seconds = (time.perf_counter() - begun) / passes
        sums, n_bytes = (
            (now - then) / passes for now, then in zip((ranks.traffic.sums, ranks.traffic.n_bytes), before)
        )
        print(json.dumps({"seconds": seconds, "sums": sums, "bytes": n_bytes, "total": float(image.sum(dtype=float))}))


def measured(n, size, passes):
    """What n ranks need for a pass: the slowest one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": n, "LOCAL_WORLD_SIZE": n, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    shared |= {"EMRECON_NUM_THREADS": 1, "OMP_NUM_THREADS": 1}
    base = os.environ | {name: str(value) for name, value in shared.items()}
    command = [sys.executable, __file__, "--rank", "--size", str(size), "--passes", str(passes)]
    started = [
        subprocess.Popen(command, env=base | {"RANK": str(k)}, stdout=subprocess.PIPE, text=True) for k in range(n)
    ]
    found = [json.loads(process.communicate()[0].splitlines()[-1]) for process in started]
    return max(found, key=lambda one: one["seconds"])


def on_paper(n_gpus):
    """A pass over the events of PAPER by so many GPUs, in seconds: what they compute, send and read."""
    values = dict(PAPER)
    events, rate = values["events"], values["events a second of one GPU, forward and back"]
    image = 4.0 * np.prod(values["image"])
    ring = 2 * (n_gpus - 1) / n_gpus * image  # bytes that each GPU sends in an all-reduce
    each = ring / values["bandwidth of an all-reduce over 8 GPUs, bytes/s"] + values["latency of an all-reduce, s"]
    sent = values["subsets"] * each * (n_gpus > 1)
    disk = events / n_gpus * 16 / values["bytes/s read from the disk or page cache by each rank"]
    work = events / n_gpus / rate
    alone = events / rate
    return {
        "gpus": n_gpus,
        "compute_s": work,
        "sent_gigabytes": values["subsets"] * ring / 1e9 * (n_gpus > 1),
        "all_reduce_s": sent,
        "read_s": disk,
        "pass_s": max(work, disk) + sent,
        "efficiency": alone / n_gpus / (work + sent),
        "events_gigabytes_per_rank": events / n_gpus * 16 / 1e9,
    }


def main():
    """Measure, work out the rest, and write both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("ranks.json"))
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--size", type=int, default=48)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--rank", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.rank:
        rank(given.size, given.passes)
        return
    rows = [{"ranks": n, **measured(n, given.size, given.passes)} for n in given.ranks]
    for row in rows:
        row["efficiency"] = rows[0]["seconds"] * rows[0]["ranks"] / row["seconds"] / row["ranks"]
        row["difference"] = abs(row["total"] / rows[0]["total"] - 1)
        print({name: float(f"{value:.4g}") for name, value in row.items()})
    paper = [on_paper(n) for n in (1, 2, 4, 8)]
    for row in paper:
        print({name: float(f"{value:.4g}") for name, value in row.items()})
    result = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}",
        "case": f"SPECT, {given.size}^3 voxels, 64 views, 8 subsets, OSEM, float32, one thread a rank, gloo",
        "measured": rows,
        "assumptions": {name: list(v) if isinstance(v, tuple) else v for name, v in PAPER.items()},
        "on_paper": paper,
    }
    with atomic_path(given.out) as path:
        path.write_text(json.dumps(result, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
