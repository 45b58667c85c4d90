"""A real agent process, killed at random moments of a stream: every sample counts once, and it always answers."""

import threading
import time
from random import Random

import numpy as np
import pytest

from protos.codec import encode_tensors
from protos.state_folder import write_atomically

KILLS, PER_FILE = 5, 5


class Stream:
    """Another program on the device that drops a file every few milliseconds until it is told to end."""

    def __init__(self, spool):
        self.files = 0
        self._spool, self._end, self._rng = spool, threading.Event(), np.random.default_rng(2)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        while not self._end.wait(0.03):
            if len(list(self._spool.glob("*.safetensors"))) < 20:
                features = self._rng.standard_normal((PER_FILE, 1, 4, 4), np.float32)
                tensors = {"features": features, "conditions": self._rng.integers(5, 8, PER_FILE)}
                write_atomically(self._spool / f"{self.files:06}.safetensors", encode_tensors(tensors))
                self.files += 1

    def close(self):
        self._end.set()
        self._thread.join()


@pytest.mark.system
def test_an_agent_killed_at_random_moments_of_a_stream_counts_every_sample_once(tmp_path, mirror, stand_in):
    machine, dice = stand_in.Machine(tmp_path, mirror.address, mirror.ca, "good"), Random(11)
    mirror.publish(1)
    stream = Stream(machine.spool)
    try:
        for _ in range(KILLS):
            agent = machine.start()
            machine.wait_for(lambda now: now["release"] is not None)
            time.sleep(dice.random() * 0.6)
            agent.kill()
            agent.wait()
        stream.close()
        machine.start()
        status = machine.wait_for(lambda now: now["samples"]["seen"] >= stream.files * PER_FILE)
        time.sleep(0.2)
        assert machine.status()["samples"]["seen"] == stream.files * PER_FILE
        assert status["release"]["version"] == 1
        assert not list(machine.spool.glob("*.safetensors"))
        assert mirror.asked.count("/v1/dewfall/enroll") <= KILLS  # again only where a kill came before it was known
        drawn = machine.command("infer", "--state", str(machine.state), "--condition", "3")
        assert drawn.returncode == 0, drawn.stderr
    finally:
        stream.close()
        machine.close()
