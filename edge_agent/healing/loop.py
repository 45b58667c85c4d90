"""Observe, diagnose, mend, verify: one pure step for each thing that is learned.

`heal` takes the state and one piece of news, and gives the next state and what it wants: the re-runs of `diagnosis`, a
remedy, or nothing. Whoever carries that out comes back with the result as the next piece of news. A case opens when
signals trip; it ends healed, logged, passed, or given up when nothing that may be done is left.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from edge_agent.healing import playbook as book
from edge_agent.healing import thresholds
from edge_agent.healing.diagnosis import Cause, Evidence, Margins, diagnose
from edge_agent.healing.incident import Incident, Outcome, Tried, in_words
from edge_agent.healing.playbook import LATER, Playbook, Remedy
from edge_agent.healing.signals import EXACT, Signal, Values
from edge_agent.healing.thresholds import Rule, Window

GROWN = 1.1  # times a value that meant nothing
SAME = 1e-9  # two fingerprints of the same weights
OTHER_ANSWERS = frozenset({Remedy.CHEAPER, Remedy.CACHE, Remedy.ROLL_BACK})  # after these other answers are usual


@dataclass(frozen=True, slots=True)
class Caps:
    """How much may be done: remedies in one case, each remedy within `ticks`, and how long is waited after a case."""

    per_case: int = 4
    per_remedy: int = 6
    ticks: int = 2880
    cool_down: int = 4
    after_nothing: int = 2
    cleared: int = 20  # ticks for which what the re-runs cleared is not looked into again, unless it grows
    after_giving_up: int = 60
    calm: int = 5  # ticks at the usual speed before the usual variant comes back


@dataclass(frozen=True, slots=True)
class Rules:
    """What decides. `off`: names of remedies a person does not want."""

    rule: Rule = field(default_factory=Rule)
    margins: Margins = field(default_factory=Margins)
    caps: Caps = Caps()
    off: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Case:
    """What is being looked into. `remedy`: the one whose effect the next evidence shows."""

    began_tick: int
    signals: tuple[Signal, ...]
    values: Values = field(default_factory=dict)  # of these signals
    causes: tuple[Cause, ...] = ()  # every one found so far
    tried: tuple[Tried, ...] = ()
    cause: Cause | None = None
    remedy: Remedy | None = None


@dataclass(frozen=True, slots=True)
class State:
    """All the loop knows. Saved by `saved`. `accepted`: the probe's value of a change that does no harm."""

    tick: int = 0
    identity: str = ""  # of what is served
    windows: Mapping[Signal, Window] = field(default_factory=dict)
    playbook: Playbook = field(default_factory=dict)
    spent: tuple[tuple[int, Remedy], ...] = ()  # when each remedy was used
    quiet_until: int = 0
    case: Case | None = None
    accepted: float | None = None
    cleared: Values = field(default_factory=dict)  # up to which value a signal was found to mean nothing
    cleared_until: int = 0
    cheaper: bool = False
    calm: int = 0


@dataclass(frozen=True, slots=True)
class Ticked:
    """The signals of one tick."""

    values: Values


@dataclass(frozen=True, slots=True)
class Done:
    """The wanted remedy was carried out, or could not be."""

    possible: bool


@dataclass(frozen=True, slots=True)
class Exchanged:
    """Something else was served before the wanted remedy was carried out: nothing was done, and nothing is known."""


@dataclass(frozen=True, slots=True)
class Approved:
    """Something else is served, on purpose: what was usual says nothing any more."""

    identity: str


@dataclass(frozen=True, slots=True)
class Rerun:
    """Wanted: the evidence."""


@dataclass(frozen=True, slots=True)
class Apply:
    """Wanted: a remedy, for one of the causes found."""

    remedy: Remedy
    cause: Cause | None


News = Ticked | Evidence | Done | Exchanged | Approved
Wanted = Rerun | Apply | None


@dataclass(frozen=True, slots=True)
class Step:
    """What comes of one piece of news."""

    state: State
    wanted: Wanted = None
    incident: Incident | None = None


