import json
import math
import warnings

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, nn

from learning_core.errors import ConfigError
from learning_core.federation import accountant
from learning_core.methods.private_gradient import (
    Privacy,
    clipped_sum,
    epsilon,
    low_rank_samples,
    per_sample_gradients,
    poisson_batch,
    private_gradient,
    spend,
)
from learning_core.models.flow_image import FlowImageConfig, flow_points, new_flow_image
from learning_core.models.lora import AdaptedLinear, adapter_weights, build_student, start_factors
from learning_core.models.weights import weights_of

with warnings.catch_warnings():  # what its imports warn about is not ours to mend
    warnings.simplefilter("ignore")
    pytest.importorskip("opacus.grad_sample")
    peft = pytest.importorskip("peft")

DELTA = 1e-5
FULL = Privacy(clip_norm=1.0, noise_multiplier=0.0, sample_rate=1.0)
NEVER = Privacy(clip_norm=2.0, noise_multiplier=3.0, sample_rate=1e-12)


def seeded(seed=0):
    return Generator().manual_seed(seed)


class TwoLayers(nn.Module):
    def __init__(self, width=6):
        super().__init__()
        self.first, self.second = nn.Linear(4, width), nn.Linear(width, 3)

    def forward(self, x):
        return self.second(self.first(x).relu())


class Normalised(TwoLayers):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(6)

    def forward(self, x):
        return self.second(self.norm(self.first(x)).relu())


