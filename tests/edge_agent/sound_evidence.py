"""What healing's re-runs find on a device with which nothing is wrong."""

import numpy as np

from edge_agent.healing.diagnosis import Evidence, Exam

GOOD = Exam(0.98, 0.8, 0.01)


def sound_evidence(live, direct):
    """Of so many answers through the door and drawn directly."""
    return Evidence(
        files_sound=True,
        model=0.0,
        exam=None,
        approved=GOOD,
        sampler=0.0,
        flicker=0.0,
        live=np.full(live, 0.8),
        as_set=np.full(live, 0.8),
        direct=np.full(direct, 0.8),
        differs=np.zeros(live, bool),
        usual_anchor=0.8,
        slow_pass=0.0,
        slow_request=0.0,
    )
