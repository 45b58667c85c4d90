import pytest

from cloud_server.config import Gates
from cloud_server.evaluation import Quality, known_after, mean_fidelity, verdict

OLD, NEW = (0, 1), (2, 3)


def quality(old: float = 1.0, new: float = 0.1, kid_old: float = 0.05, out_of_range: float = 0.01) -> Quality:
    return Quality(
        fidelity={0: 1.0, 1: old, 2: new, 3: new},
        images_per_condition=40,
        kid_old=kid_old,
        fid_old=3.0,
        kid_new=0.1,
        fid_new=4.0,
        out_of_range=out_of_range,
    )


def test_better_on_new_conditions_without_loss_on_old_ones_is_published():
    found = verdict(quality(), quality(new=0.95, old=0.98), OLD, Gates())
    assert found.publish
    assert found.reasons == ("it is better: new conditions went from 0.100 to 0.950",)


@pytest.mark.parametrize(
    ("after", "why"),
    [
        (quality(new=0.95, old=0.97), "condition 1 fell from 1.000 to 0.970"),
        (quality(new=0.12), "it is not better"),
        (quality(new=0.05), "it is not better"),
        (quality(new=0.95, kid_old=0.3), "KID of known conditions rose"),
        (quality(new=0.95, out_of_range=0.2), "out of range"),
    ],
)
def test_one_fault_keeps_a_candidate_back_and_is_named(after: Quality, why: str):
    found = verdict(quality(), after, OLD, Gates())
    assert not found.publish
    assert len(found.reasons) == 1
    assert why in found.reasons[0]


def test_every_fault_is_named():
    found = verdict(quality(), quality(new=0.0, old=0.5, kid_old=1.0, out_of_range=0.5), OLD, Gates())
    assert len(found.reasons) == 4


def test_a_fall_in_one_condition_is_not_hidden_by_a_rise_in_another():
    before = quality().model_copy(update={"fidelity": {0: 0.9, 1: 1.0, 2: 0.0, 3: 0.0}})
    after = quality().model_copy(update={"fidelity": {0: 1.0, 1: 0.9, 2: 1.0, 3: 1.0}})
    assert not verdict(before, after, OLD, Gates()).publish


def test_without_new_conditions_a_smaller_kid_is_what_better_means():
    everything = (0, 1, 2, 3)
    assert verdict(quality(new=1.0), quality(new=1.0, kid_old=0.04), everything, Gates()).publish
    assert not verdict(quality(new=1.0), quality(new=1.0, kid_old=0.05), everything, Gates()).publish


def test_a_release_claims_only_conditions_it_makes_well():
    after = quality().model_copy(update={"fidelity": {0: 1.0, 1: 0.7, 2: 0.79, 3: 0.81}})
    assert known_after(after, OLD, Gates()) == (0, 1, 3)
    assert mean_fidelity(after, NEW) == pytest.approx(0.8)


def test_a_quality_survives_its_text_and_holds_only_finite_numbers():
    assert Quality.model_validate_json(quality().model_dump_json()) == quality()
    with pytest.raises(ValueError, match="finite"):
        quality(kid_old=float("nan"))
