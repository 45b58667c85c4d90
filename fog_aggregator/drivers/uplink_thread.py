"""The thread that speaks with the cloud: at once when there is something to say, rarely while the cloud is away."""

import logging
import threading
from collections.abc import Callable

from fog_aggregator.drivers.cloud_link import CloudLink
from fog_aggregator.ports import Journal, Mirror
from fog_aggregator.uplink import Exchanged, exchange
from learning_core.errors import ConfigError, DewfallError, LinkDown
from protos.cloud_messages import Latest

log = logging.getLogger("dewfall.fog")
_EAGER_S = 0.15  # between two looks while a round waits for the cloud's next version
_FIRST_RETRY_S, _LAST_RETRY_S = 0.25, 10.0


class UplinkThread(threading.Thread):
    """Nothing is saved: where the exchange stands is in the journal and the mirror.

    `enroll` is called before the first exchange; it raises LinkDown to be called again, ConfigError to give up.
    `failed` is told of what no retry can mend.
    """

    def __init__(
        self,
        link: CloudLink,
        journal: Journal,
        mirror: Mirror,
        poll_s: float,
        enroll: Callable[[], None],
        happened: Callable[[Exchanged], None],
        failed: Callable[[DewfallError], None],
        reached: Callable[[str], None],
    ) -> None:
        super().__init__(name="uplink", daemon=True)
        self.state = "not connected yet"
        self.distilling = False  # as far as is known: a cloud that is away holds nothing up
        self._link, self._journal, self._mirror = link, journal, mirror
        self._poll_s = poll_s
        self._enroll, self._happened, self._failed, self._reached = enroll, happened, failed, reached
        self._due = threading.Event()
        self._over = False

    def run(self) -> None:
        retry_s, enrolled = _FIRST_RETRY_S, False
        while not self._over:
            try:
                if not enrolled:
                    self._enroll()
                    enrolled = True
                for event in exchange(self._journal, self._link, self._mirror, self._reached, self._heard):
                    self._happened(event)
                self._stands("connected")
                retry_s = _FIRST_RETRY_S
                self._pause(min(self._poll_s, _EAGER_S) if self._journal.unsettled() is not None else self._poll_s)
            except LinkDown as error:
                self.distilling = False
                self._stands(f"away: {error}", logging.WARNING)
                self._pause(retry_s)
                retry_s = min(2 * retry_s, _LAST_RETRY_S)
            except ConfigError as error:
                if not enrolled:
                    self.state = f"refused: {error}"
                    self._failed(error)
                    return
                self._stands(f"refused: {error}", logging.WARNING)
                self._pause(_LAST_RETRY_S)
            except DewfallError as error:  # a bad release, a full disk: rounds go on with what there is
                self._stands(f"failing: {error}", logging.WARNING)
                self._pause(_LAST_RETRY_S)

    def wake(self) -> None:
        """There is something to send."""
        self._due.set()

    def close(self) -> None:
        self._over = True
        self._due.set()
        self._link.close()
        self.join(timeout=2)

    def _heard(self, latest: Latest) -> None:
        self.distilling = latest.distilling

    def _stands(self, state: str, level: int = logging.INFO) -> None:
        """Said once, when it changes."""
        if state != self.state and not self._over:
            log.log(level, "cloud: %s", state)
        self.state = state

    def _pause(self, seconds: float) -> None:
        self._due.wait(seconds)
        self._due.clear()
