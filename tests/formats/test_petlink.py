"""PETLINK list-mode and Siemens normalisation: words, times, truncated and foreign files, and a measured scan."""

import numpy as np
import pytest
from fuzz_seeds import RING, SEEDS
from petlink_cases import HEADER, event, time_tag, write
from real_data import real_data

from emrecon import formats
from emrecon.formats import FormatError, read_petlink, read_siemens_norm
from emrecon.projectors import PETScanner, PETSinogram


def test_words_become_crystals_and_times(tmp_path):
    words = [
        time_tag(100),
        event(0, 0, 172),
        event(63, 7, 173),
        time_tag(101),
        event(64, 0, 172, prompt=False),
        0xA0000000 | 5,
        event(64 + 63, 251, 0),
        time_tag(110),
    ]
    scan = read_petlink(write(tmp_path, words))
    events = scan.read()
    n = 504
    # segment 0, ring 0; ring 63 and k = 1: first = v, second = v - 1 + 252; segment +1 comes after -1
    np.testing.assert_array_equal(events.prompts[0], [0, 252])
    np.testing.assert_array_equal(events.prompts[1], [63 * n + 7, 63 * n + 7 - 1 + 252])
    rings = events.prompts[2] // n
    assert rings.tolist() == [0, 1]
    assert (events.delays[0] // n).tolist() == [1, 0]
    assert events.prompt_times.tolist() == [100, 100, 101]
    assert events.delay_times.tolist() == [101]
    assert scan.duration() == pytest.approx(0.010)
    assert scan.is_complete
    late = scan.read(start=0.001)
    assert (len(late.prompts), len(late.delays)) == (1, 1)
    assert len(scan.read(stop=0.001).prompts) == 2


def test_every_address_comes_back_as_its_bin(tmp_path):
    rng = np.random.default_rng(0)
    plane, view, radial = (rng.integers(0, n, 2000) for n in (4084, 252, 344))
    words = [event(int(p), int(v), int(r)) for p, v, r in zip(plane, view, radial)]
    scan = read_petlink(write(tmp_path, words))
    bins = scan.sinogram.bins_of(scan.read().prompts)
    np.testing.assert_array_equal(bins[:, 0], view)
    np.testing.assert_array_equal(bins[:, 1], radial)
    # segments +d and -d are exchanged
    segment = scan.sinogram.segments
    sizes = [int((segment == s).sum()) for s in range(61)]
    first_of = np.cumsum([0, sizes[0], *np.repeat(sizes[1:], 2)])
    where = np.searchsorted(first_of, plane, side="right") - 1
    expected = np.where(where == 0, 0, np.where(where % 2 == 1, -(where + 1) // 2, where // 2))
    np.testing.assert_array_equal(segment[bins[:, 2]], expected)


def test_chunks_carry_the_clock(tmp_path, monkeypatch):
    from emrecon.formats.siemens import petlink

    words = [time_tag(5)] + [event(0, 1, 172)] * 10 + [time_tag(9)] + [event(0, 1, 172)] * 10
    path = write(tmp_path, words)
    whole = read_petlink(path).read()
    monkeypatch.setattr(petlink, "_CHUNK", 7)
    parts = read_petlink(path).read()
    for one, other in zip(whole, parts):
        np.testing.assert_array_equal(one, other)
    assert parts.prompt_times.tolist() == [5] * 10 + [9] * 10


@pytest.mark.parametrize("bins", ["13", None])
def test_tof_addresses_are_refused(tmp_path, bins):
    """13 TOF bins of the mCT are part of the address: the events of all but one would come from other planes."""
    path = write(tmp_path, [event(0, 1, 172)])
    text = path.read_text().replace("number of rings:=64", "number of rings:=55").replace("views:=252", "views:=336")
    text = text.replace("difference:=60", "difference:=49")
    path.write_text(text + (f"%number of TOF time bins:={bins}\n" if bins else ""))
    message = "count 13 TOF bins, which are not supported" if bins else "pass n_tof_bins=1 if they count none"
    with pytest.raises(FormatError, match=message):
        read_petlink(path, scanner="mct")
    assert read_petlink(path, scanner="mct", n_tof_bins=1).sinogram.tof is None


@pytest.mark.parametrize("stray", [":= 404", "! := 404", " :=404", "!:={4,0,4}"])
def test_a_line_without_a_key_says_nothing(tmp_path, stray):
    """It was the value of every missing key: the data offset, here, so that half of the events were lost."""
    path = write(tmp_path, [event(0, 1, 172)] * 200)
    whole = read_petlink(path)
    path.write_text(path.read_text() + stray + "\n")
    again = read_petlink(path)
    assert (again.offset, again.facts) == (0, whole.facts)
    assert len(again.read().prompts) == 200


def test_a_file_that_ends_early_is_read_as_far_as_it_goes(tmp_path):
    path = write(tmp_path, [time_tag(1), event(0, 0, 172), event(0, 0, 172)])
    data = tmp_path / "events.l"
    data.write_bytes(data.read_bytes()[:-2])
    scan = read_petlink(path)
    assert not scan.is_complete
    assert len(scan.read().prompts) == 1
    assert formats.describe(path)["complete"].startswith("no")
    data.write_bytes(b"abc")
    assert read_petlink(path).read().prompts.shape == (0, 2)
    assert read_petlink(path).duration() == 0
    data.write_bytes(b"")
    with pytest.raises(FormatError, match="empty"):
        read_petlink(path)


def test_foreign_files_are_refused(tmp_path):
    good = [time_tag(1), event(0, 0, 172)]
    cases = {
        "sinogram": (("CoincidenceList", "Sinogram"), "not a coincidence list"),
        "bits": (("(bits):=32", "(bits):=64"), "64 bits"),
        "span": (("%axial compression:=1", "%axial compression:=11"), "span 11 instead of 1"),
        "scanner": (("number of rings:=64", "number of rings:=55"), "no known scanner has 55 rings"),
        "views": (("views:=252", "views:=300"), "no known scanner"),
        "radial": (("projections:=344", "projections:=900"), "right scanner"),
    }
    for change, message in cases.values():
        with pytest.raises(FormatError, match=message):
            read_petlink(write(tmp_path, good, change=change))
    with pytest.raises(FormatError, match="beyond the last"):
        read_petlink(write(tmp_path, [event(4084, 0, 0)])).read()
    (tmp_path / "events.l").unlink()
    path = tmp_path / "scan.l.hdr"
    path.write_text(HEADER.format(words=2))
    with pytest.raises(FileNotFoundError):
        read_petlink(path)
    with pytest.raises(TypeError, match="takes no argument"):
        read_petlink(path, radius=3)


def test_a_measured_scan():
    scan = read_petlink(real_data("mmr_listmode", "PET_ACQ_small.l.hdr.STIR"))
    events = scan.read()
    assert (len(events.prompts), len(events.delays)) == (218881, 35320)
    assert scan.duration() == pytest.approx(0.612)
    assert not scan.is_complete  # the header is that of the whole scan
    gaps = scan.sinogram.scanner.virtual.ravel()
    assert not gaps[events.prompts].any()  # a fifth of the bins are gaps
    assert not gaps[events.delays].any()
    assert formats.describe(real_data("mmr_listmode", "PET_ACQ_small.l.hdr.STIR"))["prompts"] == 218881


def test_a_measured_normalisation():
    normalisation = read_siemens_norm(real_data("mmr_listmode", "norm.n.hdr"))
    assert normalisation.crystal.shape == (64, 504)
    assert normalisation.crystal.mean() == pytest.approx(1, abs=1e-3)
    assert normalisation.geometric.shape == (127, 344)
    assert normalisation.interference.shape == (344, 9)
    assert normalisation.axial[0, 0] == pytest.approx(1.2910336)
    assert normalisation.axial[0, 63] == 1  # beyond the planes of the file
    # crystals at the edges of a block, beside its gap, see less
    central = normalisation.interference[172]  # k = 0: the number of the first crystal within its block
    assert central[[1, 8]].max() < central[2:8].min()
    factors = normalisation.factors(PETSinogram(normalisation.scanner, 60, 11).subset(0, 28))
    assert (factors > 0).mean() == pytest.approx(0.79, abs=0.01)


def test_damaged_normalisations_are_refused(tmp_path):
    source = real_data("mmr_listmode", "norm.n.hdr")
    header, data = source.read_text(), source.with_name("norm.n").read_bytes()
    path = tmp_path / "norm.n.hdr"

    def attempt(message, text=header, content=data, **options):
        path.write_text(text)
        (tmp_path / "norm.n").write_bytes(content)
        with pytest.raises(FormatError, match=message):
            read_siemens_norm(path, **options)

    attempt("truncated", content=data[:200000])
    attempt("NaN", content=b"\xff\xff\xff\xff" + data[4:])
    attempt("another kind", text=header.replace("normalization\n", "emission\n"))
    attempt("axial effects, but", text=header.replace("%axial compression:=11", "%axial compression:=1"))
    attempt("another scanner", scanner=PETScanner.named("d690"))


def test_damaged_time_tags_do_not_stop_the_clock(tmp_path):
    words = []
    for ms in range(1000):
        words += [time_tag(ms if ms != 10 else ms | 1 << 28), event(0, 1, 172)]
    scan = read_petlink(write(tmp_path, [event(0, 1, 172), *words, time_tag(3)]))
    assert len(scan.read(0, 0.5).prompts) == 501  # the first before any tag
    assert scan.duration() == pytest.approx(0.999)
    assert len(scan.read().prompts) == 1001


def test_scanners_and_files_that_do_not_belong_together(tmp_path):
    path = write(tmp_path, [event(0, 1, 172)])
    with pytest.raises(FormatError, match="but Siemens Biograph Vision"):
        read_petlink(path, scanner="vision600")
    other = tmp_path / "petlink_sinogram.hs"
    other.write_text("!INTERFILE :=\n!type of data := PET\nname of data file := petlink_sinogram.s\n")
    assert not formats.is_petlink(other)
    assert formats.is_petlink(path)


def small_norm(tmp_path, **changes):
    SEEDS["siemens-norm"](tmp_path)
    path = tmp_path / "norm.n.hdr"
    text = path.read_text()
    for old, new in changes.values():
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{23,3}", "{23.9,3.1}", r"matrix size \[1\] is .*whole number"),
        ("{23,3}", "{4611686018427387904,4}", "truncated"),
        ("{23,3}", "{0,3}", r"matrix size \[1\] is .*above zero"),
        ("{23,3}", "{-23,-3}", r"matrix size \[1\]"),
        ("{23,3}", "{1,1,23,3}", r"matrix size \[1\] is .*1 to 3 sizes"),
        ("{23,3}", "nan", r"matrix size \[1\]"),
        ("{23,3}", "{23}", r"geometric of shape"),
        ("[1]:={23,3}", "[7]:={23,3}", r"matrix size \[1\]` is missing$"),
        ("components:=3", "components:=1e9", "announces 1000000000 normalization components"),
        ("[2]:=crystal efficiencies", "[2]:=geometric effects", r"component \[2\] is there twice"),
        ("bytes [2]:=276", "bytes [2]:=1e300", "truncated"),
        ("norm.n", "", "norm"),
        ("norm.n", "n" * 500, "norm"),
        ("norm.n", "a\0b", "norm"),
    ],
)
def test_normalisations_that_are_edited_or_hostile(tmp_path, old, new, message):
    with pytest.raises((FormatError, FileNotFoundError), match=message) as caught:
        read_siemens_norm(small_norm(tmp_path, change=(old, new)), RING)
    assert "as =" not in str(caught.value)
