"""Interfile: STIR's and SIMIND's headers, their traps, overrides, and headers that mean harm."""

from contextlib import nullcontext

import numpy as np
import pytest
from interfile_cases import BINS, COUNTS, FILE, RNG, ROWS, SIMIND, STIR, VIEWS, change, save
from real_data import real_data

from emrecon import formats
from emrecon.formats import FormatError, parse_header, read_interfile, read_interfile_image, write_interfile
from emrecon.projectors import ImageGrid, Scan, SPECTGeometry


def test_stir_header(tmp_path):
    scan = read_interfile(save(tmp_path))
    np.testing.assert_array_equal(scan.counts, COUNTS)
    assert scan.counts.dtype == np.float32
    assert scan.counts.flags.c_contiguous
    geometry = scan.geometry
    np.testing.assert_allclose(geometry.angles, -60.0 * np.arange(6))
    assert (geometry.n_bins, geometry.pixel_size) == ((BINS, ROWS), (3.32, 6.64))
    assert set(geometry.radius) == {150.0}
    assert (scan.duration, scan.radionuclide, scan.energy_window) == (None, None, None)


def test_simind_header(tmp_path):
    scan = read_interfile(save(tmp_path, SIMIND, name="a.a00"))  # and the file's name is in another case
    np.testing.assert_array_equal(scan.counts, COUNTS)
    np.testing.assert_allclose(scan.geometry.radius, 150)  # given in cm
    np.testing.assert_allclose(scan.geometry.angles, 180 + 30.0 * np.arange(6))
    assert scan.geometry.pixel_size == (3.95, 3.95)
    assert scan.energy_window == (126.45, 154.55)
    assert (scan.radionuclide, scan.duration) == ("Tc-99m", 15.0)


def test_the_zero_of_interfile_is_in_front_of_the_patient(tmp_path):
    path = save(tmp_path, start_angle="0", direction_of_rotation="CCW", extent_of_rotation="360")
    towards, _ = read_interfile(path).geometry.directions
    np.testing.assert_allclose(towards[0], (0, -1), atol=1e-12)  # LPS: -y is the front
    assert towards[1, 0] < 0  # counter-clockwise from the feet: from the front to the patient's right


def test_parse_header():
    keys = parse_header(
        "some lines before\r\n!Interfile:=\r\n  ! Matrix  Size[ 1 ]:=  128 ; a comment\r\n"
        "NUMBER_OF  projections := 3\n; radius := 1\n;#Radius := 15.0\n;# Center of  Rotation := 33\n"
        "radii := { 1,\n 2 , 3}\nempty :=\nfree text\nstart angle := 1\nstart angle := 2\n"
        "name of data file := a b;c.s\n!END OF INTERFILE :=\nafter := 1"
    )
    assert keys == {
        "interfile": "",
        "matrix size [1]": "128",
        "number of projections": "3",
        "#radius": "15.0",
        "#center of rotation": "33",
        "radii": ("1", "2", "3"),
        "empty": "",
        "start angle": "2",
        "name of data file": "a b;c.s",
        "end of interfile": "",
    }
    with pytest.raises(FormatError, match="INTERFILE"):
        parse_header("matrix size [1] := 3")


@pytest.mark.parametrize(
    ("name", "size", "dtype"),
    [
        ("unsigned integer", 1, "u1"),
        ("unsigned integer", 2, "u2"),
        ("Unsigned  Integer", 4, "u4"),
        ("unsigned integer", 8, "u8"),
        ("signed integer", 1, "i1"),
        ("signed integer", 2, "i2"),
        ("signed integer", 4, "i4"),
        ("signed integer", 8, "i8"),
        ("float", 4, "f4"),
        ("FLOAT", 8, "f8"),
        ("short float", 4, "f4"),
        ("long float", 8, "f8"),
    ],
)
@pytest.mark.parametrize("order", ["LITTLEENDIAN", "BIGENDIAN", None])
def test_number_formats(tmp_path, name, size, dtype, order):
    stored = ("<" if order == "LITTLEENDIAN" else ">") + dtype  # big endian where the header says nothing
    changes = {"number_format": name, "number_of_bytes_per_pixel": size, "imagedata_byte_order": order}
    path = save(tmp_path, dtype=stored, **changes)
    said = pytest.warns(UserWarning, match=r"no key `imagedata byte order`; .* big endian")
    with said if order is None and size > 1 else nullcontext():
        counts = read_interfile(path).counts
    assert counts.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(counts, COUNTS)
    overrides = {"number_format": name, "bytes_per_pixel": size, "byte_order": order or "big"}
    np.testing.assert_array_equal(read_interfile(save(tmp_path, dtype=stored), **overrides).counts, COUNTS)


