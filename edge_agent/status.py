"""What the agent says of itself: one JSON tree for its socket, its status file and the demo's report."""

import functools
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, fields
from typing import Any, TypeVar

from edge_agent.budget import Cost
from edge_agent.router import Measured
from edge_agent.serving import Latency, Served
from edge_agent.values import Decision, Reading, StreamSigns, Telemetry
from edge_agent.watch import Turn
from learning_core.errors import DewfallError

Said = TypeVar("Said")
WHY = "why."
DECISIONS = "decision."


def of_one_version(words: Callable[[Mapping[str, Any]], Said]) -> Callable[[Mapping[str, Any]], Said]:
    """For what is said of an agent's tree: one that lacks something is of an agent of another version, no bug here."""

    @functools.wraps(words)
    def say(tree: Mapping[str, Any]) -> Said:
        try:
            return words(tree)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
            text = "the agent tells it as another version of dewfall does; give both the same one, or ask with --json"
            raise DewfallError(text) from error

    return say


def describe_samples(counts: Mapping[str, int], in_memory: int) -> dict[str, Any]:
    """The stream so far. `why`: how many samples were kept or dropped for which reason."""
    names = ("seen", "kept", "dropped", "unsure", "proposed", "forgotten", "trained", "files")
    named = {name: counts.get(name, 0) for name in names}
    why = {name.removeprefix(WHY): value for name, value in counts.items() if name.startswith(WHY)}
    return {**named, "in_memory": in_memory, "why": why}


def describe_stream(signs: StreamSigns) -> dict[str, Any]:
    """What can be told of the stream since the agent started; null until enough has passed."""
    return asdict(signs)


def describe_decisions(counts: Mapping[str, int], now: Decision, turns: Iterable[Turn]) -> dict[str, Any]:
    """How often the device came to each decision ("wait.heat"), the present one and the latest turns."""
    return {
        "now": _decision(now),
        "counts": {name.removeprefix(DECISIONS): n for name, n in counts.items() if name.startswith(DECISIONS)},
        "turns": [{"at_s": turn.at_s, **_decision(turn.decision)} for turn in turns],
    }


def guard_in_words(guard: Mapping[str, Any]) -> str:
    """What is on trial and how much is banned, as one line."""
    on_trial = [kind for kind in ("release", "shared", "personal") if guard.get(kind, {}).get("trial")]
    said = f"{' and '.join(on_trial)} on trial" if on_trial else "nothing on trial"
    return f"guard: {said}, {len(guard['bans'])} banned"


def describe_day(spent: Cost) -> dict[str, Any]:
    """What learning and its traffic have cost since midnight, the energy as booked ahead."""
    return {"joules": spent.joules, "bytes": spent.bytes}


def describe_learner(held_by: str, energy: str, heat: str) -> dict[str, str]:
    """What holds the learner, and how its energy and the heat it makes are known."""
    return {"held_by": held_by, "energy": energy, "heat": heat}


def learner_in_words(learner: Mapping[str, str]) -> str:
    return f"learner: {learner['held_by']}; energy {learner['energy']}; heat {learner['heat']}"


def describe_rounds(counts: Mapping[str, int]) -> dict[str, Any]:
    """Updates sent, candidates rolled back, and rounds declined by reason."""
    declined = {name.removeprefix("declined."): n for name, n in counts.items() if name.startswith("declined.")}
    return {"updates": counts.get("updates", 0), "rolled_back": counts.get("rolled_back", 0), "declined": declined}


def describe_device(telemetry: Telemetry | None, peak_c: float | None) -> dict[str, Any]:
    """The latest telemetry; `peak_c` since the agent started."""
    if telemetry is None:
        return {"peak_c": peak_c}
    return {"peak_c": peak_c, **{field.name: _reading(getattr(telemetry, field.name)) for field in fields(Telemetry)}}


def describe_look(telemetry: Telemetry, decision: Decision) -> dict[str, Any]:
    """One look at a device without an agent, and what its governor would decide."""
    return {"device": describe_device(telemetry, None), "decision": _decision(decision)}


def look_in_words(look: Mapping[str, Any]) -> str:
    """The tree of `describe_look` as lines for a terminal: each belief with its quality, age and source."""
    readings = {name: reading for name, reading in look["device"].items() if name != "peak_c"}
    rows = [
        (
            name,
            _figure(each),
            each["quality"],
            "-" if each["age_s"] is None else f"{each['age_s']:.1f} s",
            each["source"],
        )
        for name, each in readings.items()
    ]
    table = [("", "value", "quality", "age", "source"), *rows]
    widths = [max(len(row[column]) for row in table) for column in range(4)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, [*widths, 0], strict=True)) for row in table)
    decision = look["decision"]
    return "\n".join((*lines, f"decision: {decision['action']} ({decision['reason']}): {decision['sentence']}"))


