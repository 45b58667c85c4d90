"""Waking a sleeping loop, from any thread and from a signal handler (where an Event could lock up)."""

import os
import select


class Doorbell:
    """Rings that come while nobody waits are remembered as one. Not saved."""

    def __init__(self) -> None:
        self._inside, self._button = os.pipe()
        os.set_blocking(self._inside, False)
        os.set_blocking(self._button, False)

    def ring(self) -> None:
        try:
            os.write(self._button, b"\0")
        except BlockingIOError:
            return  # it rings already

    def wait(self, timeout_s: float) -> bool:
        """Whether it rang within that time."""
        rang, _, _ = select.select([self._inside], [], [], max(0.0, timeout_s))
        if rang:
            os.read(self._inside, 1 << 16)
        return bool(rang)

    def close(self) -> None:
        os.close(self._inside)
        os.close(self._button)
