"""A fog as one process: builds the parts, connects them, says what happens, and ends in order."""

import json
import logging
import os
import signal
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from fog_aggregator import site as life
from fog_aggregator import status, telling, uplink
from fog_aggregator.config import FogSettings
from fog_aggregator.drivers import identity
from fog_aggregator.drivers.cloud_link import CloudLink
from fog_aggregator.drivers.device_routes import DeviceRoutes
from fog_aggregator.drivers.failpoint import failpoint
from fog_aggregator.drivers.flower_superlink import EmbeddedSuperlink
from fog_aggregator.drivers.journal_file import JournalFile
from fog_aggregator.drivers.release_mirror import ReleaseMirror
from fog_aggregator.drivers.sqlite_enrolment import SqliteEnrolment
from fog_aggregator.drivers.sqlite_journal import SqliteJournal
from fog_aggregator.drivers.system import SystemClock, resident_mb, secret_rng
from fog_aggregator.drivers.uplink_thread import UplinkThread
from fog_aggregator.drivers.wire_tap import FileTap, Tap, TappedFleet
from fog_aggregator.plans import Device
from fog_aggregator.ports import Fleet
from learning_core.errors import DewfallError, StateError
from protos.state_folder import StateFolder, write_atomically

STATUS = "status.json"
_SHOWN_ROUNDS = 100
log = logging.getLogger("dewfall.fog")