def test_defaults_of_the_standard(tmp_path):
    changes = {"number_format": None, "number_of_bytes_per_pixel": 2, "imagedata_byte_order": None}
    path = save(tmp_path, dtype=">u2", start_angle=None, direction_of_rotation=None, orbit=None, **changes)
    with pytest.warns(UserWarning, match="taken as big endian"):
        scan = read_interfile(path)
    np.testing.assert_array_equal(scan.counts, COUNTS)
    np.testing.assert_allclose(scan.geometry.angles, 180 - 60.0 * np.arange(6))
    path = save(tmp_path, number_format="short float", number_of_bytes_per_pixel=None)
    np.testing.assert_array_equal(read_interfile(path).counts, COUNTS)


@pytest.mark.parametrize(
    ("changes", "offset"),
    [
        ({"data_offset_in_bytes": "100"}, 100),
        ({"data_offset_in_bytes[1]": "100"}, 100),
        ({"data_starting_block": "1", "data_offset_in_bytes": "0"}, 2048),
        ({"data_starting_block": "1", "data_offset_in_bytes": "2048"}, 2048),
    ],
)
def test_data_offset(tmp_path, changes, offset):
    path = save(tmp_path, **changes)
    (tmp_path / "a.s").write_bytes(b"x" * offset + (tmp_path / "a.s").read_bytes())
    np.testing.assert_array_equal(read_interfile(path).counts, COUNTS)


def test_header_and_data_in_one_file(tmp_path):
    header = change(change(STIR, "name of data file", "a.hs"), "data offset in bytes", "4096")
    (tmp_path / "a.hs").write_bytes(header.encode().ljust(4096, b"\0") + FILE.astype("<f4").tobytes())
    np.testing.assert_array_equal(read_interfile(tmp_path / "a.hs").counts, COUNTS)


@pytest.mark.parametrize("order", [("bin", "axial", "view"), ("axial", "bin", "view"), ("bin", "view", "axial")])
def test_axis_labels_decide(tmp_path, order):
    sizes = {"bin": BINS, "axial": ROWS, "view": VIEWS}
    axes = [("view", "axial", "bin").index(axis) for axis in reversed(order)]
    header = STIR
    for i, axis in enumerate(order, 1):
        label = axis if axis == "view" else f"{axis} coordinate"
        header = change(header, f"matrix axis label [{i}]", label)
        header = change(header, f"matrix size [{i}]", sizes[axis])
        header = change(header, f"scaling factor (mm/pixel) [{i}]", {"bin": 3.32, "axial": 6.64, "view": 1}[axis])
    path = save(tmp_path, header, FILE.transpose(axes))
    scan = read_interfile(path)
    np.testing.assert_array_equal(scan.counts, COUNTS)
    assert scan.geometry.pixel_size == (3.32, 6.64)
    save(tmp_path, change(header, "number of projections", None), FILE.transpose(axes))
    np.testing.assert_array_equal(read_interfile(path).counts, COUNTS)


RADII = [150.0, 151, 152.5, 153, 152, 151]


@pytest.mark.parametrize(
    "changes",
    [
        {"orbit": "non-circular", "radius": None, "Radii": "{150, 151, 152.5, 153, 152, 151}"},
        {"orbit": "Non-circular", "radius": "{150,151,152.5,\n 153,152,151}"},
        {"orbit": "circular", "radius": "150,151,152.5,153,152,151"},
        {"orbit": None, "radius": "3", "radii": "{150,151,152.5,153,152,151}"},
    ],
)
def test_radii(tmp_path, changes):
    np.testing.assert_array_equal(read_interfile(save(tmp_path, **changes)).geometry.radius, RADII)


def test_a_live_radius_beats_the_commented_one(tmp_path):
    header = SIMIND.replace(";#Radius", "Radius := 145\n;#Radius")
    assert read_interfile(save(tmp_path, header, name="A.a00")).geometry.radius[0] == 145


