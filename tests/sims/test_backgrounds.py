"""Backgrounds by estimate: near the truth, with noise of their own, and only where the scanner can have them."""

import numpy as np
import pytest
from recipe_cases import SMALL_PET, SMALL_SPECT

from emrecon.sims import BackgroundEstimate, RecipeSource, load_recipe, parse_recipe
from emrecon.sims.recipes.recipe_file import RecipeError


def read(name, n):
    outputs = ("counts", "expected", "background", "scatter", "randoms", "factors", "mu", "truth")
    source = RecipeSource(load_recipe(name).model_copy(update={"outputs": outputs}))
    return source, source.samples(range(n))


def test_tails_and_delayed_coincidences_of_pet():
    source, made = read("evidence-brain-pet", 3)
    exact = made["scatter"] + made["randoms"]
    ratio = made["background"].sum((1, 2)) / exact.sum((1, 2))
    np.testing.assert_allclose(ratio, 1, atol=0.04)
    assert not np.array_equal(made["background"], exact), "there is noise in it"
    error = np.sqrt(((made["background"] - exact) ** 2).mean()) / exact.mean()
    assert 1e-3 < error < 0.06
    again = source.samples([1])
    assert np.array_equal(again["background"][0], made["background"][1]), "it belongs to the sample alone"


def test_triple_energy_windows_of_spect():
    _, made = read("evidence-brain-spect", 3)
    exact = made["scatter"] + made["randoms"]
    ratio = made["background"].sum((1, 2)) / exact.sum((1, 2))
    assert np.all((ratio > 0.75) & (ratio < 1.25)), "a trapezoid is not the whole truth"
    trues = made["expected"] - exact
    share = made["scatter"].sum((1, 2)) / (made["scatter"] + trues).sum((1, 2))
    np.testing.assert_allclose(share, 0.25, atol=1e-3)


def test_exact_is_the_expectation():
    text = SMALL_PET.replace("outputs = [", 'outputs = ["scatter", "randoms", "background", ')
    made = RecipeSource(parse_recipe(text)).samples([0])
    np.testing.assert_allclose(made["background"], made["scatter"] + made["randoms"], rtol=1e-5)


def test_with_time_of_flight():
    text = SMALL_PET.replace("ring_pitch = 8.0\n", "ring_pitch = 8.0\ntof = [5, 400.0, 500.0]\n").replace(
        "[pet]\n", "[pet]\ntof = true\n"
    )
    text = text.replace("outputs = [", 'outputs = ["scatter", "randoms", "background", ').replace("[1e4, 1e5]", "1e6")
    text += '\n[background]\nscatter = "sss"\nrandoms = "delayed"\n'
    made = RecipeSource(parse_recipe(text)).samples([0])
    exact = made["scatter"] + made["randoms"]
    assert made["background"].shape == exact.shape
    assert made["background"].sum() == pytest.approx(exact.sum(), rel=0.1)


@pytest.mark.parametrize(
    ("text", "table", "message"),
    [
        (SMALL_SPECT, 'scatter = "sss"', "needs a PET scanner"),
        (SMALL_SPECT, 'scatter = "tew"', "needs a SPECT camera with scatter"),
        (SMALL_SPECT, 'randoms = "delayed"', "needs a PET scanner"),
        (SMALL_PET, 'scatter = "tew"', "needs a SPECT camera"),
        (SMALL_PET, 'scatter = "windows"', "background.scatter: Input should be"),
        (SMALL_PET, "smoothing = -1.0", "greater than or equal to 0"),
    ],
)
def test_estimates_that_a_scanner_cannot_have(text, table, message):
    with pytest.raises(RecipeError, match=message):
        parse_recipe(f"{text}\n[background]\n{table}\n")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ('scatter = "convolution"\nenergy_window = [126.0, 154.0]\n', "need each other"),
        ("scatter_fraction = 0.2\n", "need each other"),
        ("windows = [[110.0, 126.0]]\n", "windows need scatter"),
        (
            'scatter = "convolution"\nscatter_fraction = 0.2\nenergy_window = [126.0, 154.0]\n'
            "windows = [[140.0, 160.0]]\n",
            "one energy window below",
        ),
    ],
)
def test_windows_and_scatter_belong_together(more, message):
    text = SMALL_SPECT.replace("response =", f"{more}response =") + '\n[background]\nscatter = "tew"\n'
    with pytest.raises(RecipeError, match=message):
        parse_recipe(text)


def test_unknown_estimates():
    with pytest.raises(ValueError, match="unknown scatter 'dew'; choose from exact, tew, sss"):
        BackgroundEstimate("dew")
    with pytest.raises(ValueError, match="smoothing"):
        BackgroundEstimate("tew", smoothing=-1)
