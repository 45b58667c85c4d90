"""What every gRPC service of ours asks of a call."""

from collections.abc import Callable
from typing import Any, TypeVar

import grpc

from learning_core.errors import Malformed, StateError

MAX_DEADLINE_S = 600.0
Answer = TypeVar("Answer")


def check_deadline(context: Any) -> None:
    """Abort a call that would wait for ever."""
    left = context.time_remaining()
    if left is None or left > MAX_DEADLINE_S:
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"set a deadline of at most {MAX_DEADLINE_S:.0f} s")


def answered(context: Any, call: Callable[[], Answer]) -> Answer:
    """Our errors as gRPC's: what is malformed is not to be sent again, what the disk refused is."""
    try:
        return call()
    except Malformed as error:
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
    except StateError as error:
        context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
    raise AssertionError("abort always raises")
