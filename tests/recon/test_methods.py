"""Methods by name: what their text means, and what does not go together."""

import pytest

from emrecon import recon
from emrecon.recon import methods


def test_text_becomes_a_method():
    assert methods.choose() == methods.Method("osem")
    found = methods.choose("svrg", "rdp:0.1,2,1e-3", order="random:7", neighbours=18, kappa=True)
    assert found == methods.Method("svrg", methods.PriorChoice("rdp", (0.1, 2, 1e-3)), "random:7", 18, True)
    assert methods.choose("kem", n_guides=1).kernel == methods.KernelChoice(48, 7, 1.0)
    assert methods.choose("kem", n_guides=1, kernel="20,5").kernel == methods.KernelChoice(20, 5, 1.0)
    assert methods.choose("spdhg", "tv:0").prior == methods.PriorChoice("tv", (0.0,))
    assert methods.choose("bsrem", "non-local:1,2", order="staggered").order == "staggered"


@pytest.mark.parametrize(
    ("method", "options", "argument", "message"),
    [
        ("wishes", {}, "method", "unknown method 'wishes'; choose from osem, map-em"),
        ("svrg", {"prior": "best"}, "prior", "rdp:BETA,GAMMA[,EPSILON]"),
        ("svrg", {"prior": "rdp:1"}, "prior", "is not of the form rdp:BETA,GAMMA[,EPSILON]"),
        ("svrg", {"prior": "rdp:1,2,3,4"}, "prior", "is not of the form rdp:BETA,GAMMA[,EPSILON]"),
        ("svrg", {"prior": "rdp:1,two"}, "prior", "is not of the form rdp:BETA,GAMMA[,EPSILON]"),
        ("svrg", {"prior": "quadratic"}, "prior", "is not of the form quadratic:BETA"),
        ("svrg", {"prior": "quadratic:-1"}, "prior", "BETA of the prior quadratic:BETA must be 0 or more, got -1"),
        ("svrg", {"prior": "huber:1,0"}, "prior", "DELTA of the prior huber:BETA,DELTA must be positive, got 0"),
        ("svrg", {"prior": "huber:nan,1"}, "prior", "BETA of the prior huber"),
        (
            "osem",
            {"prior": "rdp:1,2"},
            "prior",
            "osem takes no prior; use rdp with the method map-em, osl, bsrem, svrg, saga or lbfgsb",
        ),
        ("osem", {"prior": "tv:1"}, "prior", "spdhg or pdhg"),
        ("kem", {"prior": "rdp:1,2", "n_guides": 1}, "prior", "kem takes no prior"),
        ("map-em", {}, "prior", "map-em needs a prior"),
        ("osl", {}, "prior", "use osem without one"),
        ("svrg", {"prior": "tv:1"}, "prior", "tv is a prior for spdhg or pdhg, not for svrg, which takes rdp"),
        ("spdhg", {"prior": "rdp:1,2"}, "prior", "not for spdhg, which takes tv, dtv"),
        ("bsrem", {"prior": "median:1"}, "prior", "median is a prior for osl, not for bsrem"),
        ("map-em", {"prior": "rdp:1,0.5"}, "prior", "GAMMA of at least 1"),
        ("kem", {}, "guide", "kem needs a guide image"),
        ("spdhg", {"prior": "dtv:1"}, "guide", "dtv needs a guide image"),
        ("svrg", {"prior": "bowsher:1"}, "guide", "bowsher needs a guide image"),
        ("osem", {"n_guides": 1}, "guide", "osem does not use a guide; the priors bowsher, dtv and non-local"),
        ("svrg", {"prior": "rdp:1,2", "n_guides": 1}, "guide", "rdp does not use a guide"),
        ("svrg", {"prior": "non-local:1,2", "n_guides": 1}, "prior", "needs a WIDTH"),
        ("kem", {"n_guides": 2}, "guide", "kem follows one guide image, got 2; several are for networks"),
        ("svrg", {"prior": "bowsher:1", "n_guides": 2}, "guide", "bowsher follows one guide image, got 2"),
        ("svrg", {"neighbours": 6}, "neighbours", "priors on pairs"),
        ("spdhg", {"prior": "tv:1", "kappa": True}, "kappa", "priors on pairs of neighbours: rdp, quadratic"),
        ("svrg", {"prior": "rdp:1,2", "neighbours": 7}, "neighbours", "6, 18 or 26"),
        ("svrg", {"prior": "bowsher:1", "n_guides": 1, "neighbours": 6}, "prior", "whole number up to 6, got 7"),
        ("svrg", {"prior": "bowsher:1,2.5", "n_guides": 1}, "prior", "whole number up to 26, got 2.5"),
        ("svrg", {"kernel": "48"}, "kernel", "the method kem only"),
        ("kem", {"kernel": "48,7,1,1", "n_guides": 1}, "kernel", "K[,WINDOW[,SIGMA]]"),
        ("kem", {"kernel": "inf", "n_guides": 1}, "kernel", "K[,WINDOW[,SIGMA]]"),
        ("kem", {"kernel": "48,4", "n_guides": 1}, "kernel", "must be odd, got 4; use 5"),
        ("kem", {"kernel": "many", "n_guides": 1}, "kernel", "K[,WINDOW[,SIGMA]]"),
        (
            "svrg",
            {"order": "backwards"},
            "order",
            "unknown order 'backwards'; choose from sequential, staggered, cofactor, random",
        ),
        ("svrg", {"order": "random:x"}, "order", "random[:SEED]"),
        ("svrg", {"order": "sequential:1"}, "order", "random[:SEED]"),
        ("lbfgsb", {"order": "random"}, "order", "lbfgsb has no subsets"),
        ("spdhg", {"order": "cofactor"}, "order", "use random:SEED"),
    ],
)
def test_what_does_not_go_together_is_refused(method, options, argument, message):
    with pytest.raises(recon.ArgumentError) as error:
        methods.choose(method, **options)
    assert error.value.argument == argument
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("written", "name"), [("OSEM", "osem"), ("map_em", "map-em"), ("MAPEM", "map-em"), ("L-BFGS-B", "lbfgsb")]
)
def test_case_and_hyphens_do_not_matter(written, name):
    assert methods.matching(written, methods.METHODS, "method") == name


