"""What is trained beside the analytic head, and what is measured of the encoder's graphs, both in small."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from learning_core.models.weights import seeded
from learning_core.training.latents import Latents
from simulations.bench.continual import clinc, clinc_adapters, encoder_int8
from simulations.bench.continual.clinc_adapters import Tuned, alike, answers_of, by_length
from simulations.bench.continual.data_clinc import SPLITS, Clinc
from simulations.bench.continual.peers import avalanche_digits

WIDTH, CLASSES = 16, 4
TASKS = [[0, 2], [1, 3]]


@pytest.fixture
def tiny(monkeypatch):
    """Two blocks of BERT's build stand in for MiniLM's six; only the upper one is adapted."""
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.for_model(
        "bert", vocab_size=9, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    torch.set_num_threads(1)
    monkeypatch.setattr(
        clinc_adapters,
        "minilm",
        lambda: SimpleNamespace(
            module=seeded(lambda: AutoModel.from_config(config), 0).eval().requires_grad_(False),
        ),
    )
    for name, value in {"BELOW": 1, "WIDTH": WIDTH, "RANK": 2, "JOINT_STEPS": 60, "STEPS_PER_TASK": 40}.items():
        monkeypatch.setattr(clinc_adapters, name, value)


def world(seed: int = 0) -> tuple[Clinc, dict[str, Latents]]:
    """Four intents as texts of one to five tokens about a place of their own."""
    centres = np.random.default_rng(9).normal(0, 1, (CLASSES, WIDTH))
    rng = np.random.default_rng(seed)
    labels, found = {}, {}
    for part in ("train", "test"):
        labels[part] = rng.integers(0, CLASSES, 120)
        starts = np.cumsum([0, *rng.integers(1, 6, 120)])
        of = np.repeat(labels[part], np.diff(starts))
        rows = (centres[of] + 0.3 * rng.standard_normal((starts[-1], WIDTH))).astype(np.float16)
        found[part] = Latents(rows, starts.astype(np.int64))
    texts = {split: [""] * 120 for split in SPLITS}
    return Clinc(texts, labels, [f"intent {i}" for i in range(CLASSES)], {"one": TASKS[0], "two": TASKS[1]}), found


def test_a_batch_is_of_neighbours_in_length_and_every_place_comes_up():
    drawn = [alike(64, 4, torch.Generator().manual_seed(seed)) for seed in range(400)]
    assert all(((places - places.min()) % 64 < 8).all() or places.max() - places.min() >= 56 for places in drawn)
    counts = np.bincount(np.concatenate(drawn), minlength=64)
    assert counts.min() > 5
    assert alike(3, 4, torch.Generator()).max() < 3  # fewer samples than a batch: some come twice


def test_the_order_by_length_is_from_the_shortest_to_the_longest():
    latents = Latents(np.zeros((6, 1), np.float16), np.array([0, 3, 4, 6]))
    assert by_length(latents, np.array([0, 1, 2])).tolist() == [1, 2, 0]
    assert by_length(latents, np.array([2, 0])).tolist() == [0, 1]


def test_logits_come_in_the_order_that_was_asked_for(tiny):
    _, latents = world()
    tuned = Tuned.new(CLASSES, seed=0)
    with torch.no_grad():
        tuned.leaves["head"].normal_(generator=torch.Generator().manual_seed(0))
    asked = np.array([7, 3, 90])
    one_by_one = torch.cat([tuned.all_logits(latents["test"], asked[[at]]) for at in range(3)])
    torch.testing.assert_close(tuned.all_logits(latents["test"], asked), one_by_one, atol=1e-5, rtol=1e-5)


def test_adapters_learn_all_at_once_and_with_rehearsal_one_after_another(tiny):
    small, latents = world()
    wanted = small.labels["test"]
    assert (answers_of(clinc_adapters.together(small, latents, 0), latents["test"]) == wanted).mean() > 0.9
    stages = clinc_adapters.one_after_another(small, latents, TASKS, 0)
    later = np.isin(wanted, TASKS[1])
    assert (stages[0][later] == -1).all()  # not asked before it was taught
    assert (stages[1] == wanted).mean() > 0.85


def test_their_figures_stand_beside_the_analytic_heads_with_their_own_number_of_seeds():
    r = [[0.0, 0.0], [0.9, 0.0], [0.8, 0.95]]
    plain = {"analytic": r, "der": r, "means": r, "naive": r, "federated_accuracy": 0.875, "joint_head_accuracy": 0.9}
    plain |= {"memory_bytes": 1, "message_bytes": 1, "analytic_cpu_s": 1.0, "calibration_error": 0.1}
    plain |= {"private_accuracy": 0.5, "plain_accuracy": 0.6, "private_epsilon": 1.0}
    tuned = {"der_adapters": r, "joint_adapters_accuracy": 0.93, "adapters_cpu_s": 9.0}
    part = clinc.summarise([plain | tuned, plain], None)
    text = part.sections["ten domains, one head"]
    assert "<td>0.9300</td>" in text
    assert len(part.figures["matrices"]["der_adapters"]) == 1
    assert len(part.figures["matrices"]["analytic"]) == 2
    assert json.dumps(part.figures, allow_nan=False)


def test_two_graphs_are_timed_in_turn_and_their_figures_averaged():
    took = {"float32": 0.004, "int8": 0.002, "times_as_fast": 2.0}
    seed = {
        "bytes": {"float32": 90_000_000, "int8": 23_000_000},
        "accuracy": {"torch": 0.96, "float32": 0.96, "int8": 0.95},
        "agreement": {"float32": 1.0, "int8": 0.98, "int8 under an adapter": 0.97},
        "cosine": [0.99, 0.98],
        "alone": took,
        "together": took,
    }
    part = encoder_int8.summarise([seed, seed | {"agreement": seed["agreement"] | {"int8": 0.96}}], None)
    assert part.figures["spreads"]["answers as torch's, int8 graph"][0] == pytest.approx(0.97)
    assert "2.000 (2.000 to 2.000)" in part.sections["one encoder, two graphs"]
    assert not part.claims


def test_the_peers_figures_are_of_the_same_three_questions():
    digits = np.array([0, 1, 2, 3])
    arrays = {"test_x": np.eye(4, 10, dtype=np.float32), "test_y": digits}

    class Shifted(torch.nn.Module):
        """Takes 1 for 2 where all ten may answer."""

        def forward(self, x):
            return x + 5 * (x[:, 1:2] > 0) * torch.eye(10)[2]

    asked = {
        setting: avalanche_digits._accuracies(Shifted(), arrays, [[0, 1], [2, 3]], setting)
        for setting in ("class", "task")
    }
    assert asked == {"class": [0.5, 1.0], "task": [1.0, 1.0]}
    odd = torch.nn.Linear(10, 2, bias=False)
    with torch.no_grad():
        odd.weight.copy_(torch.tensor([[1.0, 0.0] * 5, [0.0, 1.0, 0.0, -1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0]]))
    assert avalanche_digits._accuracies(odd, arrays, [[0, 1], [2, 3]], "domain") == [1.0, 0.5]