def adapted(model, targets, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        config = peft.LoraConfig(r=2, target_modules=targets, init_lora_weights=False, **options)
        peft.inject_adapter_in_model(config, model)
    return model.train()


def leaves_of(model):
    return {name: leaf for name, leaf in model.named_parameters() if leaf.requires_grad}


def one_by_one(trained, loss_of, size):
    """The slow way nobody doubts: a backward pass for each example."""
    return torch.stack(
        [
            torch.cat([part.flatten() for part in torch.autograd.grad(loss_of(torch.tensor([i]))[0], trained.values())])
            for i in range(size)
        ]
    )


def relative(found, expected):
    return float((found - expected).norm() / expected.norm())


def classified(model, size=5):
    x, y = torch.randn(size, 4, generator=seeded(1)), torch.arange(size) % 3
    return lambda chosen: F.cross_entropy(model(x[chosen]), y[chosen], reduction="none")


def test_rows_are_cut_to_the_norm_and_summed_and_what_is_not_finite_counts_as_zero():
    rows = torch.tensor([[3.0, 4.0], [0.3, 0.4], [math.nan, 1.0], [math.inf, 1.0], [0.0, 0.0]])
    torch.testing.assert_close(clipped_sum(rows, 1.0), torch.tensor([0.9, 1.2], dtype=torch.float64))


@given(st.integers(0, 7), st.integers(0, 2**31), st.floats(0.01, 10))
def test_one_example_more_moves_the_sum_by_at_most_the_norm(number, seed, clip_norm):
    rows = 5 * torch.randn(number + 1, 3, generator=seeded(seed))
    moved = clipped_sum(rows, clip_norm) - clipped_sum(rows[:-1], clip_norm)
    assert moved.norm() <= clip_norm * (1 + 1e-9)


def test_without_noise_it_is_the_clipped_mean_of_peft_gradients_taken_one_by_one():
    model = adapted(TwoLayers(), ["first", "second"])
    trained, loss_of = leaves_of(model), classified(model)
    step = private_gradient(model, trained, lambda chosen, _: loss_of(chosen), 5, FULL, secret=1)

    told, found = step(seeded())

    slow = one_by_one(trained, loss_of, 5)
    expected = (slow * (1.0 / slow.norm(dim=1, keepdim=True).clamp_min(1.0))).sum(dim=0) / 5
    assert relative(found, expected) < 1e-5
    assert math.isnan(told)


@pytest.mark.parametrize("samplers", [{}, {AdaptedLinear: low_rank_samples}], ids=["functorch", "registered"])
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_our_own_adapters_give_every_example_its_gradient(samplers):
    config = FlowImageConfig(side=4, width=8, depth=1, heads=2, num_conditions=4)
    base = weights_of(new_flow_image(config, 0))
    base["out.weight"] += 0.1
    model = build_student(config, base, start_factors(config, 2, seed=1), 4.0, (0, 1)).train()
    trained = adapter_weights(model)
    with torch.no_grad():
        for leaf in trained.values():
            leaf.copy_(0.3 * torch.randn(leaf.shape, generator=seeded()))
    x, t, y, wanted = flow_points(torch.randn(5, 1, 4, 4, generator=seeded()), torch.arange(5) % 4, 4, seeded())

    def loss_of(chosen):
        return (model(x[chosen], t[chosen], y[chosen]) - wanted[chosen]).square().flatten(1).mean(1)

    found = per_sample_gradients(model, trained, lambda: loss_of(torch.arange(5)), 5, samplers)

    assert relative(found, one_by_one(trained, loss_of, 5)) < 1e-5


def test_the_model_is_left_without_a_trace_even_by_a_step_that_fails():
    model = adapted(TwoLayers(), ["second"])
    before = [set(vars(module)) for module in model.modules()]

    def fail():
        model(torch.ones(3, 4))
        raise KeyError("half-way")

    with pytest.raises(KeyError):
        per_sample_gradients(model, leaves_of(model), fail, 3, {})
    assert [set(vars(module)) for module in model.modules()] == before
    assert not any(hasattr(leaf, "grad_sample") for leaf in model.parameters())


def test_nobody_drawn_is_a_step_of_noise_of_the_right_size():
    model = adapted(TwoLayers(width=200), ["first", "second"])
    size = sum(leaf.numel() for leaf in leaves_of(model).values())

    def never(chosen, generator):
        raise AssertionError("no example was drawn")

    _, found = private_gradient(model, leaves_of(model), never, 10, NEVER, secret=1)(seeded())

    assert found.shape == (size,)
    assert float(found.std()) * 1e-12 * 10 == pytest.approx(3.0 * 2.0, rel=0.1)


def test_a_step_repeats_with_its_seed_and_secret_and_with_no_other():
    model = adapted(TwoLayers(), ["second"])
    loss_of = classified(model)
    some = Privacy(clip_norm=1.0, noise_multiplier=1.0, sample_rate=0.5)

    def step(secret, seed):
        losses = lambda chosen, _: loss_of(chosen)  # noqa: E731
        return private_gradient(model, leaves_of(model), losses, 5, some, secret=secret)(seeded(seed))[1]

    assert torch.equal(step(1, 0), step(1, 0))
    assert not torch.equal(step(1, 0), step(2, 0))
    assert not torch.equal(step(1, 0), step(1, 1))


def test_every_example_has_its_own_coin():
    sizes = torch.tensor([len(poisson_batch(40, 0.25, seeded(seed))) for seed in range(400)], dtype=torch.float32)
    assert float(sizes.mean()) == pytest.approx(10.0, abs=0.5)
    assert float(sizes.var()) == pytest.approx(40 * 0.25 * 0.75, rel=0.25)  # a fixed batch would have none
    assert poisson_batch(3, 1.0, seeded()).tolist() == [0, 1, 2]


class KeepsAMean(nn.Linear):
    def __init__(self, size, out):
        super().__init__(size, out)
        self.register_buffer("mean", torch.zeros(out))


class Flattens(nn.Module):
    def __init__(self):
        super().__init__()
        self.token = nn.Linear(4, 3)

    def forward(self, x):
        return self.token(x[:, None].expand(-1, 7, -1).flatten(0, 1)).view(len(x), 7, 3).mean(1)


class Attends(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.attention(x[:, None], x[:, None], x[:, None])[0][:, 0])


class LooksUp(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(9, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.table((x[:, 0] > 0).long()))


class GoesAround(TwoLayers):
    def forward(self, x):
        return self.second(self.first(x)) + F.linear(self.first(x), self.second.weight)


def trained_around():
    model = GoesAround().train().requires_grad_(False)
    model.second.weight.requires_grad_(True)
    return model


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda: adapted(Normalised(), ["second"]), "norm normalises over the batch.*eval"),
        (lambda: Normalised().eval(), "trained BatchNorm.*freeze it"),
        (lambda: KeepsAMean(4, 3).train(), "keeps buffers"),
        (lambda: adapted(Flattens(), ["token"]), "was given .35, 4. for a batch of 5"),
        (lambda: adapted(Attends(), ["out_proj"]), "MultiheadAttention"),
        (lambda: adapted(Attends(), ["attention", "head"]), "MultiheadAttention"),
        (lambda: adapted(LooksUp(), ["table", "head"]), "LoRA on an embedding"),
        (lambda: adapted(TwoLayers(), ["second"], use_dora=True), "DoRA"),
        (trained_around, "second.weight is also used outside"),
        (lambda: adapted(TwoLayers(), ["second"]).eval(), "evaluation mode"),
    ],
)
def test_a_model_for_which_it_would_be_silently_wrong_is_refused(build, reason):
    model = build()
    loss_of = classified(model)
    with pytest.raises(ConfigError, match=reason):
        private_gradient(model, leaves_of(model), lambda chosen, _: loss_of(chosen), 5, FULL, secret=1)(seeded())


