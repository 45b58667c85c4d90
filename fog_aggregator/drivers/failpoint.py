"""Where fault tests stop this process: `kill -9` at a named step, set by the environment. Off unless asked for."""

import os
import signal
from collections import Counter
from collections.abc import Callable, Mapping

VARIABLE = "DEWFALL_KILL_AT"


def failpoint(environ: Mapping[str, str]) -> Callable[[str], None]:
    """To be told of each step; `DEWFALL_KILL_AT=step` kills this process there, `step:n` when it comes the nth time."""
    step, _, times = environ.get(VARIABLE, "").partition(":")
    if not step:
        return lambda _: None
    seen: Counter[str] = Counter()

    def reached(name: str) -> None:
        seen[name] += 1
        if name == step and seen[name] == int(times or 1):
            os.kill(os.getpid(), signal.SIGKILL)

    return reached
