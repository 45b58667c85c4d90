import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learning_core.errors import Malformed
from learning_core.federation.lora_algebra import serving_inputs, together
from learning_core.models.flow_image import FlowImageConfig
from learning_core.models.lora import adapter_shapes, start_factors
from learning_core.params import zeros

TINY = FlowImageConfig(side=4, width=8, depth=1, heads=2, num_conditions=4)
KNOWN = (0, 2)


def adapter(rank: int = 2, known: tuple[int, ...] = KNOWN) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=s).astype(np.float32) for name, s in adapter_shapes(TINY, rank, known).items()}


def test_label_rows_land_at_the_conditions_the_base_does_not_know():
    given_adapter = adapter()
    delta = serving_inputs(start_factors(TINY, 2, 0), given_adapter, 4, KNOWN)["label_delta"]
    assert delta.shape == (5, 8)
    np.testing.assert_array_equal(delta[[1, 3]], given_adapter["label_rows"])
    assert not delta[[0, 2, 4]].any()


def test_every_factor_is_fed_as_it_is():
    start, given_adapter = start_factors(TINY, 2, 0), adapter()
    fed = serving_inputs(start, given_adapter, 4, KNOWN)
    assert fed.keys() == start.keys() | (given_adapter.keys() - {"label_rows"}) | {"label_delta"}
    assert all(fed[name] is value for name, value in start.items())


def test_a_release_that_knows_everything_still_gets_a_label_delta_of_zeros():
    fed = serving_inputs(start_factors(TINY, 2, 0), adapter(known=(0, 1, 2, 3)), 4, (0, 1, 2, 3))
    assert not fed["label_delta"].any()


def test_the_zero_adapter_feeds_zeros_only():
    shapes = adapter_shapes(TINY, 2, KNOWN)
    fed = serving_inputs(start_factors(TINY, 2, 0), zeros(shapes), 4, KNOWN)
    assert not any(value.any() for name, value in fed.items() if not name.endswith("lora_A"))


@given(st.sampled_from(sorted(adapter())), st.sampled_from(["drop", "rename", "reshape"]))
def test_an_adapter_that_lacks_or_bends_anything_is_refused(name, damage):
    broken = adapter()
    value = broken.pop(name)
    if damage == "rename":
        broken[name + "x"] = value
    if damage == "reshape":
        broken[name] = value[:, :-1]
    with pytest.raises(Malformed, match=name.split(".lora")[0]):
        serving_inputs(start_factors(TINY, 2, 0), broken, 4, KNOWN)


def test_factors_of_another_rank_are_refused():
    with pytest.raises(Malformed, match="does not go with"):
        serving_inputs(start_factors(TINY, 3, 0), adapter(rank=2), 4, KNOWN)


def weight(fed, path):
    return fed[f"{path}.lora_B"] @ fed[f"{path}.lora_A"]


def fed_with(seed: int, rank: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = adapter_shapes(TINY, rank, KNOWN)
    values = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return serving_inputs(start_factors(TINY, rank, seed), values, 4, KNOWN)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_two_adapters_together_do_what_both_do_with_their_ranks_side_by_side(rank):
    one, other = fed_with(0, 2), fed_with(1, rank)
    both = together(one, other)
    for path in (name.removesuffix(".lora_A") for name in one if name.endswith("A")):
        assert both[f"{path}.lora_A"].shape[0] == 2 + rank
        np.testing.assert_allclose(weight(both, path), weight(one, path) + weight(other, path), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(both["label_delta"], one["label_delta"] + other["label_delta"])


def test_on_the_same_factors_two_adapters_cost_no_more_than_one():
    one = fed_with(0, 2)
    both = together(one, one)
    assert all(both[name] is one[name] for name in one if name.endswith("A"))
    assert all((both[name] == 2 * one[name]).all() for name in one if not name.endswith("A"))


def test_adapters_of_two_students_are_refused():
    one = fed_with(0, 2)
    with pytest.raises(Malformed, match="not of one student"):
        together(one, {name: value for name, value in one.items() if name != "tm.0.lora_A"})
    with pytest.raises(Malformed, match="not of one student"):
        together(one, one | {"label_delta": one["label_delta"][:-1]})
