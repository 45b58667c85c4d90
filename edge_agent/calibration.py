"""What a calibration measures, step by step, and what is kept of it. How a chip is read and warmed is passed in."""

import math
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from edge_agent.config import Limits
from edge_agent.evidence import is_on
from edge_agent.heat import against_heat, ceiling_c
from edge_agent.thermal_fit import NoFit, Sample, ThermalFit
from edge_agent.thermal_model import ThermalModel, decode_model, encode_model, network
from edge_agent.values import Quality, Telemetry
from learning_core.errors import DewfallError

EVERY_S = 1.0
KEPT_CLEAR_C = 3.0  # of every limit, since the chip goes on rising for a moment
FACT = "thermal"


class CalibrationStopped(DewfallError):
    """The calibration cannot go on, and nothing was stored."""


class Load(Protocol):
    """One core kept as busy as learning keeps it, at the learner's priority."""

    def start(self) -> None: ...
    def stop(self) -> None: ...

    def busy_s(self) -> float:
        """Seconds of a core since the last time this was asked."""
        ...


@dataclass(frozen=True, slots=True)
class Plan:
    """How long to watch the device idle, under load and cooling."""

    idle_s: float = 180.0
    load_s: float = 300.0
    cool_s: float = 300.0

    def stages(self) -> Iterator[tuple[str, float]]:
        yield from (("idle", self.idle_s), ("load", self.load_s), ("cool", self.cool_s))


@dataclass(frozen=True, slots=True)
class Measured:
    """The readings, what ended the load before its time if anything did, where they came from, and the watts."""

    samples: tuple[Sample, ...]
    cut: str | None
    sources: tuple[str, ...]
    watts_per_core: float | None


@dataclass(frozen=True, slots=True)
class Calibration:
    """What an agent uses of a calibration that is stored; nothing without one."""

    model: ThermalModel | None = None
    watts_per_core: float | None = None

    @property
    def says(self) -> str:
        """What forecasts of the heat go by."""
        if self.model is None:
            return "foreseen by the last rise; `calibrate-thermal` would do better"
        return f"foreseen by this device's own model, within {self.model.margin_c:.1f} °C"


def measure(
    plan: Plan,
    limits: Limits,
    read: Callable[[], Telemetry],
    load: Load,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
    tell: Callable[[str], None],
) -> Measured:
    """Watch the device through the stages; the load ends with them, at a limit, and whenever this is left.

    Raises CalibrationStopped when what protects the device cannot be seen.
    """
    samples, sources, watts, cut = list[Sample](), dict[str, None](), dict[str, list[float]](), None
    last_s = clock()
    try:
        for stage, lasts_s in plan.stages():
            began_s = last_s = clock()
            if stage == "load":
                load.start()
            load.busy_s()
            while (passed_s := clock() - began_s) < lasts_s and not (stage == "load" and cut):
                sleep(EVERY_S)
                telemetry, now_s = read(), clock()
                against = _against(telemetry, limits)
                if stage == "load" and against is not None:
                    load.stop()
                    cut = f"the load ended after {now_s - began_s:.0f} s: {against}"
                    tell(cut)
                busy = load.busy_s() / max(1e-9, now_s - last_s)
                chip, last_s = telemetry.soc_temp_c, now_s
                if chip.quality is Quality.OK:
                    samples.append(Sample(now_s, chip.value, busy))
                    sources[chip.source] = None
                if telemetry.power_w.quality is Quality.OK and passed_s > lasts_s / 2:
                    watts.setdefault(stage, []).append(telemetry.power_w.value)
                tell(f"{stage} {min(passed_s + EVERY_S, lasts_s):.0f} of {lasts_s:.0f} s, {chip.value:.1f} °C")
            load.stop()
    finally:
        load.stop()
    return Measured(tuple(samples), cut, tuple(sources), _watts_per_core(watts))


def record_of(measured: Measured, fitted: ThermalFit, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """What is stored: the model, how sure it is, what is left unexplained, and where it comes from. JSON."""
    watts = measured.watts_per_core
    return {
        "model": encode_model(fitted.model),
        "errors": dict(fitted.errors),
        "residuals_c": {"rms": fitted.rms_c, "worst": fitted.worst_c},
        "watts_per_core": watts,
        "network": asdict(network(fitted.model, watts)) if watts else None,
        "provenance": {
            "readings": len(measured.samples),
            "sources": list(measured.sources),
            "cut": measured.cut,
            **provenance,
        },
    }


def calibration_of(record: Any) -> Calibration:
    """What can be used of a stored record; nothing of one that was damaged or that another version wrote."""
    if not isinstance(record, Mapping):
        return Calibration()
    watts = record.get("watts_per_core")
    is_power = isinstance(watts, float) and math.isfinite(watts) and watts > 0
    return Calibration(decode_model(record.get("model")), watts if is_power else None)


def record_in_words(record: Mapping[str, Any]) -> str:
    """A stored record as lines for a terminal, each figure with its standard error."""
    model, errors, residuals = record["model"], record["errors"], record["residuals_c"]
    told = {name: f"{model[name]:.3g} ± {error:.2g}" for name, error in errors.items()}
    lines = [
        f"one busy core warms the die by {told['die_k']} °C within {told['die_s']} s",
        f"and the body by {told['body_k']} °C within {told['body_s']} s; at rest it has {told['rest_c']} °C",
        f"residuals: {residuals['rms']:.2f} °C rms, {residuals['worst']:.2f} °C at most",
        f"forecasts keep {model['margin_c']:.1f} °C clear of a limit",
    ]
    if record["watts_per_core"]:
        lines.append(f"a busy core draws {record['watts_per_core']:.2f} W")
    if record["provenance"]["cut"]:
        lines.append(record["provenance"]["cut"])
    return "\n".join(lines)


def refusal_of(outcome: NoFit, measured: Measured) -> CalibrationStopped:
    """Why nothing was stored, with what cut the run short if anything did."""
    cut = f" ({measured.cut})" if measured.cut else ""
    return CalibrationStopped(f"nothing was stored: {outcome.reason}{cut}")


def _against(telemetry: Telemetry, limits: Limits) -> str | None:
    """Why the load has to end now. Raises CalibrationStopped when that cannot be known."""
    chip, age_s = telemetry.soc_temp_c, limits.max_reading_age_s
    if not chip.is_known(age_s):
        raise CalibrationStopped(
            f"the temperature cannot be read ({chip.quality}); without a thermometer there is nothing to calibrate"
        )
    if is_on(telemetry.under_voltage, age_s):
        return "the power supply gives too little voltage"
    if is_on(telemetry.throttled, age_s):
        return "the kernel is slowing the processor down"
    top_c = ceiling_c(telemetry, limits, forced=False) - KEPT_CLEAR_C
    if chip.value >= top_c:
        return f"the chip has {chip.value:.1f} °C, and {top_c:g} °C is as far as a calibration goes"
    against = against_heat(telemetry, limits, None, None, forced=False)
    return against.sentence if against is not None else None


def _watts_per_core(watts: Mapping[str, list[float]]) -> float | None:
    """The difference between load and idle, once both have settled; None where nothing measures it."""
    if not (watts.get("idle") and watts.get("load")):
        return None
    drawn = statistics.fmean(watts["load"]) - statistics.fmean(watts["idle"])
    return drawn if drawn > 0 else None