@pytest.mark.parametrize(
    ("dtype", "scaled"), [("<f4", np.float32), ("<f8", np.float64), ("<u2", np.float32), ("<i4", np.float64)]
)
def test_scaling_factor(tmp_path, dtype, scaled):
    name = {"f": "float", "u": "unsigned integer", "i": "signed integer"}[dtype[1]]
    changes = {"number_format": name, "number_of_bytes_per_pixel": dtype[2], "image_scaling_factor[1]": "0.5"}
    counts = read_interfile(save(tmp_path, dtype=dtype, **changes)).counts
    assert counts.dtype == scaled
    np.testing.assert_array_equal(counts, COUNTS / 2)


def test_windows_and_heads_in_one_file(tmp_path):
    changes = {"number_of_energy_windows": "2", "energy_window_lower_level[2]": 80, "energy_window_upper_level[2]": 100}
    path = save(tmp_path, values=[FILE, 2 * FILE], **changes)
    with pytest.raises(FormatError, match=r"2 sets.*number of energy windows := 2.*window=1 to 2"):
        read_interfile(path)
    scan = read_interfile(path, window=2)
    np.testing.assert_array_equal(scan.counts, 2 * COUNTS)
    assert scan.energy_window == (80, 100)
    with pytest.raises(FormatError, match="there is no window=3"):
        read_interfile(path, window=3)
    # two heads, and the caller knows where they were
    scan = read_interfile(path, n_views=12, angles=np.arange(12), head=[0] * 6 + [1] * 6, energy_window=None)
    assert scan.counts.shape == (12, BINS, ROWS)
    # a header that counts two windows over the data of one
    save(tmp_path, number_of_energy_windows="2")
    np.testing.assert_array_equal(read_interfile(path).counts, COUNTS)


def test_every_override(tmp_path):
    path = save(tmp_path)
    other = tmp_path / "elsewhere"
    other.mkdir()
    (other / "b.bin").write_bytes(b"ab" + FILE[:4, :2].astype(">u2").tobytes())
    scan = read_interfile(
        path,
        n_views=4,
        n_bins=(BINS, 2),
        pixel_size=(2, 3),
        start_angle=10,
        direction="ccw",
        extent=40,
        radius=RADII[:4],
        shift=1.5,
        axial_shift=-2,
        head=[0, 0, 1, 1],
        duration=20,
        radionuclide="Lu177",
        energy_window=(187.2, 228.8),
        description="text",
        background=2.0,
        factors=np.ones((4, 1, 1)),
        byte_order="BIGENDIAN",
        number_format="unsigned integer",
        bytes_per_pixel=2,
        data_offset=2,
        data_file=other / "b.bin",
        scale=3,
    )
    np.testing.assert_array_equal(scan.counts, 3.0 * FILE[:4, :2].transpose(0, 2, 1))
    geometry = scan.geometry
    np.testing.assert_allclose(geometry.angles, [190, 200, 210, 220])
    np.testing.assert_array_equal(geometry.radius, RADII[:4])
    np.testing.assert_array_equal(geometry.head, [0, 0, 1, 1])
    assert (geometry.pixel_size, geometry.axial_shift, geometry.shift[3]) == ((2, 3), -2, 1.5)
    assert (scan.duration, scan.radionuclide, scan.description) == (20, "Lu-177", "text")
    assert (scan.energy_window, scan.background) == ((187.2, 228.8), 2.0)
    angles = RNG.uniform(0, 360, VIEWS)
    np.testing.assert_array_equal(read_interfile(path, angles=angles).geometry.angles, angles)
    assert read_interfile(path, pixel_size=4, radius=None).geometry.pixel_size == (4, 4)