def heal(state: State, news: News, rules: Rules) -> Step:
    """One step. News of what nobody asked for changes nothing."""
    match news:
        case Ticked(values):
            return _look(replace(state, tick=state.tick + 1), values, rules)
        case Evidence() if state.case is not None:
            return _judge(state, state.case, news, rules)
        case Done(possible) if state.case is not None and state.case.remedy is not None:
            return _carry_on(state, state.case, possible=possible, rules=rules)
        case Exchanged() if state.case is not None and state.case.remedy is not None:
            return Step(replace(state, spent=state.spent[:-1], case=replace(state.case, remedy=None)), Rerun())
        case Approved(identity):
            same = identity == state.identity
            return Step(state if same else replace(state, identity=identity, windows={}, accepted=None, cleared={}))
    return Step(state)


def resumed(state: State) -> State:
    """After a restart: which variants are preferred ended with the agent, and so did what a case compares with. What
    was tried stays tried; the remedy at hand may never have been applied, so nothing is learned of it.
    """
    return replace(state, cheaper=False, case=replace(state.case, remedy=None) if state.case else None)


def _look(state: State, values: Values, rules: Rules) -> Step:
    watched = {signal: value for signal, value in values.items() if not _is_accepted(state, signal, value)}
    windows, tripped = thresholds.steps(state.windows, watched, rules.rule)
    state = replace(state, windows=windows)
    if state.case is not None:  # of an agent that ended in the middle: what was tried stays tried
        return Step(state, Rerun())
    tripped = tuple(signal for signal in tripped if not _is_cleared(state, signal, values[signal], rules))
    if tripped and state.tick > state.quiet_until:
        seen = {signal: values[signal] for signal in tripped}
        return Step(replace(state, case=Case(state.tick, tripped, seen)), Rerun())
    return _relax(state, values, rules)


def _is_accepted(state: State, signal: Signal, value: float) -> bool:
    return signal is Signal.PROBE and state.accepted is not None and abs(value - state.accepted) <= SAME


def _is_cleared(state: State, signal: Signal, value: float, rules: Rules) -> bool:
    """Whether re-runs have lately found nothing behind as large a value; exact signals are always looked into."""
    if signal in EXACT or signal not in state.cleared or state.tick > state.cleared_until:
        return False
    return value <= GROWN * state.cleared[signal] + rules.rule.floors[signal]


def _relax(state: State, values: Values, rules: Rules) -> Step:
    """Give the usual variant back when the device has been as fast as usual for a while."""
    if not state.cheaper or Signal.LATENCY not in values:
        return Step(state)
    calm = state.calm + 1 if values[Signal.LATENCY] < rules.margins.slow / 2 else 0
    if calm < rules.caps.calm or Remedy.USUAL in rules.off:
        return Step(replace(state, calm=calm))
    return Step(replace(state, cheaper=False, calm=0, windows=_without_history(state)), Apply(Remedy.USUAL, None))


def _judge(state: State, case: Case, evidence: Evidence, rules: Rules) -> Step:
    """See what there is evidence of, also whether the last remedy helped, and choose what is next."""
    causes = tuple(
        cause for cause in diagnose(evidence, rules.margins) if cause is not Cause.THROTTLE or _is_slow_for_long(state)
    )
    harmful = tuple(cause for cause in causes if cause is not Cause.HARMLESS)
    known = tuple(cause for cause in Cause if cause in {*case.causes, *harmful})
    if case.remedy is not None and case.cause is not None:
        worked = case.cause not in causes
        tried = (*case.tried, Tried(case.cause, case.remedy, worked))
        record = book.learned(state.playbook, case.cause, case.remedy, worked=worked)
        state, case = replace(state, playbook=record), replace(case, tried=tried, remedy=None)
    case = replace(case, causes=known)
    if not harmful:
        return _close_well(state, case, evidence, changed=Cause.HARMLESS in causes, rules=rules)
    return _next(state, case, harmful, rules)


