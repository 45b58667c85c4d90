"""From temperatures under a known load to the thermal model of a device, or to the reason why there is none.

For two given time constants everything else enters linearly, so the two are looked for on a coarse grid first (no
start value can mislead it) and all parameters are then refined together by least squares. The standard errors are those
of the linearised problem at the end, and what they cannot bound is refused.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_agent.thermal_model import ThermalModel
from learning_core.errors import ConfigError

LEAST_READINGS = 60
LEAST_RISE_K = 2.0
LEAST_SHARE_OF_RISE = 0.8  # of the temperatures' variation, that the model has to explain
MOST_ERROR = 0.5  # one standard error, as a share of the parameter
MARGIN = 2.0  # standard deviations of the residuals that a forecast keeps clear of a limit
DIE_S, BODY_S = (1.0, 80.0), (40.0, 2400.0)
PARAMETERS = ("die_s", "body_s", "rest_c", "die_k", "body_k")

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Sample:
    """One reading of a calibration: `load` cores have learned since the one before."""

    at_s: float
    temp_c: float
    load: float


@dataclass(frozen=True, slots=True)
class ThermalFit:
    """A model, the standard error of each of its parameters, and what it leaves unexplained in degrees Celsius."""

    model: ThermalModel
    errors: Mapping[str, float]
    rms_c: float
    worst_c: float


@dataclass(frozen=True, slots=True)
class NoFit:
    """Why these readings make no model, in a sentence that says what to do."""

    reason: str


def fit(samples: Sequence[Sample]) -> ThermalFit | NoFit:
    """The model behind the samples. Raises ConfigError where scipy is not installed."""
    if len(samples) < LEAST_READINGS:
        return NoFit(
            f"{len(samples)} readings of the temperature are too few, {LEAST_READINGS} are needed; take longer"
        )
    at_s, temps, loads = (np.array(column, np.float64) for column in zip(*_columns(samples), strict=True))
    if not (np.isfinite(temps).all() and (np.diff(at_s) > 0).all()):
        return NoFit("the readings are not in the order of time; begin anew")
    if loads.max() < 0.5:
        return NoFit("the load got less than half a core; calibrate while nothing else is running")
    rise_k = float(np.quantile(temps[loads > loads.max() / 2], 0.95) - np.quantile(temps, 0.05))
    if rise_k < LEAST_RISE_K:
        return NoFit(f"one busy core warmed the chip by {rise_k:.1f} °C only; there is nothing to forecast from")
    found, errors, residuals = _refine(at_s, temps, loads, _coarse(at_s, temps, loads))
    rms_c = float(np.sqrt(np.mean(residuals**2)))
    if 1 - np.var(residuals) / np.var(temps) < LEAST_SHARE_OF_RISE:
        return NoFit(
            f"the temperature did not follow the load ({rms_c:.1f} °C off); calibrate while nothing else is running"
        )
    for name, (least, most) in (("die_s", DIE_S), ("body_s", BODY_S)):
        if not least * 1.01 < found[name] < most * 0.99:
            return NoFit(f"no time constant between {least:g} and {most:g} s fits; load for longer, or begin cooler")
    vague = [name for name in PARAMETERS if name != "rest_c" and not errors[name] <= MOST_ERROR * abs(found[name])]
    if vague:
        return NoFit(f"the run does not tell {', '.join(vague)} within half of it; idle, load and cool for longer")
    try:
        model = ThermalModel(**found, margin_c=MARGIN * rms_c)
    except ValueError as error:
        return NoFit(f"what fits best makes no sense ({error}); calibrate while nothing else is running")
    return ThermalFit(model, errors, rms_c, float(np.abs(residuals).max()))


def _columns(samples: Sequence[Sample]) -> list[tuple[float, float, float]]:
    return [(each.at_s - samples[0].at_s, each.temp_c, each.load) for each in samples]


def _response(at_s: Floats, loads: Floats, tau_s: float) -> Floats:
    """What one mode of unit gain does under these loads, from rest: [T]."""
    kept = np.exp(-np.diff(at_s) / tau_s)
    out = np.zeros_like(at_s)
    for n, share in enumerate(kept):
        out[n + 1] = loads[n + 1] + (out[n] - loads[n + 1]) * share
    return out


def _design(at_s: Floats, loads: Floats, die_s: float, body_s: float) -> Floats:
    """Columns for rest_c, die_k, body_k, and how far die and body were from rest at the beginning: [T, 5]."""
    modes = [_response(at_s, loads, tau_s) for tau_s in (die_s, body_s)]
    fading = [np.exp(-at_s / tau_s) for tau_s in (die_s, body_s)]
    return np.stack([np.ones_like(at_s), *modes, *fading], axis=1)


def _coarse(at_s: Floats, temps: Floats, loads: Floats) -> Floats:
    """The best point of a grid of time constants: (log die_s, log body_s, then the linear parameters)."""
    best, best_error = np.zeros(7), math.inf
    for die_s in np.geomspace(*DIE_S, 12)[1:-1]:
        for body_s in np.geomspace(*BODY_S, 12)[1:-1]:
            if body_s < 2 * die_s:
                continue
            design = _design(at_s, loads, die_s, body_s)
            linear = np.linalg.lstsq(design, temps, rcond=1e-9)[0]
            error = float(np.sum((design @ linear - temps) ** 2))
            if error < best_error:
                best, best_error = np.array([math.log(die_s), math.log(body_s), *linear]), error
    return best


def _refine(
    at_s: Floats, temps: Floats, loads: Floats, start: Floats
) -> tuple[dict[str, float], dict[str, float], Floats]:
    """Parameters, their standard errors and the residuals [T], by nonlinear least squares from `start`."""
    try:
        from scipy.optimize import least_squares  # noqa: PLC0415 - of the extra `train`; serving does without
    except ModuleNotFoundError as error:
        raise ConfigError("scipy is not installed, which the fit needs; install the extra `train`") from error

    def residuals_of(point: Floats) -> Floats:
        difference: Floats = _design(at_s, loads, math.exp(point[0]), math.exp(point[1])) @ point[2:] - temps
        return difference

    free = [math.inf] * 5
    lows, highs = ([math.log(DIE_S[n]), math.log(BODY_S[n])] for n in (0, 1))
    done = least_squares(
        residuals_of, start, bounds=([*lows, *(-each for each in free)], [*highs, *free]), x_scale="jac"
    )
    residuals: Floats = done.fun
    spread = float(np.sum(residuals**2)) / max(1, len(temps) - len(start))
    deviations = np.sqrt(np.diag(np.linalg.pinv(done.jac.T @ done.jac) * spread))
    values = [math.exp(done.x[0]), math.exp(done.x[1]), *done.x[2:5]]
    scales = [values[0], values[1], 1.0, 1.0, 1.0]  # the error of a logarithm is a share
    found = {name: float(value) for name, value in zip(PARAMETERS, values, strict=True)}
    errors = {name: float(e * s) for name, e, s in zip(PARAMETERS, deviations[:5], scales, strict=True)}
    return found, errors, residuals