BAD_OVERRIDES = [
    ({"radius": "near"}, FormatError, "radius= is 'near'"),
    ({"radius": [1, 2]}, FormatError, "2 entries, but there are 6 views"),
    ({"radius": -1}, FormatError, "radius must be positive"),
    ({"radius": np.nan}, FormatError, "finite"),
    ({"start_angle": True}, FormatError, "start_angle= is True"),
    ({"direction": "left"}, FormatError, "expected one of: ccw"),
    ({"extent": 0}, FormatError, "above zero"),
    ({"n_views": 2.5}, FormatError, "whole number"),
    ({"n_bins": (1, 2, 3)}, FormatError, "one value for both"),
    ({"pixel_size": "wide"}, FormatError, "pixel_size= is 'wide'"),
    ({"byte_order": "middle"}, FormatError, "expected one of: littleendian"),
    ({"number_format": "ascii"}, FormatError, "expected one of: unsigned integer"),
    ({"bytes_per_pixel": 3}, FormatError, "3 bytes per pixel"),
    ({"data_offset": -1}, FormatError, "not negative"),
    ({"data_file": 3}, FormatError, "expected text"),
    ({"data_file": "nowhere.s"}, FileNotFoundError, r"nowhere\.s does not exist"),
    ({"angles": [1, 2]}, FormatError, "do not fit"),
    ({"energy_window": (5, 1)}, FormatError, "energy_window"),
    ({"radionuclide": "Xx-1"}, FormatError, "unknown radionuclide"),
    ({"duration": -1}, FormatError, "above zero"),
    ({"scale": 0}, FormatError, "scaling factors"),
    ({"background": -1.0}, FormatError, "background"),
    ({"radios": 3}, TypeError, "did you mean radius=?"),
    ({"zzz": 3}, TypeError, "choose from n_views"),
]


@pytest.mark.parametrize(("overrides", "kind", "message"), BAD_OVERRIDES, ids=lambda value: str(value)[:30])
def test_bad_overrides(tmp_path, overrides, kind, message):
    with pytest.raises(kind, match=message):
        read_interfile(save(tmp_path), **overrides)


BAD_HEADERS = {
    "no bins": ({"matrix_size_[1]": None}, r"`matrix size \[1\]` is missing; pass its value as n_bins="),
    "no pixel size": ({"scaling_factor_(mm/pixel)_[2]": None}, "pixel_size="),
    "no views": ({"number_of_projections": None}, "n_views="),
    "no extent": ({"extent_of_rotation": None}, "extent="),
    "no radius": ({"radius": None}, "radius="),
    "no data file": ({"name_of_data_file": None}, "data_file="),
    "no bytes": ({"number_of_bytes_per_pixel": None}, "bytes_per_pixel="),
    "words for numbers": ({"number_of_projections": "many"}, "'many', expected a number"),
    "not finite": ({"start_angle": "nan"}, "expected a number"),
    "infinite": ({"start_angle": "1e999"}, "finite"),
    "a list": ({"start_angle": "{1, 2}"}, "start angle is"),
    "empty radii": ({"radius": "{ , }"}, "radius"),
    "negative size": ({"matrix_size_[1]": "-4"}, "above zero"),
    "fraction": ({"matrix_size_[1]": "4.5"}, "whole number"),
    "negative pixel": ({"scaling_factor_(mm/pixel)_[1]": "-3.3"}, "above zero"),
    "direction": ({"direction_of_rotation": "up"}, "expected one of: ccw"),
    "format": ({"number_format": "ascii"}, "expected one of: unsigned integer"),
    "format and size": ({"number_format": "short float", "number_of_bytes_per_pixel": "8"}, "8 bytes per pixel"),
    "order": ({"imagedata_byte_order": "PDP"}, "byte_order="),
    "orbit": ({"orbit": "non-circular"}, r"non-circular, but there is one radius; pass radius=\[...\]"),
    "orbit without": ({"orbit": "non-circular", "radius": None}, "non-circular but no radii"),
    "radii": ({"orbit": "non-circular", "radius": "{1, 2}"}, "2 entries, but there are 6 views"),
    "label": ({"matrix_axis_label_[1]": "colour"}, "'colour'; expected one of bin coordinate"),
    "equal labels": (
        {"matrix_axis_label_[1]": "view", "matrix_axis_label_[2]": "view", "matrix_axis_label_[3]": "view"},
        "labels are the same",
    ),
    "window": ({"energy_window_lower_level": "9", "energy_window_upper_level": "3"}, "energy window 9 to 3"),
    "too many views": ({"number_of_projections": "7"}, "truncated"),
    "too few views": ({"number_of_projections": "5"}, "48 bytes more.*data_offset=48"),
    "half": ({"number_of_projections": "3"}, "2 sets of projections"),
    "far offset": ({"data_offset_in_bytes": "1e9"}, "0 bytes follow offset"),
    "offsets": ({"data_offset_in_bytes": "8", "data_starting_block": "2"}, "contradicts"),
    "absurd": (
        {"number_of_projections": "1000000", "matrix_size_[1]": "1000000"},
        "the header announces 12000000000000",
    ),
    "overflow": ({"number_of_projections": "9" * 400}, "finite"),
    "scales": ({"image_scaling_factor": "{1, 2}"}, "differ or are zero"),
    "image": ({"process_status": "Reconstructed"}, "describes an image.*read_image"),
    "PET": ({"type_of_data": "PET"}, "PET data"),
    "comment in mm": ({"radius": None, ";#Radius": "150"}, "150 cm .* is not plausible"),
}


