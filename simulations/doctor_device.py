"""What stands between one device and its role as an edge agent: each finding with what it means, in a sentence."""

import importlib.metadata
import os
import shutil
import ssl
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPSConnection
from importlib.util import find_spec
from pathlib import Path

from edge_agent.config import AgentSettings, Fog
from edge_agent.status import describe_look, look_in_words
from edge_agent.values import Action, Decision, Telemetry
from protos.state_folder import MIN_FREE_BYTES

REACH_WITHIN_S = 3.0
SKEW_S = 300.0  # Flower refuses messages whose sender's clock is further off
LITTLE_SPACE_BYTES = 256 << 20
NOT_YET_VALID, EXPIRED = 9, 10  # X509_V_ERR_CERT_*, as OpenSSL numbers them


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. `prevents`: the agent cannot run, or its fog can never believe it, until this is mended."""

    what: str
    found: str
    means: str = "fits"
    prevents: bool = False


def findings(settings: AgentSettings, settings_file: Path, now_s: float) -> Iterator[Finding]:
    """Everything but the sensors. Changes nothing; asks the fog one question."""
    yield versions()
    yield clock(now_s, (settings_file, settings.fog.ca, Path(__file__), settings.state / "agent.db"))
    yield from secrets(settings, settings_file)
    yield state(settings.state)
    yield disk(settings.state)
    yield reach(settings.fog, now_s)


def versions() -> Finding:
    """Whether the installed packages are those the extra `edge` asks for."""
    if find_spec("packaging") is None:
        return Finding("versions", "not compared", "packaging is not installed, so that versions cannot be compared")
    from packaging.requirements import Requirement  # noqa: PLC0415 - comes with the extra `edge`, not with the base

    try:
        wanted = [Requirement(text) for text in importlib.metadata.requires("dewfall") or ()]
    except importlib.metadata.PackageNotFoundError:
        return Finding("versions", "not compared", "dewfall itself is not installed; pip install it to compare")
    found, misfits = [], []
    for each in wanted:
        if each.marker is not None and not each.marker.evaluate({"extra": "edge"}):
            continue
        try:
            version = importlib.metadata.version(each.name)
        except importlib.metadata.PackageNotFoundError:
            continue  # the row of the role says what lacks
        found.append(f"{each.name} {version}")
        if not each.specifier.contains(version, prereleases=True):
            misfits.append(f"{each.name} {version} is not {each.specifier}")
    if misfits:
        return Finding("versions", "; ".join(misfits), "install again with -c constraints.txt, which fits together")
    return Finding("versions", ", ".join(found))


def clock(now_s: float, older: tuple[Path, ...]) -> Finding:
    """A clock that is behind files that were written here is wrong; a board without a battery starts in the past."""
    told = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now_s))
    newest_s, newest = max(((_written_s(path), path) for path in older), default=(0.0, Path()))
    if newest_s <= now_s + SKEW_S:
        return Finding("clock", told)
    written = time.strftime("%Y-%m-%d", time.gmtime(newest_s))
    means = f"it is behind {newest.name}, written {written}; set the clock, e.g. with `timedatectl set-ntp true`"
    return Finding("clock", told, means, prevents=True)


def secrets(settings: AgentSettings, settings_file: Path) -> Iterator[Finding]:
    """The device's key and its token: that they are there, and that only their owners read them."""
    key, fog = settings.state / "device.pem", settings.fog
    if _exists(key):
        yield _secret("key", key, 0o077, "600")
    elif fog.token is None and fog.token_file is None:
        means = "this device is not enrolled; set fog.token to a token of `dewfall fog enroll-token`"
        yield Finding("key", "none yet", means, prevents=True)
    else:
        yield Finding("key", "none yet", "the agent makes one when it first runs, and enrols with the token")
    if fog.token is not None:
        yield _secret("token", settings_file, 0o007, "640")
    elif fog.token_file is not None and not _exists(key):
        yield _secret("token", fog.token_file, 0o007, "640")


