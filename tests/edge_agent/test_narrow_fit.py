"""A device with little memory trains fewer columns of each adapter, and nothing else changes for the fleet."""

import numpy as np
import pytest

from edge_agent.fitting import B_FACTOR, run
from learning_core.params import subtract, zeros
from learning_core.samples import Batch
from protos.codec import encode_params
from protos.learner_records import (
    CHECKPOINT,
    SAMPLES,
    SHARED,
    FitCommand,
    decode_checkpoint,
    encode_samples,
)


@pytest.fixture
def fit(tmp_path, flow_folder, flow_release):
    """Fits `rank` columns from a start that is zero or `moved`; the checkpoint."""
    rng = np.random.default_rng(1)
    samples = Batch(rng.uniform(-1, 1, (20, 1, 8, 8)).astype(np.float32), rng.integers(5, 10, 20))
    shapes = flow_release.manifest.adapter_shapes
    moved = {name: rng.normal(0, 0.01, shape).astype(np.float32) for name, shape in shapes.items()}

    def fit(rank, start="zero", steps=4, folder="job"):
        place = tmp_path / folder
        if not place.exists():
            place.mkdir()
            (place / SAMPLES).write_bytes(encode_samples(samples))
            (place / SHARED).write_bytes(encode_params(zeros(shapes) if start == "zero" else moved))
        run(FitCommand(str(place), str(flow_folder), 2, steps, 8, 1.5e-2, 0, rank), lambda _: None)
        return decode_checkpoint((place / CHECKPOINT).read_bytes())

    fit.moved = moved
    return fit


def test_only_the_first_columns_move_and_the_rest_keep_their_bits(fit):
    done = fit(3, "moved")
    change = subtract(done.adapter, fit.moved)
    for name, value in change.items():
        if name.endswith(B_FACTOR):
            assert (value[:, 3:] == 0).all()
            assert (value[:, :3] != 0).any()
    assert (change["label_rows"] != 0).any()  # conditions are learned whatever the width


def test_a_fit_of_all_columns_is_the_same_with_and_without_being_asked_for_them(fit):
    whole, wider = fit(8, folder="whole"), fit(99, folder="wider")
    assert all((whole.adapter[name] == wider.adapter[name]).all() for name in whole.adapter)


def test_a_job_that_goes_on_narrower_does_not_coast_in_the_columns_it_leaves(fit):
    before = fit(8, steps=4)
    after = fit(2, steps=8)
    for name in before.adapter:
        if name.endswith(B_FACTOR):
            assert (after.adapter[name][:, 2:] == before.adapter[name][:, 2:]).all()
            assert (after.adapter[name][:, :2] != before.adapter[name][:, :2]).any()
