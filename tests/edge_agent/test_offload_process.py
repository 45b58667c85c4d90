"""Offloading as a device's owner meets it: a running agent that is too hot to learn, and a fog that would."""

import textwrap

import numpy as np
import pytest
from test_rounds_over_flower import Site

from learning_core.params import digest, norm
from protos.codec import encode_tensors
from protos.flower_records import Trained
from protos.state_folder import write_atomically
from simulations.offload_service import StandInService, start_stand_in
from simulations.offload_stand_in import StandInJobs


@pytest.fixture
def service(tmp_path, flow_folder, stand_in, certificate):
    """The address of a stand-in fog that has release 1."""
    folder, digest = flow_folder, stand_in.manifest_digest(flow_folder)
    jobs = StandInJobs(tmp_path / "fog", lambda version, sha256: folder if (version, sha256) == (1, digest) else None)
    pem, key = (path.read_bytes() for path in certificate)
    server, port = start_stand_in(StandInService(jobs, lambda _: True), key, pem)
    yield f"127.0.0.1:{port}"
    server.stop(0).wait()
    jobs.close()


def drop_samples(machine):
    images = np.random.default_rng(0).uniform(-1, 1, (40, 1, 8, 8)).astype(np.float32)
    samples = {"features": images, "conditions": np.arange(40) % 5 + 5}
    write_atomically(machine.spool / "a.safetensors", encode_tensors(samples))


@pytest.mark.parametrize(
    ("allowed", "action", "said"), [("true", "offload", ""), ("false", "wait", "leaves too little for flow_image")]
)
def test_a_device_that_is_too_hot_offloads_if_its_owner_lets_it_and_else_waits_and_says_why(
    tmp_path, mirror, stand_in, flow_folder, service, allowed, action, said
):
    (mirror.folder / "1").symlink_to(flow_folder)
    mirror.latest = {"version": 1, "manifest_sha256": stand_in.manifest_digest(flow_folder)}
    more = f"""
            [offload]
            enabled = true
            address = "{service}"
            look_s = 0.2
            allow_raw_offload = {allowed}
            [limits]
            min_dwell_s = 0.3
    """
    machine = stand_in.Machine(tmp_path, mirror.address, mirror.ca, "good", more)
    try:
        machine.heat(85.0)
        drop_samples(machine)
        machine.start()
        status = machine.wait_for(lambda now: now["samples"]["kept"] >= 8 and now["offload"]["trouble"].find(said) >= 0)
        status = machine.wait_for(lambda now: now["offload"]["ready"] == (allowed == "true"))
        status = machine.wait_for(lambda now: now["decisions"]["now"]["action"] == action)
        assert status["decisions"]["now"]["reason"] == "heat"
        assert said in status["offload"]["trouble"]
    finally:
        machine.close()


@pytest.mark.system
def test_a_round_is_answered_by_a_device_that_is_too_hot_to_learn(
    tmp_path, stand_in, flow_folder, service, certificate
):
    site = Site(tmp_path, certificate, stand_in, flow_folder)
    offload = (
        f"[offload]\nenabled = true\naddress = '{service}'\nlook_s = 0.2\npoll_s = 0.1\nallow_raw_offload = true\n"
    )
    site.machine.write(textwrap.dedent(site.machine.settings.read_text()) + offload)
    try:
        site.machine.heat(85.0)
        drop_samples(site.machine)
        site.machine.start()
        site.machine.wait_for(lambda now: now["decisions"]["now"]["action"] == "offload")
        assert site.query().ready
        answer = site.train(1)
        assert isinstance(answer, Trained)
        assert norm(answer.update.update.delta) > 0
        status = site.machine.status()
        assert status["learner_pid"] is None
        assert status["decisions"]["now"]["action"] == "offload"
        same = site.train(1)
        assert digest(same.update.update.delta) == digest(answer.update.update.delta)
    finally:
        site.close()
