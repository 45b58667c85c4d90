"""What happened in a demo, as values: the content of its report.json, with its claims."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from learning_core.params import Array
from simulations import report
from simulations.demo.configure import Places
from simulations.demo.observe import Snapshot, Status
from simulations.demo.plan import DEVICES, FOGS, NEW, OLD, TIME_SCALE
from simulations.demo.requests import Tally
from simulations.demo.twin import Twin
from simulations.report import Claim

PRIVATE_FLEET = "dewfall simulate forgetting --devices 2000 --sample-rate 0.1 --noise-multiplier 1 --no-naive"


@dataclass(frozen=True, slots=True)
class Story:
    """Everything the demo saw. Pictures: [10, C, H, W] by device; `peaks`: highest memory by process."""

    places: Places
    seed: int
    final: Snapshot
    before: Mapping[str, Array]
    after: Mapping[str, Array]
    twins: Sequence[Twin]
    tallies: Mapping[str, Tally]
    seconds: Mapping[str, float]
    restarts: Mapping[str, int]
    peaks: Mapping[str, Mapping[str, float]]
    overhead: Mapping[str, float]  # one generation through the agent against the bare session, milliseconds

    @property
    def wall_s(self) -> float:
        return sum(self.seconds.values())


def finish(story: Story, out: Path, console: Console, *, as_json: bool) -> None:
    """Write report.json and report.html, and show the claims."""
    from simulations.demo.page import page  # noqa: PLC0415 - matplotlib takes half a second to import

    found = claims(story)
    content = content_of(story, found)
    report.write(out, content, page(story, found, content))
    report.show(found, out, content, as_json=as_json)
    if not as_json:
        console.print(f"[yellow]{content['privacy']['in_words']}[/]", soft_wrap=True)


def claims(story: Story) -> list[Claim]:
    """The figures the demo is judged by."""
    first, last = published(story.final)
    devices = story.final.devices
    serving = len(story.final.serving(last["version"])) / len(DEVICES)
    new = [fidelity(last)[condition] for condition in NEW]
    drop = round(max(fidelity(first)[condition] - fidelity(last)[condition] for condition in OLD), 6)  # of hundredths
    seen = sum(status["samples"]["seen"] for status in devices.values())
    kept = sum(status["samples"]["kept"] for status in devices.values())
    waits = decisions(story.final)
    agents = max(story.peaks[device]["agent"] for device in DEVICES)
    fogs = max(story.peaks[fog]["own"] for fog in FOGS)

    def claim(name: str, statement: str, value: float, unit: str, direction: Any, target: float) -> Claim:
        return Claim(f"demo.{name}", statement, float(value), unit, direction, target)

    return [
        claim("wall_s", "From the start until every process has ended", story.wall_s, "s", "at_most", 180),
        claim("served", "Share of devices serving the new release", serving, "share", "at_least", 1),
        claim(
            "new_fidelity",
            "Mean class fidelity of 5-9 on the new release",
            float(np.mean(new)),
            "share",
            "at_least",
            0.9,
        ),
        claim("old_drop", "Largest fall of a class 0-4", drop, "share", "at_most", 0.02),
        claim("dropped", "Share of samples dropped as redundant", 1 - kept / seen, "share", "at_least", 0.5),
        claim("waits_for_heat", "Decisions to wait for heat", waits["wait.heat"], "decisions", "at_least", 1),
        claim("waits_for_charge", "Decisions to wait for charge", waits["wait.charge"], "decisions", "at_least", 1),
        claim("agent_rss_mb", "Largest agent, student loaded", agents, "MB", "at_most", 160),
        claim("fog_rss_mb", "Largest fog", fogs, "MB", "at_most", 180),
        claim(
            "infer_overhead",
            "One generation through the agent costs more by",
            story.overhead["share"],
            "share",
            "at_most",
            0.15,
        ),
    ]


def content_of(story: Story, found: Sequence[Claim]) -> dict[str, Any]:
    """The whole report.json."""
    final = story.final
    content = report.document(found, {}, {}, [story.seed])
    content |= {
        "simulated": {
            "heat_and_charge": f"a physics twin, {TIME_SCALE:g} times as fast, fed with the learners' CPU time",
            "real": "processes, Flower, gRPC and TLS, ONNX Runtime, SQLite, the digits, the learning",
        },
        "rounds": {fog: status["rounds"] for fog, status in final.fogs.items()},
        "shared": final.cloud["shared"],
        "ledgers": {fog: status["ledger"] for fog, status in final.fogs.items()},
        "releases": final.releases,
        "devices": {twin.name: device(story, twin) for twin in story.twins},
        "privacy": privacy(final),
        "bytes": traffic(final),
        "crossed": crossed([story.places.tap(fog) for fog in FOGS]),
        "seconds": {**story.seconds, "total": story.wall_s, "cloud": final.cloud.get("seconds", {})},
        "memory_mb": {name: dict(peak) for name, peak in story.peaks.items()},
        "restarts": dict(story.restarts),
        "overhead": dict(story.overhead),
        "seed": story.seed,
    }
    return content


def device(story: Story, twin: Twin) -> dict[str, Any]:
    """One device, from its agent's own status and from the requests that came from outside."""
    status, tally = story.final.devices[twin.name], story.tallies[twin.name]
    return {
        "decisions": status["decisions"]["counts"],
        "turns": status["decisions"]["turns"],
        "rounds": status["rounds"],
        "samples": status["samples"],
        "peak_temperature_c": status["device"]["peak_c"],
        "release": status["release"],
        "inference_ms": status["inference"],
        "requests": {
            "answered": tally.answered,
            "failed": tally.failed,
            "p50_ms": _quantile(tally.took_ms, 0.5),
            "p99_ms": _quantile(tally.took_ms, 0.99),
        },
        "rss_mb": {
            "agent": story.peaks[twin.name]["agent"],
            "learner": story.peaks[twin.name]["learner_peak"] or None,
        },
    }