@pytest.mark.parametrize(("changes", "message"), list(BAD_HEADERS.values()), ids=list(BAD_HEADERS))
def test_bad_headers(tmp_path, changes, message):
    path = save(tmp_path, **changes)
    with pytest.raises(FormatError, match=message) as caught:
        read_interfile(path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("key", ["isotope name", "radionuclide name [1]", "Radionuclide"])
def test_unknown_radionuclides_are_refused_and_missing_ones_are_none(tmp_path, key):
    with pytest.raises(
        FormatError, match=r"radionuclide 'kryptonite-9' is not one .*radionuclide=\"Tc-99m\".* or None"
    ):
        read_interfile(save(tmp_path, **{key: "Kryptonite-9"}))
    path = save(tmp_path, **{key: "Kryptonite-9"})
    assert read_interfile(path, radionuclide=None).radionuclide is None
    for none in ("", "Unknown"):
        assert read_interfile(save(tmp_path, **{key: none})).radionuclide is None
    assert read_interfile(save(tmp_path, **{key: "^153^Samarium"})).radionuclide == "Sm-153"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("start angle", "9" * 10**6 + "x"),
        ("number of projections", "-" * 10**6),
        ("radius", "{" + "\n" * 10**6),
        ("name of data file", "x" * 10**6),
        ("matrix axis label [1]", "x" * 10**6),
    ],
    ids=["digits", "signs", "open list", "name", "label"],
)
def test_long_lines_are_refused_at_once_in_few_words(tmp_path, key, value):
    path = save(tmp_path)
    path.write_text(STIR.replace("!END OF", f"{key} := {value}\n!END OF"))
    with pytest.raises(FormatError) as caught:
        read_interfile(path)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("name", ["../secret.s", "sub/../../secret.s", r"..\secret.s", "/x/../secret.s", "a\0.s"])
def test_data_outside_the_folder_is_never_opened(tmp_path, name):
    (tmp_path / "secret.s").write_bytes(FILE.astype("<f4").tobytes())
    (tmp_path / "inside").mkdir()
    with pytest.raises(FormatError, match="outside the header's folder"):
        read_interfile(save(tmp_path / "inside", name_of_data_file=name))


def test_foreign_paths_mean_the_file_beside_the_header(tmp_path):
    (tmp_path / "secret.s").write_bytes(FILE.astype("<f4").tobytes())
    inside = tmp_path / "inside"
    inside.mkdir()
    for name in ("/home/someone/a.s", r"C:\data\a.s", r"\\server\share\a.s", '"a.s"', "./a.s", "A.S"):
        np.testing.assert_array_equal(read_interfile(save(inside, name_of_data_file=name)).counts, COUNTS)
    with pytest.raises(FileNotFoundError, match=r"secret\.s.*data_file="):
        read_interfile(save(inside, name_of_data_file=tmp_path / "secret.s"))
    (inside / "sub").mkdir()
    assert read_interfile(save(inside, name="sub/b.s", name_of_data_file="sub/b.s")).counts.sum() == COUNTS.sum()
    with pytest.raises(FormatError, match="is a folder"):
        read_interfile(save(inside), data_file=tmp_path)


@pytest.mark.parametrize(
    ("value", "message"), [(-1, "1 counts are negative"), (np.nan, "1 values are NaN"), (np.inf, "infinite")]
)
def test_impossible_counts(tmp_path, value, message):
    values = FILE.astype(float)
    values[0, 0, 0] = value
    with pytest.raises(FormatError, match=message):
        read_interfile(save(tmp_path, values=values))