@of_one_version
def status_in_words(tree: Mapping[str, Any]) -> str:
    """The agent's whole tree as a few lines for a terminal."""
    release, now = tree["release"], tree["decisions"]["now"]
    served = f"release {release['version']}{' with its own adapter' * release['adapted']}" if release else "nothing yet"
    inference, rss = tree["inference"], tree["rss_mb"]
    return "\n".join(
        (
            f"{tree['name']} serves {served}; {inference['count']} answers, median {latency_in_words(inference)}",
            *(variant_in_words(each) for each in inference["variants"]),
            f"decision: {now['action']} ({now['reason']}): {now['sentence']}",
            samples_in_words(tree["samples"], tree["stream"]),
            guard_in_words(tree["guard"]),
            f"rounds: {tree['rounds']['updates']} updates sent; memory: {rss['agent']:.0f} MB",
            learner_in_words(tree["learner"]),
            f"fog: {tree['fog'].get('trouble') or 'connected'}",
        )
    )


def samples_in_words(samples: Mapping[str, Any], stream: Mapping[str, Any]) -> str:
    """What came in, and which signs of the stream alarmed; how large each sign is now is in the JSON."""
    alarms = {"drifted": "drifted", "narrowed": "became all alike", "surprised": "surprised"}
    told = [f"{word} {stream[name]} times" for name, word in alarms.items() if stream[name]]
    unsure = f", {samples['unsure']} set aside for `label`" if samples["unsure"] else ""
    line = f"samples: {samples['seen']} seen, {samples['kept']} kept, {samples['dropped']} dropped{unsure}"
    return f"{line}; the stream {', '.join(told)}" if told else line


def proposed_in_words(sample: Mapping[str, Any]) -> str:
    """What to say of a kept sample's class where nobody else said it."""
    certainty = sample.get("certainty")
    return "" if certainty is None else f"  proposed by the judge, {certainty:.2f}"


def latency_in_words(inference: Mapping[str, Any]) -> str:
    return f"{inference['p50_ms']:.1f} ms (p99 {inference['p99_ms']:.1f})" if inference["p50_ms"] else "-"


@of_one_version
def decision_in_words(decision: Mapping[str, Any]) -> str:
    """One line for a decision of the past."""
    sentence = decision["sentence"]
    return f"{local_time(decision['at_s'])}  {decision['action']:10} {decision['reason']:14} {sentence}"


@of_one_version
def incident_in_words(incident: Mapping[str, Any]) -> str:
    """One line for an incident of the past."""
    return f"{local_time(incident['at_s'])}  {incident['outcome']:8}  {incident['sentence']}"


def local_time(at_s: float) -> str:
    """A moment (epoch seconds) on the local clock."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_s))


def _figure(reading: Mapping[str, Any]) -> str:
    return "-" if reading["age_s"] is None else f"{reading['value']:.4g} {reading['unit']}".rstrip()


def describe_serving(served: Served | None, latency: Latency) -> dict[str, Any]:
    """What answers, and how fast."""
    release = None
    if served is not None:
        manifest = served.release.manifest
        release = {
            "version": manifest.version,
            "digest": served.release.digest,
            "adapted": served.adapted,
            "sample_shape": list(served.release.sample_shape),
            "num_conditions": manifest.num_conditions,
            "known_conditions": list(manifest.known_conditions),
        }
    inference = {"count": latency.count, "p50_ms": _number(latency.p50_ms), "p99_ms": _number(latency.p99_ms)}
    return {"release": release, "inference": inference}


def describe_variants(table: Iterable[Measured], answers: Mapping[str, int]) -> list[dict[str, Any]]:
    """Each way to answer, what it is worth and takes here (null: not measured yet), and how often it did answer."""
    return [
        {
            **asdict(each.variant),
            "quality": _number(each.quality),
            "latency_ms": _number(each.latency_ms),
            "joules": _number(each.joules),
            "absent": each.absent,
            "answers": answers.get(each.variant.name, 0),
        }
        for each in table
    ]


def variant_in_words(each: Mapping[str, Any]) -> str:
    """One line for a way to answer."""
    if each["quality"] is None:
        figures = each["absent"] or "not measured yet"
    else:
        figures = f"quality {each['quality']:.3f}, {each['latency_ms']:.2f} ms, {each['joules'] * 1e3:.2f} mJ"
    sampler = f"{each['steps']:3} steps, guidance {each['guidance']:g}"
    return f"  {each['name']:12} {sampler}: {figures}; {each['answers']} answers"


def describe_privacy(epsilon: float, max_epsilon: float, target_delta: float, rounds: int) -> dict[str, Any]:
    """The odometer. An infinite figure is null here, since JSON has none: a round went out without noise."""
    return {
        "epsilon": _number(epsilon),
        "max_epsilon": _number(max_epsilon),
        "target_delta": target_delta,
        "rounds": rounds,
        "unit": "device, as if everybody knew in which rounds it took part",
    }


def _decision(decision: Decision) -> dict[str, str]:
    return {"action": decision.action, "reason": decision.reason, "sentence": decision.sentence}


def _reading(reading: Reading) -> dict[str, Any]:
    age_s = _number(reading.age_s)
    about = {"quality": reading.quality, "source": reading.source}
    return {"value": reading.value, "unit": reading.unit, "age_s": age_s, **about}


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
