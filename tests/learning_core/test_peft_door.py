import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from learning_core.errors import Malformed
from learning_core.models.onnx_writer import GraphWriter, tensor
from learning_core.models.peft_door import (
    Learned,
    Plan,
    activate,
    adapted,
    composed,
    factor_shapes,
    read_adapter,
    resized,
    start_factors,
    write_adapter,
)
from learning_core.models.weights import weights_of
from learning_core.params import shapes_of

LAYERS = ("fc1", "fc2")
X = torch.randn(5, 6, generator=torch.Generator().manual_seed(3))


class Small(nn.Module):
    """Two linear layers: everything an adapter can sit on here."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.fc1, self.fc2 = nn.Linear(6, 7), nn.Linear(7, 4)
        for value in self.parameters():
            nn.init.normal_(value, std=0.5, generator=generator)

    def forward(self, x):
        return self.fc2(nn.functional.gelu(self.fc1(x)))


def some(like, seed):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(0, 0.5, value.shape).astype(np.float32) for name, value in like.items()}


def two(shared=None, personal=None):
    plans = {"shared": shared or Plan(LAYERS, rank=2), "personal": personal or Plan(LAYERS, rank=3, scale=0.5, seed=1)}
    return adapted(Small(), plans), plans


def test_a_rank_one_adapter_adds_scale_times_b_times_a():
    module = nn.Sequential(nn.Linear(2, 1, bias=False))
    nn.init.zeros_(module[0].weight)
    both = adapted(module, {"shared": Plan(("0",), rank=1, scale=2.0)})
    write_adapter(both, "shared", {"0.lora_A": np.float32([[1, 3]]), "0.lora_B": np.float32([[5]])})
    assert module(torch.tensor([[10.0, 1.0]])).item() == 2 * 5 * (10 + 3)


def test_new_adapters_change_nothing_and_only_they_can_be_trained():
    both, _ = two()
    assert torch.equal(both.module(X), Small()(X))
    trainable = {id(value) for value in both.module.parameters() if value.requires_grad}
    assert trainable == {id(leaf) for leaves in both.leaves.values() for leaf in leaves.values()}


def test_every_node_starts_from_the_same_factors():
    one, other = (adapted(Small(), {"shared": Plan(LAYERS, seed=seed)}) for seed in (4, 4))
    left, right = read_adapter(one, "shared"), read_adapter(other, "shared")
    assert all(np.array_equal(left[name], right[name]) for name in left)
    assert left["fc1.lora_A"].any()
    assert not np.array_equal(left["fc1.lora_A"], start_factors(Small(), Plan(LAYERS, seed=5))["fc1.lora_A"])


def test_putting_adapters_on_draws_nothing_from_the_common_generator():
    module, before = Small(), torch.get_rng_state()
    adapted(module, {"shared": Plan(LAYERS)})
    assert torch.equal(torch.get_rng_state(), before)


def test_on_frozen_factors_only_b_is_learned_and_travels():
    both = adapted(Small(), {"shared": Plan(LAYERS, rank=2, learned=Learned.B)})
    assert read_adapter(both, "shared").keys() == {"fc1.lora_B", "fc2.lora_B"}
    assert sum(value.requires_grad for value in both.module.parameters()) == 2


@settings(max_examples=10)
@given(st.integers(0, 999))
def test_an_adapter_that_was_written_is_read_back(seed):
    both, plans = two()
    adapter = some(start_factors(both.module, plans["personal"]), seed)
    write_adapter(both, "personal", adapter)
    assert all(np.array_equal(value, adapter[name]) for name, value in read_adapter(both, "personal").items())


@pytest.mark.parametrize("prefix", ["base_model.model.", "other.", ""])
def test_weights_under_other_names_are_refused_and_change_nothing(prefix):
    both, plans = two()
    adapter = {prefix + name: value + 1 for name, value in start_factors(both.module, plans["shared"]).items()}
    if not prefix:
        adapter["fc1.lora_A"] = adapter["fc1.lora_A"][:1]
    before = read_adapter(both, "shared")
    with pytest.raises(Malformed, match="differs at"):
        write_adapter(both, "shared", adapter)
    assert all(np.array_equal(value, before[name]) for name, value in read_adapter(both, "shared").items())


def test_a_layer_is_meant_by_its_whole_path():
    module = nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.LayerNorm(3), nn.Linear(3, 3)))
    adapted(module, {"shared": Plan(("0",))})
    assert [path for path, layer in module.named_modules() if hasattr(layer, "base_layer")] == ["0"]


def test_layers_and_adapters_that_do_not_exist_are_refused():
    for layers in (("fc3",), ("",)):
        with pytest.raises(Malformed, match="no linear layer"):
            adapted(Small(), {"shared": Plan(layers)})
    with pytest.raises(Malformed, match="no adapter named other"):
        activate(two()[0], ("other",))


def test_switched_off_adapters_neither_act_nor_learn():
    both, plans = two()
    for name in plans:
        write_adapter(both, name, some(read_adapter(both, name), 1))
    together = both.module(X)
    activate(both, ("shared", "personal"), trained=("personal",))
    assert torch.equal(both.module(X), together)
    learned = {id(value) for value in both.module.parameters() if value.requires_grad}
    assert learned == {id(leaf) for leaf in both.leaves["personal"].values()}
    activate(both, ())
    assert torch.equal(both.module(X), Small()(X))


def test_layers_may_have_ranks_of_their_own_at_the_same_scale():
    plan = Plan(LAYERS, rank=2, ranks={"fc2": 4})
    both = adapted(Small(), {"shared": plan})
    wanted = {"fc1.lora_A": (2, 6), "fc1.lora_B": (7, 2), "fc2.lora_A": (4, 7), "fc2.lora_B": (4, 4)}
    assert shapes_of(read_adapter(both, "shared")) == factor_shapes(Small(), plan) == wanted
    assert {both.module.get_submodule(path).scaling["shared"] for path in LAYERS} == {2.0}


def test_a_larger_rank_holds_the_same_change():
    small = some(start_factors(Small(), Plan(LAYERS, rank=2)), 1)
    outputs = []
    for rank in (2, 5):
        both = adapted(Small(), {"shared": Plan(LAYERS, rank=rank)})
        write_adapter(both, "shared", resized(small, rank))
        outputs.append(both.module(X))
    torch.testing.assert_close(*outputs)
    with pytest.raises(ValueError, match="does not fit in 1"):
        resized(small, 1)


def graph_of(module: Small, scale: float) -> bytes:
    """The module with adapters as optional inputs of any rank, nothing by default."""
    write, flow = GraphWriter(weights_of(module)), "x"
    for path, (out, into) in {"fc1": (7, 6), "fc2": (4, 7)}.items():
        write.default(f"{path}.lora_A", ["r", into], np.zeros((1, into), np.float32))
        write.default(f"{path}.lora_B", [out, "r"], np.zeros((out, 1), np.float32))
        base = write.op("Gemm", flow, f"{path}.weight", f"{path}.bias", transB=1)
        low = write.op("Gemm", flow, f"{path}.lora_A", transB=1)
        last = path == "fc2"
        flow = write.op("Gemm", low, f"{path}.lora_B", base, transB=1, alpha=scale, result="y" if last else "")
        flow = flow if last else write.op("Gelu", flow)
    return write.model("small", [tensor("x", ["batch", 6])], [tensor("y", ["batch", 4])]).SerializeToString()


def test_shared_and_personal_in_onnx_are_what_they_are_in_torch():
    both, plans = two()
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    session = onnxruntime.InferenceSession(graph_of(Small(), 2.0), options, providers=["CPUExecutionProvider"])

    def answered(feed):
        return session.run(None, {"x": X.numpy(), **feed})[0]

    np.testing.assert_allclose(answered({}), Small()(X).detach().numpy(), atol=1e-4)
    adapters = {name: some(read_adapter(both, name), seed) for seed, name in enumerate(plans)}
    for name, adapter in adapters.items():
        write_adapter(both, name, adapter)
    for working in (("shared",), ("personal",), ("shared", "personal")):
        activate(both, working)
        parts = [(adapters[name], plans[name].scale) for name in working]
        np.testing.assert_allclose(answered(composed(parts, 2.0)), both.module(X).detach().numpy(), atol=1e-4)
