"""The learner: a child process that fits adapters at the lowest priority and can be killed at any moment.

`python -m edge_agent.learner` reads one command a line and answers with progress. Everything it has learned is in the
job's checkpoint after every slice, so killing it costs at most one slice. It ends by itself when its parent does.
"""

import contextlib
import os
import signal
import sys
import threading
from queue import SimpleQueue
from typing import IO

from learning_core.errors import DewfallError
from protos.learner_records import Failed, FitCommand, Progress, decode_line, encode_line


def main() -> None:
    """Serve jobs until the parent closes our input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the agent, which then closes our input
    step_aside(idle="--nice" not in sys.argv)
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # a library that prints must not talk to the agent
    commands: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_listen, args=(sys.stdin.buffer, commands), daemon=True).start()
    from edge_agent.fitting import run  # noqa: PLC0415 - importing torch is work too, to be done at the lowest priority

    while True:
        try:
            command = decode_line(commands.get())
            if isinstance(command, FitCommand):
                run(command, lambda progress: _say(answers, progress))
        except (DewfallError, OSError, ValueError) as error:
            _say(answers, Failed(str(error)[:1000]))


def step_aside(idle: bool) -> None:
    """Run only when nobody else wants to: the idle class where the kernel lets us, else the lowest priority."""
    os.nice(19)
    if idle and hasattr(os, "SCHED_IDLE"):
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def _listen(stdin: IO[bytes], commands: "SimpleQueue[bytes]") -> None:
    """Hand on what the parent says; its silence is final, even in the middle of a job."""
    for line in stdin:
        commands.put(line)
    os._exit(0)


def _say(answers: IO[bytes], message: Progress | Failed) -> None:
    answers.write(encode_line(message))


if __name__ == "__main__":
    main()