def privacy(final: Snapshot) -> dict[str, Any]:
    """What was spent, in figures and in words."""
    ledgers = {fog: status["ledger"] for fog, status in final.fogs.items()}
    some = next(iter(ledgers.values()))
    worst = max(ledger["epsilon"] for ledger in ledgers.values())
    return {
        **{name: some[name] for name in ("clip_norm", "noise_multiplier", "sample_rate", "target_delta", "unit")},
        "epsilon": worst,
        "epsilon_by_fog": {fog: ledger["epsilon"] for fog, ledger in ledgers.items()},
        "in_words": (
            f"Six devices are NOT private: with noise small enough to learn anything from six, epsilon is {worst:,.0f} "
            f"at delta {some['target_delta']:g}, which protects nobody. The mechanism is the real one; "
            f"for a fleet large enough to be private run: {PRIVATE_FLEET}"
        ),
    }


def traffic(final: Snapshot) -> dict[str, Any]:
    """Bytes by tier and direction, as each fog counted them."""
    return {
        tier: {
            direction: sum(status["bytes"][f"{tier}_{direction}"] for status in final.fogs.values())
            for direction in ("up", "down")
        }
        for tier in ("devices", "cloud")
    }


def crossed(taps: Sequence[Path]) -> list[dict[str, Any]]:
    """Each kind of message that crossed a tier: how many, how large, and of what it was made."""
    kinds: dict[tuple[str, str, str], dict[str, Any]] = {}
    for line in (line for tap in taps if tap.exists() for line in tap.read_text().splitlines()):
        told = json.loads(line)
        key = (told["tier"], told["direction"], told["kind"])
        kind = kinds.setdefault(key, {"messages": 0, "bytes": 0, "fields": Counter()})
        kind["messages"] += 1
        kind["bytes"] += told["size"]
        kind["fields"].update(fields(told["content"]))
    return [
        {"tier": tier, "direction": direction, "kind": kind, **about, "fields": sorted(about["fields"])}
        for (tier, direction, kind), about in sorted(kinds.items())
    ]


def fields(content: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Every entry of a described message as `path: type`; an array as its dtype and shape."""
    found: list[str] = []
    for name, about in content.items():
        if isinstance(about, str):
            found.append(f"{prefix}{name}: {about}")
        elif "shape" in about:
            found.append(f"{prefix}{name}: {about['dtype']}{about['shape']}")
        elif isinstance(about.get("bytes"), int):
            found.append(f"{prefix}{name}: {about['bytes']} bytes")
        else:
            found += fields(about, f"{prefix}{name}/")
    return found


def published(final: Snapshot) -> tuple[Status, Status]:
    """The first and the newest release that devices may serve."""
    accepted = [each for each in final.releases if each["accepted"]]
    return accepted[0], accepted[-1]


def fidelity(release: Status) -> dict[int, float]:
    return {int(condition): value for condition, value in release["fidelity"].items()}


def decisions(final: Snapshot) -> Counter[str]:
    """How often any device decided what, for which reason."""
    total: Counter[str] = Counter()
    for status in final.devices.values():
        total.update(status["decisions"]["counts"])
    return total


def _quantile(values: Sequence[float], share: float) -> float | None:
    return float(np.quantile(values, share)) if values else None
