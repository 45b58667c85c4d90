"""The loop's state as JSON and back, so that what was learned, spent and begun outlives a restart."""

from collections.abc import Mapping
from dataclasses import astuple
from math import isfinite
from typing import Any

from edge_agent.healing.diagnosis import Cause
from edge_agent.healing.incident import Tried
from edge_agent.healing.loop import Case, State
from edge_agent.healing.playbook import Record, Remedy
from edge_agent.healing.signals import Signal
from edge_agent.healing.thresholds import Window
from learning_core.errors import Malformed
from learning_core.memory.page_hinkley import Watched

MOST = 10_000  # values in a list
WHOLE = 1 << 53


def snapshot(state: State) -> dict[str, Any]:
    """A tree that JSON can hold."""
    case = state.case
    return {
        "tick": state.tick,
        "identity": state.identity,
        "windows": {signal: _window_tree(window) for signal, window in state.windows.items()},
        "playbook": [[*key, record.worked, record.failed] for key, record in state.playbook.items()],
        "spent": [list(each) for each in state.spent],
        "quiet_until": state.quiet_until,
        "case": None if case is None else _case_tree(case),
        "accepted": state.accepted,
        "cleared": dict(state.cleared),
        "cleared_until": state.cleared_until,
        "cheaper": state.cheaper,
        "calm": state.calm,
    }


def restore(tree: Any) -> State:
    """Inverse of `snapshot`. Raises Malformed; then a new state is as good."""
    try:
        return _state(tree)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise Malformed(f"this is no state of healing: {str(error)[:120]}") from error


def _state(tree: Mapping[str, Any]) -> State:
    return State(
        tick=_whole(tree["tick"]),
        identity=_text(tree["identity"]),
        windows={Signal(name): _window(window) for name, window in tree["windows"].items()},
        playbook={
            (Cause(cause), Remedy(remedy)): Record(_whole(worked), _whole(failed))
            for cause, remedy, worked, failed in _list(tree["playbook"])
        },
        spent=tuple((_whole(tick), Remedy(remedy)) for tick, remedy in _list(tree["spent"])),
        quiet_until=_whole(tree["quiet_until"]),
        case=None if tree["case"] is None else _case(tree["case"]),
        accepted=None if tree["accepted"] is None else _real(tree["accepted"]),
        cleared=_values(tree["cleared"]),
        cleared_until=_whole(tree["cleared_until"]),
        cheaper=_truth(tree["cheaper"]),
        calm=_whole(tree["calm"]),
    )


def _window_tree(window: Window) -> dict[str, Any]:
    return {
        "first": list(window.first),
        "recent": list(window.recent),
        "breaches": list(window.breaches),
        "slow": list(astuple(window.slow)),
    }


def _window(tree: Mapping[str, Any]) -> Window:
    count, *sums = _list(tree["slow"])
    mean, squares, risen, fallen = (_real(each) for each in sums)
    return Window(
        first=tuple(_real(each) for each in _list(tree["first"])),
        recent=tuple(_real(each) for each in _list(tree["recent"])),
        breaches=tuple(_truth(each) for each in _list(tree["breaches"])),
        slow=Watched(_whole(count), mean, squares, risen, fallen),
    )


def _case_tree(case: Case) -> dict[str, Any]:
    return {
        "began_tick": case.began_tick,
        "signals": list(case.signals),
        "values": dict(case.values),
        "causes": list(case.causes),
        "tried": [[each.cause, each.remedy, each.worked] for each in case.tried],
        "cause": case.cause,
        "remedy": case.remedy,
    }


def _case(tree: Mapping[str, Any]) -> Case:
    return Case(
        began_tick=_whole(tree["began_tick"]),
        signals=tuple(Signal(each) for each in _list(tree["signals"])),
        values=_values(tree["values"]),
        causes=tuple(Cause(each) for each in _list(tree["causes"])),
        tried=tuple(
            Tried(Cause(cause), Remedy(remedy), None if worked is None else _truth(worked))
            for cause, remedy, worked in _list(tree["tried"])
        ),
        cause=None if tree["cause"] is None else Cause(tree["cause"]),
        remedy=None if tree["remedy"] is None else Remedy(tree["remedy"]),
    )


def _values(tree: Mapping[str, Any]) -> dict[Signal, float]:
    return {Signal(name): _real(value) for name, value in tree.items()}


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list) or len(value) > MOST:
        raise ValueError("a list is wanted")
    return value


def _whole(value: Any) -> int:
    if type(value) is not int or not 0 <= value < WHOLE:
        raise ValueError("a whole number is wanted")
    return value


def _real(value: Any) -> float:
    if type(value) not in {int, float} or not isfinite(value):
        raise ValueError("a finite number is wanted")
    return float(value)


def _truth(value: Any) -> bool:
    if type(value) is not bool:
        raise ValueError("true or false is wanted")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("a text is wanted")
    return value
