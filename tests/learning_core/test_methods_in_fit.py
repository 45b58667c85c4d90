"""Five pairs of digits, one after the other, through one small network: each method against learning on naively.

The methods are bound as a user would bind them, and only the order of the results is asserted, over two seeds.
"""

import warnings
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Generator, nn

from learning_core.methods import ewc
from learning_core.methods.experience_replay import der_plus_plus
from learning_core.methods.gem import project, project_all
from learning_core.methods.private_gradient import Privacy, private_gradient, spend
from learning_core.training.fitting import Budget, Recipe, fit, read, start_state

PAIRS = [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)]
STEPS, SEEDS = 40, (0, 1)
KEPT = 20  # of each pair


@pytest.fixture(scope="module")
def digits():
    """Inputs [N, 64] in 0..1 and labels [N], to learn from and to be asked."""
    datasets = pytest.importorskip("sklearn.datasets")
    x, y = (torch.from_numpy(part) for part in datasets.load_digits(return_X_y=True))
    return (x.float()[:1400] / 16, y[:1400]), (x.float()[1400:] / 16, y[1400:])


def network(seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def of_pair(data, pair):
    x, y = data
    chosen = torch.isin(y, torch.tensor(pair))
    return x[chosen], y[chosen]


def within(logits, pair):
    """Logits of the task's own two classes: the task is told."""
    others = torch.ones(10, dtype=torch.bool)
    others[list(pair)] = False
    return logits.masked_fill(others, -1e9)


def learn(model, loss, seed, **methods):
    trained = dict(model.named_parameters())
    recipe = Recipe(steps=STEPS, batch=16, learning_rate=0.1, max_grad_norm=5.0, optimizer="sgd", seed=seed)
    fit(trained, loss, recipe, start_state(read(trained)), Budget(STEPS), **methods)


def batch_of(generator, *tensors, size=16):
    chosen = torch.randint(len(tensors[0]), (size,), generator=generator)
    return [tensor[chosen] for tensor in tensors]


def cross_entropy(model, data, view=lambda logits: logits):
    def loss(generator: Generator):
        x, y = batch_of(generator, *data)
        return F.cross_entropy(view(model(x)), y)

    return loss


@torch.no_grad()
def accuracy(model, data, view=lambda logits: logits):
    return float((view(model(data[0])).argmax(dim=1) == data[1]).float().mean())


def told_the_task(digits, seed, strength):
    """Mean accuracy on the earlier pairs at the end, the pair being told; EWC of a given strength."""
    train, test = digits
    model, anchors = network(seed), []
    trained = dict(model.named_parameters())
    for task, pair in enumerate(PAIRS):
        data, view = of_pair(train, pair), partial(within, pair=pair)
        hold = [lambda _: strength * ewc.penalty(trained, anchors)] if strength else []
        learn(model, cross_entropy(model, data, view), 10 * seed + task, penalties=hold)
        if strength and pair != PAIRS[-1]:
            answers = (view(model(x[None])) for x in data[0][:40])
            anchors.append(
                ewc.anchor_at(trained, ewc.fisher_of_logits(answers, trained, Generator().manual_seed(seed)))
            )
    return np.mean([accuracy(model, of_pair(test, pair), partial(within, pair=pair)) for pair in PAIRS[:-1]])


def one_head(digits, seed, method):
    """Accuracy on all ten digits at the end, the pair not being told."""
    train, test = digits
    model, kept = network(seed), []
    for task, pair in enumerate(PAIRS):
        data = of_pair(train, pair)
        learn(model, cross_entropy(model, data), 10 * seed + task, **(method(model, kept) if kept else {}))
        x, y = data[0][:KEPT], data[1][:KEPT]
        kept.append((x, y, model(x).detach()))
    return accuracy(model, test)


def with_correction(correction, model, kept):
    return {"memory": [cross_entropy(model, part[:2]) for part in kept], "correction": correction}


def with_logits(model, kept):
    x, y, logits = (torch.cat(parts) for parts in zip(*kept, strict=True))

    def loss(generator):
        seen, labels, stored = batch_of(generator, x, y, logits)
        return der_plus_plus(model(seen), stored, labels, alpha=0.5, beta=1.0)

    return {"penalties": [loss]}


def test_an_anchor_keeps_earlier_pairs_better_than_learning_on_naively(digits):
    naive, anchored = (np.mean([told_the_task(digits, seed, strength) for seed in SEEDS]) for strength in (0.0, 1.0))
    assert anchored > naive


@pytest.fixture(scope="module")
def naive(digits):
    return np.mean([one_head(digits, seed, lambda *_: {}) for seed in SEEDS])


@pytest.mark.parametrize(
    "method",
    [partial(with_correction, project), partial(with_correction, partial(project_all, margin=0.5)), with_logits],
    ids=["a-gem", "gem", "der++"],
)
def test_a_memory_of_a_hundred_beats_learning_on_naively(digits, naive, method):
    found = np.mean([one_head(digits, seed, method) for seed in SEEDS])
    assert found > naive


def test_a_private_fit_that_was_stopped_ends_with_the_same_weights_and_the_same_account():
    with warnings.catch_warnings():  # what its imports warn about is not ours to mend
        warnings.simplefilter("ignore")
        pytest.importorskip("opacus.grad_sample")
    x, y = torch.randn(12, 64, generator=Generator().manual_seed(0)), torch.arange(12) % 10
    some = Privacy(clip_norm=1.0, noise_multiplier=1.0, sample_rate=0.2)
    recipe = Recipe(steps=6, seed=3)

    def stretch(state, history, steps):
        model = network(0).train()
        trained = dict(model.named_parameters())
        losses = lambda chosen, _: F.cross_entropy(model(x[chosen]), y[chosen], reduction="none")  # noqa: E731
        step = private_gradient(model, trained, losses, len(x), some, secret=99)
        after, _ = fit(trained, None, recipe, state or start_state(read(trained)), Budget(steps), gradient=step)
        return after, spend(history, some, after.step - (state.step if state else 0))

    whole, spent_at_once = stretch(None, (), 6)
    halved, spent_in_two = stretch(*stretch(None, (), 2), 4)

    assert all(np.array_equal(value, halved.adapter[name]) for name, value in whole.adapter.items())
    assert spent_at_once == spent_in_two == ((1.0, 0.2, 6),)
