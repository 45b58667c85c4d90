"""The learner: a child process that fits adapters at the lowest priority and can be killed at any moment.

`python -m edge_agent.learner` reads one command a line and answers with progress. Everything it has learned is in the
job's checkpoint after every slice, so killing it costs at most one slice. It ends by itself when its parent does.
"""

import contextlib
import os
import resource
import signal
import sys
import threading
from queue import SimpleQueue
from typing import IO, NoReturn

from learning_core.errors import DewfallError
from protos.learner_records import OUT_OF_MEMORY, Failed, FitCommand, Progress, decode_line, encode_line

NO_MEMORY = ("can't allocate memory", "std::bad_alloc", "Cannot allocate memory", "failed to map segment")


def main() -> None:
    """Serve jobs until the parent closes our input. Arguments: the memory allowed in MiB, maybe `--nice` or `--busy`.

    Busy, it does nothing of use, with as much of one core as it gets: what a calibration warms the chip with.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the agent, which then closes our input
    step_aside(idle="--nice" not in sys.argv)
    keep_within(int(sys.argv[1]))
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # a library that prints must not talk to the agent
    commands: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_listen, args=(sys.stdin.buffer, commands), daemon=True).start()
    if "--busy" in sys.argv:
        be_busy()
    try:
        from edge_agent.fitting import run  # noqa: PLC0415 - importing torch is work, to be done at the lowest priority

        while True:
            try:
                command = decode_line(commands.get())
                if isinstance(command, FitCommand):
                    run(command, lambda progress: _say(answers, progress))
            except (DewfallError, OSError, ValueError) as error:
                _say(answers, Failed(str(error)[:1000]))
    except (MemoryError, RuntimeError, ImportError) as error:
        if not isinstance(error, MemoryError) and not any(sign in str(error) for sign in NO_MEMORY):
            raise
        os._exit(OUT_OF_MEMORY)  # at once: there is no memory to tidy up with


def step_aside(idle: bool) -> None:
    """Run only when nobody else wants to: the idle class where the kernel lets us, else the lowest priority."""
    os.nice(19)
    if idle and hasattr(os, "SCHED_IDLE"):
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def keep_within(memory_mib: int) -> None:
    """Refuse this process more data than that; libraries, which all their users share, do not count (setrlimit(2))."""
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_DATA, (memory_mib << 20, memory_mib << 20))


def be_busy() -> NoReturn:
    """Multiply matrices, as learning does most of its time."""
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
    import numpy as np  # noqa: PLC0415 - after the environment that keeps it to one thread

    matrix = np.random.default_rng(0).random((256, 256), np.float32)
    while True:
        np.dot(matrix, matrix)


def _listen(stdin: IO[bytes], commands: "SimpleQueue[bytes]") -> None:
    """Hand on what the parent says; its silence is final, even in the middle of a job."""
    for line in stdin:
        commands.put(line)
    os._exit(0)


def _say(answers: IO[bytes], message: Progress | Failed) -> None:
    answers.write(encode_line(message))


if __name__ == "__main__":
    main()
