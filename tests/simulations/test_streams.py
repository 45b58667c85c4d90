import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from learning_core.samples import Batch
from simulations.streams import dirichlet_shares, portions, with_near_duplicates


def batch(size, seed=0):
    rng = np.random.default_rng(seed)
    return Batch(rng.uniform(-1, 1, (size, 1, 4, 4)).astype(np.float32), np.arange(size) % 5 + 5)


@given(st.integers(1, 8), st.floats(0.05, 10), st.integers(0, 99))
def test_every_sample_goes_to_exactly_one_device_and_every_device_gets_some(devices, concentration, seed):
    conditions = batch(60).conditions
    shares = dirichlet_shares(conditions, devices, concentration, np.random.default_rng(seed))
    assert sorted(np.concatenate(shares)) == list(range(60))
    assert all(len(share) for share in shares)


def test_small_concentrations_spread_more_unevenly():
    conditions = batch(2000).conditions

    def unevenness(concentration):
        shares = dirichlet_shares(conditions, 4, concentration, np.random.default_rng(1))
        return np.std([[np.sum(conditions[share] == c) for c in range(5, 10)] for share in shares])

    assert unevenness(0.1) > 2 * unevenness(100)


def test_near_duplicates_are_near_and_the_originals_are_among_them():
    original = batch(10)
    seen = with_near_duplicates(original, 3, 0.02, np.random.default_rng(0))
    assert len(seen) == 40
    distances = np.abs(seen.features[:, None] - original.features[None]).max((2, 3, 4))
    assert distances.min(1).max() < 0.12
    assert (distances.min(0) == 0).all()
    assert (seen.conditions == original.conditions[distances.argmin(1)]).all()


def test_a_stream_brings_its_stages_one_after_the_other_and_loses_nothing():
    stream = portions(
        batch(50), [(5, 6), (7, 8, 9)], np.random.default_rng(0), copies=1, jitter=0.01, per_stage=3, every_s=2.0
    )
    assert [portion.after_s for portion in stream] == [0, 2, 4, 6, 8, 10]
    assert {int(c) for portion in stream[:3] for c in portion.batch.conditions} == {5, 6}
    assert {int(c) for portion in stream[3:] for c in portion.batch.conditions} == {7, 8, 9}
    assert sum(len(portion.batch) for portion in stream) == 100
