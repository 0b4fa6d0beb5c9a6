"""The CUDA sources compile for every architecture, and no kernel takes more than the table of docs/gpu.md says."""

import kernel_resources as nvrtc
import pytest

SOURCES_CHANGED = (
    "the CUDA sources are not those of the table in docs/gpu.md: install nvidia-cuda-nvrtc-cu12 and run "
    "`python tests/kernel_resources.py`"
)
needs_nvrtc = pytest.mark.skipif(
    nvrtc.library() is None, reason="NVRTC is not installed (pip install nvidia-cuda-nvrtc-cu12, 90 MB)"
)
CASES = [(s, a, r) for s in nvrtc.SOURCES for a in nvrtc.ARCHITECTURES for r in nvrtc.REALS]


def test_the_table_is_of_these_sources():
    known, _, rows = nvrtc.budgets()
    assert known == nvrtc.digest(), SOURCES_CHANGED
    assert all(len(numbers) == len(nvrtc.ARCHITECTURES) * len(nvrtc.REALS) for numbers in rows.values())


def test_every_source_is_looked_at():
    found = {str(path.relative_to(nvrtc.ROOT)) for room in ("projectors", "recon", "unrolled", "sims")
             for path in (nvrtc.ROOT / room).rglob("*.cu")}  # fmt: skip
    assert found == set(nvrtc.SOURCES)


@needs_nvrtc
@pytest.mark.parametrize(("source", "architecture", "real"), CASES)
def test_kernels_keep_to_their_registers_and_use_no_stack(source, architecture, real):
    if architecture not in nvrtc.architectures():
        pytest.skip(f"NVRTC {nvrtc.version()} does not compile for sm_{architecture}")
    _, version, rows = nvrtc.budgets()
    more = 0 if nvrtc.version() == version else 8  # another compiler may choose otherwise
    for name, found in nvrtc.used(source, architecture, real).items():
        assert found.stack == 0, name
        assert found.spills == 0, name
        assert found.registers <= rows[name][architecture, real] + more, name


def test_room_for_warps():
    assert [nvrtc.warps(n) for n in (32, 40, 64, 72, 128, 255)] == [64, 48, 32, 28, 16, 8]