def test_a_frozen_batch_norm_that_stands_still_is_welcome():
    model = adapted(Normalised(), ["second"])
    model.norm.eval()
    trained, loss_of = leaves_of(model), classified(model)
    found = per_sample_gradients(model, trained, lambda: loss_of(torch.arange(5)), 5, {})
    assert relative(found, one_by_one(trained, loss_of, 5)) < 1e-5


def test_a_mean_instead_of_a_loss_for_each_example_is_refused():
    model = adapted(TwoLayers(), ["second"])
    loss_of = classified(model)
    with pytest.raises(ConfigError, match="one loss an example"):
        per_sample_gradients(model, leaves_of(model), lambda: loss_of(torch.arange(5)).mean(), 5, {})


@pytest.mark.parametrize("wrong", [{"clip_norm": 0.0}, {"noise_multiplier": -1.0}, {"sample_rate": 1.1}])
def test_settings_that_protect_nobody_are_refused(wrong):
    with pytest.raises(ConfigError, match="private step"):
        Privacy(**{"clip_norm": 1.0, "noise_multiplier": 1.0, "sample_rate": 0.1, **wrong})


def test_steps_are_booked_with_their_kind_and_survive_json():
    one, other = (Privacy(clip_norm=1.0, noise_multiplier=z, sample_rate=0.1) for z in (1.0, 2.0))
    history = spend(spend(spend((), one, 3), one, 4), other, 1)
    assert history == ((1.0, 0.1, 7), (2.0, 0.1, 1))
    assert spend(json.loads(json.dumps(history)), other, 2) == ((1.0, 0.1, 7), (2.0, 0.1, 3))
    assert spend(history, one, 0) == history


def test_a_resumed_history_costs_what_an_unbroken_one_does_and_less_than_the_renyi_bound():
    some = Privacy(clip_norm=1.0, noise_multiplier=1.0, sample_rate=0.01)
    unbroken, resumed = spend((), some, 1000), spend(json.loads(json.dumps(spend((), some, 400))), some, 600)

    found = epsilon(resumed, DELTA)

    assert resumed == unbroken
    assert type(found) is float
    assert found == pytest.approx(1.8384, abs=1e-4)  # Opacus 1.6's own
    assert found < accountant.epsilon([accountant.Spending(1.0, 0.01, 1000)], DELTA)  # 2.1014


@pytest.mark.filterwarnings("ignore:Optimal order", "ignore:divide by zero")
@pytest.mark.parametrize("kind", [(1.0, 0.1, 100), (4.0, 1.0, 50), (0.8, 0.05, 20), (50.0, 0.1, 10)])
def test_the_figure_is_opacus_own_and_never_above_the_renyi_bound(kind):
    from opacus.accountants import PRVAccountant

    own, found = PRVAccountant(), epsilon([kind], DELTA)
    own.history = [kind]
    assert found == own.get_epsilon(DELTA)
    assert found <= accountant.epsilon([accountant.Spending(*kind)], DELTA) + 0.01  # to which it is exact


@pytest.mark.parametrize(
    ("history", "cost"), [([], 0.0), ([(1.0, 0.1, 0)], 0.0), ([(1.0, 0.0, 5)], 0.0), ([(0.0, 0.1, 1)], math.inf)]
)
def test_no_step_is_free_of_charge_and_one_without_noise_costs_everything(history, cost):
    assert epsilon(history, DELTA) == cost


def test_hardly_any_noise_costs_a_huge_finite_amount():
    assert 2000 < epsilon([(0.02, 0.5, 3)], DELTA) < math.inf
