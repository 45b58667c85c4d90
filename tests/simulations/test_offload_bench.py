import pytest

from simulations.bench.offload import NOISES, claims, prices


def rows(raw, least, private):
    gains = {0.0: raw, 0.14: least, 3.0: private}
    return [
        {"noise_multiplier": noise, "new": 0.2 + gains.get(noise, 0.0) + spread}
        for noise in (0.0, *NOISES)
        for spread in (-0.01, 0.01)
    ]


def test_the_claims_compare_what_was_learned_with_the_base():
    found = claims(rows(0.7, 0.3, 0.0), 0.2)
    assert [claim.id for claim in found] == ["offload.raw_gain", "offload.least_gain", "offload.private_gain"]
    assert [claim.value for claim in found] == pytest.approx([0.7, 0.3, 0.0])
    assert {claim.verdict for claim in found} == {"holds"}


def test_what_nobody_learns_from_makes_the_claim_fall():
    assert [claim.verdict for claim in claims(rows(0.7, 0.0, 0.6), 0.2)] == ["holds", "falls", "falls"]


def test_less_noise_and_more_samples_cost_more():
    few, many = prices(10), prices(60)
    of_one, of_all = ([price[name] for price in many] for name in ("epsilon_of_a_sample", "epsilon_of_the_device"))
    assert of_one == sorted(of_one, reverse=True)
    assert all(one < every for one, every in zip(of_one, of_all, strict=True))
    assert all(
        less["epsilon_of_the_device"] < more["epsilon_of_the_device"] for less, more in zip(few, many, strict=True)
    )
