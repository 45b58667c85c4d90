import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learning_core.errors import Malformed
from learning_core.models.flow_image import FlowImage, FlowImageConfig, flow_image_of, new_flow_image
from learning_core.models.lora import (
    adapter_shapes,
    adapter_weights,
    build_student,
    frozen_base,
    merge,
    read_adapter,
    start_factors,
    write_adapter,
)
from learning_core.models.weights import weights_of
from learning_core.params import shapes_of

TINY = FlowImageConfig(side=4, width=8, depth=2, heads=2, num_conditions=4)
KNOWN = (0, 1)
X = torch.randn(4, 1, 4, 4, generator=torch.Generator().manual_seed(5))
T, Y = torch.linspace(0, 1, 4), torch.tensor([0, 2, 3, 4])


def base() -> FlowImage:
    model = new_flow_image(TINY, 0)
    torch.nn.init.normal_(model.out.weight, generator=torch.Generator().manual_seed(0))
    return model.eval()


def student(known: tuple[int, ...] = KNOWN, alpha: float = 4.0) -> FlowImage:
    return build_student(TINY, weights_of(base()), start_factors(TINY, 2, seed=1), alpha, known)


def some_adapter(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = adapter_shapes(TINY, 2, KNOWN)
    return {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}


def test_the_demo_adapter_has_19264_numbers():
    shapes = adapter_shapes(FlowImageConfig(), 8, range(5))
    assert shapes["label_rows"] == (5, 64)
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == 19_264


def test_an_adapter_reaches_every_linear_layer_and_the_new_labels():
    blocks = {f"blocks.{i}.{leaf}.lora_B" for i in range(2) for leaf in ("qkv", "proj", "fc1", "fc2")}
    rest = {f"{path}.lora_B" for path in ("ada", "adao", "tm.0", "tm.2")}
    assert read_adapter(student()).keys() == blocks | rest | {"label_rows"}
    assert shapes_of(read_adapter(student())) == adapter_shapes(TINY, 2, KNOWN)


def test_where_nothing_is_new_there_are_no_label_rows():
    assert "label_rows" not in read_adapter(student(known=(0, 1, 2, 3)))
    assert "label_rows" not in adapter_shapes(TINY, 2, (0, 1, 2, 3))


def test_a_new_adapter_changes_nothing():
    torch.testing.assert_close(student()(X, T, Y), base()(X, T, Y))


def test_our_layers_compute_what_peft_computes():
    from peft import LoraConfig, inject_adapter_in_model

    ours = student(known=(0, 1, 2, 3))
    adapter = {name: value for name, value in some_adapter().items() if name != "label_rows"}
    write_adapter(ours, adapter)
    targets = r"blocks\.\d+\.(qkv|proj|fc1|fc2)|ada|adao|tm\.0|tm\.2"
    theirs = inject_adapter_in_model(LoraConfig(r=2, lora_alpha=4, target_modules=targets), base()).eval()
    factors = {**start_factors(TINY, 2, seed=1), **adapter}
    with torch.no_grad():
        for name, value in factors.items():
            path, _, factor = name.rpartition(".")
            theirs.get_submodule(path).get_submodule(factor)["default"].weight.copy_(torch.from_numpy(value))
    torch.testing.assert_close(ours(X, T, Y), theirs(X, T, Y), atol=1e-5, rtol=1e-5)
    assert (ours(X, T, Y) - base()(X, T, Y)).abs().max() > 0.01


def test_label_rows_are_added_to_new_labels_only():
    model = student()
    adapter = {name: np.zeros_like(value) for name, value in some_adapter().items()}
    adapter["label_rows"] += 1.0
    write_adapter(model, adapter)
    moved = (model(X, T, Y) - base()(X, T, Y)).abs().amax(dim=(1, 2, 3))
    assert (moved[1:3] > 1e-3).all()  # labels 2 and 3 are new
    assert (moved[[0, 3]] < 1e-6).all()  # label 0 is known, label 4 is "no label"


def test_only_the_adapter_can_be_trained():
    model = student()
    trainable = {id(value) for value in model.parameters() if value.requires_grad}
    assert trainable == {id(value) for value in adapter_weights(model).values()}


@settings(max_examples=20)
@given(st.integers(0, 1000))
def test_an_adapter_that_was_written_is_read_back(seed):
    model = student()
    write_adapter(model, some_adapter(seed))
    assert all(np.array_equal(value, some_adapter(seed)[name]) for name, value in read_adapter(model).items())


@settings(max_examples=30)
@given(st.sampled_from(sorted(some_adapter())), st.sampled_from(["missing", "extra", "shape"]))
def test_an_adapter_of_another_model_is_refused_and_changes_nothing(name, damage):
    model, broken = student(), some_adapter()
    if damage == "extra":
        broken[name + "2"] = broken[name]
    else:
        value = broken.pop(name)
        if damage == "shape":
            broken[name] = value[:-1]
    with pytest.raises(Malformed, match="differs at"):
        write_adapter(model, broken)
    assert not any(value.any() for value in read_adapter(model).values())


def test_factors_of_another_model_are_refused():
    wide = FlowImageConfig(side=4, width=16, depth=2, heads=2, num_conditions=4)
    for factors in (start_factors(wide, 2, 0), {}):
        with pytest.raises(Malformed, match="factors"):
            build_student(TINY, weights_of(base()), factors, 4.0, KNOWN)


def test_a_merged_model_does_what_base_and_adapter_do_together():
    model = student()
    write_adapter(model, some_adapter())
    merged = flow_image_of(TINY, merge(model))
    torch.testing.assert_close(merged(X, T, Y), model(X, T, Y), atol=1e-5, rtol=1e-5)


def test_the_frozen_base_knows_nothing_of_the_adapter():
    model = student()
    write_adapter(model, some_adapter())
    assert torch.equal(frozen_base(model)(X, T, Y), base()(X, T, Y))


def test_averaging_adapters_averages_the_change_they_make():
    # The reason for freezing A: the folded change is linear in what is averaged.
    one, other = some_adapter(1), some_adapter(2)
    mean = {name: (one[name] + other[name]) / 2 for name in one}
    models = [student() for _ in range(3)]
    for model, adapter in zip(models, (one, other, mean), strict=True):
        write_adapter(model, adapter)
    first, second, middle = (merge(model) for model in models)
    for name in first:
        np.testing.assert_allclose(middle[name], (first[name] + second[name]) / 2, atol=1e-6)


def test_equal_seeds_give_equal_factors_within_their_bounds():
    one, same, other = (start_factors(TINY, 2, seed) for seed in (1, 1, 2))
    assert all(np.array_equal(one[name], same[name]) for name in one)
    assert not np.array_equal(one["ada.lora_A"], other["ada.lora_A"])
    assert all(value.dtype == np.float32 and np.abs(value).max() <= value.shape[1] ** -0.5 for value in one.values())