@pytest.mark.parametrize(
    "content", [b"\x89HDF\r\n\x1a\n" * 20, b"\xff\xfe" * 99, b"!END OF INTERFILE :=", b":=:=:=\n;\n"]
)
def test_not_a_header(tmp_path, content):
    (tmp_path / "a.hs").write_bytes(content)
    with pytest.raises(FormatError, match=r"a\.hs: no line"):
        read_interfile(tmp_path / "a.hs")


def test_missing_empty_and_latin_headers(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a\.hs does not exist"):
        read_interfile(tmp_path / "a.hs")
    (tmp_path / "a.hs").touch()
    with pytest.raises(FormatError, match="is empty"):
        read_interfile(tmp_path / "a.hs")
    path = save(tmp_path)
    path.write_bytes(change(STIR, "data description", "Müller").encode("latin-1"))
    assert read_interfile(path).description == "Müller"


def some_scan(counts=COUNTS, **more):
    geometry = SPECTGeometry.circular(VIEWS, more.pop("radius", 151.5), (BINS, ROWS), (3.32, 1 / 3), **more)
    return Scan(counts, geometry)


@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", "u4", "f4", "f8"])
@pytest.mark.parametrize("direction", ["cw", "ccw"])
def test_round_trip(tmp_path, dtype, direction):
    scan = some_scan(COUNTS.astype(dtype), start=30, direction=direction, extent=204, radius=RADII)
    write_interfile(tmp_path / "a.hs", scan)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.hs", "a.s"]
    again = formats.read_scan(tmp_path / "a.hs")
    assert again.counts.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(again.counts, scan.counts)
    np.testing.assert_allclose(again.geometry.angles, scan.geometry.angles, atol=1e-9)
    np.testing.assert_array_equal(again.geometry.radius, RADII)
    assert again.geometry.pixel_size == scan.geometry.pixel_size


def test_round_trip_of_circumstances(tmp_path):
    scan = Scan(
        COUNTS[:1].astype(np.int64),
        some_scan().geometry.subset(0, 6),
        0.0,
        1.0,
        20.5,
        "Lu-177",
        (187.2, 228.8),
        "a;\nb",
    )
    formats.write_scan(tmp_path / "a.hs", scan)
    again = read_interfile(tmp_path / "a.hs")
    assert (again.duration, again.radionuclide, again.energy_window) == (20.5, "Lu-177", (187.2, 228.8))
    assert again.description == "a, b"
    assert again.geometry == scan.geometry
    assert "^177^Lutetium" in (tmp_path / "a.hs").read_text()


def test_what_interfile_cannot_say(tmp_path):
    path = tmp_path / "a.hs"
    geometry = some_scan().geometry
    uneven = SPECTGeometry([0, 1, 2, 3, 4, 6], 150, (BINS, ROWS), 3.3)
    for scan, message in [
        (some_scan(shift=1.0), "cannot hold detector shifts"),
        (some_scan(axial_shift=1.0), "cannot hold detector shifts"),
        (Scan(COUNTS, uneven), "equally spaced"),
        (Scan(COUNTS, geometry, background=1.0), "background"),
        (Scan(COUNTS, geometry, factors=np.full((VIEWS, 1, 1), 2.0)), "factors"),
        (Scan(COUNTS[None], geometry), "one set of projections"),
        (Scan(COUNTS + 2**40, geometry), "do not fit 4 bytes"),
    ]:
        with pytest.raises(ValueError, match=message):
            write_interfile(path, scan)
    with pytest.raises(ValueError, match=r"\.hs, \.hv"):
        write_interfile(tmp_path / "a.s", some_scan())
    with pytest.raises(ValueError, match="control characters"):
        write_interfile(tmp_path / "a\nradius := 3.hs", some_scan())
    with pytest.raises(FileNotFoundError, match="folder does not exist"):
        write_interfile(tmp_path / "none" / "a.hs", some_scan())
    assert not list(tmp_path.iterdir())
    write_interfile(path, some_scan())
    with pytest.raises(FileExistsError):
        write_interfile(path, some_scan(), overwrite=False)


GRID = ImageGrid((4, 3, 2), (2.0, 2.5, 3.25), (1.0, -7.0, 11.0))
IMAGE = RNG.normal(size=GRID.shape).astype("f4")
H33 = """!INTERFILE :=
!name of data file := a.i33
imagedata byte order := LITTLEENDIAN
!matrix size [1] := 4
!matrix size [2] := 3
!number format := unsigned integer
!number of bytes per pixel := 2
scaling factor (mm/pixel) [1] :=+2.000000+00
scaling factor (mm/pixel) [2] :=+2.500000+00
!number of slices := 2
slice thickness (pixels) :=+3.250000+00
!END OF INTERFILE :=
"""


@pytest.mark.parametrize("name", ["a.hv", "a.h33"])
@pytest.mark.parametrize("dtype", ["u1", "i2", "f4", "f8"])
def test_image_round_trip(tmp_path, name, dtype):
    image = (10 * np.abs(IMAGE)).astype(dtype)
    formats.write_image(tmp_path / name, image, GRID)
    again, grid = formats.read_image(tmp_path / name)
    assert again.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(again, image)
    assert grid == GRID
    assert formats.describe(tmp_path / name)["holds"] == "image"


def test_h33(tmp_path):
    values = np.arange(24).reshape(2, 3, 4)
    path = save(tmp_path, H33, values, "<u2", "a.i33")
    image, grid = read_interfile_image(path)
    np.testing.assert_array_equal(image, values.transpose(2, 1, 0))
    assert image.flags.c_contiguous
    assert grid == ImageGrid((4, 3, 2), (2, 2.5, 3.25))
    other = read_interfile_image(path, shape=(3, 4, 2), voxel_size=2, origin=(1, 2, 3), scale=0.1)
    assert other[1] == ImageGrid((3, 4, 2), (2, 2, 2), (1, 2, 3))
    assert other[0].dtype == np.float32


def test_slice_separation_of_one_means_one_pixel(tmp_path):
    path = save(tmp_path, change(H33, "slice thickness (pixels)", "+1.000000e+00"), np.ones(24), "<u2", "a.i33")
    assert read_interfile_image(path)[1].voxel_size == (2, 2.5, 2)
    path = save(tmp_path, change(H33, "scaling factor (mm/pixel) [3]", "4"), np.ones(24), "<u2", "a.i33")
    assert read_interfile_image(path)[1].voxel_size == (2, 2.5, 4)


def test_images_and_projections_are_not_mixed_up(tmp_path):
    path = save(tmp_path)
    with pytest.raises(FormatError, match="projections, not an image"):
        formats.read_image(path)
    formats.write_image(tmp_path / "b.hv", IMAGE, GRID)
    with pytest.raises(FormatError, match="image, not projections"):
        formats.read_scan(tmp_path / "b.hv")
    with pytest.raises(ValueError, match="does not fit a grid"):
        formats.write_image(tmp_path / "b.hv", IMAGE[1:], GRID)
    assert formats.describe(path)["views"] == VIEWS
    path.rename(tmp_path / "a.header")
    assert formats.read_scan(tmp_path / "a.header", radius=99).geometry.radius[0] == 99


def test_stir_simset_scan():
    scan = read_interfile(real_data("simset_spect", "input.hs"))
    assert scan.counts.shape == (120, 128, 64)
    assert scan.counts.sum(dtype=float) == pytest.approx(25.2e6, rel=0.01)
    geometry = scan.geometry
    assert (geometry.pixel_size, geometry.radius[0], geometry.angles[0], geometry.angles[1]) == (
        (3.32, 3.32),
        150,
        0,
        -3,
    )
    profile = scan.counts.sum((0, 2))  # a centred cylinder
    assert np.average(np.arange(128) - 63.5, weights=profile) == pytest.approx(0, abs=0.5)


@pytest.mark.parametrize("name", ["dat/DaT_Source_120x120x120", "brain_perfusion/Brain_Perfusion_Attn_72x90x77"])
def test_phantom_images(name):
    image, grid = formats.read_image(real_data("phantoms", *f"{name}.h33".split("/")))
    assert image.shape == tuple(map(int, name.rpartition("_")[2].split("x")))
    assert grid.voxel_size == (2, 2, 2)
    assert 0.2 < (image == 0).mean() < 0.95
