"""People who use the devices while they learn: a steady flow of small requests to every agent."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from learning_core.errors import DewfallError
from simulations.demo.configure import Places
from simulations.demo.observe import images

PAUSE_S = 0.15  # between two requests, over all devices


@dataclass(slots=True)
class Tally:
    """How one device's requests went, as seen from outside. Nothing is saved."""

    answered: int = 0
    failed: int = 0
    took_ms: list[float] = field(default_factory=list)


class Requests(threading.Thread):
    """Asks one device after the other for one image, until told to stop."""

    def __init__(self, places: Places, devices: Sequence[str], conditions: Sequence[int]) -> None:
        super().__init__(name="requests", daemon=True)
        self._places, self._devices, self._conditions = places, devices, conditions
        self._halt = threading.Event()
        self.tallies = {device: Tally() for device in devices}

    def run(self) -> None:
        number = 0
        while not self._halt.wait(PAUSE_S):
            device = self._devices[number % len(self._devices)]
            condition = self._conditions[(number // len(self._devices)) % len(self._conditions)]
            number += 1
            tally, began = self.tallies[device], time.perf_counter()
            try:
                images(self._places.socket(device), [condition], number)
            except (DewfallError, ValueError):
                tally.failed += 1  # a device that was just killed: counted, and asked again next time
            else:
                tally.answered += 1
                tally.took_ms.append((time.perf_counter() - began) * 1e3)

    def stop(self) -> None:
        self._halt.set()
        self.join()