def state(folder: Path) -> Finding:
    """Whether the agent, run by this user, can keep its state."""
    place = _nearest(folder)
    if not place.is_dir():
        return Finding("state", str(folder), f"{place} is not a folder; name another state folder", prevents=True)
    if os.access(place, os.W_OK | os.X_OK):
        return Finding("state", str(folder), "fits" if place == folder else "will be made when the agent first runs")
    means = f"this user cannot write to {place}; run the doctor as the agent's user, or let it have the folder"
    return Finding("state", str(folder), means, prevents=True)


def disk(folder: Path) -> Finding:
    """Space where the state lies; without it the agent does not start."""
    free = shutil.disk_usage(_nearest(folder)).free
    found = f"{free / 2**20:.0f} MiB free"
    if free < MIN_FREE_BYTES:
        return Finding("state's disk", found, f"free at least {MIN_FREE_BYTES >> 20} MiB; it is full", prevents=True)
    means = "fits" if free >= LITTLE_SPACE_BYTES else "little: a release and a checkpoint may not fit; free some space"
    return Finding("state's disk", found, means)


def reach(fog: Fog, now_s: float) -> Finding:
    """One request to the fog over TLS. A fog that is away prevents nothing: the agent waits for it."""
    what = "fog"
    try:
        trust = ssl.create_default_context(cafile=str(fog.ca))
    except (OSError, ssl.SSLError):
        means = f"{fog.ca} holds no certificate that can be read; copy the fog's fog.crt there"
        return Finding(what, fog.address, means, prevents=True)
    host, _, port = fog.address.rpartition(":")
    line = HTTPSConnection(host.strip("[]"), int(port), timeout=REACH_WITHIN_S, context=trust)
    try:
        line.request("GET", "/v1/dewfall/releases/latest")
        date = line.getresponse().headers.get("date")
    except ssl.SSLCertVerificationError as error:
        return Finding(what, fog.address, _distrust(fog, error), prevents=True)
    except (OSError, HTTPException) as error:
        means = f"it cannot be reached now ({error}); the agent serves what it has and goes on trying"
        return Finding(what, fog.address, means)
    finally:
        line.close()
    if (apart_s := _apart_s(date, now_s)) > SKEW_S:
        means = f"its clock and this one differ by {apart_s:.0f} s, too much to believe each other; set this one"
        return Finding(what, fog.address, means, prevents=True)
    return Finding(what, fog.address, "answers, and its certificate is the expected one")


def sensors(telemetry: Telemetry, decision: Decision) -> tuple[Finding, str]:
    """The row for the sensors, and every reading below the table. Without any the agent serves and does not train."""
    may = decision.action is Action.TRAIN
    means = "it could train now" if may else f"it would serve and not train now: {decision.sentence}"
    return Finding("sensors", decision.reason, means), look_in_words(describe_look(telemetry, decision))


def _secret(what: str, path: Path, others: int, mode: str) -> Finding:
    if not os.access(path, os.R_OK):
        means = "this user cannot read it; run the doctor as the agent's user"
        return Finding(what, str(path), means, prevents=True)
    if stat.S_IMODE(path.stat().st_mode) & others:
        return Finding(what, str(path), f"others on this machine can read it; chmod {mode} {path}")
    return Finding(what, str(path), "only its owner reads it" if others == 0o077 else "not open to everybody")


def _distrust(fog: Fog, error: ssl.SSLCertVerificationError) -> str:
    if error.verify_code in {NOT_YET_VALID, EXPIRED}:
        return (
            f"{error.verify_message}: either this clock is wrong or the fog's certificate is; look at the clock first"
        )
    return f"its certificate is not to be trusted ({error.verify_message}); copy the fog's fog.crt to {fog.ca}"


def _written_s(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return True  # forbidden to look: that it cannot be read is said where it is read


def _nearest(path: Path) -> Path:
    """The path, or the nearest of its parents that is there."""
    return next(each for each in (path, *path.absolute().parents) if _exists(each))


def _apart_s(date: str | None, now_s: float) -> float:
    """How far the clock behind an answer's date is from ours; 0 when it does not say."""
    try:
        return abs(parsedate_to_datetime(date or "").timestamp() - now_s)
    except ValueError:
        return 0.0