def _is_slow_for_long(state: State) -> bool:
    """A few slow answers may be another program's moment; throttling also shows in the answers of whole ticks."""
    latency = state.windows.get(Signal.LATENCY, Window())
    return any(latency.breaches)


def _next(state: State, case: Case, causes: tuple[Cause, ...], rules: Rules) -> Step:
    """The most promising remedy that is left for the first cause that has one."""
    used = {(each.cause, each.remedy) for each in case.tried}
    for cause in causes if len(case.tried) < rules.caps.per_case else ():
        for remedy in book.ranked(cause, state.playbook, rules.off):
            if (cause, remedy) not in used and _left(state, remedy, rules.caps) > 0:
                spent = (*_lately(state, rules.caps), (state.tick, remedy))
                case = replace(case, cause=cause, remedy=remedy)
                return Step(replace(state, spent=spent, case=case), Apply(remedy, cause))
    return _close(state, case, Outcome.GAVE_UP, rules.caps.after_giving_up)


def _carry_on(state: State, case: Case, *, possible: bool, rules: Rules) -> Step:
    """After a remedy: verify it, or go on to the next when it could not be done or helps later."""
    if case.remedy is None or case.cause is None:
        return Step(state)
    if possible and case.remedy not in LATER:
        return Step(state, Rerun())
    playbook = state.playbook
    if not possible:
        playbook = book.learned(playbook, case.cause, case.remedy, worked=False)
    tried = (*case.tried, Tried(case.cause, case.remedy, None if possible else False))
    case = replace(case, tried=tried, remedy=None)
    left = [cause for cause in case.causes if cause is not Cause.HARMLESS]
    return _next(replace(state, playbook=playbook), case, tuple(left), rules)


def _close_well(state: State, case: Case, evidence: Evidence, *, changed: bool, rules: Rules) -> Step:
    """Nothing harmful is left."""
    if any(each.worked is not False for each in case.tried):
        cheaper = state.cheaper or any(each.remedy is Remedy.CHEAPER and each.worked for each in case.tried)
        windows = _without_history(state) if _changed_answers(case) else state.windows
        accepted = evidence.model if changed else None
        healed = replace(state, windows=windows, cheaper=cheaper, calm=0, accepted=accepted, cleared={})
        return _close(healed, case, Outcome.HEALED, rules.caps.cool_down)
    if not changed:
        known = state.cleared if state.tick <= state.cleared_until else {}
        cleared = {**known, **case.values}
        state = replace(state, cleared=cleared, cleared_until=state.tick + rules.caps.cleared)
        return _close(state, case, Outcome.PASSED, rules.caps.after_nothing)
    is_told = state.accepted is not None  # it goes on changing: said once
    state = replace(state, accepted=evidence.model)
    step = _close(state, replace(case, causes=(Cause.HARMLESS,)), Outcome.LOGGED, 0)
    return replace(step, incident=None) if is_told else step


def _close(state: State, case: Case, outcome: Outcome, quiet: int) -> Step:
    incident = Incident(
        case.began_tick,
        state.tick,
        case.signals,
        case.causes,
        case.tried,
        outcome,
        in_words(case.causes, case.tried, outcome),
    )
    calm = thresholds.calm(state.windows)
    return Step(replace(state, windows=calm, case=None, quiet_until=state.tick + quiet), None, incident)


def _changed_answers(case: Case) -> bool:
    return any(each.remedy in OTHER_ANSWERS and each.worked is not False for each in case.tried)


def _without_history(state: State) -> dict[Signal, Window]:
    """What was usual has to be learned anew."""
    return dict.fromkeys(state.windows, Window())


def _lately(state: State, caps: Caps) -> tuple[tuple[int, Remedy], ...]:
    return tuple(each for each in state.spent if state.tick - each[0] < caps.ticks)


def _left(state: State, remedy: Remedy, caps: Caps) -> int:
    return caps.per_remedy - sum(used is remedy for _, used in _lately(state, caps))