def test_case_does_not_matter_in_priors_and_orders():
    found = methods.choose("SVRG", "Log_Cosh:1,2", order="Random:3")
    assert (found.name, found.prior.name, found.order) == ("svrg", "log-cosh", "random:3")


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"method": "oesm"}, "unknown method 'oesm'; did you mean 'osem'? choose from osem, map-em"),
        ({"method": "svrg", "prior": "hubert:1,2"}, "unknown prior 'hubert'; did you mean 'huber'? choose from rdp:"),
        ({"order": "stagered"}, "unknown order 'stagered'; did you mean 'staggered'? choose from sequential"),
    ],
)
def test_typing_mistakes_get_a_hint(options, hint):
    with pytest.raises(ValueError) as error:
        methods.choose(**options)
    assert str(error.value).startswith(hint)


def test_priors_and_orders_as_objects():
    prior, order = 0.1 * recon.Quadratic(), recon.RandomOrder(2)
    found = methods.choose("svrg", prior, order=order)
    assert found.prior is prior
    assert found.order is order
    for method, own, message in (
        ("osem", prior, "osem takes no prior; use a method such as"),
        ("spdhg", prior, "spdhg needs a prior with a method prox"),
        ("svrg", recon.TotalVariation(), "use it with spdhg or pdhg"),
        ("svrg", 3.0, "such as rdp:0.1,2"),
    ):
        with pytest.raises(recon.ArgumentError, match=message) as error:
            methods.choose(method, own)
        assert error.value.argument == "prior"


def test_every_method_and_prior_of_the_tables_has_what_the_help_says():
    for form in methods.PRIORS.values():
        assert set(form.methods) <= set(methods.METHODS)
        assert form.n_needed <= len(form.names)
    assert methods.either(["a"]) == "a"
    assert methods.either(["a", "b", "c"]) == "a, b or c"
