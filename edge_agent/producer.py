"""The child process of a person's own source: `"module:name"` is called with a context and gives observations.

    def frames(context):
        while True:
            yield take_picture(), None                        # an array and its class, if it is known
            yield {"features": array, "condition": 3, "id": "cam-0017"}

It shares nothing with the agent but the spool, so that it can neither hang nor crash it: it may take its time, print,
fail or never end. It reads one line, its orders, and says on what was standard output what it refused, in JSON.
"""

import contextlib
import ctypes
import importlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from edge_agent.drivers.line_source import hand_on
from edge_agent.drivers.spool_writer import SpoolWriter
from edge_agent.normalise.pictures import Span
from edge_agent.normalise.wanted import Conversions
from edge_agent.observation import Expected, Observation, observation_from

PR_SET_PDEATHSIG = 1
NICENESS, FIRST_TO_GO = 10, 800
MAX_SAID = 300  # characters of what a program raises


@dataclass(frozen=True, slots=True)
class SourceContext:
    """What a program is told: whom it serves, and what the served release takes."""

    name: str
    family: str
    sample_shape: tuple[int, ...]
    num_conditions: int
    known_conditions: tuple[int, ...]


def produce(orders: dict[str, Any], say: Callable[[dict[str, Any]], None]) -> None:
    """Run the program until it ends. Whatever it raises is raised here."""
    told = orders["context"]
    context = SourceContext(
        told["name"],
        told["family"],
        tuple(told["sample_shape"]),
        told["num_conditions"],
        tuple(told["known_conditions"]),
    )
    writer = SpoolWriter(Path(orders["spool"]), orders["max_file_bytes"])
    expected = Expected(context.sample_shape, context.num_conditions, _conversions(orders["conversions"]))

    def parse(item: Any) -> Observation:
        observation = observation_from(item, expected)
        writer.check(observation)
        return observation

    def refuse(number: int, reason: str) -> None:
        say({"refused": number, "reason": reason[:MAX_SAID]})

    hand_on(items_of(orders["program"], context), parse, writer, refuse, lambda files: say({"waits": files}))


def items_of(program: str, context: SourceContext) -> Iterable[Any]:
    """Call "module:name". Raises what the program raises."""
    module, _, name = program.partition(":")
    made = getattr(importlib.import_module(module), name)
    items: Iterable[Any] = made(context) if callable(made) else made
    return items


def main() -> None:
    """Read the orders, then run. Whatever happens is one line of JSON and an exit code."""
    orders = json.loads(sys.stdin.readline())
    voice = _private_voice()
    _die_with(orders["parent"])
    _stand_back()
    if orders["path"]:
        sys.path.insert(0, orders["path"])

    def say(what: dict[str, Any]) -> None:
        voice.write(json.dumps(what) + "\n")
        voice.flush()

    try:
        produce(orders, say)
    except BaseException as error:
        say({"failed": f"{type(error).__name__}: {error}"[:MAX_SAID]})
        os._exit(1)  # also where threads of the program go on
    say({"ended": True})
    os._exit(0)


def _conversions(told: dict[str, Any]) -> Conversions:
    return Conversions(Span(told["floats"]), told["resize"], told["mean"], told["spread"])


def _private_voice() -> IO[str]:
    """Standard output for our own lines; what the program prints goes to standard error."""
    voice = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)
    return voice


def _die_with(parent: int) -> None:
    """End when the agent does, also when it is killed (Linux's prctl(2))."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def _stand_back() -> None:
    """Others first, and the first to go when memory runs out."""
    os.nice(NICENESS)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(FIRST_TO_GO), encoding="ascii")


if __name__ == "__main__":
    main()