class Fog:
    """Everything one running fog holds. Saved by its journal, its mirror and Flower's node list; `close` ends it."""

    def __init__(self, settings: FogSettings, environ: Mapping[str, str]) -> None:
        self._settings = settings
        self._failure: DewfallError | None = None
        self._stop = False
        self._fleet: Fleet | None = None
        self._writing = threading.Lock()
        self._ending = ExitStack()
        reached = failpoint(environ)
        with ExitStack() as ending:
            folder = ending.enter_context(StateFolder.open(settings.state)).path
            file = JournalFile(folder, reached)
            ending.callback(file.close)
            self._journal = SqliteJournal(file, settings.name)
            self._enrolment = SqliteEnrolment(file)
            token = identity.token_to_use(settings.cloud, file)
            self._starts = int(file.fact("starts") or b"0") + 1
            self._traffic_before = _traffic_so_far(folder / STATUS)
            tap = _tap(settings, ending)
            certificate, private_key = identity.certificate(settings.listen, folder)
            self._mirror = ReleaseMirror(folder / "releases", bytes.fromhex(settings.cloud.release_key), reached)
            self._clock = SystemClock(self._stopping)
            authority, credential = identity.authority(settings.cloud), identity.credential(file)
            link = CloudLink(settings.cloud.address, authority, settings.name, credential, tap)
            ending.callback(link.close)
            routes = DeviceRoutes(
                settings.name, self._enrolment, self._mirror, self._enroll_key, self._device_enrolled, tap
            )
            listen = settings.listen
            self._superlink = EmbeddedSuperlink(folder, listen.host, listen.port, certificate, private_key, routes)
            ending.callback(self._superlink.close)
            fleet: Fleet = TappedFleet(self._superlink, tap) if settings.tap else self._superlink
            for device in self._enrolment.devices():  # Flower's list may have been lost; the keys are ours
                node_id = fleet.enroll(device.public_key, device.name)
                self._enrolment.admit(Device(node_id, device.name, device.public_key))

            self._fleet = fleet

            def enroll() -> None:
                if token:
                    link.enroll(token)
                    file.remember(identity.ENROLLED, b"yes")

            self._link = link
            self._uplink = UplinkThread(
                link,
                self._journal,
                self._mirror,
                settings.cloud.poll_s,
                enroll,
                self._exchanged,
                self._give_up,
                reached,
            )
            ending.callback(self._uplink.close)
            self._site = life.Site(
                settings.name,
                settings.privacy.terms(),
                settings.privacy.budget(),
                settings.rounds,
                self._journal,
                fleet,
                self._clock,
                secret_rng,
                self._stopping,
                reached,
                self._held_back,
            )
            file.remember("starts", str(self._starts).encode())  # last: a start that was refused is none
            self._ending = ending.pop_all()

    def run(self) -> None:
        """Live until told to stop. Raises what ended it before that."""
        log.info("%s listens on %s port %d", self._settings.name, self._settings.listen.host, self._superlink.port)
        self._uplink.start()
        self._write_status("starting")
        idle_because = None
        for event in life.live(self._site):
            if event != idle_because:
                log.info("%s", telling.line(event))
            idle_because = event if isinstance(event, life.Idle) else None
            if isinstance(event, life.Closed):
                self._uplink.wake()
            self._write_status(telling.line(event))
        self._write_status("stopped")
        if self._failure:
            raise self._failure

    def stop(self) -> None:
        """Safe in a signal handler: it only sets a flag that every wait looks at."""
        self._stop = True

    def close(self) -> None:
        self._stop = True
        self._ending.close()

    def _stopping(self) -> bool:
        return self._stop

    def _held_back(self) -> str:
        return "the cloud is making the next release" if self._uplink.distilling else ""

    def _give_up(self, failure: DewfallError) -> None:
        self._failure = failure
        self._stop = True

    def _enroll_key(self, public_key: bytes, name: str) -> int:
        if self._fleet is None:
            raise StateError("it is still starting; try again in a moment")
        return self._fleet.enroll(public_key, name)

    def _device_enrolled(self, device: Device) -> None:
        log.info("device %s enrolled as node %d", device.name, device.node_id)
        self._clock.wake()

    def _exchanged(self, event: uplink.Exchanged) -> None:
        log.info("%s", telling.exchange_line(event))
        self._clock.wake()

    def _write_status(self, doing: str) -> None:
        with self._writing:
            record = self._record(doing)
            write_atomically(self._settings.state / STATUS, json.dumps(record, indent=1).encode())

    def _record(self, doing: str) -> dict[str, Any]:
        devices, online = self._enrolment.devices(), self._superlink.online()
        names = {str(device.node_id): device.name for device in devices}
        rounds, base = self._journal.history(_SHOWN_ROUNDS), self._journal.base()
        terms, budget = self._settings.privacy.terms(), self._settings.privacy.budget()
        return {
            "fog": self._settings.name,
            "pid": os.getpid(),
            "at_s": round(time.time(), 3),
            "doing": doing,
            "port": self._superlink.port,
            "restarts": self._starts - 1,
            "rss_mb": resident_mb(),
            "cloud": self._uplink.state,
            "release": base.version.release if base else None,
            "manifest_sha256": base.manifest_sha256 if base else None,
            "shared_version": str(base.version) if base else None,
            "devices": {
                device.name: {"node_id": str(device.node_id), "online": device.node_id in online} for device in devices
            },
            "rounds": [status.round_record(each, names) for each in rounds],
            "rounds_by_release": {str(release): count for release, count in self._journal.rounds_by_release().items()},
            "outbox": self._journal.waiting(),
            "ledger": status.ledger_record(devices, self._journal.histories(), terms, budget),
            "bytes": self._traffic(),
        }

    def _traffic(self) -> dict[str, int]:
        """Since the first start, but for what a killed process counted after its last status."""
        now = dict(zip(_TRAFFIC, (*self._superlink.traffic(), *self._link.traffic()), strict=True))
        return {name: self._traffic_before.get(name, 0) + count for name, count in now.items()}


_TRAFFIC = ("devices_up", "devices_down", "cloud_up", "cloud_down")


def run(settings: FogSettings, environ: Mapping[str, str]) -> None:
    """Run a fog until SIGTERM or SIGINT."""
    fog = Fog(settings, environ)
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: fog.stop())
        fog.run()
    finally:
        fog.close()


def _tap(settings: FogSettings, ending: ExitStack) -> Tap:
    if settings.tap is None:
        return lambda _: None
    tap = FileTap(settings.tap)
    ending.callback(tap.close)
    return tap


def _traffic_so_far(path: Path) -> dict[str, int]:
    try:
        return {name: int(json.loads(path.read_bytes())["bytes"][name]) for name in _TRAFFIC}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
