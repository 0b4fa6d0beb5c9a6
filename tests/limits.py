"""Less than a process usually has: files that may not grow, few open files."""

from contextlib import contextmanager

import pytest


@contextmanager
def limited(name, n):
    """Within: a limit of the process is n, such as "FSIZE", the bytes of a file, as if the disk were full."""
    resource = pytest.importorskip("resource", reason="limits of POSIX")
    which = getattr(resource, f"RLIMIT_{name}")
    before = resource.getrlimit(which)
    resource.setrlimit(which, (n, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(which, before)
