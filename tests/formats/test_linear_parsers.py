"""Parsers take a time in proportion to the length of a text: with a square or a cube of it, these tests never end."""

import re

import pytest

from emrecon import formats
from emrecon.formats import FormatError, parse_header
from emrecon.formats.dicom.facts import radionuclide_of_text
from emrecon.formats.interfile.header import number, numbers
from emrecon.projectors import Frames
from emrecon.sims.recipes.recipe_file import RecipeError, Table, decode, line_of

N = 60_000


def test_a_file_of_blank_lines_is_of_no_format(tmp_path):
    path = tmp_path / "file.bin"
    for filling in (b"\n", b" \n", b" ", b"!", b"\r\n", b"INTERFILE "):
        path.write_bytes(filling * 4096)
        with pytest.raises(FormatError, match="of a known format"):
            formats.read_scan(path)
    path.write_bytes(b"\n" * 2000 + b"  ! Interfile  := \n")
    with pytest.raises(FormatError, match="is missing"):
        formats.read_scan(path)


@pytest.mark.parametrize("filling", [" ", "\t", "!", "[", "[1", "]", ";", ";#", "{", "#", ":=", ": ", "\n"])
def test_headers(filling):
    for line in ("{} := 1", "a{} := 1", "a := {}", "a := {{ 1{}", "matrix size [1{}", ";{}# a := 1", "a := 1 {};"):
        text = "!INTERFILE :=\n" + line.format(filling * (N // len(filling))) + "\nb := 2\n"
        assert parse_header(text).get("b", "2") == "2"


@pytest.mark.parametrize(
    "text", ["1" * N + "x", "1." * N, "+" * N, "1E" * N, "1" * N + "+" + "1" * N + "x", "1e" + "1" * N]
)
def test_numbers(text):
    with pytest.raises(ValueError, match="expected"):
        number(text)
    with pytest.raises(ValueError, match="expected"):
        numbers(text + ",1")


def test_radionuclides():
    for filling in (" ", "-", "1", "F", "18F-", "^", "F -"):
        radionuclide_of_text(filling * (N // len(filling)) + "!")


class Recipe(Table):
    """A recipe of one number."""

    views: int = 1


@pytest.mark.parametrize("line", ["[{}", "{}[", "{}", "a{}", "views{}", "[a{}]{}", '"{}', "views = {}", "[{}x"])
@pytest.mark.parametrize("filling", [" ", "[", "a ", ". ", "-"])
def test_recipes_with_typos(line, filling):
    text = f"{line.replace('{}', filling * (N // 5))}\nviews = 'three'\n"
    line_of(text, ["views"])
    with pytest.raises(RecipeError):
        decode(text, Recipe, "recipe")


def test_recipes_of_many_unknown_keys():
    text = "".join(f"key_{i} = 1\n" for i in range(4000))
    with pytest.raises(RecipeError) as caught:
        decode(text, Recipe, "recipe")
    assert re.search(r"recipe, line 4000: key_3999: unknown key$", str(caught.value))


@pytest.mark.parametrize("text", ["1" * N + "x", " " * N, "1" * N + "." * 2, "1x" * N, "s" * N, "1" + " " * N + "!"])
def test_protocols(text):
    with pytest.raises(ValueError, match=r"a protocol must look like"):
        Frames.parse(text)
    with pytest.raises(ValueError, match="at most 100000 frames"):
        Frames.parse("999999999x1")
