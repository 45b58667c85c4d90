import numpy as np
import pytest

from simulations.bench.continual import novelty
from simulations.bench.continual.unknown_queries import auroc, curve, interval


@pytest.fixture(scope="module")
def results():
    return [novelty.run_seed(0, None)]


def accuracy(results, stream, kind, share):
    return np.mean([result["digits"][stream]["selectors"][kind][share]["accuracy"] for result in results])


def test_on_digits_a_tenth_chosen_by_the_filter_is_worth_more_than_a_tenth_chosen_at_random(results):
    assert accuracy(results, "balanced", "ours", "0.1") >= accuracy(results, "balanced", "random", "0.1") + 0.01
    assert accuracy(results, "zipf", "ours", "0.1") >= accuracy(results, "zipf", "random", "0.1") + 0.04


@pytest.mark.parametrize("share", novelty.SHARES)
def test_the_budget_is_met_where_duplicates_leave_enough_to_choose_from(results, share):
    for result in results:
        assert result["digits"]["balanced"]["selectors"]["ours"][str(share)]["kept"] == pytest.approx(share, abs=0.01)
        assert result["digits"]["zipf"]["selectors"]["ours"][str(share)]["kept"] <= share + 0.01


def test_what_comes_later_does_not_change_what_was_decided():
    task = novelty.digits(0)
    whole, _ = novelty.SELECTORS["ours"](task.embeddings[:400], task.labels[:400], 0.3)
    part, _ = novelty.SELECTORS["ours"](task.embeddings[:200], task.labels[:200], 0.3)
    np.testing.assert_array_equal(whole[:200], part)


def test_a_zipf_stream_has_as_many_samples_and_its_commonest_condition_in_its_share():
    labels = np.repeat(np.arange(4), 600)
    counts = np.bincount(labels[novelty.zipf(labels, np.random.default_rng(0))])
    assert counts.sum() == 2400
    assert counts.max() == pytest.approx(2400 * 12 / 25, abs=80)  # of 1, 1/2, 1/3, 1/4


def test_the_page_has_a_plot_and_a_row_for_every_selector_and_no_claim_about_data_that_was_not_there(results):
    part = novelty.summarise(results, None)
    (section,) = part.sections.values()
    assert "<img" in section
    assert all(kind in section for kind in ("ours", "random", "uncertainty", "novelty", "everything"))
    assert list(part.claims) == []


def test_claims_come_from_the_gap_at_thirty_and_the_lead_at_ten_percent():
    def result(everything, ours, random):
        rows = {"ours": {"0.3": {"accuracy": ours}, "0.1": {"accuracy": 0.9}}, "random": {"0.1": {"accuracy": random}}}
        stream = {"everything": {"accuracy": everything}, "selectors": rows}
        return {"balanced": stream, "zipf": stream}

    claims = {claim.id: claim for claim in novelty.selection_claims([result(0.95, 0.949, 0.8)] * 2)}
    assert claims["novelty.balanced_gap_30"].value == pytest.approx(0.001)
    assert claims["novelty.balanced_gap_30"].verdict == "holds"
    assert claims["novelty.zipf_gap_30"].verdict == "falls"
    assert claims["novelty.lead_over_random_10"].value == pytest.approx(0.1)
    assert claims["novelty.zipf_lead_over_random_10"].verdict == "falls"


def test_the_auroc_of_three_pairs_in_four_is_three_quarters_and_of_ties_a_half():
    assert auroc(np.array([1.0, 3.0]), np.array([2.0, 4.0])) == pytest.approx(0.75)
    assert auroc(np.zeros(3), np.zeros(2)) == pytest.approx(0.5)


def test_the_interval_holds_the_auroc_and_the_curve_encloses_it():
    rng = np.random.default_rng(0)
    known, unknown = rng.normal(size=300), rng.normal(1.5, size=200)
    low, high = interval(known, unknown, rng)
    assert low < auroc(known, unknown) < high
    false, found = curve(known, unknown)
    assert np.trapezoid(found, false) == pytest.approx(auroc(known, unknown), abs=0.01)
