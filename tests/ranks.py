"""Ranks of one job, as torchrun starts them, but forked by one process that has imported what all of them need."""

import os
import socket
import subprocess
import sys

import pytest

_FORKING = """
import os, sys, traceback
import torch, torch._dynamo, torch.distributed
{imports}
for rank in range({n}):
    if os.fork() == 0:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="{n}", LOCAL_WORLD_SIZE="{n}",
                          MASTER_ADDR="127.0.0.1", MASTER_PORT="{port}")
        code = 1
        try:
            {run}
            code = 0
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
sys.exit(any([os.wait()[1] for _ in range({n})]))
"""


def run_ranks(imports: str, run: str, *arguments: object, n: int = 2) -> str:
    """Let n ranks run a line of Python with `sys.argv[1:]` = arguments, and return what they printed.

    Torchrun itself would import torch and the library once more for every rank; the tests of data sets start it.
    """
    if not hasattr(os, "fork"):
        pytest.skip("this system cannot fork")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", _FORKING.format(imports=imports, run=run, n=n, port=port), *map(str, arguments)]
    environment = dict(os.environ, OMP_NUM_THREADS="1", EMRECON_NUM_THREADS="1")
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
